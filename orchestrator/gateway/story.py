"""One traced call's story while it goes on: its parts, one within the other, as they begin and end.

What a part is worth telling is known where it happens; here it is put in its place. No text of a call comes in: names,
ids, counts and times alone. How the story becomes spans is `tracing`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from orchestrator.core.model import Endpoint
from orchestrator.core.otlp import Kind, Value
from orchestrator.core.tracecontext import traceparent

if TYPE_CHECKING:
    from orchestrator.gateway.trace import Trace

CACHE: Final = "cache"
QUEUE: Final = "queue"
ROUTE: Final = "route"
JOIN: Final = "join"
ASK: Final = "ask"
# How calls ended that nobody is to blame for.
_NO_FAILURE: Final = frozenset({"ok", "gone", "refused", "escalated"})
# Endpoints of texts to be gone on with; GenAI's conventions tell them from conversations.
_COMPLETIONS: Final = frozenset({Endpoint.OLLAMA_GENERATE, Endpoint.OPENAI_COMPLETIONS})


class Whom(NamedTuple):
    """Who is asked for a call: an instance, or a provider's endpoint outside. `provider`: as GenAI's conventions have
    it, an engine's name or that of a provider of the settings."""

    provider: str
    model: str
    host: str
    port: int
    is_outside: bool = False


@dataclass(slots=True)
class Part:
    """One part. Times are those of `time.perf_counter`; `within` is the id of the part that it belongs to."""

    name: str
    what: str  # by which it is found when it ends
    span_id: str
    within: str
    began_s: float
    kind: Kind = Kind.INTERNAL
    attributes: dict[str, Value] = field(default_factory=dict)
    moments: list[tuple[float, str, dict[str, Value]]] = field(default_factory=list)
    ended_s: float | None = None
    is_failed: bool = False
    link: tuple[str, str] | None = None  # trace and span of the call that this part is about, if that is another one


class Story:
    """`span_id`: of the call as a whole, `parent_id`: of who called. One that is not sampled records nothing."""

    __slots__ = ("_new_id", "_open", "is_sampled", "moments", "parent_id", "parts", "span_id", "state", "trace_id")

    def __init__(
        self, trace_id: str, parent_id: str, state: str, new_id: Callable[[], str], *, is_sampled: bool
    ) -> None:
        self.trace_id, self.parent_id, self.state, self.is_sampled = trace_id, parent_id, state, is_sampled
        self._new_id, self.span_id = new_id, new_id()
        self.parts: list[Part] = []
        self.moments: list[tuple[float, str, dict[str, Value]]] = []  # of the call as a whole
        self._open: list[Part] = []

    def begin(self, what: str, *, name: str = "", kind: Kind = Kind.INTERNAL, **more: Value) -> Part | None:
        """A part begins, within the one that is going on. One of its own kind that still is has ended by that."""
        if not self.is_sampled:
            return None
        if self._open and self._open[-1].what == what:
            self.end(what)
        within = self._open[-1].span_id if self._open else self.span_id
        part = Part(name or what, what, self._new_id(), within, time.perf_counter(), kind)
        part.attributes |= _dotted(more)
        self.parts.append(part)
        self._open.append(part)
        return part

    def end(self, what: str, **more: Value) -> None:
        """That part is over, and whatever is still open within it; if there is none, nothing."""
        if all(each.what != what for each in self._open):
            return
        now_s = time.perf_counter()
        while True:
            part = self._open.pop()
            part.ended_s = now_s
            if part.what == what:
                part.attributes |= _dotted(more)
                return

    def note(self, name: str, **more: Value) -> None:
        """Something happened to the call, in the part that is going on."""
        if self.is_sampled:
            moments = self._open[-1].moments if self._open else self.moments
            moments.append((time.perf_counter(), name, _dotted(more)))

    # --- parts that have more to say ----------------------------------------------------------------------------------

    def given(self, layer: str, how: str) -> None:
        """A kept answer is given: what was looked for, alone or with a slot, was found."""
        if self._open and self._open[-1].what == QUEUE:  # whoever leases slots looks there, too: no slot was needed
            self.parts.remove(self._open.pop())
            self._open += [each for each in self.parts if each.what == CACHE][-1:]
        if all(each.what != CACHE for each in self._open):
            self.begin(CACHE)
        self.end(CACHE, cache_hit=True, cache_layer=layer, cache_how=how)

    def follow(self, leader: Story | None) -> None:
        """Another call's answer is waited for."""
        if self._open:
            self.end(self._open[0].what)
        part = self.begin(JOIN)
        if part is not None and leader is not None and leader is not self and leader.is_sampled:
            part.link = (leader.trace_id, leader.span_id)

    def ask(self, endpoint: Endpoint, whom: Whom, trace: Trace) -> str:
        """Somebody is asked: the headers that tell it of the trace, a line's end each."""
        operation = _operation(endpoint)
        part = self.begin(ASK, name=f"{operation} {whom.model}", kind=Kind.CLIENT, tier=trace.tier)
        if part is not None:
            part.attributes |= {
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": whom.provider,
                "gen_ai.request.model": whom.model,
                "server.address": whom.host,
                "server.port": whom.port,
                "ollamactl.instance": trace.instance,
                "ollamactl.simulated": trace.is_simulated,
            }
            if trace.failures:
                part.attributes["http.request.resend_count"] = trace.failures
        parent = traceparent(self.trace_id, part.span_id if part else self.span_id, is_sampled=self.is_sampled)
        # What other systems keep in a trace's state is not for those outside.
        state = f"tracestate: {self.state}\r\n" if self.state and not whom.is_outside else ""
        return f"traceparent: {parent}\r\n{state}"

    def first_byte(self) -> None:
        """Whoever was asked has begun to answer."""
        self.note("first byte")

    def counted(self, trace: Trace) -> None:
        """Whoever was asked is done with the call, well or not."""
        if not self._open or self._open[-1].what != ASK:
            return
        part, (prompt, completion) = self._open[-1], trace.tokens
        part.attributes["ollamactl.outcome"] = trace.outcome
        if prompt or completion:
            part.attributes |= {"gen_ai.usage.input_tokens": prompt, "gen_ai.usage.output_tokens": completion}
        if trace.outcome not in _NO_FAILURE:
            part.is_failed, part.attributes["error.type"] = True, trace.outcome
        self.end(ASK)


def _operation(endpoint: Endpoint) -> str:
    if endpoint.is_embedding:
        return "embeddings"
    return "text_completion" if endpoint in _COMPLETIONS else "chat"


def _dotted(more: dict[str, Value]) -> dict[str, Value]:
    """Attributes of our own, in a name space of their own."""
    return {f"ollamactl.{name.replace('_', '.', 1)}": value for name, value in more.items()}
