"""A whole body out of llama.cpp's stream, for callers that do not stream.

llama.cpp notices that its client left only when it writes: an answer that is not streamed is worked on to its end for
nobody, slot and all (measured: 900 tokens, 13 s). So it is always asked to stream, and the body is put together here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from orchestrator.core.dialects.errors import error_response
from orchestrator.core.dialects.frames import Head
from orchestrator.core.dialects.streams import answer_body
from orchestrator.core.dialects.translate import Translator
from orchestrator.core.model import Answer, Call, Finish


class Gatherer(Translator):
    """Takes the engine's stream as a `Translator` does, and gives the caller's body at `finish`."""

    def __init__(self, call: Call, model: str, clock: Callable[[], datetime] | None = None) -> None:
        super().__init__(replace(call, is_stream=True), model, clock)
        self._asked = call
        self._gathered: dict[str, list[Any]] = {"text": [], "thinking": [], "logprobs": [], "tool_calls": []}
        self._whole = b""
        self._broken = ""

    def feed(self, data: bytes) -> bytes:
        """The engine's next bytes; nothing goes out before the end."""
        super().feed(data)
        return b""

    def finish(self) -> bytes:
        """The body; an error body where the stream was cut, so that it does not pass for an answer."""
        super().finish()
        if self._broken or not self._whole:
            return error_response(self._asked.endpoint.dialect, 500, self._broken)[1]
        return self._whole

    def _content(self, head: Head, **part: Any) -> bytes:
        for name, value in part.items():
            self._gathered[name] += [value] if isinstance(value, str) else value
        return b""

    def _end(self) -> bytes:
        head, tool_calls = self._head, self._parts.whole()
        if head is None or self._finish is None or tool_calls is None:
            return self._fail("the engine's answer ended before it was whole")
        text, thinking = "".join(self._gathered["text"]), "".join(self._gathered["thinking"])
        answer = Answer(text=text, thinking=thinking, tool_calls=tool_calls)
        finish = Finish.TOOL_CALLS if tool_calls and self._finish is Finish.STOP else self._finish
        now = self._now(head)
        stats = self._stats(self._last, now)
        logprobs = self._gathered["logprobs"]
        self._whole = answer_body(head, now, answer, finish, stats, logprobs=logprobs)
        self._is_over = True
        return b""

    def _fail(self, message: str) -> bytes:
        self._is_over = True
        self._broken = message
        return b""
