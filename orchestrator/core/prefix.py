"""By which names an instance is remembered that has a conversation in its cache, so that its next call finds it there.

A call brings the whole conversation, and an instance keeps what it has read. So the last call is remembered by all of
its turns, and the next one looks for all of its own but the last exchange: that is the same. Conversations that began
alike part with their first different question. A name that two conversations share costs a place in a cache, no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from orchestrator.core.model import Call, Dialect, Endpoint

# Of a conversation: its first turns, its last ones, how many there are. Of a turn: how long it is, and both its ends.
# What is between them differs seldom where none of that does, and a long conversation shall cost what a short one does.
HEAD_TURNS: Final = 2
TAIL_TURNS: Final = 2
END_CHARS: Final = 256

_OF_THE_MODEL: Final = ("function_call", "reasoning")  # no set: a caller's `type` may be of a type that has no hash


class Prefix(NamedTuple):
    """`sought` names what was said before the last exchange, `left` all that the instance has read once it answers."""

    sought: str
    left: str


_NONE: Final = Prefix("", "")
_END: Final = "\x1e"


def prefix_of(call: Call) -> Prefix:
    """The names of a conversation; '' for what is none."""
    if not call.endpoint.is_chat:
        return _NONE
    before_all, turns = _said(call)
    count = last = len(turns)
    left = _name(before_all, turns, count)
    if count == 1:
        return Prefix(left, left)
    while last and not _is_of_the_model(turns[last - 1]):
        last -= 1
    while last and _is_of_the_model(turns[last - 1]):
        last -= 1
    # A first question finds those who were asked the same; what a page greets its visitors with was never asked.
    has_exchange = last and _role(turns[last - 1]) != "system"
    return Prefix(_name(before_all, turns, last) if has_exchange else left, left)


def _said(call: Call) -> tuple[str, Sequence[Any]]:
    """What stands before the turns, and the turns, as the caller wrote them: nothing is translated for this."""
    body = call.body
    if call.endpoint is Endpoint.OPENAI_RESPONSES:
        given = body.get("input")
        turns = given if isinstance(given, list) else ({"role": "user", "content": given},)
        return _ends(_text(body.get("instructions"))), turns
    system = body.get("system") if call.endpoint.dialect is Dialect.ANTHROPIC else None
    return _ends(_text(system)) if system else "", body.get("messages") or ()


def _name(before_all: str, turns: Sequence[Any], count: int) -> str:
    """The name of the first `count` turns."""
    named = turns[:count]
    if count > HEAD_TURNS + TAIL_TURNS:
        named = (*named[:HEAD_TURNS], *named[-TAIL_TURNS:])
    told = f"{count}{_END}{before_all}{_END}{_END.join(map(_line, named))}"
    return blake2b(told.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def _line(turn: Any) -> str:
    if not isinstance(turn, dict):
        return ""
    content = turn.get("content")
    if content is None:
        content = turn.get("output") or turn.get("arguments")
    text = content if isinstance(content, str) else _text(content)
    return f"{turn.get('role') or turn.get('type')} {text if len(text) <= 2 * END_CHARS else _ends(text)}"


def _is_of_the_model(turn: Any) -> bool:
    return isinstance(turn, dict) and (turn.get("role") == "assistant" or turn.get("type") in _OF_THE_MODEL)


def _role(turn: Any) -> object:
    return turn.get("role") or turn.get("type") if isinstance(turn, dict) else None


def _text(content: object) -> str:
    """What a text, or the parts of one, say; of what is no text its id, where it has one."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = [each for each in content if isinstance(each, dict)]
    return "\n".join(str(each.get("text") or each.get("tool_use_id") or each.get("id") or "") for each in parts)


def _ends(text: str) -> str:
    return text if len(text) <= 2 * END_CHARS else f"{len(text)} {text[:END_CHARS]} {text[-END_CHARS:]}"
