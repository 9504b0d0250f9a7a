"""A whole answer in the caller's dialect: as one body, or as the frames of a stream that is already over.

For answers that come from a cache, from another tier or from a load; `frames` has the single frames, `vectors` the
bodies of embedding calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from orchestrator.core.dialects import gojson
from orchestrator.core.dialects.frames import (
    Head,
    Stats,
    body_type,
    content_frame,
    final_frame,
    head_of,
    stream_type,
    whole_body,
)
from orchestrator.core.model import Answer, Call, Endpoint

# A client shows frames as they come; a few words each looks like an answer without costing one write a token.
_FRAME_CHARS: Final = 64


def render_body(
    call: Call,
    model: str,
    answer: Answer,
    made_at: datetime,
    stats: Stats | None = None,
    context: Sequence[int] | None = None,
) -> tuple[str, bytes]:
    """Content type and body of `answer`. Its own token counts stand in place of those in `stats`."""
    head = head_of(call, model, made_at)
    body = whole_body(head, made_at, answer, answer.finish, _counted(answer, stats), context=context)
    return body_type(call.endpoint), body


def render_frames(
    call: Call,
    model: str,
    answer: Answer,
    made_at: datetime,
    stats: Stats | None = None,
    context: Sequence[int] | None = None,
) -> list[bytes]:
    """`answer` as a stream's frames, one write each; `stream_type` is their content type."""
    head = head_of(call, model, made_at)
    contents = list(_contents(head, made_at, answer))
    last = final_frame(head, made_at, answer.finish, _counted(answer, stats), context=context, is_first=not contents)
    return [*contents, last]


def render(
    call: Call, model: str, answer: Answer, made_at: datetime, stats: Stats | None = None
) -> tuple[str, list[bytes]]:
    """Content type and writes, in the form the call asked for."""
    if call.is_stream:
        return stream_type(call.endpoint), render_frames(call, model, answer, made_at, stats)
    content_type, body = render_body(call, model, answer, made_at, stats)
    return content_type, [body]


def render_load(call: Call, model: str, made_at: datetime, *, is_unload: bool = False) -> tuple[str, bytes]:
    """Content type and body for a call that only loads its model, or unloads it."""
    reason = "unload" if is_unload else "load"
    if call.endpoint is Endpoint.OLLAMA_EMBEDDINGS:
        return body_type(call.endpoint), gojson.dumps({"embedding": []})
    if call.endpoint is Endpoint.OLLAMA_EMBED:
        return body_type(call.endpoint), gojson.dumps({"model": model, "embeddings": []})
    head = head_of(call, model, made_at)
    if call.is_stream:
        return stream_type(call.endpoint), final_frame(head, made_at, reason, Stats())
    return body_type(call.endpoint), whole_body(head, made_at, Answer(""), reason, Stats())


def _contents(head: Head, made_at: datetime, answer: Answer) -> Iterator[bytes]:
    is_first = True
    for thinking in _pieces(answer.thinking):
        yield content_frame(head, made_at, thinking=thinking, is_first=is_first)
        is_first = False
    for text in _pieces(answer.text):
        yield content_frame(head, made_at, text=text, is_first=is_first)
        is_first = False
    if answer.tool_calls:
        yield content_frame(head, made_at, tool_calls=answer.tool_calls, is_first=is_first)


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), _FRAME_CHARS):
        yield text[start : start + _FRAME_CHARS]


def _counted(answer: Answer, stats: Stats | None) -> Stats:
    return replace(stats or Stats(), prompt_tokens=answer.prompt_tokens, completion_tokens=answer.completion_tokens)
