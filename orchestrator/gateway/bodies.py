"""Request bodies: read up to a limit, parsed off the loop where they are large."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import http_exceptions, web

from orchestrator.core.dialects import gojson
from orchestrator.core.dialects.errors import MalformedCall
from orchestrator.core.dialects.parse import parse_call
from orchestrator.core.errors import CallerError
from orchestrator.core.model import Call, Endpoint

# A body above this is parsed in a thread: 8 ms on the loop for an image of 5 MB (measured with orjson on one core).
PARSE_ON_LOOP_BYTES = 65_536


async def read_body(request: web.Request, limit: int, silence_s: float) -> bytes:
    """The whole body. Raises CallerError: 413 as soon as it is known to be too large, 408 after `silence_s` of it."""
    too_large = CallerError(413, f"the request body is larger than {limit} bytes (limits.body_bytes)")
    if request.content_length is not None and request.content_length > limit:
        raise too_large
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    pieces, size = [], 0
    while piece := await _next_piece(request, silence_s):
        size += len(piece)
        if size > limit:
            raise too_large
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def _next_piece(request: web.Request, silence_s: float) -> bytes:
    """What has come of the body, once something has; empty at its end."""
    content = request.content
    try:
        if content.is_eof():
            return await content.readany()
        async with asyncio.timeout(silence_s):
            return await content.readany()
    except TimeoutError as why:
        raise CallerError(408, f"nothing of the request body came for {silence_s:g} s") from why
    except (web.RequestPayloadError, http_exceptions.BadHttpMessage) as why:
        raise CallerError(400, f"the request body could not be read: {why}") from why


async def parse(endpoint: Endpoint, raw: bytes) -> Call:
    """The body as a call. Raises CallerError in the words of Ollama."""
    if len(raw) <= PARSE_ON_LOOP_BYTES:
        return parse_call(endpoint, raw)
    return await asyncio.to_thread(parse_call, endpoint, raw)


def show_name(raw: bytes) -> str:
    """The model that a `POST /api/show` asks for; `name` is its older spelling. Raises CallerError 400."""
    try:
        body: Any = gojson.loads(raw)
    except gojson.GoJsonError as why:
        raise MalformedCall("missing request body" if why.is_empty else str(why)) from why
    if not isinstance(body, dict):
        raise MalformedCall(f"json: cannot unmarshal {gojson.type_name(body)} into Go value of type api.ShowRequest")
    for field in ("model", "name"):
        if not isinstance(body.get(field, ""), str):
            kind = gojson.type_name(body[field])
            raise MalformedCall(
                f"json: cannot unmarshal {kind} into Go struct field ShowRequest.{field} of type string"
            )
    return str(body.get("model") or body.get("name") or "")
