"""An answer that is known whole, told in the form that was asked for: a body, or a stream made of it."""

from __future__ import annotations

from datetime import UTC, datetime

from orchestrator.core.dialects.frames import Stats, stream_type
from orchestrator.core.dialects.render import render_body, render_frames
from orchestrator.core.model import Answer
from orchestrator.gateway.asked import Asked
from orchestrator.gateway.replies import Reply, whole


async def tell(asked: Asked, answer: Answer, stats: Stats, between_bytes_s: float) -> Reply | None:
    """The body; None where it was streamed."""
    call, now = asked.call, datetime.now(UTC)
    if not call.is_stream:
        content_type, body = render_body(call, call.model, answer, now, stats)
        return whole(content_type, body, asked.trace.fields())
    client = asked.client
    assert client is not None, "made for each call that is to be streamed"
    client.start(stream_type(call.endpoint))
    client.write([*render_frames(call, call.model, answer, now, stats)])
    await client.finish(between_bytes_s)
    return None
