"""What a simulation saw, in the words of the prediction, so that both stand side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.core.capacity.carrying import P95


@dataclass(frozen=True, slots=True)
class TierSeen:
    """How one tier did. `share`: of all calls. `waits`: the part of its calls that had to wait for a slot."""

    tier: str
    share: float
    calls: int
    calls_s: float
    mean_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    wait_s: float
    waits: float
    utilisation: float
    goal_s: float
    late: float

    @property
    def is_within(self) -> bool:
        return self.late <= 1 - P95


@dataclass(frozen=True, slots=True)
class Played:
    """What was seen for `seconds`, after the warming up. `under_way`: asked and not answered when it ended.

    `most_used`: the most slots ever at work at once, by instance. `refused`: what placement would not start.
    """

    users: int
    seconds: float
    calls_s: float
    tiers: tuple[TierSeen, ...]
    asked: int
    answered: int
    under_way: int
    most_used: Mapping[str, int]
    refused: tuple[str, ...] = ()

    @property
    def is_within(self) -> bool:
        return all(each.is_within for each in self.tiers)

    @property
    def utilisation(self) -> float:
        """Of the busiest pool."""
        return max((each.utilisation for each in self.tiers), default=0.0)

    def tier(self, name: str) -> TierSeen | None:
        return next((each for each in self.tiers if each.tier == name), None)


def quantile(ordered: Sequence[float], part: float) -> float:
    """The value that `part` of them do not pass; 0 of none."""
    if not ordered:
        return 0.0
    at = part * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)
