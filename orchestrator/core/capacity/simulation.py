"""A plan played call by call: users think, ask, wait in their pool's line, are answered, and think again.

The parts are the product's own where they are functions of values: instances lie where placement puts them, a call
takes the instance that admission would give it (the least loaded with a free slot), an answer takes what physics says.
The line is first come, first served: what the queue's scripts do for callers of one class and one key. Tiers are drawn
from the mix, or come from the router where questions are given (`asking`). Time is a number here: an hour of 500 users
takes a second or so.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean
from typing import Final, NamedTuple

from orchestrator.core.capacity.asking import CACHE, Asked, Asking, ByMix, Chance
from orchestrator.core.capacity.carrying import Plan
from orchestrator.core.capacity.demand import TIERS, Load
from orchestrator.core.capacity.engine import CardAtWork, EngineAtWork, Job
from orchestrator.core.capacity.leasing import choose_leased
from orchestrator.core.capacity.placed import Placed, PlacedTier, placed
from orchestrator.core.capacity.seen import Played, TierSeen, quantile

_NOBODY: Final = -1
_SAME: Final = 1e-6  # of a second: a rounding error is not late


@dataclass(frozen=True, slots=True)
class Hour:
    """How long is simulated: `warm_s` until what is counted begins, then `seconds`."""

    seconds: float = 3600.0
    warm_s: float = 300.0

    @property
    def until_s(self) -> float:
        return self.warm_s + self.seconds


class Arrival(NamedTuple):
    """A call that comes at its time, however others do."""

    at_s: float
    asked: Asked


@dataclass(slots=True, eq=False)
class _Call:
    user: int
    tier: str
    asked: Asked
    came_s: float
    began_s: float = 0.0


@dataclass(slots=True, eq=False)
class _Seat:
    """One instance: its place in its pool, its engine, and calls under way by number. `told`: version scheduled."""

    place: int
    engine: EngineAtWork
    calls: dict[int, _Call] = field(default_factory=dict)
    told: int = 0


class _Line:
    """One tier's pool: its instances, slots in use, and who waits. `since_s`: slot seconds count from then on."""

    def __init__(self, at: PlacedTier, since_s: float, *, is_batch_free: bool) -> None:
        self.at, self._since_s = at, since_s
        instances = at.serving.instances
        cards = {each.accelerators: CardAtWork() for each in instances}
        self.seats = [
            _Seat(place, EngineAtWork(at.pool, cards[each.accelerators], is_batch_free=is_batch_free))
            for place, each in enumerate(instances)
        ]
        by_card = {
            each.accelerators: [
                self.seats[place] for place, other in enumerate(instances) if other.accelerators == each.accelerators
            ]
            for each in instances
        }
        self.neighbours = [by_card[each.accelerators] for each in instances]
        self.slots = [each.slots for each in instances]
        self.used = [0] * len(instances)
        self.most_used = [0] * len(instances)
        self.waiting: deque[_Call] = deque()
        self.busy_s = self._told_s = 0.0
        self._turn = self._busy = 0

    def next_place(self) -> int | None:
        return choose_leased(self.slots, self.used, self._turn)

    def take(self, place: int, now_s: float) -> None:
        self._change(place, 1, now_s)
        self._turn += 1
        self.most_used[place] = max(self.most_used[place], self.used[place])

    def give_back(self, place: int, now_s: float) -> None:
        self._change(place, -1, now_s)

    def tell_busy(self, now_s: float) -> None:
        self.busy_s += self._busy * max(0.0, now_s - max(self._told_s, self._since_s))
        self._told_s = now_s

    def _change(self, place: int, more: int, now_s: float) -> None:
        self.tell_busy(now_s)
        self.used[place] += more
        self._busy += more


@dataclass(slots=True)
class _Tally:
    took: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)


def simulate(
    plan: Plan | Placed,
    load: Load,
    rng: Chance,
    *,
    hour: Hour | None = None,
    asking: Asking | None = None,
    arrivals: Sequence[Arrival] | None = None,
    is_batch_free: bool = False,
) -> Played:
    """`plan` with `load`'s users, as seen for an hour.

    Times to think are exponential. `asking`: what they ask, by default the load's mix and lengths. `arrivals`: calls
    that come at times of their own in place of users, as recorded; that is where bursts come from.
    `is_batch_free`: as the simulated engines play it (`engine`). Raises ValueError where calls need a pool and there is
    none, or placement would start no instance of it.
    """
    there = placed(plan) if isinstance(plan, Plan) else plan
    run = _Run(there, load, rng, hour or Hour(), asking or ByMix(load), is_batch_free=is_batch_free)
    return run.play(arrivals)


class _Run:
    """One simulation on its way."""

    def __init__(
        self, there: Placed, load: Load, rng: Chance, hour: Hour, asking: Asking, *, is_batch_free: bool
    ) -> None:
        self._there, self._load, self._rng, self._hour, self._asking = there, load, rng, hour, asking
        self._lines = {
            each.tier: _Line(each, hour.warm_s, is_batch_free=is_batch_free) for each in there.tiers if each.slots
        }
        self._tallies = {tier: _Tally() for tier in TIERS}
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._number = self._asked = self._answered = 0

    def play(self, arrivals: Sequence[Arrival] | None) -> Played:
        self._fill(arrivals)
        events, until_s = self._events, self._hour.until_s
        while events and events[0][0] <= until_s:
            at_s, _, act = heapq.heappop(events)
            act(at_s)
        for line in self._lines.values():
            line.tell_busy(until_s)
        return self._told()

    # --- events ------------------------------------------------------------------------------------------------------

    def _fill(self, arrivals: Sequence[Arrival] | None) -> None:
        if arrivals is not None:
            for each in arrivals:
                self._at(each.at_s, partial(self._come, _NOBODY, each.asked))
            return
        for user in range(self._load.users):
            self._think(user, 0.0)

    def _at(self, at_s: float, act: Callable[[float], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (at_s, self._number, act))

    def _think(self, user: int, now_s: float) -> None:
        self._at(now_s + self._rng.expovariate(1 / self._load.think_s), partial(self._ask, user))

    def _ask(self, user: int, now_s: float) -> None:
        self._come(user, self._asking(self._rng), now_s)

    def _come(self, user: int, asked: Asked, now_s: float) -> None:
        self._asked += 1
        if asked.tier == CACHE:
            call = _Call(user, CACHE, asked, now_s, now_s)
            self._at(now_s + self._load.cache_s, partial(self._answered_by_cache, call))
            return
        line = self._line_for(asked.tier)
        line.waiting.append(_Call(user, line.at.tier, asked, now_s))
        self._grant(line, now_s)

    def _line_for(self, tier: str) -> _Line:
        """The tier's own pool; of a tier without one, the other's."""
        line = self._lines.get(tier) or next(iter(self._lines.values()), None)
        if line is None:
            raise ValueError(f"no instance answers what the cache does not{self._why_none()}")
        return line

    def _why_none(self) -> str:
        return f": {'; '.join(self._there.refused)}" if self._there.refused else ""

    def _grant(self, line: _Line, now_s: float) -> None:
        """Slots that are free go to those who wait, in their order."""
        while line.waiting:
            place = line.next_place()
            if place is None:
                return
            self._begin(line, place, line.waiting.popleft(), now_s)

    def _begin(self, line: _Line, place: int, call: _Call, now_s: float) -> None:
        call.began_s = now_s
        line.take(place, now_s)
        self._number += 1
        seat = line.seats[place]
        seat.calls[self._number] = call
        seat.engine.begin(Job(self._number, call.asked.prompt_tokens, call.asked.answer_tokens), now_s)
        self._schedule(line, place)

    def _schedule(self, line: _Line, place: int) -> None:
        """When each instance of the card will next have something to tell, where that has changed."""
        for seat in line.neighbours[place]:
            engine = seat.engine
            if engine.version != seat.told:
                seat.told = engine.version
                if engine.ends_at_s <= self._hour.until_s:
                    self._at(engine.ends_at_s, partial(self._due, line, seat, engine.version))

    def _due(self, line: _Line, seat: _Seat, version: int, now_s: float) -> None:
        if seat.engine.version != version:
            return  # things changed since
        for job in seat.engine.finish(now_s):
            line.give_back(seat.place, now_s)
            self._end(seat.calls.pop(job.number), now_s)
        self._schedule(line, seat.place)
        self._grant(line, now_s)

    def _answered_by_cache(self, call: _Call, now_s: float) -> None:
        self._end(call, now_s)

    def _end(self, call: _Call, now_s: float) -> None:
        self._answered += 1
        if now_s >= self._hour.warm_s:
            tally = self._tallies[call.tier]
            tally.took.append(now_s - call.came_s)
            tally.waited.append(call.began_s - call.came_s)
        if call.user != _NOBODY:
            self._think(call.user, now_s)

    # --- what was seen -----------------------------------------------------------------------------------------------

    def _told(self) -> Played:
        calls = sum(len(each.took) for each in self._tallies.values())
        tiers = tuple(self._tier(tier, tally, calls) for tier, tally in self._tallies.items() if tally.took)
        most_used: dict[str, int] = {
            each.id: line.most_used[place]
            for line in self._lines.values()
            for place, each in enumerate(line.at.serving.instances)
        }
        under_way = self._asked - self._answered
        seconds = self._hour.seconds
        return Played(
            self._load.users,
            seconds,
            calls / seconds,
            tiers,
            self._asked,
            self._answered,
            under_way,
            most_used,
            self._there.refused,
        )

    def _tier(self, tier: str, tally: _Tally, calls: int) -> TierSeen:
        goals = self._load.goals
        goal_s = {CACHE: goals.cache_s, "small": goals.small_s, "full": goals.full_s}[tier]
        took, line = sorted(tally.took), self._lines.get(tier)
        seconds = self._hour.seconds
        return TierSeen(
            tier,
            len(took) / calls,
            len(took),
            len(took) / seconds,
            fmean(took),
            quantile(took, 0.5),
            quantile(took, 0.95),
            quantile(took, 0.99),
            fmean(tally.waited),
            sum(each > 0 for each in tally.waited) / len(took),
            line.busy_s / (line.at.slots * seconds) if line is not None else 0.0,
            goal_s,
            sum(each > goal_s + _SAME for each in took) / len(took),
        )
