"""Answers in Anthropic's messages: events and bodies written as Ollama 0.33 writes them, and read again.

Field order and what is left out are those of anthropic/anthropic.go. A stream is a state: which block of content is
open, and under which number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from orchestrator.core.dialects import gojson
from orchestrator.core.dialects.anthropic import estimated_tokens
from orchestrator.core.dialects.errors import sse_event
from orchestrator.core.dialects.frames import Fields, Head, Stats
from orchestrator.core.dialects.tokens import tokens_told
from orchestrator.core.model import Answer, Finish, ToolCall

Frame = Mapping[str, Any]

_STOP_REASONS: Final[Mapping[str, str]] = {
    Finish.STOP: "end_turn",
    Finish.LENGTH: "max_tokens",
    Finish.TOOL_CALLS: "tool_use",
}
# Ollama says "stop_sequence" of whatever else ended an answer; others, where a stop text did.
_FINISHES: Final = {reason: finish for finish, reason in _STOP_REASONS.items()} | {"stop_sequence": Finish.STOP}


class MessageEvents:
    """The events of one answer. `prompt_tokens` 0: not known yet, and guessed at the start as Ollama does."""

    def __init__(self, head: Head, prompt_tokens: int = 0) -> None:
        self._head, self._prompt_tokens = head, prompt_tokens
        self._index = 0
        self._open = ""  # the kind of the block that is being told
        self._is_begun = self._has_tools = False

    def content(
        self,
        made_at: datetime,
        *,
        text: str = "",
        thinking: str = "",
        tool_calls: Sequence[ToolCall] = (),
        logprobs: Sequence[Mapping[str, Any]] = (),
    ) -> list[bytes]:
        """Part of the answer, an event each write; Anthropic has no log probabilities."""
        events = self._begin()
        if thinking:
            events += self._opened("thinking", {"thinking": ""})
            events.append(self._delta({"type": "thinking_delta", "thinking": thinking}))
        if text:
            events += self._opened("text", {"text": ""})
            events.append(self._delta({"type": "text_delta", "text": text}))
        for call in tool_calls:
            self._has_tools = True
            events += self._opened("tool_use", {"id": call.id, "name": call.name, "input": {}}, is_new=True)
            events.append(self._delta({"type": "input_json_delta", "partial_json": _arguments(call)}))
            events += self._closed()
        return events

    def end(
        self, made_at: datetime, finish: Finish | str, stats: Stats, context: Sequence[int] | None = None
    ) -> list[bytes]:
        """The end of a whole answer; `context` is Ollama's generate's alone."""
        reason = stop_reason(finish, has_tools=self._has_tools)
        last: Fields = {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": _usage(stats)}
        ending = [sse_event("message_delta", last), sse_event("message_stop", {"type": "message_stop"})]
        return self._begin() + self._closed() + ending

    def _begin(self) -> list[bytes]:
        if self._is_begun:
            return []
        self._is_begun = True
        known = self._prompt_tokens or estimated_tokens(self._head.asked)
        message = _message(self._head) | {"content": [], "usage": _usage(Stats(prompt_tokens=known))}
        return [sse_event("message_start", {"type": "message_start", "message": message})]

    def _opened(self, kind: str, empty: Fields, *, is_new: bool = False) -> list[bytes]:
        if self._open == kind and not is_new:
            return []
        events = self._closed()
        self._open = kind
        block = {"type": kind} | empty
        start: Fields = {"type": "content_block_start", "index": self._index, "content_block": block}
        return [*events, sse_event("content_block_start", start)]

    def _delta(self, delta: Fields) -> bytes:
        fields: Fields = {"type": "content_block_delta", "index": self._index, "delta": delta}
        return sse_event("content_block_delta", fields)

    def _closed(self) -> list[bytes]:
        if not self._open:
            return []
        fields: Fields = {"type": "content_block_stop", "index": self._index}
        self._open = ""
        self._index += 1
        return [sse_event("content_block_stop", fields)]


def message_body(head: Head, answer: Answer, finish: Finish | str, stats: Stats) -> bytes:
    """The answer as one JSON body."""
    content: list[Fields] = []
    if answer.thinking:
        content.append({"type": "thinking", "thinking": answer.thinking})
    if answer.text:
        content.append({"type": "text", "text": answer.text})
    for call in answer.tool_calls:
        content.append({"type": "tool_use", "id": call.id, "name": call.name, "input": dict(call.arguments)})
    reason = stop_reason(finish, has_tools=bool(answer.tool_calls))
    told = {"content": content, "stop_reason": reason, "usage": _usage(stats)}
    return gojson.dumps(_message(head) | told) + b"\n"


def stop_reason(finish: Finish | str, *, has_tools: bool) -> str:
    """Anthropic's word for why an answer ended; one that calls tools ended by that."""
    return "tool_use" if has_tools else _STOP_REASONS.get(finish, "stop_sequence")


def _message(head: Head) -> Fields:
    name = f"msg_{head.unlikely_twice()[:12].hex()}"
    return {"id": name, "type": "message", "role": "assistant", "model": head.model}


def _usage(stats: Stats) -> Fields:
    return {"input_tokens": stats.prompt_tokens, "output_tokens": stats.completion_tokens}


def _arguments(call: ToolCall) -> str:
    return gojson.dumps(dict(call.arguments)).decode()


# --- read -------------------------------------------------------------------------------------------------------------


def finish_of(frame: Frame) -> str | None:
    """Why the answer ended, in our words, from the frame or body that tells it."""
    delta = frame.get("delta")
    reason = (delta if isinstance(delta, Mapping) else frame).get("stop_reason")
    return None if reason is None else _FINISHES.get(reason, str(reason))


def counts_of(frame: Frame) -> tuple[int, int] | None:
    """Tokens of prompt and answer. What a stream tells at its beginning is a guess, and is passed over."""
    usage = frame.get("usage")
    if not isinstance(usage, Mapping):
        return None
    return tokens_told(usage.get("input_tokens")), tokens_told(usage.get("output_tokens"))


def part_of(frame: Frame) -> Frame:
    """What a frame or body adds to the answer, under the names of the older APIs."""
    if frame.get("type") == "content_block_start":
        return _block(frame.get("content_block") or {}, frame.get("index"))
    delta = frame.get("delta")
    if isinstance(delta, Mapping):
        part = {"content": delta.get("text"), "thinking": delta.get("thinking")}
        json_text = delta.get("partial_json")
        return part if json_text is None else {"tool_calls": [_call({}, frame.get("index"), json_text)]}
    return _joined([_block(block, None) for block in frame.get("content") or ()])


def _block(block: Frame, index: object) -> Fields:
    if block.get("type") == "tool_use":
        return {"tool_calls": [_call(block, index, block.get("input") if index is None else "")]}
    return {"content": block.get("text"), "thinking": block.get("thinking")}


def _call(block: Frame, index: object, arguments: object) -> Fields:
    return {"index": index, "id": block.get("id"), "function": {"name": block.get("name"), "arguments": arguments}}


def _joined(parts: Sequence[Fields]) -> Fields:
    joined: Fields = {name: "".join(part.get(name) or "" for part in parts) for name in ("content", "thinking")}
    return joined | {"tool_calls": [call for part in parts for call in part.get("tool_calls", ())]}
