"""Ollama's own frames as the answer of an API that has no place for what they tell beside it.

Ollama makes of a call to its younger APIs a call to its own ones, and says there what it leaves out here: the tokens'
log probabilities. Who wants to know them asks those, and this does with the answer what Ollama would have done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import orjson

from orchestrator.core.dialects.as_chat import as_chat
from orchestrator.core.dialects.conversation import sampling
from orchestrator.core.dialects.errors import caller_error, error_frame, error_response
from orchestrator.core.dialects.frames import Stats, head_of
from orchestrator.core.dialects.malformed import WRONG_FORM
from orchestrator.core.dialects.streams import answer_body, open_stream
from orchestrator.core.dialects.toolparts import ToolCallParts
from orchestrator.core.errors import CallerError
from orchestrator.core.model import Answer, Call, Endpoint, Finish, ToolCall

_BROKEN = "an error was encountered while running the model: unexpected EOF"
_FINISHES = {each.value: each for each in Finish}
# OpenAI's defaults, which Ollama sets where the caller of this path is silent (openai/openai.go).
_COMPLETION_OPTIONS = {"temperature": 1.0, "top_p": 1.0}


def as_own(call: Call) -> Call:
    """The call to Ollama's own paths that Ollama would make of it, with the wish for log probabilities."""
    own = _as_generate(call) if call.endpoint is Endpoint.OPENAI_COMPLETIONS else as_chat(call)
    return replace(own, body={**own.body, "logprobs": True})


def _as_generate(call: Call) -> Call:
    named = {name: call.body[name] for name in ("prompt", "suffix") if call.body.get(name)}
    body = {"model": call.model, **named, "stream": call.is_stream, "options": _COMPLETION_OPTIONS | sampling(call)}
    return Call(Endpoint.OLLAMA_GENERATE, call.model, call.is_stream, body)


class FromOllama:
    """One answer on its way. `model`: the name the caller shall see; `is_callers`: whose mistake an error status is."""

    def __init__(
        self, call: Call, model: str, clock: Callable[[], datetime], is_callers: Callable[[int, bytes], bool]
    ) -> None:
        self._call, self._clock, self._is_callers = call, clock, is_callers
        self._head = head_of(call, model, clock())
        self._stream = open_stream(self._head)
        self._rest = b""
        self._calls = 0
        self._is_over = False
        self.on_logprobs: Callable[[Sequence[Mapping[str, Any]]], None] | None = None

    def feed(self, data: bytes) -> bytes:
        """Ollama's next bytes, cut anywhere; the caller's next bytes, perhaps none."""
        self._rest += data
        if not self._call.is_stream:
            return b""
        *lines, self._rest = self._rest.split(b"\n")
        return b"".join([self._frame(line) for line in lines if line.strip()])

    def finish(self) -> bytes:
        """The answer is over: a body comes whole from here, a stream that was cut gets an error frame."""
        if not self._call.is_stream:
            return self._body()
        return b"" if self._is_over else self._fail(_BROKEN)

    def error(self, status: int, body: bytes) -> CallerError | None:
        """What an error means to the caller; None: it is the engine's trouble."""
        if not self._is_callers(status, body):
            return None
        return caller_error(status, _error_in(body))

    def _frame(self, line: bytes) -> bytes:
        if self._is_over:
            return b""
        try:
            frame = orjson.loads(line)
        except orjson.JSONDecodeError:
            return self._fail(_BROKEN)
        if not isinstance(frame, dict) or frame.get("error") is not None:
            return self._fail(_error_in(line))
        try:
            return self._told(frame)
        except WRONG_FORM:
            return self._fail(_BROKEN)

    def _told(self, frame: Mapping[str, Any]) -> bytes:
        text, thinking, calls = self._said(frame)
        now, out = self._clock(), b""
        if text or thinking or calls:
            out = b"".join(self._stream.content(now, text=text, thinking=thinking, tool_calls=calls))
        if frame.get("done") is not True:
            return out
        self._is_over = True
        return out + b"".join(self._stream.end(now, self._finish(frame), _stats(frame)))

    def _fail(self, message: str) -> bytes:
        self._is_over = True
        return error_frame(self._call.endpoint, message)

    def _body(self) -> bytes:
        try:
            told = orjson.loads(self._rest)
        except orjson.JSONDecodeError:
            told = None
        if not isinstance(told, dict) or told.get("done") is not True:
            return error_response(self._call.endpoint.dialect, 500, _error_in(self._rest))[1]
        try:
            text, thinking, calls = self._said(told)
            answer = Answer(text, self._finish(told), thinking, calls)
            return answer_body(self._head, self._clock(), answer, answer.finish, _stats(told))
        except WRONG_FORM:
            return error_response(self._call.endpoint.dialect, 500, _BROKEN)[1]

    def _said(self, frame: Mapping[str, Any]) -> tuple[str, str, tuple[ToolCall, ...]]:
        if self.on_logprobs is not None:
            self.on_logprobs(frame.get("logprobs") or ())
        part = frame.get("message") or frame
        parts = ToolCallParts()
        parts.add(part.get("tool_calls") or ())
        calls = tuple(
            each if each.id else replace(each, id=f"call_{self._calls + n}")
            for n, each in enumerate(parts.whole() or ())
        )
        self._calls += len(calls)
        return part.get("content") or part.get("response") or "", part.get("thinking") or "", calls

    def _finish(self, frame: Mapping[str, Any]) -> Finish:
        finish = _FINISHES.get(frame.get("done_reason") or "", Finish.STOP)
        return Finish.TOOL_CALLS if self._calls and finish is Finish.STOP else finish


def _stats(frame: Mapping[str, Any]) -> Stats:
    return Stats(
        total_ns=frame.get("total_duration", 0),
        load_ns=frame.get("load_duration", 0),
        prompt_tokens=frame.get("prompt_eval_count", 0),
        prompt_ns=frame.get("prompt_eval_duration", 0),
        completion_tokens=frame.get("eval_count", 0),
        completion_ns=frame.get("eval_duration", 0),
    )


def _error_in(body: bytes) -> str:
    try:
        return str(orjson.loads(body)["error"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return _BROKEN
