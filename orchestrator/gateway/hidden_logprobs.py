"""Log probabilities that a caller did not ask for: asked for, read, and taken out again.

What the caller gets is what Ollama sends without them. Knows how Ollama writes these fields, and nothing of what is
done with them.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from orchestrator.core.model import Call, Endpoint

# Where Ollama tells them; on its other paths it computes them and leaves them out, or knows no such wish.
TOLD_ON: Final = frozenset({Endpoint.OLLAMA_CHAT, Endpoint.OLLAMA_GENERATE, Endpoint.OPENAI_CHAT})

# It cannot stand within a text: there, each quotation mark is escaped.
_FIELD: Final = b',"logprobs":'
# As engines write it; a tool that is called may have an argument of that name.
_VALUES: Final = (b'[{"token":', b"[]", b'{"content":', b"null")
_TOKENS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]')
_OPENING: Final = (b"[", b"{")


def asking_for_logprobs(call: Call) -> Call:
    """The call with `logprobs`; the very same call where that is no use, or was asked for already."""
    if call.endpoint not in TOLD_ON or call.body.get("logprobs"):
        return call
    return replace(call, body={**call.body, "logprobs": True})


def without_logprobs(data: bytes) -> bytes:
    """Whole frames, or a whole body, without the field."""
    at = data.find(_FIELD)
    while at >= 0:
        start = at + len(_FIELD)
        if data.startswith(_VALUES, start):
            data, start = data[:at] + data[_end_of_value(data, start) :], at
        at = data.find(_FIELD, start)
    return data


def _end_of_value(data: bytes, start: int) -> int:
    """Where an array, an object or `null` that begins at `start` is over."""
    depth = 0
    if data[start : start + 1] in _OPENING:
        for token in _TOKENS.finditer(data, start):
            mark = token[0]
            if mark in _OPENING:
                depth += 1
            elif mark in (b"]", b"}"):
                depth -= 1
            if depth == 0:
                return token.end()
    return start + len(b"null")
