"""What turns the instances that run into those wanted, and in which order, so that no pool falls silent on the way.

Pure. Removing and starting is the steward's; what fits where was placement's to decide. Memory on the way from one
plan to the next is accounted by room (an accelerator, or a node's RAM): both plans fit, so the larger of them does.
Of nodes that are away nothing is known and nothing is changed; the others go on without them.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from orchestrator.core.model import InstanceId, Placement, PoolName
from orchestrator.core.sizing import per_card_bytes


@dataclass(frozen=True, slots=True)
class Running:
    """An instance as it was made. `terms` is what else it was started with; empty: not known any more."""

    placement: Placement
    terms: str
    is_serving: bool
    is_leaving: bool = False  # being drained: it finishes what it has, and is gone then
    is_resting: bool = False  # wanted, and kept from calls: nothing waits until it serves


@dataclass(frozen=True, slots=True)
class Steps:
    """What would change: nothing, where both are empty. A changed instance is stopped and started."""

    start: tuple[Placement, ...]
    stop: tuple[InstanceId, ...]

    @property
    def is_empty(self) -> bool:
        return not self.start and not self.stop


@dataclass(slots=True)
class _PoolNow:
    """How a pool stands on its way. `missing`: on their way up or out, where they are of use to nobody."""

    running: int = 0
    wanted: int = 0
    serving: int = 0
    missing: int = 0
    is_partly_away: bool = False

    def spares_one(self, at_once: float) -> bool:
        """Whether one more that serves may go. Where some of it is away, none that is its last: who knows till when."""
        if self.serving <= 1 and (self.missing or self.is_partly_away):
            return False
        return self.missing < max(1, math.floor(at_once * max(self.running, self.wanted)))


class Change:
    """The way from what runs to `wanted`; `terms` by pool. Begun with what runs now, asked for one wave at a time.

    `usable`: what each room has for us, by measurement, what we hold there included; a room not in it is none.
    `at_once`: the most of a pool's instances, as a share, that are replaced at the same time; one always may be.
    """

    def __init__(
        self,
        wanted: Iterable[Placement],
        terms: Mapping[str, str],
        began: Mapping[str, Running],
        usable: Mapping[str, int] = MappingProxyType({}),
        at_once: float = 0.0,
    ) -> None:
        self._wanted = {each.instance: each for each in wanted}
        self._terms = terms
        self._at_once = at_once
        # Counter's `|` is the larger of both, room by room.
        held = held_bytes(each.placement for each in began.values())
        self._room_bytes = held | held_bytes(self._wanted.values()) | Counter(dict(usable))

    def steps(self, running: Mapping[str, Running], away: Collection[str] = ()) -> Steps:
        """Everything that is still to be done but on nodes `away`, in no order; once it was done there is nothing."""
        there = [each for each in self._wanted.values() if each.node not in away]
        here = [each for each in running.values() if each.placement.node not in away]
        return Steps(
            start=tuple(each for each in there if not self._is_made(running.get(each.instance))),
            stop=tuple(each.placement.instance for each in here if not self._is_made(each)),
        )

    def wave(self, running: Mapping[str, Running], away: Collection[str] = ()) -> Steps:
        """What may be done now. Empty while something is left to do: wait until an instance has come up.

        A pool's serving instances are replaced a few at a time, the next only once those before them serve: where a
        new one does not come up, the others stay as they are. New ones come first where there is room for both.
        `away`: nodes that cannot be reached: what is to come there waits for its node, and nothing waits for it.
        """
        left = self.steps(running)
        start = self._fitting((each for each in left.start if each.instance not in running), running)
        pools = self._pools(running, start, away)
        stop: list[InstanceId] = []
        # First those in whose place another comes: what only goes serves until then.
        for instance in sorted(left.stop, key=lambda each: each not in self._wanted):
            old = running[instance]
            if old.is_leaving or old.placement.node in away:
                continue
            pool = pools[old.placement.pool]
            if old.is_serving and self._is_pool_wanted(old.placement.pool) and not pool.spares_one(self._at_once):
                continue
            if old.is_serving:
                pool.serving, pool.missing = pool.serving - 1, pool.missing + 1
            stop.append(instance)
        return Steps(tuple(start), tuple(stop))

    def _pools(
        self, running: Mapping[str, Running], start: Iterable[Placement], away: Collection[str]
    ) -> dict[PoolName, _PoolNow]:
        """How each pool stands, those about to be started counted in."""
        pools: defaultdict[PoolName, _PoolNow] = defaultdict(_PoolNow)
        for each in running.values():
            pool, is_away = pools[each.placement.pool], each.placement.node in away
            pool.running += 1
            pool.serving += each.is_serving and not each.is_leaving
            is_coming = self._is_made(each) and not each.is_serving and not each.is_resting
            pool.missing += not is_away and (each.is_leaving or is_coming)
            pool.is_partly_away |= is_away
        for placement in start:
            pools[placement.pool].missing += placement.node not in away
        for placement in self._wanted.values():
            pools[placement.pool].wanted += 1
            pools[placement.pool].is_partly_away |= placement.node in away
        return pools

    def _is_made(self, running: Running | None) -> bool:
        """Whether it runs just as it is wanted."""
        if running is None:
            return False
        have, want = running.placement, self._wanted.get(running.placement.instance)
        if want is None or running.terms not in ("", self._terms.get(want.pool, "")):
            return False
        return (have.pool, have.slots, have.context, have.accelerators, have.node) == (
            want.pool,
            want.slots,
            want.context,
            want.accelerators,
            want.node,
        )

    def _is_pool_wanted(self, pool: PoolName) -> bool:
        return any(each.pool == pool for each in self._wanted.values())

    def _fitting(self, candidates: Iterable[Placement], running: Mapping[str, Running]) -> list[Placement]:
        """Those that the memory in use leaves room for now."""
        held = held_bytes(each.placement for each in running.values())
        fitting = []
        for each in candidates:
            with_it = held + held_bytes([each])
            if all(with_it[room] <= self._room_bytes[room] for room in rooms_of(each)):
                fitting.append(each)
                held = with_it
        return fitting


def silenced(wanted: Iterable[Placement], pools: Iterable[str], running: Mapping[str, Running]) -> tuple[PoolName, ...]:
    """The `pools` still asked for that have instances now and would have none."""
    placed = {each.pool for each in wanted}
    have = {each.placement.pool for each in running.values()}
    return tuple(sorted(pool for pool in have if pool in set(pools) and pool not in placed))


def rooms_of(placement: Placement) -> tuple[str, ...]:
    """Where its memory is: accelerators by UUID, or the node's RAM by the node's name."""
    return placement.accelerators or (placement.node,)


def held_bytes(placements: Iterable[Placement]) -> Counter[str]:
    """What `placements` were promised, by room."""
    held: Counter[str] = Counter()
    for each in placements:
        rooms = rooms_of(each)
        for room in rooms:
            held[room] += per_card_bytes(each.footprint, len(rooms))
    return held
