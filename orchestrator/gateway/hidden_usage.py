"""Token counts of OpenAI streams whose caller did not ask for them: asked for, read, and taken out again.

The gateway has to count what each call cost, and an instance tells a stream's counts only where `include_usage` asks
for them. What the caller gets is what Ollama sends without it. Knows how Ollama writes these frames, and nothing of
where they go.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from orchestrator.core.model import Call, Endpoint

# The younger APIs tell the counts in any case.
_TELL_IF_ASKED: Final = (Endpoint.OPENAI_CHAT, Endpoint.OPENAI_COMPLETIONS)
_EVENT_END: Final = b"\n\n"
# Neither can stand within a text: there, each quotation mark is escaped.
_USAGE: Final = b',"usage":'
_USAGE_EVENT: Final = b'"choices":[]'
_USAGE_FIELD: Final = re.compile(rb',"usage":(?:null|\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')


def asking_for_usage(call: Call) -> Call:
    """The call with `include_usage`; the very same call where that is no use, or was asked for already."""
    if not call.is_stream or call.endpoint not in _TELL_IF_ASKED:
        return call
    options = call.body.get("stream_options") or {}
    if options.get("include_usage"):
        return call
    return replace(call, body={**call.body, "stream_options": {**options, "include_usage": True}})


class UsageHider:
    """Whole events in, the same without counts out, in the same pieces; an event cut in two waits for its rest."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """The next bytes of the stream; what of them the caller is to see, perhaps nothing yet."""
        data = self._rest + data if self._rest else data
        end = len(data) if data.endswith(_EVENT_END) else data.rfind(_EVENT_END) + len(_EVENT_END)
        if end < len(_EVENT_END):
            end = 0
        self._rest, data = data[end:], data[:end]
        return data if _USAGE not in data else _without_usage(data)

    def finish(self) -> bytes:
        """What is left of a stream that ended within an event."""
        rest, self._rest = self._rest, b""
        return rest


def _without_usage(data: bytes) -> bytes:
    events = data.split(_EVENT_END)
    kept = (_USAGE_FIELD.sub(b"", event) for event in events if not (_USAGE in event and _USAGE_EVENT in event))
    return _EVENT_END.join(kept)
