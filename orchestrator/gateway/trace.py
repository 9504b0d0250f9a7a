"""What is told of a call in its answer's headers, filled in on its way."""

from __future__ import annotations

import itertools
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from orchestrator.core.cache_entry import Entry
from orchestrator.core.privacy import Discretion
from orchestrator.gateway.identity import Caller
from orchestrator.gateway.story import Story

# A caller's request id is echoed and logged: only what is harmless in both.
_REQUEST_ID: Final = re.compile(r"[\w.:@/+=-]{1,128}", re.ASCII)
# What needs no word beside `miss` and `faq`.
_PLAIN: Final = frozenset({"", "absent", "words", "paraphrase"})
# This process' life, and its calls counted: as unique as a random id for each, and cheaper.
_LIFE: Final = secrets.token_hex(10)
_NUMBERS: Final = itertools.count(1)


def request_id(given: str) -> str:
    """The caller's own id where it can be used, otherwise a new one."""
    return given if given and _REQUEST_ID.fullmatch(given) else f"{_LIFE}{next(_NUMBERS):012x}"


@dataclass(slots=True)
class Trace:
    """One call's story. Times are seconds of a monotonic clock."""

    request_id: str
    began_s: float
    caller: Caller
    tier: str = ""
    instance: str = ""
    cache: str = "off"  # hit, faq, miss, bypass or off
    cache_why: str = ""  # of a hit how it was one, otherwise why it was none
    cache_layer: str = "exact"  # of a hit
    cache_more: str = ""  # of a hit: which layer, how old
    cache_receipt: str = ""  # of a hit: what its caller may report it by
    answer_receipt: Callable[[], str] | None = None  # what the caller of a route may rate its answer by
    spare: Entry | None = None  # an answer of before, for when nothing else can answer
    faq: str = ""  # the curated answer's place, and how its question was found
    queue_s: float = 0.0
    queued_behind: int | None = None  # tickets, when its own was filed; None: a slot was free
    route_s: float = 0.0
    waited_s: float = 0.0  # for instances: neither the queue's time nor our own
    is_simulated: bool = False
    failures: int = 0  # instances that were asked and failed
    gives_up: bool = False  # it is not tried again, though it might be: too many are
    continued: int = 0  # times that its stream went on at another instance
    route: str = ""
    route_reasons: tuple[str, ...] = ()
    handed_over: str = ""  # tiers that did not answer, and why
    has_class: bool = False  # its caller says how far it may go
    discretion: Discretion | None = None  # how far it may go; None: nobody had to know
    # For the request log.
    model: str = ""  # as it was asked for
    is_stream: bool = False
    outcome: str = ""
    tokens: tuple[int, int] = (0, 0)  # of the prompt, of the answer
    reasoning_tokens: int | None = None
    cached_tokens: int = 0
    overhead_s: float = 0.0  # until the answer's headers
    escalated: str = ""
    usd: float = 0.0
    limits: str = ""  # headers that say what is left to its API key
    is_anthropics: bool = False  # its clients read the request's id under a name of their own
    story: Story | None = None  # what it does, as OpenTelemetry's spans; None: nobody is told

    @property
    def first_byte_s(self) -> float:
        """From its beginning to its answer's headers, once those are made."""
        return self.queue_s + self.waited_s + self.overhead_s

    def fields(self) -> str:
        """The headers that say what answered, from where, and where the time went (Server-Timing, in ms)."""
        overhead_s = self.overhead_s = max(0.0, time.perf_counter() - self.began_s - self.queue_s - self.waited_s)
        more = self.cache_more
        if not more and self.cache_why not in _PLAIN and self.cache != "off":
            more = f"; reason={self.cache_why}"
        told = (
            f"X-Request-Id: {self.request_id}\r\nX-Cache: {self.cache}{more}\r\nServer-Timing: queue;dur="
            f"{self.queue_s * 1e3:.3f}, route;dur={self.route_s * 1e3:.3f}, overhead;dur={overhead_s * 1e3:.3f}\r\n"
        )
        if self.tier:
            told += f"X-Tier: {self.tier}\r\n"
        if self.instance:
            told += f"X-Instance: {self.instance}\r\n"
        if self.queued_behind is not None:
            told += f"X-Queue-Position: {self.queued_behind}\r\n"
        if self.is_simulated:
            told += "X-Simulated: true\r\n"
        if self.faq:
            told += f"X-FAQ: {self.faq}\r\n"
        if self.discretion is not None:
            told += f"X-Privacy: {self.discretion.privacy}\r\n"
        if self.limits:
            told += self.limits
        if self.cache_receipt:
            told += f"X-Cache-Key: {self.cache_receipt}\r\n"
        elif self.answer_receipt is not None and self.tier and not self.faq:
            told += f"X-Answer-Key: {self.answer_receipt()}\r\n"
        if self.route:
            told += self._route_fields()
        if self.is_anthropics:
            told += f"Request-Id: {self.request_id}\r\n"
        if self.story is not None and self.story.is_sampled:
            told += f"X-Trace-Id: {self.story.trace_id}\r\n"
        return told

    def _route_fields(self) -> str:
        """Which route, which rule of it won, and what came of that."""
        escalated = f"escalated: {self.escalated}" if self.escalated else ""
        whys = "; ".join(filter(None, (*self.route_reasons[-1:], escalated, self.handed_over)))
        why = f"X-Route-Why: {_on_a_line(whys)}\r\n" if whys else ""
        return f"X-Route: {self.route}\r\n{why}"


def _on_a_line(text: str) -> str:
    """Fit for a header, whatever it came from."""
    return "".join(each if " " <= each <= "~" else "?" for each in text)
