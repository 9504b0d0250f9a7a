"""Answers of `/v1/responses`: events and bodies written as Ollama 0.33 writes them, and read again.

In bodies fields are in the order of Ollama's structs, in events in that of the alphabet (openai/responses.go). Each
tells the call's own wishes again. A stream is a state: which item is open, and what was said in it. Where Ollama gives
words and calls of tools the same place in a stream, and drops the words of a body, both are kept here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from orchestrator.core.dialects import gojson
from orchestrator.core.dialects.errors import sse_event
from orchestrator.core.dialects.frames import Fields, Head, Stats
from orchestrator.core.dialects.responses_echo import echo, in_order_of_alphabet, usage_fields
from orchestrator.core.dialects.tokens import tokens_told
from orchestrator.core.model import Answer, Finish, ToolCall

Frame = Mapping[str, Any]

_ENDED: Final = ("response.completed", "response.incomplete")
_BYTES_OF_ID: Final = 6


class ResponseEvents:
    """The events of one answer."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._ids = _Ids(head)
        self._sequence = 0
        self._items: list[Fields] = []  # those that are over
        self._open = ""  # the type of the item that is being told
        self._said: list[str] = []  # in that item

    def content(
        self,
        made_at: datetime,
        *,
        text: str = "",
        thinking: str = "",
        tool_calls: Sequence[ToolCall] = (),
        logprobs: Sequence[Mapping[str, Any]] = (),
    ) -> list[bytes]:
        """Part of the answer, an event each write; Ollama tells no log probabilities here."""
        events = self._begin()
        if thinking:
            events += self._opened("reasoning")
            self._said.append(thinking)
            delta = {"item_id": self._item_id, "summary_index": 0, "delta": thinking}
            events.append(self._event("response.reasoning_summary_text.delta", delta | self._place))
        if text:
            events += self._opened("message")
            self._said.append(text)
            events.append(self._event("response.output_text.delta", self._of_text | {"delta": text, "logprobs": []}))
        for call in tool_calls:
            events += self._closed() + self._called(call)
        return events

    def end(
        self, made_at: datetime, finish: Finish | str, stats: Stats, context: Sequence[int] | None = None
    ) -> list[bytes]:
        """The end of a whole answer, which tells all of it again; `context` is Ollama's generate's alone."""
        events = self._begin() + self._closed()
        over = {"status": "completed", "output": self._items, "usage": in_order_of_alphabet(usage_fields(stats))}
        response = self._response(over | {"completed_at": int(made_at.timestamp())})
        return [*events, self._event("response.completed", {"response": response})]

    # --- events -------------------------------------------------------------------------------------------------------

    def _event(self, name: str, fields: Fields) -> bytes:
        numbered = fields | {"type": name, "sequence_number": self._sequence}
        self._sequence += 1
        return sse_event(name, in_order_of_alphabet(numbered))

    def _begin(self) -> list[bytes]:
        if self._sequence:
            return []
        response = self._response({"status": "in_progress", "output": [], "usage": None, "completed_at": None})
        return [
            self._event("response.created", {"response": response}),
            self._event("response.in_progress", {"response": response}),
        ]

    def _response(self, told: Fields) -> Fields:
        whole = _head_fields(self._head, self._ids) | echo(self._head.asked, is_event=True) | told
        return in_order_of_alphabet(whole)

    @property
    def _place(self) -> Fields:
        return {"output_index": len(self._items)}

    @property
    def _item_id(self) -> str:
        return self._ids.of_item(self._open, len(self._items))

    @property
    def _of_text(self) -> Fields:
        return self._place | {"item_id": self._item_id, "content_index": 0}

    def _opened(self, kind: str) -> list[bytes]:
        if self._open == kind:
            return []
        events = self._closed()
        self._open, self._said = kind, []
        if kind == "reasoning":
            item = in_order_of_alphabet({"id": self._item_id, "type": kind, "summary": []})
            return [*events, self._event("response.output_item.added", self._place | {"item": item})]
        item = in_order_of_alphabet(_message(self._item_id, []) | {"status": "in_progress"})
        events.append(self._event("response.output_item.added", self._place | {"item": item}))
        part = in_order_of_alphabet(_text_part(""))
        return [*events, self._event("response.content_part.added", self._of_text | {"part": part})]

    def _closed(self) -> list[bytes]:
        if not self._open:
            return []
        said, events = "".join(self._said), []
        if self._open == "reasoning":
            done = self._place | {"item_id": self._item_id, "summary_index": 0, "text": said}
            events.append(self._event("response.reasoning_summary_text.done", done))
            item = _reasoning(self._item_id, said)
        else:
            events.append(self._event("response.output_text.done", self._of_text | {"text": said, "logprobs": []}))
            part = in_order_of_alphabet(_text_part(said))
            events.append(self._event("response.content_part.done", self._of_text | {"part": part}))
            item = _message(self._item_id, [part])
        return [*events, self._item_done(in_order_of_alphabet(item))]

    def _item_done(self, item: Fields) -> bytes:
        event = self._event("response.output_item.done", self._place | {"item": item})
        self._items.append(item)
        self._open = ""
        return event

    def _called(self, call: ToolCall) -> list[bytes]:
        name = self._ids.of_item("function_call", len(self._items))
        item = _function_call(name, call)
        begun = in_order_of_alphabet(item | {"status": "in_progress", "arguments": ""})
        here = self._place | {"item_id": name}
        return [
            self._event("response.output_item.added", self._place | {"item": begun}),
            self._event("response.function_call_arguments.delta", here | {"delta": item["arguments"]}),
            self._event("response.function_call_arguments.done", here | {"arguments": item["arguments"]}),
            self._item_done(in_order_of_alphabet(item)),
        ]


def response_body(head: Head, made_at: datetime, answer: Answer, stats: Stats) -> bytes:
    """The answer as one JSON body."""
    ids = _Ids(head)
    output: list[Fields] = []
    if answer.thinking:
        output.append(_reasoning(f"rs_{ids.response}", answer.thinking))
    if answer.text or not answer.tool_calls:
        output.append(_message(ids.of_item("message", 0), [_text_part(answer.text)]))
    for at, call in enumerate(answer.tool_calls):
        output.append(_function_call(f"fc_{ids.response}_{at}", call))
    told = echo(head.asked, is_event=False)
    over = {"status": "completed", "output": output, "completed_at": int(made_at.timestamp())}
    return gojson.dumps(_head_fields(head, ids) | told | over | {"usage": usage_fields(stats)}) + b"\n"


# --- shapes -----------------------------------------------------------------------------------------------------------


class _Ids:
    """Names of one answer and its items: numbers, as Ollama draws them, but not twice the same."""

    def __init__(self, head: Head) -> None:
        drawn = head.unlikely_twice()
        self._item = int.from_bytes(drawn[_BYTES_OF_ID : 2 * _BYTES_OF_ID])
        self.response = f"resp_{int.from_bytes(drawn[:_BYTES_OF_ID])}"

    def of_item(self, kind: str, place: int) -> str:
        if kind == "function_call":
            return f"fc_{self._item}_{place}"
        if kind == "reasoning":
            return f"rs_{self._item + place}"
        return f"msg_{self._item + place}"


def _head_fields(head: Head, ids: _Ids) -> Fields:
    """What a response tells of itself, all fields in Ollama's order; `echo` and the answer fill in the rest."""
    return {
        "id": ids.response,
        "object": "response",
        "created_at": int(head.started_at.timestamp()),
        "completed_at": None,
        "status": "",
        "incomplete_details": None,
        "model": head.model,
        "previous_response_id": None,
        "instructions": None,
        "output": [],
        "error": None,
    }


def _text_part(text: str) -> Fields:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _message(name: str, content: list[Fields]) -> Fields:
    return {"id": name, "type": "message", "status": "completed", "role": "assistant", "content": content}


def _reasoning(name: str, thinking: str) -> Fields:
    """Ollama gives the thoughts as they are in place of what OpenAI encrypts."""
    summary = [in_order_of_alphabet({"type": "summary_text", "text": thinking})]
    return {"id": name, "type": "reasoning", "summary": summary, "encrypted_content": thinking}


def _function_call(name: str, call: ToolCall) -> Fields:
    arguments = gojson.dumps(dict(call.arguments)).decode()
    item = {"id": name, "type": "function_call", "status": "completed"}
    return item | {"call_id": call.id, "name": call.name, "arguments": arguments}


# --- read -------------------------------------------------------------------------------------------------------------


def finish_of(frame: Frame) -> str | None:
    """Why the answer ended, in our words. Ollama says "completed" also where the limit of tokens ended it."""
    response = _whole_response(frame)
    if response is None or response.get("status") not in ("completed", "incomplete"):
        return None
    limit, counts = response.get("max_output_tokens"), counts_of(frame) or (0, 0)
    if response["status"] == "incomplete" or (isinstance(limit, int) and 0 < limit <= counts[1]):
        return Finish.LENGTH
    return Finish.TOOL_CALLS if part_of(frame)["tool_calls"] else Finish.STOP


def counts_of(frame: Frame) -> tuple[int, int] | None:
    """Tokens of prompt and answer."""
    usage = (_whole_response(frame) or {}).get("usage")
    if not isinstance(usage, Mapping):
        return None
    return tokens_told(usage.get("input_tokens")), tokens_told(usage.get("output_tokens"))


def error_of(frame: Frame) -> object:
    """The error that a response tells of itself, or None."""
    response = frame.get("response")
    return response.get("error") if isinstance(response, Mapping) else None


def part_of(frame: Frame) -> Frame:
    """The whole answer from its last event or its body, under the names of the older APIs; other events repeat it."""
    text: list[str] = []
    thinking: list[str] = []
    calls: list[Fields] = []
    for item in (_whole_response(frame) or {}).get("output") or ():
        kind = item.get("type")
        if kind == "message":
            text += [part.get("text") or "" for part in item.get("content") or ()]
        elif kind == "reasoning":
            thinking += [part.get("text") or "" for part in item.get("summary") or ()]
        elif kind == "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            calls.append({"index": len(calls), "id": item.get("call_id"), "function": function})
    return {"content": "".join(text), "thinking": "".join(thinking), "tool_calls": calls}


def _whole_response(frame: Frame) -> Frame | None:
    response = frame.get("response") if frame.get("type") in _ENDED else frame
    is_whole = isinstance(response, Mapping) and response.get("object") == "response"
    return response if is_whole else None
