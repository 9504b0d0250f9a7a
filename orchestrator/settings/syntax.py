"""The small languages inside settings: `host:port`, Redis URLs, simulated cards (whose names `core.cards` knows).

Each function returns its argument's meaning or raises ValueError with one sentence for the operator. No sentence
repeats a URL: it may hold a password.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import parse_qs, urlsplit

from orchestrator.core.cards import parse_cards
from orchestrator.core.origins import is_loopback

_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.@\\-]{0,63}\$?")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
# What each request to a provider says of itself.
_OWN_HEADERS = frozenset(
    {"host", "authorization", "content-type", "content-length", "transfer-encoding", "connection", "accept-encoding"}
)
_REDIS_SCHEMES = ("redis", "rediss", "unix", "sentinel", "sentinels", "cluster", "clusters")


def host_and_port(text: str) -> tuple[str, int]:
    """Split `host:port`; an IPv6 host stands in brackets and is returned without them. Port 0: any free one."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or "://" in text:
        raise ValueError(f"expected host:port, such as 127.0.0.1:11434 or [::]:11434; got {text!r}")
    if not (port.isascii() and port.isdigit() and int(port[:6]) <= 65535):
        raise ValueError(f"the port must be a number from 0 to 65535; got {port!r}")
    if host.startswith("[") and host.endswith("]"):
        return _ipv6(host[1:-1]), int(port)
    if ":" in host:
        raise ValueError(f"an IPv6 address stands in brackets, such as [{host}]:{port}; got {text!r}")
    _check_host(host)
    return host, int(port)


def _ipv6(text: str) -> str:
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError as error:
        raise ValueError(f"{text!r} is not an IPv6 address; an example is [::1]:11434") from error


def _check_host(host: str) -> None:
    if host.replace(".", "").isdigit():
        try:
            ipaddress.IPv4Address(host)
        except ValueError as error:
            raise ValueError(f"{host!r} is not an IPv4 address; an example is 0.0.0.0:11434") from error
    elif len(host) > 253 or not _HOST_NAME.fullmatch(host):
        raise ValueError(f"{host!r} is not a host name or an address; an example is 127.0.0.1:11434")


def check_listen(text: str | None) -> str | None:
    if text is not None:
        host_and_port(text)
    return text


def check_address(text: str) -> str:
    """Accept `local`, or where a node's sshd is: a host or host:port."""
    if text != "local":
        ssh_host_and_port(text)
    return text


def ssh_host_and_port(text: str) -> tuple[str, int]:
    """Split the address of a node; without a port it is SSH's own."""
    has_port = ":" in text and not text.endswith("]")
    host, port = host_and_port(text if has_port else f"{text}:22")
    if port == 0:
        raise ValueError(f"port 0 is none that could be reached; got {text!r}")
    return host, port


def check_user(text: str | None) -> str | None:
    """Accept a name of a user, which is also one that no program takes for an option."""
    if text is not None and not _USER.fullmatch(text):
        raise ValueError(f"{text!r} is not a user's name; an example is ops")
    return text


def check_folder(text: str) -> str:
    """Accept an absolute path without control characters, as a host has it."""
    if not text.startswith("/") or not text.isprintable():
        raise ValueError(f"expected an absolute path, such as /srv/models; got {text!r}")
    return text


def check_redis(text: str) -> str:
    """Accept `embedded` or a URL whose scheme, hosts and ports can be right; what they answer is found at start."""
    if text == "embedded":
        return text
    scheme, separator, _ = text.partition("://")
    if not separator or scheme not in _REDIS_SCHEMES:
        known = ", ".join(f"{each}://" for each in _REDIS_SCHEMES)
        raise ValueError(f"expected `embedded` or a URL that begins with one of {known}")
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise ValueError("this is no URL: its host is not one") from error
    if scheme == "unix":
        if parts.path in ("", "/"):
            raise ValueError("a unix:// URL names the socket's path, such as unix:///run/redis/redis.sock")
        return text
    for address in parts.netloc.rpartition("@")[2].split(","):
        _check_redis_address(address, scheme)
    for name, [path, *_] in parse_qs(parts.query).items():
        if name in ("ca", "cert", "key") and not path.startswith("/"):
            raise ValueError(f"`{name}` is the whole path of a file in PEM, such as /etc/ollamactl/{name}.pem")
    return text


def _check_redis_address(address: str, scheme: str) -> None:
    bracketed = address.endswith("]") or ":" not in address
    try:
        host_and_port(f"{address}:0" if bracketed else address)
    except ValueError as error:
        raise ValueError(
            f"a {scheme}:// URL needs a host and may have a port, such as {scheme}://redis:6379"
        ) from error


def check_instance_url(text: str) -> str:
    """Accept `http://host:port`, or https://."""
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in ("http", "https"):
        raise ValueError("expected http://host:port, such as http://10.0.0.5:11434, or https://host:port")
    address = rest.removesuffix("/")
    if "@" in address:
        raise ValueError("neither Ollama nor llama.cpp asks for a user; leave out what stands before the `@`")
    if any(each in address for each in "/?#"):
        raise ValueError("an instance has its API at the root; end the URL after the port")
    if address.startswith("["):
        raise ValueError("an IPv6 address is not taken here; name the host, as /etc/hosts or DNS knows it")
    if host_and_port(address)[1] == 0:
        raise ValueError("the port must be a number from 1 to 65535")
    return f"{scheme}://{address}"


def check_provider_url(text: str | None) -> str | None:
    """Accept `https://host[:port][/path]`, or http://, where an API like OpenAI's begins; as it is used: without `/` at
    its end."""
    if text is None:
        return None
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in ("https", "http"):
        raise ValueError("expected https://host/path, such as https://api.groq.com/openai/v1")
    address, _, path = rest.rstrip("/").partition("/")
    if "@" in address:
        raise ValueError("a URL is no place for a secret; leave out what stands before the `@`, and set `key`")
    if any(each in path for each in "?#") or not path.isascii() or not path.isprintable() or " " in path:
        raise ValueError("the path is plain letters and ends before any `?` or `#`")
    has_port = ":" in address and not address.endswith("]")
    if host_and_port(address if has_port else f"{address}:443")[1] == 0:
        raise ValueError("the port must be a number from 1 to 65535")
    return text.rstrip("/")


def check_issuer_url(text: str) -> str:
    """Accept `https://host[:port][/path]`, to the letter; http:// on this machine's own address alone."""
    check_provider_url(text)
    if text.startswith("http://") and not is_loopback(provider_address(text)[1]):
        raise ValueError("expected https://: over http:// anybody on the way could put other keys in their place")
    return text


def provider_address(url: str) -> tuple[bool, str, int, str]:
    """Of a URL that `check_provider_url` took: whether it is TLS, host, port, path without `/` at its end."""
    scheme, _, rest = url.partition("://")
    address, slash, path = rest.partition("/")
    has_port = ":" in address and not address.endswith("]")
    host, port = host_and_port(address if has_port else f"{address}:{443 if scheme == 'https' else 80}")
    return scheme == "https", host, port, slash + path


def check_header_name(text: str) -> str:
    """Accept the name of a header that is ours to give: how a request is framed is not."""
    if not _HEADER_NAME.fullmatch(text):
        raise ValueError(f"{text!r} is not a header's name")
    if text.lower() in _OWN_HEADERS:
        raise ValueError(f"{text} is set with each request; the API key is `key`")
    return text


def check_simulate(text: str | None) -> str | None:
    if text is not None:
        parse_cards(text)
    return text
