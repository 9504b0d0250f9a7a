"""Request bodies: read up to a limit, parsed off the loop where they are large."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from aiohttp import web

from orchestrator.core.dialects.errors import MalformedCall
from orchestrator.core.dialects.parse import parse_call
from orchestrator.core.errors import CallerError
from orchestrator.core.model import Call, Endpoint

# A body above this is parsed in a thread: 8 ms on the loop for an image of 5 MB (benchmarks/gateway).
PARSE_ON_LOOP_BYTES = 65_536


async def read_body(request: web.Request, limit: int) -> bytes:
    """The whole body. Raises CallerError 413 as soon as it is known to be too large."""
    too_large = CallerError(413, f"the request body is larger than {limit} bytes (limits.body_bytes)")
    if request.content_length is not None and request.content_length > limit:
        raise too_large
    pieces, size = [], 0
    async for piece in request.content.iter_any():
        size += len(piece)
        if size > limit:
            raise too_large
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def parse(endpoint: Endpoint, raw: bytes) -> Call:
    """The body as a call. Raises CallerError in the words of Ollama."""
    if len(raw) <= PARSE_ON_LOOP_BYTES:
        return parse_call(endpoint, raw)
    return await asyncio.to_thread(parse_call, endpoint, raw)


def show_name(raw: bytes) -> str:
    """The model that a `POST /api/show` asks for; `name` is its older spelling. Raises CallerError 400."""
    if not raw:
        raise MalformedCall("missing request body")
    try:
        body: Any = orjson.loads(raw)
    except orjson.JSONDecodeError as why:
        raise MalformedCall("unexpected EOF") from why
    name = (body.get("model") or body.get("name") or "") if isinstance(body, dict) else None
    if not isinstance(name, str):
        raise MalformedCall("json: cannot unmarshal the body into Go value of type api.ShowRequest")
    return name
