"""Patterns: what one card, or several cards of one node together, can hold; and the best of them at given prices.

A pattern says how many copies of each pool, and what they serve. Small fleets have few of them, and all are listed. Of
many, the next one that would make a plan better is found by its prices (column generation): an exact search, cut off
by what the room left could bring at best.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final

from orchestrator.core.cards import Card
from orchestrator.core.model import Demand, PoolName
from orchestrator.core.placement.knapsack import Knapsack
from orchestrator.core.placement.rooms import NO_LIMIT, Neighbours
from orchestrator.core.placement.serving import Serving

_STEPS: Final = 2_000  # of one search for the best pattern; what it may have missed is in the bound it answers
_EPSILON: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Pattern:
    """Copies of each pool, by name; `served`: calls at once; `spread`: over so many cards together."""

    pools: tuple[tuple[PoolName, int], ...]
    served: tuple[tuple[PoolName, int], ...]
    used_mib: int  # of each of its cards
    spread: int = 1

    @property
    def counts(self) -> Counter[PoolName]:
        return Counter(dict(self.pools))


@dataclass(frozen=True, slots=True)
class Space:
    """Room of one kind: what is left on a card, and what is on it already."""

    room_mib: int
    card: Card | None
    needs: Mapping[PoolName, int]  # MiB of one copy, of those that may go there
    spread: int = 1
    there: tuple[PoolName, ...] = ()


class Patterns:
    """The patterns of one set of demands."""

    def __init__(self, demands: Sequence[Demand], serving: Serving) -> None:
        self._demands = {each.pool: each for each in demands}
        self._serving = serving
        self._neighbours = Neighbours(demands)
        self._has_rules = any(each.apart or each.beside for each in demands)
        self._limits = {each.pool: _limit(each) for each in demands}

    def of(self, space: Space, counts: Mapping[PoolName, int]) -> Pattern:
        """What so many copies come to."""
        served = self._serving.pattern(space.card, counts)
        used = sum(space.needs[pool] * count for pool, count in counts.items())
        pools = tuple(sorted((pool, count) for pool, count in counts.items() if count))
        return Pattern(pools, tuple(sorted(served.items())), used, space.spread)

    def all(self, space: Space, limit: int) -> list[Pattern] | None:
        """Every pattern that could be of use, or None where they are more than `limit`.

        Without goals and rules of neighbours these are the full ones: of a full card copies can be left out. With a
        goal one copy less may serve more.
        """
        found: list[Pattern] = []
        for steps, counts in enumerate(self._walk(space)):
            if steps > 10 * limit or len(found) > limit:
                return None
            if self._is_allowed(space, counts) and (
                self._has_rules or not self._serving.is_plain or self._is_full(space, counts)
            ):
                found.append(self.of(space, counts))
        return found

    def _walk(self, space: Space) -> Iterator[dict[PoolName, int]]:
        pools = sorted(space.needs, key=lambda pool: (-space.needs[pool], pool))

        def walk(at: int, left: int, counts: dict[PoolName, int]) -> Iterator[dict[PoolName, int]]:
            if at == len(pools):
                if counts:
                    yield dict(counts)
                return
            pool = pools[at]
            for count in range(self.most(space, pool, left), 0, -1):
                counts[pool] = count
                yield from walk(at + 1, left - count * space.needs[pool], counts)
                del counts[pool]
            yield from walk(at + 1, left, counts)

        yield from walk(0, space.room_mib, {})

    def _is_allowed(self, space: Space, counts: Mapping[PoolName, int]) -> bool:
        """Whether the neighbours can stand each other, whichever came first."""
        everyone = [*space.there, *counts]
        for pool in counts:
            demand = self._demands[pool]
            others = [each for each in everyone if each != pool]
            if any(each not in everyone for each in demand.beside):
                return False
            if demand.apart or self._has_rules:
                alone = [each for each in others if each in demand.apart or pool in self._demands[each].apart]
                if alone:
                    return False
        return True

    def best(
        self,
        spaces: Sequence[Space],
        per_call: Mapping[PoolName, float],
        per_copy: Mapping[PoolName, float],
        grain: int = 1,
    ) -> list[_Best]:
        """The pattern worth most in each space, where a served call and a copy of each pool have these prices.

        `grain`: MiB that are told apart. From 2 on what is found may not be the best, and its `bound` is none.
        """
        if not self._serving.is_plain or self._has_rules:
            searches = [_Search(self, space, per_call, per_copy) for space in spaces]
            for search in searches:
                search.run()
            return [_Best(each.found, each.worth, each.bound) for each in searches]
        largest = max((space.room_mib for space in spaces), default=0)
        tables: dict[object, Knapsack] = {}
        found = []
        for space in spaces:
            key = (space.there, tuple(space.needs.items()))
            if key not in tables:
                items = {pool: self._item(space, pool, per_call, per_copy) for pool in space.needs}
                tables[key] = Knapsack(items, largest, grain)
            counts, worth = tables[key].best(space.room_mib)
            found.append(_Best(counts, worth, worth))
        return found

    def _item(
        self, space: Space, pool: PoolName, per_call: Mapping[PoolName, float], per_copy: Mapping[PoolName, float]
    ) -> tuple[int, float, int]:
        """A copy's memory and worth, and how many there may be on one card however large."""
        demand = self._demands[pool]
        most = max(0, self._limits[pool] - space.there.count(pool))
        return space.needs[pool], demand.slots * per_call.get(pool, 0.0) + per_copy.get(pool, 0.0), most

    def most(self, space: Space, pool: PoolName, left: int) -> int:
        """The most copies of it in the room that is left."""
        return max(0, min(left // space.needs[pool], self._limits[pool] - space.there.count(pool)))

    def _is_full(self, space: Space, counts: Mapping[PoolName, int]) -> bool:
        left = space.room_mib - sum(space.needs[pool] * count for pool, count in counts.items())
        return all(
            need > left or self.most(space, pool, space.room_mib) <= counts.get(pool, 0)
            for pool, need in space.needs.items()
        )

    def worth(self, space: Space, counts: Mapping[PoolName, int], prices: _Prices) -> float:
        served = self._serving.pattern(space.card, counts)
        return sum(
            count * prices.per_copy.get(pool, 0.0) + served[pool] * prices.per_call.get(pool, 0.0)
            for pool, count in counts.items()
        )

    def users(self, space: Space, pool: PoolName, at_work: int) -> int:
        return self._serving.users(pool, space.card, at_work)

    def demand(self, pool: PoolName) -> Demand:
        return self._demands[pool]

    def is_allowed(self, space: Space, counts: Mapping[PoolName, int]) -> bool:
        return not self._has_rules or self._is_allowed(space, counts)


@dataclass(frozen=True, slots=True)
class _Best:
    """`bound`: no pattern is worth more than this, though one between `worth` and it may have been missed."""

    counts: Mapping[PoolName, int]
    worth: float
    bound: float


@dataclass(frozen=True, slots=True)
class _Prices:
    per_call: Mapping[PoolName, float]
    per_copy: Mapping[PoolName, float]


class _Search:
    """Depth first over the pools, those that bring most for their memory first."""

    def __init__(
        self, patterns: Patterns, space: Space, per_call: Mapping[PoolName, float], per_copy: Mapping[PoolName, float]
    ) -> None:
        self._patterns, self._space = patterns, space
        self._prices = _Prices(per_call, per_copy)
        alone = {pool: self._one(pool, 0) for pool in space.needs}
        # A copy that brings nothing by itself can still allow another one beside it.
        self._pools = [pool for pool in space.needs if alone[pool] > _EPSILON or patterns._has_rules]
        self._pools.sort(key=lambda pool: (-alone[pool] / space.needs[pool], pool))
        self._alone = alone
        self._steps = 0
        self.found: dict[PoolName, int] = {}
        self.worth = 0.0
        self.bound = 0.0

    def _one(self, pool: PoolName, at_work: int) -> float:
        """What a copy brings beside so many slots at work: never more than alone, as they share the card."""
        users = self._patterns.users(self._space, pool, at_work)
        return users * self._prices.per_call.get(pool, 0.0) + self._prices.per_copy.get(pool, 0.0)

    def run(self) -> None:
        self.bound = self._most_from(0, self._space.room_mib)
        self._walk(0, self._space.room_mib, {}, 0.0)
        if self._steps <= _STEPS:
            self.bound = self.worth

    def _most_from(self, at: int, left: int) -> float:
        """What the rest of the pools could bring in this room at best: cut to size where the last does not fit."""
        total = 0.0
        for pool in self._pools[at:]:
            worth = self._alone[pool]
            if worth <= 0:
                continue
            need = self._space.needs[pool]
            most = self._patterns.most(self._space, pool, self._space.room_mib)
            count = min(left / need, most)
            total += count * worth
            left -= int(count * need)
            if left <= 0:
                break
        return total

    def _walk(self, at: int, left: int, counts: dict[PoolName, int], so_far: float) -> None:
        """`so_far`: the most that `counts` are worth, as if each were alone on the card."""
        self._steps += 1
        if self._steps > _STEPS:
            return
        if counts and so_far > self.worth + _EPSILON and self._patterns.is_allowed(self._space, counts):
            worth = self._patterns.worth(self._space, counts, self._prices)
            if worth > self.worth + _EPSILON:
                self.worth, self.found = worth, dict(counts)
        if at == len(self._pools) or so_far + self._most_from(at, left) <= self.worth + _EPSILON:
            return
        pool = self._pools[at]
        need = self._space.needs[pool]
        for count in range(self._patterns.most(self._space, pool, left), 0, -1):
            counts[pool] = count
            self._walk(at + 1, left - count * need, counts, so_far + count * max(0.0, self._alone[pool]))
            del counts[pool]
        self._walk(at + 1, left, counts, so_far)


def _limit(demand: Demand) -> int:
    """The most copies of it on one card that could be of use: a card needs no more than serve the whole load."""
    most = NO_LIMIT if demand.per_card is None else demand.per_card
    if demand.load is None or (demand.usual is not None and demand.usual.answer_s is not None):
        return most
    return min(most, max(1, demand.replicas_min, ceil(demand.load / demand.slots)))
