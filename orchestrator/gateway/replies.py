"""HTTP answers as Ollama puts them on the wire: lengths and chunks, redirects, refusals, CORS.

Which answer a request gets is left to `server`.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

from aiohttp import web
from multidict import CIMultiDict

from orchestrator.core import origins
from orchestrator.core.dialects.errors import METHOD_NOT_ALLOWED_BODY, NOT_FOUND_BODY, TEXT_TYPE

# Go's server, and so Ollama, tells the length of a body up to this and sends a longer one in chunks.
LENGTH_UP_TO: Final = 2048


def whole(
    request: web.BaseRequest, content_type: str, body: bytes, headers: Mapping[str, str], status: int = 200
) -> web.StreamResponse:
    """A body that is complete."""
    fields = {**headers, "Content-Type": content_type}
    if len(body) <= LENGTH_UP_TO or request.version < (1, 1):
        return web.Response(status=status, body=body, headers=fields)
    if request.method == "HEAD":
        return web.StreamResponse(status=status, headers=fields)
    response = web.Response(status=status, body=body, headers=fields)
    response.enable_chunked_encoding()
    return response


def not_found() -> web.Response:
    return web.Response(status=404, body=NOT_FOUND_BODY, headers={"Content-Type": TEXT_TYPE})


def method_not_allowed(methods: Iterable[str]) -> web.Response:
    headers = {"Allow": _listed(methods), "Content-Type": TEXT_TYPE}
    return web.Response(status=405, body=METHOD_NOT_ALLOWED_BODY, headers=headers)


def redirect(request: web.BaseRequest, path: str, status: int) -> web.Response:
    """Where the same path without slashes too many is; Go writes a page for GET alone."""
    # Quoted: what a path hides behind percent signs (line ends, a backslash for a slash) leads nobody elsewhere.
    location = quote(path, safe="/:@") + (f"?{request.rel_url.raw_query_string}" if request.query_string else "")
    if request.method not in ("GET", "HEAD"):
        return web.Response(status=status, headers={"Location": location})
    text = f'<a href="{html.escape(location)}">{HTTPStatus(status).phrase}</a>.\n\n'
    headers = {"Location": location, "Content-Type": "text/html; charset=utf-8"}
    return web.Response(status=status, body=text.encode(), headers=headers)


def preflight(origin: str, methods: Iterable[str]) -> web.Response:
    """What a browser may send from a page of `origin`."""
    headers = CIMultiDict({
        "Access-Control-Allow-Headers": origins.ALLOWED_HEADERS,
        "Access-Control-Allow-Methods": origins.ALLOWED_METHODS,
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Max-Age": "43200",
    })  # fmt: skip
    for name in ("Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers"):
        headers.add("Vary", name)
    if allowed := _listed(methods):
        headers["Allow"] = allowed
    return web.Response(status=204, headers=headers)


def _listed(methods: Iterable[str]) -> str:
    return ", ".join(sorted(methods, reverse=True))
