"""Which pages of which sites may call from a browser, and under which names the endpoint may be reached.

As a real Ollama: an endpoint on a loopback address refuses foreign names (a page whose name was rebound to 127.0.0.1
would otherwise reach it), and a foreign page's Origin is refused everywhere (OLLAMA.md 1.14).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from urllib.parse import SplitResult, urlsplit

_Test = Callable[[ipaddress.IPv4Address | ipaddress.IPv6Address], bool]

_LOCAL_NAMES = ("localhost",)
_LOCAL_ENDINGS = (".localhost", ".local", ".internal")
# Desktop programs' pages; Ollama's own list (envconfig/config.go, v0.33).
_APP_SCHEMES = ("app", "file", "tauri", "vscode-webview", "vscode-file")

ALLOWED_METHODS = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
# As browsers write one: a scheme and a host, and nothing that another reader might take for the host's end.
_ORIGIN = re.compile(r"(?i)[a-z][a-z0-9+.-]*://(?:\[[0-9a-f:.]+\]|[a-z0-9._-]*)(?::[0-9]{1,5})?/?", re.ASCII)

# What a page may send: Ollama's list (server/routes.go, v0.33), what OpenAI's and Anthropic's clients send from a
# browser besides, and what this endpoint reads. Whether the page may call at all is its Origin's matter.
ALLOWED_HEADERS = ",".join((
    "Authorization", "Content-Type", "User-Agent", "Accept", "X-Requested-With", "X-Api-Key", "X-Request-Id",
    "Openai-Beta", *(f"X-Stainless-{each}" for each in (
        "Arch", "Async", "Custom-Poll-Interval", "Helper-Method", "Lang", "Os", "Package-Version", "Poll-Helper",
        "Retry-Count", "Runtime", "Runtime-Version", "Timeout", "Helper", "Stream-Helper", "Read-Timeout",
    )),
    "Openai-Organization", "Openai-Project", "Idempotency-Key", "X-Client-Request-Id",
    *(f"Anthropic-{each}" for each in (
        "Version", "Beta", "Dangerous-Direct-Browser-Access", "Organization-Id", "Workspace-Id", "User-Profile-Id",
    )),
    "Cache-Control", "X-Cache-Tags", "X-Priority", "X-Queue-Timeout", "X-Queue-Updates", "X-Deadline",
))  # fmt: skip
# What a page may read of an answer's head besides its type and length: what clients log, and what they wait by.
EXPOSED_HEADERS = ",".join((
    "Request-Id", "X-Request-Id", "Retry-After", "Server-Timing", "X-Cache", "X-Cache-Key", "X-FAQ", "X-Tier",
    "X-Instance", "X-Models", "X-Queue-Position", "X-Simulated", "X-Route", "X-Route-Why",
))  # fmt: skip


def is_loopback(host: str) -> bool:
    """Whether an address that the endpoint listens on reaches this machine only."""
    return host == "localhost" or _is_address(host, lambda ip: ip.is_loopback)


def is_host_allowed(host_header: str, own_name: str) -> bool:
    """Whether a loopback endpoint may be called by this name: an address, this machine's name, or a local one."""
    name = _without_port(host_header).lower()
    if not name or name in (*_LOCAL_NAMES, own_name.lower()) or name.endswith(_LOCAL_ENDINGS):
        return True
    return _is_address(name, lambda ip: ip.is_loopback or ip.is_private or ip.is_unspecified)


def is_origin_allowed(origin: str, host_header: str) -> bool:
    """Whether a browser's page may call: a page of this machine, of a desktop program, or the endpoint's own."""
    parts = _split(origin)
    if parts is None:
        return False
    if parts.scheme in _APP_SCHEMES or is_own_origin(origin, host_header):
        return True
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return False
    return parts.hostname in _LOCAL_NAMES or _is_address(parts.hostname, lambda ip: ip.is_loopback or ip.is_unspecified)


def is_of_another_site(site: str, mode: str, *, is_reading: bool) -> bool:
    """Whether a browser says (Sec-Fetch-Site, Sec-Fetch-Mode) that another site's page sends this without an Origin.

    Forms and images of any page reach a loopback address so. Somebody who follows a link is welcome.
    """
    return site == "cross-site" and not (is_reading and mode == "navigate")


def is_own_origin(origin: str, host_header: str) -> bool:
    """Whether the page was served by the endpoint itself."""
    parts = _split(origin)
    return parts is not None and parts.netloc.lower() == host_header.lower()


def _split(origin: str) -> SplitResult | None:
    """The parts of an Origin; None where it is none: a header may hold anything."""
    if _ORIGIN.fullmatch(origin) is None:
        return None
    try:
        return urlsplit(origin)
    except ValueError:
        return None


def _without_port(host_header: str) -> str:
    if host_header.startswith("["):
        return host_header[1:].partition("]")[0]
    return host_header.rpartition(":")[0] if host_header.count(":") == 1 else host_header


def _is_address(text: str, test: _Test) -> bool:
    try:
        return test(ipaddress.ip_address(text))
    except ValueError:
        return False
