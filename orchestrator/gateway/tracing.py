"""Calls as OpenTelemetry traces: whose trace a call belongs to, whether it is recorded, and its story as spans.

Names and attributes are those of OpenTelemetry's conventions for HTTP and generative AI where they have one, otherwise
`ollamactl.…`. Where spans are sent to is `exporting`'s.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from orchestrator.core.otlp import Kind, Moment, Span, Value
from orchestrator.core.tracecontext import is_in_share, parent_of
from orchestrator.gateway.live import TraceRules
from orchestrator.gateway.request import Request
from orchestrator.gateway.story import Part, Story
from orchestrator.gateway.trace import Trace

# A caller may name a model as it likes.
LONGEST_NAME: Final = 120
_ERROR_FROM: Final = 500  # of an HTTP server's statuses; 4xx are its callers'


class Told(NamedTuple):
    """A call that has ended, as far as its spans need it; they are made behind all calls."""

    story: Story
    trace: Trace
    method: str
    path: str
    status: int
    ended_s: float  # of `time.perf_counter`
    ended_ns: int  # the same moment by the system's clock


class Tracing:
    """`take` is handed each call that is recorded, once it has ended."""

    def __init__(self, take: Callable[[Told], None]) -> None:
        self._take = take
        # Ids need to differ, not to be unguessable; each process begins with what the system's source gave it.
        self._random = random.Random()  # noqa: S311

    def begin(self, request: Request, trace: Trace, rules: TraceRules) -> None:
        """The call's trace: its caller's, or a new one."""
        parent = None
        if b"traceparent" in request.headers:
            parent = parent_of(request.header(b"traceparent"), request.header(b"tracestate"))
        if parent is not None:
            story = Story(parent.trace_id, parent.span_id, parent.state, self._new_id, is_sampled=parent.is_sampled)
        else:
            trace_id = f"{self._random.getrandbits(128) or 1:032x}"
            story = Story(trace_id, "", "", self._new_id, is_sampled=is_in_share(trace_id, rules.share))
        trace.story = story

    def end(self, request: Request, trace: Trace, status: int) -> None:
        """The call has ended."""
        story = trace.story
        if story is not None and story.is_sampled:
            now_s, now_ns = time.perf_counter(), time.time_ns()
            self._take(Told(story, trace, request.method, request.path, status, now_s, now_ns))

    def _new_id(self) -> str:
        return f"{self._random.getrandbits(64) or 1:016x}"


def spans_of(told: Told) -> Iterator[Span]:
    """The call as a whole first, then its parts as they began."""
    story = told.story

    def at_ns(at_s: float) -> int:
        return told.ended_ns - round((told.ended_s - at_s) * 1e9)

    def moments(of: list[tuple[float, str, dict[str, Value]]]) -> tuple[Moment, ...]:
        return tuple(Moment(at_ns(at_s), name, more) for at_s, name, more in of)

    def part(each: Part) -> Span:
        return Span(
            trace_id=story.trace_id,
            span_id=each.span_id,
            parent_id=each.within,
            name=each.name,
            kind=each.kind,
            began_ns=at_ns(each.began_s),
            ended_ns=told.ended_ns if each.ended_s is None else at_ns(each.ended_s),
            attributes=each.attributes,
            moments=moments(each.moments),
            is_failed=each.is_failed,
            state=story.state,
            link=each.link,
        )

    yield Span(
        trace_id=story.trace_id,
        span_id=story.span_id,
        parent_id=story.parent_id,
        name=f"{told.method} {told.path}",
        kind=Kind.SERVER,
        began_ns=at_ns(told.trace.began_s),
        ended_ns=told.ended_ns,
        attributes=_of_call(told),
        moments=moments(story.moments),
        is_failed=told.status >= _ERROR_FROM,
        state=story.state,
    )
    yield from map(part, story.parts)


def _of_call(told: Told) -> Mapping[str, Value]:
    trace, (prompt, completion) = told.trace, told.trace.tokens
    error = trace.outcome if told.status >= _ERROR_FROM and trace.outcome else str(told.status)
    return {
        "http.request.method": told.method,
        "http.route": told.path,  # each is one, without anything of a caller's in it
        "url.path": told.path,
        "url.scheme": "http",
        "http.response.status_code": told.status,
        "error.type": error if told.status >= _ERROR_FROM else "",
        "gen_ai.request.model": trace.model[:LONGEST_NAME].encode("utf-8", "replace").decode(),
        "gen_ai.usage.input_tokens": prompt,
        "gen_ai.usage.output_tokens": completion,
        "ollamactl.request.id": trace.request_id,
        "ollamactl.caller": trace.caller.name,
        "ollamactl.stream": trace.is_stream,
        "ollamactl.outcome": trace.outcome,
        "ollamactl.tier": trace.tier,
        "ollamactl.instance": trace.instance,
        "ollamactl.route": trace.route,
        "ollamactl.cache": trace.cache,
        "ollamactl.cache.why": trace.cache_why,
        "ollamactl.escalated": trace.escalated,
        "ollamactl.failures": trace.failures,
        "ollamactl.queue.seconds": trace.queue_s,
        "ollamactl.wait.seconds": trace.waited_s,
        "ollamactl.overhead.seconds": trace.overhead_s,
        "ollamactl.usd": trace.usd,
        "ollamactl.simulated": trace.is_simulated,
    }
