"""What may stand in nginx' configuration: every value is one word, and none can end a directive or begin another.

Each function returns its argument or raises ValueError with one sentence for the operator.
"""

from __future__ import annotations

import ipaddress
import re

_LABEL = r"(?!-)[a-z0-9-]{1,63}(?<!-)"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
# Of hosts that are only called: container and service names have underscores.
_HOST = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*")
# No `$` (a variable), no quote, no space, no `;{}#`: nginx reads a path of these as it is written.
_PATH = re.compile(r"/[A-Za-z0-9._/@+-]{1,4000}")


def check_server_name(text: str) -> str:
    """Accept a name as browsers send it, or an IPv4 address; neither pattern nor catch-all."""
    if len(text) > 253 or not _NAME.fullmatch(text):
        raise ValueError(f"expected a name in lower case, such as ollama.example.com; got {text!r}")
    return text


def check_path(text: str) -> str:
    if not _PATH.fullmatch(text) or ".." in text.split("/"):
        raise ValueError(
            f"expected an absolute path of letters, digits and . _ / @ + -, such as /etc/ssl/ollama.pem; got {text!r}"
        )
    return text


def check_network(text: str) -> str:
    """Accept an address or a network, without bits set beyond its length."""
    try:
        if "%" in text:
            raise ValueError("an address with a zone")
        ipaddress.ip_network(text)
    except ValueError as why:
        raise ValueError(f"expected an address or a network, such as 10.0.0.0/8; got {text!r}") from why
    return text


def check_address(text: str) -> str:
    """Accept host:port with a port that can be reached or listened on; an IPv6 host in brackets."""
    host, colon, port = text.rpartition(":")
    is_port = port.isascii() and port.isdigit() and 0 < int(port[:6]) <= 65535
    if not colon or not is_port or not _is_host(host):
        raise ValueError(f"expected host:port, such as 10.0.0.5:11434 or [::1]:11434; got {text!r}")
    return f"{host}:{int(port)}"


def _is_host(host: str) -> bool:
    is_v6 = host.startswith("[") and host.endswith("]")
    if is_v6 or host.replace(".", "").isdigit():
        try:
            ipaddress.IPv6Address(host[1:-1]) if is_v6 else ipaddress.IPv4Address(host)
        except ValueError:
            return False
        return "%" not in host
    return len(host) <= 253 and _HOST.fullmatch(host) is not None
