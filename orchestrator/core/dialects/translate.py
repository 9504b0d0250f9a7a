"""Between a caller of any dialect and llama.cpp's server: the request out, the answer's bytes back as they come.

`Translator` holds no socket and no clock: bytes of the engine in, bytes for the caller out, wherever they are cut.
The caller sees what a real Ollama would have sent: none of llama.cpp's extras, tool calls whole, counts at the end.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from orchestrator.core.dialects.conversation import embedding_inputs
from orchestrator.core.dialects.errors import caller_error, error_frame, error_response
from orchestrator.core.dialects.frames import Head, Stats, head_of
from orchestrator.core.dialects.llama_request import to_llama_cpp, wanted_logprobs
from orchestrator.core.dialects.malformed import WRONG_FORM
from orchestrator.core.dialects.streams import Stream, answer_body, open_stream
from orchestrator.core.dialects.toolparts import ToolCallParts
from orchestrator.core.dialects.vectors import embeddings_body
from orchestrator.core.errors import CallerError
from orchestrator.core.model import Answer, Call, Dialect, Endpoint, Finish

__all__ = ["Translator", "callers_fault", "to_llama_cpp"]

BROKEN: Final = "an error was encountered while running the model: unexpected EOF"
# The last is Mistral's word for a full context.
_FINISHES: Final = {"length": Finish.LENGTH, "tool_calls": Finish.TOOL_CALLS, "model_length": Finish.LENGTH}


class Translator:
    """One answer of llama.cpp's on its way to a caller. `model`: the name the caller shall see.

    Without a `clock` the times are llama.cpp's own: whole seconds for `created_at`, and as the total what it
    measured for prompt and answer.
    """

    def __init__(self, call: Call, model: str, clock: Callable[[], datetime] | None = None) -> None:
        self._call = call
        self._model = model
        self._clock = clock
        self._started_at = clock() if clock else None
        self._rest = bytearray()
        self._head: Head | None = None
        self._stream: Stream | None = None
        self._parts = ToolCallParts()
        self._finish: Finish | None = None
        self._last: dict[str, Any] = {}
        self._is_over = False
        self.on_logprobs: Callable[[Sequence[Mapping[str, Any]]], None] | None = None  # who else wants to know them

    def feed(self, data: bytes) -> bytes:
        """The engine's next bytes, cut anywhere; the caller's next bytes, perhaps none."""
        self._rest += data
        if not self._call.is_stream:
            return b""
        *lines, rest = self._rest.split(b"\n")
        self._rest = rest
        return b"".join(map(self._line, lines))

    def finish(self) -> bytes:
        """The engine's answer is over. A body comes whole from here; a stream that was cut gets an error frame."""
        if not self._call.is_stream:
            return self._body()
        out = self._line(bytes(self._rest)) if self._rest else b""
        self._rest.clear()
        return out if self._is_over else out + self._fail(BROKEN)

    def error(self, status: int, body: bytes) -> CallerError | None:
        """What an error of the engine's means to the caller; None: it is the engine's trouble, not the caller's."""
        return callers_fault(self._call.endpoint, status, body)

    # --- a stream ----------------------------------------------------------------------------------------------------

    def _line(self, line: bytes | bytearray) -> bytes:
        name, _, value = bytes(line).strip().partition(b":")
        if self._is_over or name not in (b"data", b"error"):
            return b""
        try:
            return self._end() if value.strip() == b"[DONE]" else self._told(name, orjson.loads(value))
        except WRONG_FORM:
            return self._fail(BROKEN)

    def _told(self, name: bytes, event: object) -> bytes:
        if not isinstance(event, dict):
            return self._fail(BROKEN)
        error = event.get("error") if name == b"data" else event.get("error", event)
        if error is not None:
            return self._fail(str(error.get("message") or error) if isinstance(error, dict) else str(error))
        return self._event(event)

    def _event(self, event: Mapping[str, Any]) -> bytes:
        head = self._head_for(event)
        self._last |= {name: event[name] for name in ("usage", "timings") if event.get(name)}
        choice: Mapping[str, Any] = next(iter(event.get("choices") or ()), {})
        if choice.get("finish_reason"):
            self._finish = _FINISHES.get(choice["finish_reason"], Finish.STOP)
        delta = choice.get("delta") or {}
        self._parts.add(delta.get("tool_calls") or ())
        text, thinking = self._said(delta, choice)
        logprobs = self._logprobs(choice)
        if self.on_logprobs is not None:
            self.on_logprobs((choice.get("logprobs") or {}).get("content") or ())
        if not text and not thinking and not logprobs:
            return b""
        return self._content(head, text=text, thinking=thinking, logprobs=logprobs)

    def _said(self, part: Mapping[str, Any], choice: Mapping[str, Any]) -> tuple[str, str]:
        """Text and thinking in a delta or message."""
        return part.get("content") or choice.get("text") or "", part.get("reasoning_content") or ""

    def _content(self, head: Head, **part: Any) -> bytes:
        return b"".join(self._stream_for(head).content(self._now(head), **part))

    def _end(self) -> bytes:
        head = self._head
        tool_calls = self._parts.whole()
        if head is None or self._finish is None or tool_calls is None:
            return self._fail(BROKEN)
        out = self._content(head, tool_calls=tool_calls) if tool_calls else b""
        finish = Finish.TOOL_CALLS if tool_calls and self._finish is Finish.STOP else self._finish
        now = self._now(head)
        out += b"".join(self._stream_for(head).end(now, finish, self._stats(self._last, now)))
        self._is_over = True
        return out

    def _fail(self, message: str) -> bytes:
        self._is_over = True
        return error_frame(self._call.endpoint, message)

    # --- a body ------------------------------------------------------------------------------------------------------

    def _body(self) -> bytes:
        """The whole answer; an error body where the engine's was cut, so that it does not pass for an answer."""
        try:
            given = orjson.loads(self._rest)
            head = self._head_for(given)
            if self._call.endpoint.is_embedding:
                return self._embeddings(given, head)
            return self._answer(given, given["choices"][0], head)
        except WRONG_FORM:
            return error_response(self._call.endpoint.dialect, 500, BROKEN)[1]

    def _answer(self, given: Mapping[str, Any], choice: Mapping[str, Any], head: Head) -> bytes:
        message = choice.get("message") or {}
        self._parts.add(message.get("tool_calls") or ())
        text, thinking = self._said(message, choice)
        answer = Answer(text=text, thinking=thinking, tool_calls=self._parts.whole() or ())
        finish = _FINISHES.get(choice["finish_reason"], Finish.STOP)
        finish = Finish.TOOL_CALLS if answer.tool_calls and finish is Finish.STOP else finish
        now = self._now(head)
        return answer_body(head, now, answer, finish, self._stats(given, now), logprobs=self._logprobs(choice))

    def _embeddings(self, given: Mapping[str, Any], head: Head) -> bytes:
        data = sorted(given["data"], key=lambda each: each["index"])
        length = int(self._call.body.get("dimensions", 0))
        vectors = [_shortened(each["embedding"], length) for each in data]
        if len(vectors) != len(embedding_inputs(self._call)):
            raise KeyError("data")
        return embeddings_body(self._call, self._model, vectors, self._stats(given, self._now(head)))[1]

    # --- what frames and bodies share --------------------------------------------------------------------------------

    def _head_for(self, event: Mapping[str, Any]) -> Head:
        if self._head is None:
            started_at = self._started_at or datetime.fromtimestamp(event.get("created", 0), UTC)
            number = zlib.crc32(str(event.get("id", "")).encode())
            self._head = head_of(self._call, self._model, started_at, number)
        return self._head

    def _stream_for(self, head: Head) -> Stream:
        if self._stream is None:
            self._stream = open_stream(head)
        return self._stream

    def _now(self, head: Head) -> datetime:
        return self._clock() if self._clock else head.started_at

    def _stats(self, last: Mapping[str, Any], now: datetime) -> Stats:
        usage, timings = last.get("usage") or {}, last.get("timings") or {}
        prompt_ns = int(timings.get("prompt_ms", 0) * 1e6)
        completion_ns = int(timings.get("predicted_ms", 0) * 1e6)
        waited_ns = int((now - self._started_at).total_seconds() * 1e9) if self._started_at else 0
        return Stats(
            total_ns=waited_ns or prompt_ns + completion_ns,
            prompt_tokens=usage.get("prompt_tokens", 0),
            prompt_ns=prompt_ns,
            completion_tokens=usage.get("completion_tokens", 0),
            completion_ns=completion_ns,
        )

    def _logprobs(self, choice: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        count = wanted_logprobs(self._call)
        given = (choice.get("logprobs") or {}).get("content") or ()
        return () if count is None else [_logprob(each, count) for each in given]


def callers_fault(endpoint: Endpoint, status: int, body: bytes) -> CallerError | None:
    """The caller's mistake behind an error of llama.cpp's, in Ollama's words where it has some; None: not theirs."""
    try:
        error = orjson.loads(body)["error"]
        message, kind = str(error["message"]), str(error.get("type", ""))
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return None
    if kind == "exceed_context_size_error" and endpoint.dialect is Dialect.ANTHROPIC:
        return too_long(error)
    if kind == "not_supported_error":
        return caller_error(500 if endpoint is Endpoint.OLLAMA_EMBEDDINGS else 501, message)
    if endpoint.is_embedding and "too large to process" in message:
        return caller_error(400, "the input length exceeds the context length")
    if "input is not supported" in message:
        return caller_error(400, message)
    return caller_error(400, message) if status == 400 else None


def too_long(error: Mapping[str, Any]) -> CallerError:
    """A prompt beyond the context, in Anthropic's words: its clients shorten the conversation when they read them."""
    told = f"prompt is too long: {error.get('n_prompt_tokens')} tokens > {error.get('n_ctx')} maximum"
    return caller_error(400, told)


def _logprob(given: Mapping[str, Any], count: int) -> dict[str, Any]:
    kept = {name: given[name] for name in ("token", "logprob", "bytes") if given.get(name) is not None}
    others = given.get("top_logprobs") or ()
    return kept | ({"top_logprobs": [_logprob(each, 0) for each in others[:count]]} if count and others else {})


def _shortened(vector: Sequence[float], length: int) -> Sequence[float]:
    """The first `length` numbers, scaled to a vector of length one, as Ollama does; 0 keeps all."""
    if not 0 < length < len(vector):
        return vector
    kept = vector[:length]
    norm = max(math.sqrt(sum(each * each for each in kept)), 1e-12)
    return [each / norm for each in kept]
