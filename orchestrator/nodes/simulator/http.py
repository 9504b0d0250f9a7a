"""HTTP as Go's server and Ollama's router put it on the wire, on top of aiohttp's.

Header fields and their order, which bodies have a length and which are chunked, who may call at all, and what a path
that is not there answers. What the paths answer is left to the other modules.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

from aiohttp import web

from orchestrator.core.dialects.errors import METHOD_NOT_ALLOWED_BODY, NOT_FOUND_BODY, TEXT_TYPE
from orchestrator.core.origins import is_host_allowed, is_loopback, is_origin_allowed, is_own_origin

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Routes = Mapping[str, Mapping[str, Handler]]  # path, method

# Go's server buffers so much before it must decide between a length and chunks.
_LENGTH_UP_TO: Final = 2048
_WRITTEN_LAST: Final = ("Date", "Content-Length", "Transfer-Encoding", "Connection")
_HTML_TYPE: Final = "text/html; charset=utf-8"
_REDIRECTS: Final = {301: "Moved Permanently", 307: "Temporary Redirect"}
_MODEL_PATH: Final = "/v1/models/"
BLOB_PATH: Final = "/api/blobs/"

_CORS: Final = (
    (
        "Access-Control-Allow-Headers",
        "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,X-Stainless-Async,"
        "X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,X-Stainless-Os,"
        "X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,X-Stainless-Runtime,"
        "X-Stainless-Runtime-Version,X-Stainless-Timeout",
    ),
    ("Access-Control-Allow-Methods", "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
    ("Access-Control-Max-Age", "43200"),
    ("Vary", "Origin"),
    ("Vary", "Access-Control-Request-Method"),
    ("Vary", "Access-Control-Request-Headers"),
)


class GoStream(web.StreamResponse):
    """A streamed answer: nothing is sent before its first frame, each frame is a chunk and a write of its own."""

    # aiohttp's own switch, as its `Response` has it: the head leaves in one write with the first frame. Two writes may
    # be read apart.
    _send_headers_immediately = False

    def __init__(self, request: web.Request, content_type: str, more: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(headers={**dict(more), "Content-Type": content_type})
        self._request = request

    async def send(self, frame: bytes) -> None:
        if not self.prepared:
            await self.prepare(self._request)
        await self.write(frame)
        # One turn of the loop: the event loop joins what is written within one into one segment.
        await asyncio.sleep(0)


def app_for(routes: Routes, host: str) -> web.Application:
    """The application that serves `routes` as a server bound to `host` would."""

    async def serve(request: web.Request) -> web.StreamResponse:
        refusal = _refusal(request, routes, is_local=is_loopback(host))
        try:
            return refusal or await _handlers(routes, request.path)[request.method](request)
        except ConnectionResetError:
            # The client left between two writes. To aiohttp, which finds that out too, this would be worth a traceback.
            return web.Response()

    app = web.Application(client_max_size=0)
    app.router.add_route("*", "/{path:.*}", serve)
    app.on_response_prepare.append(_as_go_writes)
    return app


async def respond(
    request: web.Request, status: int, content_type: str, body: bytes, more: Iterable[tuple[str, str]] = ()
) -> web.StreamResponse:
    """A whole body: with its length where it is small, otherwise as one chunk. `more`: header fields."""
    headers = {**dict(more), "Content-Type": content_type}
    if len(body) <= _LENGTH_UP_TO:
        return web.Response(status=status, headers=headers, body=body)
    response = web.StreamResponse(status=status, headers=headers)
    await response.prepare(request)
    if request.method != "HEAD":
        await response.write(body)
    await response.write_eof()
    return response


def _handlers(routes: Routes, path: str) -> Mapping[str, Handler]:
    if path.startswith(_MODEL_PATH) and re.fullmatch(r"[^/]+", path[len(_MODEL_PATH) :]):
        return routes[_MODEL_PATH]
    if path.startswith(BLOB_PATH) and re.fullmatch(r"[^/]+", path[len(BLOB_PATH) :]):
        return routes[BLOB_PATH]
    return routes.get(path, {}) if path not in (_MODEL_PATH, BLOB_PATH) else {}


def _refusal(request: web.Request, routes: Routes, *, is_local: bool) -> web.Response | None:
    """What stops a request before its handler: the order is Ollama's."""
    path = request.path
    if "//" in path:
        return _redirect(307, re.sub("/+", "/", path), request)
    origin = request.headers.get("Origin")
    if origin and not is_origin_allowed(origin, request.headers.get("Host", "")):
        return web.Response(status=403)
    if origin and request.method == "OPTIONS":
        return _preflight(origin, _handlers(routes, path))
    if is_local and not is_host_allowed(request.headers.get("Host", ""), socket.gethostname()):
        return web.Response(status=403)
    handlers = _handlers(routes, path)
    if request.method in handlers:
        return None
    if handlers:
        headers = {"Allow": ", ".join(sorted(handlers, reverse=True)), "Content-Type": TEXT_TYPE}
        return web.Response(status=405, headers=headers, body=METHOD_NOT_ALLOWED_BODY)
    if path.endswith("/") and request.method in _handlers(routes, path.rstrip("/")):
        return _redirect(301 if request.method == "GET" else 307, path.rstrip("/"), request)
    return web.Response(status=404, headers={"Content-Type": TEXT_TYPE}, body=NOT_FOUND_BODY)


def _redirect(status: int, path: str, request: web.Request) -> web.Response:
    """Go writes a body for GET alone."""
    headers = {"Location": path + (f"?{request.query_string}" if request.query_string else "")}
    if request.method not in ("GET", "HEAD"):
        return web.Response(status=status, headers=headers)
    body = f'<a href="{headers["Location"]}">{_REDIRECTS[status]}</a>.\n\n'.encode()
    return web.Response(status=status, headers=headers | {"Content-Type": _HTML_TYPE}, body=body)


def _preflight(origin: str, handlers: Mapping[str, Handler]) -> web.Response:
    response = web.Response(status=204)
    for name, value in _CORS:
        response.headers.add(name, value)
    response.headers["Access-Control-Allow-Origin"] = origin
    if handlers:
        response.headers["Allow"] = ", ".join(sorted(handlers, reverse=True))
    return response


async def _as_go_writes(request: web.Request, response: web.StreamResponse) -> None:
    """Go's order of headers, and none that Ollama does not send."""
    headers = response.headers
    headers.pop("Server", None)
    origin = request.headers.get("Origin")
    if origin and response.status not in (204, 403) and not is_own_origin(origin, request.headers.get("Host", "")):
        headers["Access-Control-Allow-Origin"] = origin
        headers["Vary"] = "Origin"
    fields = sorted(headers.items(), key=_go_order)
    headers.clear()
    for name, value in fields:
        headers.add(name, value)


def _go_order(header: tuple[str, str]) -> tuple[int, str]:
    name = header[0]
    # A handler's own word on the connection stands among its other fields.
    is_last = name in _WRITTEN_LAST and header != ("Connection", "keep-alive")
    return (_WRITTEN_LAST.index(name) + 1, "") if is_last else (0, name)
