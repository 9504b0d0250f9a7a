"""Users, tiers and pools joined: what a plan does under a load, and how many users it carries within the goals.

A user thinks, asks, waits for the whole answer, thinks again: as many come back as were answered (the response time
law, users = rate x (think + response)). Each tier's pool is a queue of all users, who are away from it while they think
or are answered elsewhere; how long that is depends on the other tiers' responses, so it is repeated until it stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from orchestrator.core.capacity.demand import Load
from orchestrator.core.capacity.queueing import Queue, closed_queue, late_share, response_quantile_s
from orchestrator.core.capacity.service import Pool, service_times

P95: Final = 0.95
MOST_USERS: Final = 20_000
_ROUNDS: Final = 60
_CLOSE: Final = 1e-5


@dataclass(frozen=True, slots=True)
class Plan:
    """Pools by tier; calls of a tier that has none go to the other. `other_usd`: a month's balancer, Redis and such."""

    name: str
    small: Pool | None
    full: Pool | None
    other_usd: float = 0.0

    @property
    def pools(self) -> tuple[Pool, ...]:
        return tuple(pool for pool in (self.small, self.full) if pool is not None)


@dataclass(frozen=True, slots=True)
class TierOutcome:
    """How one tier does. `share`: of all calls."""

    tier: str
    share: float
    calls_s: float
    p50_s: float
    p95_s: float
    wait_s: float
    waits: float
    utilisation: float
    goal_s: float

    @property
    def is_within(self) -> bool:
        return self.p95_s <= self.goal_s


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a plan does with a number of users. `at_once`: calls being waited for or answered, on average."""

    users: int
    calls_s: float
    at_once: float
    tiers: tuple[TierOutcome, ...]

    @property
    def is_within(self) -> bool:
        return all(each.is_within for each in self.tiers)

    @property
    def utilisation(self) -> float:
        """Of the busiest pool."""
        return max((each.utilisation for each in self.tiers), default=0.0)

    @property
    def p95_s(self) -> float:
        """Of the slowest tier."""
        return max((each.p95_s for each in self.tiers), default=0.0)


@dataclass(frozen=True, slots=True)
class _Work:
    """What one pool is given to do."""

    tier: str
    share: float
    times_s: tuple[float, ...]
    goal_s: float


def carry(plan: Plan, load: Load) -> Outcome:
    """The steady state of `plan` under `load`. Raises ValueError where calls need a pool and there is none."""
    works = _works(plan, load)
    queues = _settle(works, load)
    tiers = tuple(_told(work, queue, load) for work, queue in zip(works, queues, strict=True))
    cached = load.mix.cache
    response_s = cached * load.cache_s + sum(
        work.share * queue.response_s for work, queue in zip(works, queues, strict=True)
    )
    calls_s = load.users / (load.think_s + response_s)
    if cached > 0:
        goal_s = load.goals.cache_s
        hits = TierOutcome("cache", cached, calls_s * cached, load.cache_s, load.cache_s, 0.0, 0.0, 0.0, goal_s)
        tiers = (hits, *tiers)
    return Outcome(load.users, calls_s, calls_s * response_s, tiers)


def keeps_goals(plan: Plan, load: Load) -> bool:
    """Whether every tier answers 95 of 100 calls within its goal: what `carry` says, with less work."""
    works = _works(plan, load)
    late = (
        late_share(queue, work.goal_s, load.answer_scv) for work, queue in zip(works, _settle(works, load), strict=True)
    )
    return (load.mix.cache <= 0 or load.cache_s <= load.goals.cache_s) and all(each <= 1 - P95 for each in late)


def users_carried(plan: Plan, load: Load) -> int:
    """The most users, up to `MOST_USERS`, with whom every tier keeps its goal; 0 where not even one user's calls do."""
    low, high = 0, 1
    while high <= MOST_USERS and keeps_goals(plan, load.with_users(high)):
        low, high = high, high * 2
    high = min(high, MOST_USERS + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if keeps_goals(plan, load.with_users(middle)) else (low, middle)
    return low


def _works(plan: Plan, load: Load) -> list[_Work]:
    mix, goals = load.mix, load.goals
    small, full = mix.small, mix.full
    if plan.small is None:
        small, full = 0.0, full + small
    if plan.full is None:
        small, full = small + full, 0.0
    asked = ((plan.small, "small", small, goals.small_s), (plan.full, "full", full, goals.full_s))
    works = [_work(pool, tier, share, goal_s, load) for pool, tier, share, goal_s in asked if pool is not None]
    if not works and mix.cache < 1:
        raise ValueError(f"plan {plan.name!r} has no pool for what the cache does not answer")
    return [each for each in works if each.share > 0]


def _work(pool: Pool, tier: str, share: float, goal_s: float, load: Load) -> _Work:
    return _Work(tier, share, service_times(pool, load.prompt_tokens, load.answer_tokens), goal_s)


def _settle(works: list[_Work], load: Load) -> list[Queue]:
    """Every pool's queue, given the others'. Half of each step is taken: two full pools would swing otherwise."""
    responses = [work.times_s[0] for work in works]
    queues: list[Queue] = []
    for _ in range(_ROUNDS):
        queues = [_queue(index, works, responses, load) for index in range(len(works))]
        found = [queue.response_s for queue in queues]
        moved = max((abs(new - old) / old for new, old in zip(found, responses, strict=True)), default=0.0)
        if moved < _CLOSE or len(works) < 2:
            break
        responses = [(new + old) / 2 for new, old in zip(found, responses, strict=True)]
    return queues


def _queue(index: int, works: list[_Work], responses: list[float], load: Load) -> Queue:
    """One pool's queue: its users are away for the thinking and the other tiers' answers of several calls."""
    others = sum(work.share * each for at, (work, each) in enumerate(zip(works, responses, strict=True)) if at != index)
    work = works[index]
    away_s = (load.think_s + load.mix.cache * load.cache_s + others) / work.share
    return closed_queue(load.users, away_s, work.times_s, load.answer_scv, load.arrival_scv)


def _told(work: _Work, queue: Queue, load: Load) -> TierOutcome:
    return TierOutcome(
        tier=work.tier,
        share=work.share,
        calls_s=queue.calls_s,
        p50_s=response_quantile_s(queue, 0.5, load.answer_scv),
        p95_s=response_quantile_s(queue, P95, load.answer_scv),
        wait_s=queue.wait_s,
        waits=queue.waits,
        utilisation=queue.utilisation,
        goal_s=work.goal_s,
    )
