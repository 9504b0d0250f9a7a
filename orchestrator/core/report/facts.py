"""What was counted of a period's calls. Shares are parts of one; times milliseconds; money US dollars."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Spread:
    """How a number spreads over calls; all 0 where there was no call."""

    least: float = 0.0
    mean: float = 0.0
    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    most: float = 0.0


@dataclass(frozen=True, slots=True)
class Group:
    """Calls that have something in common: a tier, a model, a caller, a day."""

    name: str
    calls: int
    ok: int
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int | None = None  # None: nobody told them apart
    usd: float = 0.0
    mean_ms: float = 0.0
    p95_ms: float = 0.0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @property
    def success(self) -> float:
        return self.ok / self.calls if self.calls else 1.0

    @property
    def usd_per_million(self) -> float:
        return self.usd * 1e6 / self.tokens if self.tokens else 0.0

    @property
    def reasoning_share(self) -> float | None:
        """Of the completion's tokens; None where nobody told them apart."""
        if self.reasoning_tokens is None or not self.completion_tokens:
            return None
        return self.reasoning_tokens / self.completion_tokens


@dataclass(frozen=True, slots=True)
class CacheFacts:
    """`off`: calls while the cache was off for them; `off_since`: since when it was off for all; None: it was not."""

    hits: int = 0
    misses: int = 0
    off: int = 0
    cached_tokens: int = 0
    off_since: datetime | None = None
    why_not: tuple[tuple[str, int], ...] = ()  # reasons of misses and bypasses, most first

    @property
    def asked(self) -> int:
        return self.hits + self.misses

    @property
    def hit_rate(self) -> float:
        return self.hits / self.asked if self.asked else 0.0


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a histogram: numbers below `below`, and not below the bar before."""

    below: float
    count: int


@dataclass(frozen=True, slots=True)
class Facts:
    """A period. `source`: what was read."""

    source: str
    first: datetime
    last: datetime
    all: Group
    cache: CacheFacts
    outcomes: tuple[tuple[str, int], ...]
    latency_ms: Spread
    first_byte_ms: Spread
    overhead_ms: Spread
    queue_ms: Spread
    prompt: Spread
    completion: Spread
    prompt_bars: tuple[Bar, ...] = ()
    completion_bars: tuple[Bar, ...] = ()
    latency_bars: tuple[Bar, ...] = ()
    tiers: tuple[Group, ...] = ()
    models: tuple[Group, ...] = ()
    callers: tuple[Group, ...] = ()
    agents: tuple[Group, ...] = ()
    sessions: tuple[Group, ...] = ()
    tenants: tuple[Group, ...] = ()
    days: tuple[Group, ...] = ()
    escalated: tuple[tuple[str, int], ...] = ()
    retried: int = 0
    simulated: int = 0
    slowest: tuple[tuple[str, str, float], ...] = field(default=())  # id, model, ms
