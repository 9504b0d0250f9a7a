"""A prediction and a simulation of the same plan side by side, and where they differ by more than a stated margin.

Both know the same physics. The prediction spreads calls evenly over the cards and takes waits for exponential; the
simulation leases slots as admission does, on the instances that placement gives. Where they differ, the simulation is
the one to plan by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from orchestrator.core.capacity.asking import Asking, Chance
from orchestrator.core.capacity.carrying import MOST_USERS, Outcome, Plan, carry
from orchestrator.core.capacity.demand import Load
from orchestrator.core.capacity.placed import Placed, placed
from orchestrator.core.capacity.seen import Played
from orchestrator.core.capacity.simulation import Arrival, Hour, simulate

MARGIN: Final = 0.10  # of a p95 or a number of users: what chance alone moves in half an hour is about half of it
_CALLS_A_TIER: Final = 2000
_MOST_CALLS: Final = 40_000  # of all tiers, for the sake of a rare one
_STEP: Final = 1.15  # from one number of users to the next tried
_CLOSE: Final = 0.03  # of the users carried: nearer is chance


@dataclass(frozen=True, slots=True)
class Play:
    """How it is simulated: chance made of its seed, how long at least, and what `simulate` takes beside."""

    chance: Callable[[int], Chance]
    seed: int = 1
    hour: Hour = field(default_factory=lambda: Hour(1800.0, 180.0))
    asking: Asking | None = None
    arrivals: tuple[Arrival, ...] | None = None
    is_batch_free: bool = False

    def of(self, plan: Plan | Placed, load: Load) -> Played:
        return simulate(
            plan,
            load,
            self.chance(self.seed),
            hour=self.hour_for(load),
            asking=self.asking,
            arrivals=self.arrivals,
            is_batch_free=self.is_batch_free,
        )

    def hour_for(self, load: Load) -> Hour:
        """Longer for few users, so that a tier's p95 is not that of a few calls: that costs little, they ask little."""
        shares = [each for each in (load.mix.small, load.mix.full) if each > 0]
        if self.arrivals is not None or not shares:
            return self.hour
        each_s = load.think_s / load.users  # from a call to the next, if answers took no time
        seconds = min(_CALLS_A_TIER / min(shares), _MOST_CALLS) * each_s
        return Hour(max(self.hour.seconds, seconds), self.hour.warm_s)


@dataclass(frozen=True, slots=True)
class Compared:
    """One plan under one load, predicted and simulated; `differs`: a sentence for each thing beyond the margin."""

    predicted: Outcome
    played: Played
    differs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """One tier's p95 with so many users."""

    users: int
    tier: str
    predicted_s: float
    played_s: float | None


def compare(plan: Plan, load: Load, play: Play) -> Compared:
    """`plan` with `load`'s users."""
    predicted, played = carry(plan, load), play.of(plan, load)
    return Compared(predicted, played, tuple(_differences(plan, predicted, played)))


def users_played(plan: Plan, load: Load, near: int, play: Play) -> int:
    """The most users with whom every tier keeps its goal when played, to 3 in 100; 0: not even one. Sought from `near`.

    The same chance is played with each number of users, so that more users are not luckier ones.
    """
    there = placed(plan)

    def keeps(users: int) -> bool:
        return play.of(there, load.with_users(users)).is_within

    low, high = _bracket(keeps, max(1, near))
    while high - low > max(1.0, _CLOSE * low):
        middle = (low + high) // 2
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low


def curve(plan: Plan, load: Load, users: Sequence[int], play: Play | None) -> tuple[Point, ...]:
    """p95 of every tier but the cache with each number of users; without `play` predicted alone."""
    there = placed(plan)
    points: list[Point] = []
    for count in users:
        asked = load.with_users(count)
        played = play.of(there, asked) if play is not None else None
        for tier in carry(plan, asked).tiers:
            if tier.tier != "cache":
                seen = played.tier(tier.tier) if played is not None else None
                points.append(Point(count, tier.tier, tier.p95_s, seen.p95_s if seen is not None else None))
    return tuple(points)


def _bracket(keeps: Callable[[int], bool], near: int) -> tuple[int, int]:
    """A number of users that keeps the goals (or 0), and a larger one that does not (or more than anybody plans)."""
    if keeps(near):
        low, high = near, _more(near)
        while high <= MOST_USERS and keeps(high):
            low, high = high, _more(high)
        return low, high
    low, high = _fewer(near), near
    while low and not keeps(low):
        low, high = _fewer(low), low
    return low, high


def _more(users: int) -> int:
    return max(users + 1, int(users * _STEP))


def _fewer(users: int) -> int:
    return min(users - 1, int(users / _STEP))


def _differences(plan: Plan, predicted: Outcome, played: Played) -> list[str]:
    said = [f"placement would not start all of it: {why}" for why in played.refused]
    for tier in predicted.tiers:
        seen = played.tier(tier.tier)
        if seen is None or tier.tier == "cache" or not is_beyond(tier.p95_s, seen.p95_s):
            continue
        change = seen.p95_s / tier.p95_s - 1
        told = f"{tier.tier} p95: predicted {tier.p95_s:.2f} s, simulated {seen.p95_s:.2f} s"
        said.append(f"{told} ({change:+.0%}, {seen.calls} calls){_why(plan, tier.tier) if change > 0 else ''}")
    return said


def is_beyond(predicted: float, played: float) -> bool:
    """Whether two numbers are further apart than the margin."""
    return abs(played - predicted) > MARGIN * predicted


def _why(plan: Plan, tier: str) -> str:
    pool = {"small": plan.small, "full": plan.full}[tier]
    if pool is None or pool.instances < 2:
        return ""
    return (
        f": {pool.instances} instances share a card, and a call takes the least loaded instance, whose card may be busy"
    )
