"""One frame of a streamed answer at a time, and the whole body, in the caller's dialect and in Ollama's field order.

Of the APIs whose frames stand each by itself: Ollama's own, OpenAI's chat and completions; `streams` has all of them.
Order of fields, what is left out when empty, and which frames come in one write are those of Ollama 0.33
(api/types.go, openai/openai.go, middleware/openai.go). When to send which frame is left to the caller.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from orchestrator.core.dialects import gojson
from orchestrator.core.dialects.errors import JSON_TYPE, OPENAI_JSON_TYPE
from orchestrator.core.model import Answer, Call, Dialect, Endpoint, Finish, ToolCall

NDJSON_TYPE: Final = "application/x-ndjson"
SSE_TYPE: Final = "text/event-stream"
DONE_EVENT: Final = b"data: [DONE]\n\n"

Fields = dict[str, Any]


class Stats(NamedTuple):
    """What an answer cost: nanoseconds and tokens. Zero is not said, as Ollama does not."""

    total_ns: int = 0
    load_ns: int = 0
    prompt_tokens: int = 0
    prompt_ns: int = 0
    completion_tokens: int = 0
    completion_ns: int = 0
    cached_tokens: int = 0  # of the prompt, that nobody had to read: it was answered from the cache


# What Ollama calls each of them; what was cached it never tells.
_METRICS: Final = (
    *("total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration"),
    *("eval_count", "eval_duration"),
)


class Head(NamedTuple):
    """What all frames of one answer share. `number` names it in OpenAI's dialect; `asked` is the caller's body."""

    endpoint: Endpoint
    model: str
    started_at: datetime
    wants_usage: bool = False
    number: int = 0
    asked: Mapping[str, Any] = MappingProxyType({})

    @property
    def answer_id(self) -> str:
        """Ollama draws a number below 999 here; ids need not be unique."""
        prefix = "chatcmpl" if self.endpoint.is_chat else "cmpl"
        return f"{prefix}-{self.number % 999}"

    def unlikely_twice(self) -> bytes:
        """Sixteen bytes that no other answer has, for the APIs whose clients keep answers by their ids."""
        told = f"{self.started_at.isoformat()} {self.number} {self.model}"
        return hashlib.blake2b(told.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def head_of(call: Call, model: str, started_at: datetime, number: int | None = None) -> Head:
    """The head of `call`'s answer; `model` is the name the answer shall bear, usually the caller's.

    `number` None: one is taken from the time.
    """
    options = call.body.get("stream_options")
    wants_usage = isinstance(options, dict) and bool(options.get("include_usage"))
    number = started_at.microsecond if number is None else number
    return Head(call.endpoint, model, started_at, wants_usage, number, call.body)


def body_type(endpoint: Endpoint) -> str:
    return JSON_TYPE if endpoint.dialect is Dialect.OLLAMA else OPENAI_JSON_TYPE


def stream_type(endpoint: Endpoint) -> str:
    return NDJSON_TYPE if endpoint.dialect is Dialect.OLLAMA else SSE_TYPE


def stream_headers(endpoint: Endpoint) -> tuple[tuple[str, str], ...]:
    """What Ollama says in the head of a stream beside its type, on the paths of the younger APIs."""
    is_younger = endpoint in (Endpoint.OPENAI_RESPONSES, Endpoint.ANTHROPIC_MESSAGES)
    return (("Cache-Control", "no-cache"), ("Connection", "keep-alive")) if is_younger else ()


def content_frame(
    head: Head,
    made_at: datetime,
    *,
    text: str = "",
    thinking: str = "",
    tool_calls: Sequence[ToolCall] = (),
    logprobs: Sequence[Mapping[str, Any]] = (),
    is_first: bool = False,
    first_tool_index: int = 0,
) -> bytes:
    """Part of an answer. `is_first` is heeded in OpenAI's chat alone, where the first frame names the role.

    `logprobs`: Ollama's entries, each with token, logprob, bytes and perhaps top_logprobs.
    """
    part = _Part(text, thinking, tool_calls, logprobs, first_tool_index)
    if head.endpoint is Endpoint.OLLAMA_CHAT:
        return _line(_chat_fields(head, made_at, part, {"done": False}, {}))
    if head.endpoint is Endpoint.OLLAMA_GENERATE:
        return _line(_generate_fields(head, made_at, part, {"done": False}))
    if head.endpoint is Endpoint.OPENAI_COMPLETIONS:
        return _event(_completion_chunk(head, text, None))
    if thinking and (text or tool_calls):
        # Ollama sends thinking and what follows it as two events, of which the second alone has no role.
        thought = {"role": "assistant"} if is_first else {}
        rest = _delta(_Part(text, "", tool_calls, (), first_tool_index), is_first=False)
        both = (_chat_chunk(head, thought | {"reasoning": thinking}, None, logprobs), _chat_chunk(head, rest, None))
        return b"".join(map(_event, both))
    return _event(_chat_chunk(head, _delta(part, is_first=is_first), None, logprobs))


def final_frame(
    head: Head,
    made_at: datetime,
    finish: Finish | str,
    stats: Stats,
    *,
    context: Sequence[int] | None = None,
    is_first: bool = False,
) -> bytes:
    """The end of a whole answer: one line, or the events Ollama sends in one write. `finish` may also be "load".

    `is_first`: nothing went before; OpenAI's chat then still opens with a frame that names the role.
    """
    end = _end_fields(finish)
    if head.endpoint is Endpoint.OLLAMA_CHAT:
        return _line(_chat_fields(head, made_at, _Part(), end, _metrics(stats)))
    if head.endpoint is Endpoint.OLLAMA_GENERATE:
        return _line(_generate_fields(head, made_at, _Part(), end | _generate_end(stats, context)))
    if head.endpoint is Endpoint.OPENAI_COMPLETIONS:
        last = _completion_chunk(head, "", _completion_reason(finish))
        usage = _completion_chunk(head, "", None) | {"choices": [], "usage": _usage(stats)}
        return _event(last) + (_event(usage) if head.wants_usage else b"") + DONE_EVENT
    opening = content_frame(head, made_at, is_first=True) if is_first else b""
    usage = _chat_chunk(head, {}, None) | {"choices": [], "usage": _usage(stats)}
    ending = _event(_chat_chunk(head, {}, str(finish)))
    return opening + ending + (_event(usage) if head.wants_usage else b"") + DONE_EVENT


def whole_body(
    head: Head,
    made_at: datetime,
    answer: Answer,
    finish: Finish | str,
    stats: Stats,
    *,
    context: Sequence[int] | None = None,
    logprobs: Sequence[Mapping[str, Any]] = (),
) -> bytes:
    """The answer as one JSON body."""
    part = _Part(answer.text, answer.thinking, answer.tool_calls, logprobs)
    if head.endpoint is Endpoint.OLLAMA_CHAT:
        return gojson.dumps(_chat_fields(head, made_at, part, _end_fields(finish), _metrics(stats)))
    if head.endpoint is Endpoint.OLLAMA_GENERATE:
        return gojson.dumps(_generate_fields(head, made_at, part, _end_fields(finish) | _generate_end(stats, context)))
    if head.endpoint is Endpoint.OPENAI_COMPLETIONS:
        choice: Fields = {"text": answer.text, "index": 0, "finish_reason": _completion_reason(finish)}
        return _openai_body(head, "text_completion", choice, stats)
    message = {"role": "assistant", "content": answer.text} | _reasoning(answer.thinking)
    choice = {"index": 0, "message": message | _openai_tool_calls(answer.tool_calls, 0), "finish_reason": str(finish)}
    return _openai_body(head, "chat.completion", choice | _openai_logprobs(logprobs), stats)


def go_time(moment: datetime) -> str:
    """RFC 3339 in UTC without trailing zeros, as Go's RFC3339Nano."""
    text = moment.astimezone(UTC).isoformat()[: -len("+00:00")]
    return (text.rstrip("0") if moment.microsecond else text) + "Z"


# --- shapes ----------------------------------------------------------------------------------------------------------


class _Part(NamedTuple):
    text: str = ""
    thinking: str = ""
    tool_calls: Sequence[ToolCall] = ()
    logprobs: Sequence[Mapping[str, Any]] = ()
    first_tool_index: int = 0


def _line(fields: Fields) -> bytes:
    return gojson.dumps(fields) + b"\n"


def _event(fields: Fields) -> bytes:
    return b"data: " + gojson.dumps(fields) + b"\n\n"


def _end_fields(finish: Finish | str) -> Fields:
    """On Ollama's paths an answer that calls tools ends by "stop"."""
    return {"done": True, "done_reason": "stop" if finish == Finish.TOOL_CALLS else str(finish)}


def _completion_reason(finish: Finish | str) -> str:
    return "stop" if finish == Finish.TOOL_CALLS else str(finish)


def _metrics(stats: Stats) -> Fields:
    return {name: amount for name, amount in zip(_METRICS, stats, strict=False) if amount}


def _generate_end(stats: Stats, context: Sequence[int] | None) -> Fields:
    return _without_empty({"context": list(context or ())}) | _metrics(stats)


def _usage(stats: Stats) -> Fields:
    """As Ollama tells it; what was cached, which it never tells, as OpenAI does."""
    usage: Fields = {
        "prompt_tokens": stats.prompt_tokens,
        "completion_tokens": stats.completion_tokens,
        "total_tokens": stats.prompt_tokens + stats.completion_tokens,
    }
    return usage | ({"prompt_tokens_details": {"cached_tokens": stats.cached_tokens}} if stats.cached_tokens else {})


def _without_empty(fields: Fields) -> Fields:
    return {name: value for name, value in fields.items() if value}


def _chat_fields(head: Head, made_at: datetime, part: _Part, end: Fields, metrics: Fields) -> Fields:
    message: Fields = {"role": "assistant", "content": part.text}
    if part.thinking:
        message["thinking"] = part.thinking
    if part.tool_calls:
        message["tool_calls"] = _ollama_tool_calls(part)
    fields: Fields = {"model": head.model, "created_at": go_time(made_at), "message": message} | end
    if part.logprobs:
        fields["logprobs"] = list(part.logprobs)
    return fields | metrics


def _generate_fields(head: Head, made_at: datetime, part: _Part, end: Fields) -> Fields:
    fields: Fields = {"model": head.model, "created_at": go_time(made_at), "response": part.text}
    if part.thinking:
        fields["thinking"] = part.thinking
    fields |= end
    if part.tool_calls:
        fields["tool_calls"] = _ollama_tool_calls(part)
    if part.logprobs:
        fields["logprobs"] = list(part.logprobs)
    return fields


def _ollama_tool_calls(part: _Part) -> list[Fields]:
    return [
        _without_empty({"id": each.id})
        | {"function": {"index": index, "name": each.name, "arguments": dict(each.arguments)}}
        for index, each in enumerate(part.tool_calls, part.first_tool_index)
    ]


def _openai_tool_calls(tool_calls: Sequence[ToolCall], first_index: int) -> Fields:
    if not tool_calls:
        return {}
    listed = [
        {
            "id": each.id,
            "index": index,
            "type": "function",
            "function": {"name": each.name, "arguments": gojson.dumps(dict(each.arguments)).decode()},
        }
        for index, each in enumerate(tool_calls, first_index)
    ]
    return {"tool_calls": listed}


def _reasoning(thinking: str) -> Fields:
    return {"reasoning": thinking} if thinking else {}


def _openai_logprobs(logprobs: Sequence[Mapping[str, Any]]) -> Fields:
    return {"logprobs": {"content": list(logprobs)}} if logprobs else {}


def _delta(part: _Part, *, is_first: bool) -> Fields:
    role = {"role": "assistant"} if is_first else {}
    tool_calls = _openai_tool_calls(part.tool_calls, part.first_tool_index)
    return role | {"content": part.text} | _reasoning(part.thinking) | tool_calls


def _chat_chunk(head: Head, delta: Fields, finish: str | None, logprobs: Sequence[Mapping[str, Any]] = ()) -> Fields:
    choice = {"index": 0, "delta": delta, "finish_reason": finish} | _openai_logprobs(logprobs)
    return _openai_head(head, "chat.completion.chunk") | {"choices": [choice]}


def _completion_chunk(head: Head, text: str, finish: str | None) -> Fields:
    """Here Ollama puts the model after the choices, and says a usage of zero until the last event."""
    names = _openai_head(head, "text_completion")
    chunk: Fields = {name: names[name] for name in ("id", "object", "created")}
    chunk |= {"choices": [{"text": text, "index": 0, "finish_reason": finish}]}
    chunk |= {name: names[name] for name in ("model", "system_fingerprint")}
    return chunk | ({"usage": _usage(Stats())} if head.wants_usage else {})


def _openai_head(head: Head, kind: str) -> Fields:
    return {
        "id": head.answer_id,
        "object": kind,
        "created": int(head.started_at.timestamp()),
        "model": head.model,
        "system_fingerprint": "fp_ollama",
    }


def _openai_body(head: Head, kind: str, choice: Fields, stats: Stats) -> bytes:
    return gojson.dumps(_openai_head(head, kind) | {"choices": [choice], "usage": _usage(stats)}) + b"\n"
