"""Request bodies as calls, parsed off the loop where they are large, and not at all where that would cost too much."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from orchestrator.core.dialects import gojson
from orchestrator.core.dialects.conversation import may_have_images
from orchestrator.core.dialects.errors import MalformedCall
from orchestrator.core.dialects.parse import parse_call
from orchestrator.core.dialects.pictures import check_pictures
from orchestrator.core.errors import CallerError
from orchestrator.core.model import Call, Endpoint

# A body above this is parsed in a thread: 8 ms on the loop for an image of 5 MB (measured with orjson on one core).
PARSE_ON_LOOP_BYTES: Final = 65_536
# Even a thread that parses keeps all others from running: 16 MiB of `[],` for 4 s, and in half a gigabyte. So many
# values take .2 s at most; the longest `context` of a conversation, a number a token, is a quarter of it.
VALUES_AT_MOST: Final = 524_288


async def parse(endpoint: Endpoint, raw: bytes, images: int) -> Call:
    """The body as a call, with so many pictures at most. Raises CallerError in the words of Ollama."""
    if len(raw) <= PARSE_ON_LOOP_BYTES:
        return _parsed(endpoint, raw, images)
    check_values(raw)
    return await asyncio.to_thread(_parsed, endpoint, raw, images)


def _parsed(endpoint: Endpoint, raw: bytes, images: int) -> Call:
    call = parse_call(endpoint, raw)
    if may_have_images(call):
        check_pictures(call, images)
    return call


def check_values(raw: bytes) -> None:
    """Raise CallerError 413 where a body is JSON of too many values, however small each is."""
    if _most_values(raw) <= VALUES_AT_MOST:
        return
    # Commas in texts are no values: without what is escaped, every other piece between quotes is a text.
    bare = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    if bare.count(b'"') > 4 * VALUES_AT_MOST or _most_values(b"".join(bare.split(b'"')[::2])) > VALUES_AT_MOST:
        raise CallerError(413, f"the request body has more than {VALUES_AT_MOST} values")


def _most_values(raw: bytes) -> int:
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{")


def show_name(raw: bytes) -> str:
    """The model that a `POST /api/show` asks for; `name` is its older spelling. Raises CallerError 400."""
    try:
        check_values(raw)
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
