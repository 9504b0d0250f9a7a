"""What turns the instances that run into those wanted, and in which order, so that no pool falls silent on the way.

Pure. Removing and starting is the steward's; what fits where was placement's to decide. Memory on the way from one
plan to the next is accounted by room (an accelerator, or a node's RAM): both plans fit, so the larger of them does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
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


@dataclass(frozen=True, slots=True)
class Steps:
    """What would change: nothing, where both are empty. A changed instance is stopped and started."""

    start: tuple[Placement, ...]
    stop: tuple[InstanceId, ...]

    @property
    def is_empty(self) -> bool:
        return not self.start and not self.stop


class Change:
    """The way from what runs to `wanted`; `terms` by pool. Begun with what runs now, asked for one wave at a time.

    `usable`: what each room has for us, by measurement, what we hold there included; a room not in it is none.
    """

    def __init__(
        self,
        wanted: Iterable[Placement],
        terms: Mapping[str, str],
        began: Mapping[str, Running],
        usable: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._wanted = {each.instance: each for each in wanted}
        self._terms = terms
        # Counter's `|` is the larger of both, room by room.
        held = held_bytes(each.placement for each in began.values())
        self._room_bytes = held | held_bytes(self._wanted.values()) | Counter(dict(usable))

    def steps(self, running: Mapping[str, Running]) -> Steps:
        """Everything that is still to be done, in no order; once it was done there is nothing."""
        return Steps(
            start=tuple(each for each in self._wanted.values() if not self._is_made(running.get(each.instance))),
            stop=tuple(each.placement.instance for each in running.values() if not self._is_made(each)),
        )

    def wave(self, running: Mapping[str, Running]) -> Steps:
        """What may be done now. Empty while something is left to do: wait until an instance has come up.

        A pool's serving instances are replaced one by one, each only once the one before it serves: where a new one
        does not come up, the others stay as they are. New ones come first where there is room for both.
        """
        left = self.steps(running)
        start = self._fitting((each for each in left.start if each.instance not in running), running)
        coming = {each.pool for each in start}
        coming |= {each.placement.pool for each in running.values() if self._is_made(each) and not each.is_serving}
        coming |= {each.placement.pool for each in running.values() if each.is_leaving}
        stop: list[InstanceId] = []
        # First those in whose place another comes: what only goes serves until then.
        for instance in sorted(left.stop, key=lambda each: each not in self._wanted):
            old = running[instance]
            pool = old.placement.pool
            if old.is_leaving or (old.is_serving and pool in coming and self._is_pool_wanted(pool)):
                continue
            if old.is_serving:
                coming.add(pool)
            stop.append(instance)
        return Steps(tuple(start), tuple(stop))

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
