"""HTTP answers as Ollama puts them on the wire: lengths and chunks, redirects, refusals, CORS.

Which answer a request gets is left to `server`.
"""

from __future__ import annotations

import html
import time
from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, NamedTuple
from urllib.parse import quote

from orchestrator.core import origins
from orchestrator.core.dialects.errors import METHOD_NOT_ALLOWED_BODY, NOT_FOUND_BODY, TEXT_TYPE
from orchestrator.gateway.request import Request

# Go's server, and so Ollama, tells the length of a body up to this and sends a longer one in chunks.
LENGTH_UP_TO: Final = 2048

CHUNKED: Final = "Transfer-Encoding: chunked\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"

_CLOSE: Final = "Connection: close\r\n"
_KEEP_ALIVE: Final = "Connection: keep-alive\r\n"
_STATUS_LINES: Final = {each.value: f"HTTP/1.1 {each.value} {each.phrase}\r\n" for each in HTTPStatus}
_BODILESS: Final = frozenset({204, 304})


class Reply(NamedTuple):
    """A whole answer. `fields` are its headers as they go out, "Name: value" and a line's end each.

    A named tuple, as other values made for each call are: a frozen dataclass costs .25 µs a field.
    """

    status: int
    fields: str
    body: bytes = b""


def whole(content_type: str, body: bytes, fields: str = "", status: int = 200) -> Reply:
    """A body that is complete."""
    return Reply(status, f"{fields}Content-Type: {content_type}\r\n", body)


def rendered(reply: Reply, request: Request, *, is_last: bool) -> bytes:
    """The answer as it goes out: to HEAD without its body."""
    status, fields, body = reply
    if status in _BODILESS:
        return head(status, fields, request, is_last=is_last)
    if len(body) <= LENGTH_UP_TO or not request.is_http_11:
        framed = head(status, f"{fields}Content-Length: {len(body)}\r\n", request, is_last=is_last)
    else:
        # Go's server says nothing of a long body that it does not send.
        framed = head(status, fields if request.method == "HEAD" else fields + CHUNKED, request, is_last=is_last)
        body = chunked(body) + LAST_CHUNK
    return framed if request.method == "HEAD" else framed + body


def head(status: int, fields: str, request: Request, *, is_last: bool) -> bytes:
    """Status line, headers and the blank line behind them."""
    # Each version of HTTP says only what is not its rule.
    connection = "" if is_last is not request.is_http_11 else _CLOSE if is_last else _KEEP_ALIVE
    return f"{_STATUS_LINES[status]}{fields}Date: {_date()}\r\n{connection}\r\n".encode("utf-8", "surrogateescape")


def chunked(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def plain(status: int, text: str) -> bytes:
    """An answer to what was no request: nobody knows its dialect."""
    body = f"{text}\n".encode()
    fields = f"Content-Type: {TEXT_TYPE}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    return f"{_STATUS_LINES[status]}{fields}Date: {_date()}\r\n\r\n".encode() + body


def field(name: str, value: str) -> str:
    return f"{name}: {value}\r\n"


def not_found() -> Reply:
    return whole(TEXT_TYPE, NOT_FOUND_BODY, status=404)


def method_not_allowed(methods: Iterable[str]) -> Reply:
    return whole(TEXT_TYPE, METHOD_NOT_ALLOWED_BODY, field("Allow", _listed(methods)), 405)


def redirect(request: Request, path: str, status: int) -> Reply:
    """Where the same path without slashes too many is; Go writes a page for GET alone."""
    # Quoted: what a path hides behind percent signs (line ends, a backslash for a slash) leads nobody elsewhere.
    location = quote(path, safe="/:@") + (f"?{quote(request.query, safe='=&%+/:@,;?')}" if request.query else "")
    if request.method not in ("GET", "HEAD"):
        return Reply(status, field("Location", location))
    text = f'<a href="{html.escape(location)}">{HTTPStatus(status).phrase}</a>.\n\n'
    return whole("text/html; charset=utf-8", text.encode(), field("Location", location), status)


def preflight(origin: str, methods: Iterable[str]) -> Reply:
    """What a browser may send from a page of `origin`."""
    fields = {
        "Access-Control-Allow-Headers": origins.ALLOWED_HEADERS,
        "Access-Control-Allow-Methods": origins.ALLOWED_METHODS,
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Max-Age": "43200",
    }
    varies = ("Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers")
    allowed = _listed(methods)
    lines = [*fields.items(), *(("Vary", name) for name in varies), *((("Allow", allowed),) if allowed else ())]
    return Reply(204, "".join(field(*each) for each in lines))


def cors_fields(request: Request) -> str:
    """What tells a page of another origin that it may read the answer."""
    origin = request.header(b"origin")
    if not origin or origins.is_own_origin(origin, request.header(b"host")):
        return ""
    exposed = field("Access-Control-Expose-Headers", origins.EXPOSED_HEADERS)
    return field("Access-Control-Allow-Origin", origin) + exposed + field("Vary", "Origin")


def _listed(methods: Iterable[str]) -> str:
    return ", ".join(sorted(methods, reverse=True))


class _Date:
    """The Date header's value, made once a second."""

    def __init__(self) -> None:
        self._second, self._text = 0, ""

    def __call__(self) -> str:
        second = int(time.time())
        if second != self._second:
            self._second, self._text = second, formatdate(second, usegmt=True)
        return self._text


_date = _Date()
