"""A whole answer in the caller's dialect: as one body, or as the frames of a stream that is already over.

For answers that come from a cache, from another tier or from a load; `streams` has the frames one by one, `vectors`
the bodies of embedding calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from orchestrator.core.dialects import gojson
from orchestrator.core.dialects.frames import Stats, body_type, head_of, stream_type
from orchestrator.core.dialects.streams import Stream, answer_body, open_stream
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
    body = answer_body(head, made_at, answer, answer.finish, _counted(answer, stats), context=context)
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
    stream = open_stream(head_of(call, model, made_at), answer.prompt_tokens)
    contents = list(_contents(stream, made_at, answer))
    return [*contents, *stream.end(made_at, answer.finish, _counted(answer, stats), context)]


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
        return stream_type(call.endpoint), b"".join(open_stream(head).end(made_at, reason, Stats()))
    return body_type(call.endpoint), answer_body(head, made_at, Answer(""), reason, Stats())


def _contents(stream: Stream, made_at: datetime, answer: Answer) -> Iterator[bytes]:
    for thinking in _pieces(answer.thinking):
        yield from stream.content(made_at, thinking=thinking)
    for text in _pieces(answer.text):
        yield from stream.content(made_at, text=text)
    if answer.tool_calls:
        yield from stream.content(made_at, tool_calls=answer.tool_calls)


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), _FRAME_CHARS):
        yield text[start : start + _FRAME_CHARS]


def _counted(answer: Answer, stats: Stats | None) -> Stats:
    told, asked, made = stats or Stats(), answer.prompt_tokens, answer.completion_tokens
    return Stats(told.total_ns, told.load_ns, asked, told.prompt_ns, made, told.completion_ns, told.cached_tokens)
