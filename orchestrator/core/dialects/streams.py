"""Any answer in the caller's dialect, as a stream of frames or as one body: the dialect's own module writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from orchestrator.core.dialects.anthropic_frames import MessageEvents, message_body
from orchestrator.core.dialects.frames import Head, Stats, content_frame, final_frame, whole_body
from orchestrator.core.dialects.responses_frames import ResponseEvents, response_body
from orchestrator.core.model import Answer, Dialect, Endpoint, Finish, ToolCall


class Stream(Protocol):
    """The frames of one answer, in the order they are told; each of a list is a write of its own with Ollama."""

    def content(
        self,
        made_at: datetime,
        *,
        text: str = "",
        thinking: str = "",
        tool_calls: Sequence[ToolCall] = (),
        logprobs: Sequence[Mapping[str, Any]] = (),
    ) -> list[bytes]:
        """Part of the answer."""

    def end(
        self, made_at: datetime, finish: Finish | str, stats: Stats, context: Sequence[int] | None = None
    ) -> list[bytes]:
        """The end of a whole answer; `finish` may also be "load"."""


def open_stream(head: Head, prompt_tokens: int = 0) -> Stream:
    """The stream of an answer. `prompt_tokens`: where they are known before it begins, as Anthropic's tells them."""
    if head.endpoint is Endpoint.OPENAI_RESPONSES:
        return ResponseEvents(head)
    if head.endpoint.dialect is Dialect.ANTHROPIC:
        return MessageEvents(head, prompt_tokens)
    return _Frames(head)


def answer_body(
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
    if head.endpoint is Endpoint.OPENAI_RESPONSES:
        return response_body(head, made_at, answer, stats)
    if head.endpoint.dialect is Dialect.ANTHROPIC:
        return message_body(head, answer, finish, stats)
    return whole_body(head, made_at, answer, finish, stats, context=context, logprobs=logprobs)


class _Frames:
    """Frames that stand each by itself, but for the first: with OpenAI's chat it names the role."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._is_first = True
        self._tools = 0

    def content(
        self,
        made_at: datetime,
        *,
        text: str = "",
        thinking: str = "",
        tool_calls: Sequence[ToolCall] = (),
        logprobs: Sequence[Mapping[str, Any]] = (),
    ) -> list[bytes]:
        frame = content_frame(
            self._head,
            made_at,
            text=text,
            thinking=thinking,
            tool_calls=tool_calls,
            logprobs=logprobs,
            is_first=self._is_first,
            first_tool_index=self._tools,
        )
        self._is_first = False
        self._tools += len(tool_calls)
        return [frame]

    def end(
        self, made_at: datetime, finish: Finish | str, stats: Stats, context: Sequence[int] | None = None
    ) -> list[bytes]:
        return [final_frame(self._head, made_at, finish, stats, context=context, is_first=self._is_first)]
