"""How many cards of each kind get which pattern: a cutting-stock program, solved as well as its bound can tell.

Copies missing to minimums first, pools without any above all; then calls served within the goal; then the least memory.
Nothing is said of single cards here: kinds in, patterns out, and `assignment` puts them on cards. Columns are all
patterns where they are few, otherwise those that the prices of the relaxed program ask for; the price of what was not
generated bounds what the whole program could reach (Farley 1990, as for cutting stock: Gilmore and Gomory 1961).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import floor, inf
from typing import Final

from orchestrator.core.model import Demand, PoolName
from orchestrator.core.placement.patterns import Pattern, Patterns, Space
from orchestrator.core.placement.program import Program, Solved
from orchestrator.core.placement.serving import Serving
from orchestrator.core.placement.supply import Kind, Supply

TIME_LIMIT_S: Final = 10.0
_FEW_CARDS: Final = 6  # with so few, patterns are listed further and the program is solved to its end
_LISTED: Final = (1500, 40)
_MANY_CARDS: Final = 250  # from here on, time goes first: most cards are settled by the relaxed program
_SHARES: Final = (3e-3, 5e-3)  # of the calls served, for fewer and for many cards: near enough to the bound
_ROUNDS: Final = 200
_COARSE_MIB: Final = 32
_FINE_MIB: Final = 4
_NEAR: Final = (1e-6, 1e-4)  # of the objective, for fewer and for many cards: more columns would bring less
_EPSILON: Final = 1e-6
# Of one served call: the price of all memory together. It chooses between plans that serve alike.
_MEMORY: Final = 0.05
_HOSTS: Final = 0.2  # of a served call: a copy short of the nodes that a pool should be on


@dataclass(frozen=True, slots=True)
class Answer:
    """Patterns for cards of each kind, how often each; and what could be reached at best by a whole or a part card.

    `remainders`: what goes into the room that a pattern over several cards leaves on each of them.
    """

    chosen: tuple[tuple[Kind, Pattern, int], ...]
    remainders: tuple[tuple[Kind, Pattern, Pattern, int], ...]
    served: float
    bound: float


@dataclass(slots=True)
class _Place:
    """Something to be filled by patterns: cards of a kind, racks of them, or what another pattern left."""

    key: Hashable
    kind: Kind
    space: Space
    under: Pattern | None = None
    known: dict[tuple[tuple[PoolName, int], ...], int] = field(default_factory=dict)
    columns: list[tuple[Pattern, int]] = field(default_factory=list)
    is_listed: bool = False


class Solver:
    """One fleet and its demands."""

    def __init__(
        self, supply: Supply, demands: Sequence[Demand], serving: Serving, *, time_limit_s: float = TIME_LIMIT_S
    ) -> None:
        self._supply, self._serving = supply, serving
        self._demands = sorted(demands, key=lambda each: each.pool)
        self._patterns = Patterns(self._demands, serving)
        self._cards = sum(map(len, supply.cards.values()))
        self._is_small = self._cards <= _FEW_CARDS
        self._is_large = self._cards >= _MANY_CARDS
        self._program = self._make_program(time_limit_s)
        capacity = sum(kind.room_mib * len(cards) for kind, cards in supply.cards.items()) or 1
        self._per_mib = _MEMORY / capacity
        self._served: dict[PoolName, int] = {}
        self._short: dict[PoolName, int] = {}
        self._silent: dict[PoolName, int] = {}
        self._tails: dict[PoolName, float] = {}
        self._bound = inf
        self._places = [*self._make_places()]
        self._make_rows()
        self._make_partitions()
        for place in [*self._places]:
            self._seed(place)

    # --- the program -------------------------------------------------------------------------------------------------

    def _make_program(self, time_limit_s: float) -> Program:
        """Few cards are solved to the end, memory and all; others until no whole call is to be gained, or near it."""
        if self._is_small:
            return Program(time_limit_s=time_limit_s)
        is_whole = all(float(each.load or 0.0).is_integer() and each.hosts_min <= 1 for each in self._demands)
        gap = 1.0 - _MEMORY - _EPSILON if is_whole else _EPSILON
        return Program(time_limit_s=time_limit_s, gap=gap, share=_SHARES[self._is_large])

    def _make_places(self) -> Iterator[_Place]:
        for number, (kind, _) in enumerate(self._supply.cards.items()):
            needs = {pool: need for pool, need in self._supply.needs.items() if pool in kind.pools}
            yield _Place(("cards", number, 1), kind, Space(kind.room_mib, kind.card, needs))
            for count in sorted({n for (each, _), n in self._supply.spans.items() if each == kind}):
                parts = {
                    pool: self._supply.part_needs[pool, count]
                    for (each, pool), n in self._supply.spans.items()
                    if each == kind and n == count
                }
                yield _Place(("cards", number, count), kind, Space(kind.room_mib, kind.card, parts, count))

    def _make_rows(self) -> None:
        program = self._program
        for place in self._places:
            is_fixed = self._partition_sizes(place.kind) == (1,)
            program.row(place.key, -inf, len(self._supply.cards[place.kind]) if is_fixed else 0)
        program.row("short", -inf, 0)
        program.row("silent", -inf, 0)
        for each in self._demands:
            program.row(("least", each.pool), each.replicas_min, inf)
            program.row(("some", each.pool), 1 if each.replicas_min else 0, inf)
            self._short[each.pool] = program.column(0, {("least", each.pool): 1, "short": 1})
            self._silent[each.pool] = program.column(0, {("some", each.pool): 1, "silent": 1})
            if each.load is not None:
                program.row(("served", each.pool), -inf, 0)
                tail = each.load % each.slots
                entries: dict[Hashable, float] = {("served", each.pool): 1.0}
                if tail:
                    # The last copy is whole too, and serves only what the others leave. Without this the relaxed
                    # program cuts it to size: its bound is one that no plan can reach, and the search is led astray.
                    self._tails[each.pool] = tail
                    entries["tail", each.pool] = 1.0
                    program.row(("tail", each.pool), -inf, (each.load - tail) / each.slots * (each.slots - tail))
                self._served[each.pool] = program.column(0, entries, most=each.load)
            if each.replicas_max is not None and each.load is not None:
                # A copy that a full pattern has beyond the most is left out; it served no more than its slots.
                program.row(("most", each.pool), -inf, each.replicas_max)
                spare: dict[Hashable, float] = {("most", each.pool): -1.0, ("served", each.pool): each.slots}
                if each.pool in self._tails:
                    spare["tail", each.pool] = self._tails[each.pool]
                program.column(0, spare)
            if each.hosts_min > 1:
                program.row(("hosts", each.pool), min(each.hosts_min, max(each.replicas_min, 2)), inf)
                program.column(-_HOSTS, {("hosts", each.pool): 1})

    def _partition_sizes(self, kind: Kind) -> tuple[int, ...]:
        return tuple(sorted({1, *(n for (each, _), n in self._supply.spans.items() if each == kind)}))

    def _make_partitions(self) -> None:
        """How a node's rack is divided into single cards and groups, where models span cards."""
        for number, kind in enumerate(self._supply.cards):
            sizes = self._partition_sizes(kind)
            if sizes == (1,):
                continue
            rack = ("rack", number)
            self._program.row(rack, -inf, self._supply.racks(kind))
            for parts in _partitions(kind.rack, sizes):
                entries: dict[Hashable, float] = {rack: 1.0}
                entries |= {("cards", number, size): -float(count) for size, count in parts.items()}
                self._program.column(0, entries, is_whole=True)

    def _seed(self, place: _Place) -> None:
        """All patterns where they are few; otherwise each pool by itself, as often as it goes and once."""
        limit = _LISTED[0 if self._is_small or place.space.spread > 1 else 1]
        listed = self._patterns.all(place.space, limit)
        place.is_listed = listed is not None
        if listed is None:
            listed = []
            for pool in place.space.needs:
                most = self._patterns.most(place.space, pool, place.space.room_mib)
                counts = (
                    {pool: count}
                    for count in {most, min(most, 1)}
                    if self._patterns.is_allowed(place.space, {pool: count})
                )
                listed += [self._patterns.of(place.space, each) for each in counts]
        for pattern in listed:
            self._add(place, pattern)

    def _add(self, place: _Place, pattern: Pattern) -> bool:
        """A column; False where it is there."""
        if not pattern.pools or pattern.pools in place.known:
            return False
        entries: dict[Hashable, float] = {place.key: 1.0}
        served = dict(pattern.served)
        for pool, count in pattern.pools:
            demand = self._patterns.demand(pool)
            entries["least", pool] = entries["some", pool] = float(count)
            if demand.load is not None:
                entries["served", pool] = -float(served[pool])
                if pool in self._tails:
                    entries["tail", pool] = -self._tails[pool] * count
                if demand.replicas_max is not None:
                    entries["most", pool] = float(count)
            if demand.hosts_min > 1:
                entries["hosts", pool] = 1.0
        if pattern.spread > 1 and self._serving.is_plain:
            self._make_remainder(place, pattern, entries)
        cost = -self._per_mib * pattern.used_mib * pattern.spread
        column = self._program.column(cost, entries, is_whole=True)
        place.known[pattern.pools] = column
        place.columns.append((pattern, column))
        return True

    def _make_remainder(self, place: _Place, pattern: Pattern, entries: dict[Hashable, float]) -> None:
        """The room that a pattern over several cards leaves on each of them is there to be filled."""
        left = place.space.room_mib - pattern.used_mib
        single = {pool: need for pool, need in self._supply.needs.items() if pool in place.kind.pools and need <= left}
        if not single:
            return
        there = tuple(pool for pool, count in pattern.pools for _ in range(count))
        key = ("left", place.key, pattern.pools)
        self._program.row(key, -inf, 0)
        entries[key] = -float(pattern.spread)
        rest = _Place(key, place.kind, Space(left, place.kind.card, single, 1, there), pattern)
        self._places.append(rest)
        self._seed(rest)

    # --- solving -----------------------------------------------------------------------------------------------------

    def suggest(self, kind: Kind, counts: Mapping[PoolName, int]) -> None:
        """What a plan at hand has on a card of this kind: a solution is never worse than a plan it was told of."""
        place = next(each for each in self._places if each.kind == kind and each.space.spread == 1)
        known = {pool: count for pool, count in counts.items() if pool in place.space.needs}
        if sum(place.space.needs[pool] * count for pool, count in known.items()) <= place.space.room_mib:
            self._add(place, self._patterns.of(place.space, known))

    def solve(self, *, is_relaxed: bool = False) -> Answer | None:
        """The plan by kinds; None where nothing was found in time. `is_relaxed`: only its bound is of use."""
        if self._program.relaxed() is None and not self._settle_minimums():
            return None
        self._bound = inf  # of another objective until here
        for column in self._served.values():
            self._program.price(column, 1.0)
        relaxed = self._generate(is_exact=is_relaxed)
        found = self._whole(relaxed) if relaxed is not None and not is_relaxed else relaxed
        if found is None:
            return None
        # Only where all patterns are listed, and no card was settled before, does the search's own bound hold for all.
        is_whole = all(each.is_listed for each in self._places) and (is_relaxed or not self._is_large)
        bound = min(found.bound, self._bound) if is_whole else self._bound
        if any(each.space.spread > 1 and not each.is_listed for each in self._places):
            bound = inf  # prices do not tell what the room beside a model on several cards would bring
        return self._answer(found, bound, is_relaxed=is_relaxed)

    def _settle_minimums(self) -> bool:
        """As few pools without a copy as can be, then as few copies missing: from then on so many may be missing."""
        columns = {"short": self._short.values(), "silent": self._silent.values()}
        all_of = sum(each.replicas_min for each in self._demands)
        for row, price in (("short", -1.0), ("silent", -1.0 - all_of)):
            self._program.allow(row, all_of)
            for column in columns[row]:
                self._program.price(column, price)
        found = self._program.solved() if self._generate() is not None else None
        if found is None:
            return False
        for row, numbers in columns.items():
            self._program.allow(row, round(sum(found.values[column] for column in numbers)))
            for column in numbers:
                self._program.price(column, 0.0)
        return True

    def _whole(self, relaxed: Solved) -> Solved | None:
        """In whole numbers. Most of many cards get what `relaxed` gives them, and only for the rest is it searched."""
        held = self._many_of(relaxed) if self._is_large else {}
        for column, count in held.items():
            self._program.hold(column, count)
        found = self._program.solved()
        for column in held:
            self._program.hold(column, 0)
        return found if found is not None or not held else self._program.solved()

    def _many_of(self, relaxed: Solved) -> dict[int, int]:
        """How many cards get each pattern for certain."""
        known = (column for place in self._places for _, column in place.columns if column < len(relaxed.values))
        counts = {column: floor(relaxed.values[column] + _EPSILON) for column in known}
        return {column: count for column, count in counts.items() if count > 0}

    def _generate(self, *, is_exact: bool = False) -> Solved | None:
        """The relaxed program, with columns until none is missing; most of them are found by a coarser look.

        Of many cards only where it `is_exact`, and then with a bound, the last ones are sought by the MiB.
        """
        grain = _COARSE_MIB if self._serving.is_plain else 1
        finest = min(grain, 1 if is_exact or not self._is_large else _FINE_MIB)
        for _ in range(_ROUNDS):
            relaxed = self._program.relaxed()
            if relaxed is None:
                return None
            missed, new = self._price(relaxed, grain)
            if grain == 1:
                self._bound = min(self._bound, relaxed.objective + missed)
            if grain == finest:
                if not new or missed <= _NEAR[self._is_large] * abs(relaxed.objective):
                    return relaxed
            elif not new:
                grain = finest
        return self._program.relaxed()

    def _price(self, relaxed: Solved, grain: int) -> tuple[float, int]:
        """Add the patterns that the prices ask for; by how much they could better the program at most, and how many."""
        duals = relaxed.duals
        pools = self._supply.needs
        per_call = {pool: max(0.0, duals.get(("served", pool), 0.0)) for pool in pools}
        rows = ("least", "some", "most", "hosts")
        missed, new = 0.0, 0
        for places in self._unlisted():
            spread = places[0].space.spread
            per_copy = {
                pool: self._tails.get(pool, 0.0) * duals.get(("tail", pool), 0.0)
                - sum(duals.get((row, pool), 0.0) for row in rows)
                - self._per_mib * need * spread
                for pool, need in places[0].space.needs.items()
            }
            for place, best in zip(
                places, self._patterns.best([each.space for each in places], per_call, per_copy, grain), strict=True
            ):
                own = duals[place.key]
                missed += max(0.0, best.bound - own) * len(self._supply.cards[place.kind])
                if best.worth - own > _EPSILON and best.counts:
                    new += self._add(place, self._patterns.of(place.space, best.counts))
        return missed, new

    def _unlisted(self) -> list[list[_Place]]:
        """Places whose patterns are too many to be listed, those together to which the same goes."""
        found: dict[Hashable, list[_Place]] = {}
        for each in self._places:
            if not each.is_listed:
                found.setdefault((each.space.spread, tuple(each.space.needs.items())), []).append(each)
        return list(found.values())

    def _answer(self, found: Solved, bound: float, *, is_relaxed: bool) -> Answer:
        chosen: list[tuple[Kind, Pattern, int]] = []
        remainders: list[tuple[Kind, Pattern, Pattern, int]] = []
        for place in [] if is_relaxed else self._places:
            for pattern, column in place.columns:
                count = round(found.values[column])
                if count and place.under is None:
                    chosen.append((place.kind, pattern, count))
                elif count and place.under is not None:
                    remainders.append((place.kind, place.under, pattern, count))
        served = sum(found.values[column] for column in self._served.values())
        most = min(bound + _MEMORY, sum(each.load or 0.0 for each in self._demands))
        return Answer(tuple(chosen), tuple(remainders), served, max(served, most))


def _partitions(cards: int, sizes: Sequence[int]) -> Iterator[dict[int, int]]:
    """Every way to divide a rack into groups of these sizes, single cards for what is left."""
    groups = [size for size in sizes if size > 1]

    def divide(at: int, left: int, parts: dict[int, int]) -> Iterator[dict[int, int]]:
        if at == len(groups):
            yield {**parts, 1: left} if left else dict(parts)
            return
        for count in range(left // groups[at], -1, -1):
            yield from divide(at + 1, left - count * groups[at], {**parts, groups[at]: count} if count else parts)

    yield from divide(0, cards, {})
