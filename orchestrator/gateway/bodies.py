"""Request bodies as calls, parsed off the loop where they are large."""

from __future__ import annotations

import asyncio
from typing import Any

from orchestrator.core.dialects import gojson
from orchestrator.core.dialects.errors import MalformedCall
from orchestrator.core.dialects.parse import parse_call
from orchestrator.core.model import Call, Endpoint

# A body above this is parsed in a thread: 8 ms on the loop for an image of 5 MB (measured with orjson on one core).
PARSE_ON_LOOP_BYTES = 65_536


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
