"""Pools whose number of instances follows their load, in a controller: looked at again and again, decided, told of.

How many there should be is `core.placement.replicas`'s to decide, where they go placement's; a number is then wanted
like any other. What runs is the beginning: a controller that is restarted goes on from there.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from orchestrator.core.errors import StoreError
from orchestrator.core.model import Instance, InstanceState, Moment, PoolName, Snapshot
from orchestrator.core.numbers import AskedFor, Followed, Range
from orchestrator.core.placement.replicas import USUAL_LOAD_S, Decided, Pace, Seen, decide
from orchestrator.fleet.order import Order

log = logging.getLogger(__name__)

_COMING = (InstanceState.STARTING, InstanceState.LOADING)


class Loads(Protocol):
    """What the store is asked for here. Raises StoreError."""

    async def asked_for(self, pools: Sequence[PoolName]) -> Mapping[PoolName, AskedFor]: ...


@dataclass(frozen=True, slots=True)
class Told:
    """Who hears of it: what happened, and that something else is wanted."""

    happened: Callable[[Moment, str], None]
    replan: Callable[[], None]


class FollowingLoad:
    """`instances`: all of this controller; `is_sure`: whether what the store counts can be believed."""

    def __init__(
        self,
        store: Loads,
        instances: Callable[[], Iterable[Instance]],
        is_sure: Callable[[], bool],
        pace: Callable[[], Pace],
        told: Told,
    ) -> None:
        self._store, self._instances, self._is_sure, self._pace, self._told = store, instances, is_sure, pace, told
        self._pools: dict[PoolName, _Pool] = {}
        self._deployment = 0
        self._published: Mapping[PoolName, Followed] = {}

    # --- for the steward ---------------------------------------------------------------------------------------------

    def go_on_with(self, published: Snapshot | None, running: Collection[PoolName]) -> None:
        """As an earlier controller left it, of pools that run; what is deployed says itself how far it went."""
        if published is None:
            return
        self._published = {each.name: each.followed for each in published.pools if each.followed is not None}
        if not published.deployment:
            found = {name: each for name, each in self._published.items() if name in running}
            self._pools = {name: _Pool(each, Decided(each.instances)) for name, each in found.items()}

    @property
    def numbers(self) -> Mapping[PoolName, Followed]:
        """What is wanted now, by pool."""
        return {name: each.wanted for name, each in self._pools.items()}

    def followed(self, pool: PoolName) -> Followed | None:
        """What is in force; None: the pool follows no load."""
        return self._pools[pool].followed if pool in self._pools else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be had, a sentence each."""
        return tuple(each.note for each in self._pools.values() if each.note)

    def take_up(self, order: Order, numbers: Mapping[PoolName, Followed]) -> None:
        """What became of the `numbers` that were asked for: their instances, or as many as there is room for."""
        wanted = order.wanted
        ranges = wanted.ranges if wanted is not None else {}
        placed = Counter(each.pool for each in wanted.plan.placements) if wanted is not None else Counter()
        placed |= Counter(order.due)  # what a host has lost for a while was not given up
        known = self._pools if order.deployment == self._deployment else {}
        self._deployment, self._pools = order.deployment, {}
        for name, limits in ranges.items():
            pool = known.get(name)
            if pool is None or name not in numbers or limits.is_foretold_anew(pool.followed.limits):
                self._pools[name] = _begun(limits, placed[name], self._published.get(name))
                continue
            self._pools[name] = pool
            self._came_out(name, pool, numbers[name], limits, placed[name])
        self._published = {}

    def _came_out(self, name: PoolName, pool: _Pool, wanted: Followed, limits: Range, placed: int) -> None:
        was, asked = pool.followed.instances, limits.clamp(wanted.instances)
        now = max(was, placed) if was < asked and placed < asked else asked
        why = wanted.why if asked == wanted.instances else f"the settings say: {limits.words()}"
        if now < asked:
            pool.is_refused(now, time.monotonic() + self._pace().again_s)
            self._says(name, pool, f"its load asks for {asked} instances, and there is room for {now}")
        pool.followed = Followed(limits, now, pool.followed.why if now == was else why)
        if pool.decided.instances == wanted.instances != now:  # otherwise something newer is wanted already
            pool.decided = Decided(now)
        if now != was:
            self._told.happened(Moment.RESIZED, f"{name}: {was} → {now} instances: {why}")

    def _says(self, name: PoolName, pool: _Pool, what: str) -> None:
        note = f"{name}: {what}; free memory of a card, add one, or ask for less elsewhere"
        if note != pool.note:
            log.warning("%s", note)
        pool.note = note

    # --- looking -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._pace().look_s)  # load has no event
            if self._pools:
                await self._look()

    async def _look(self) -> None:
        try:
            asked = await self._store.asked_for(tuple(self._pools))
        except StoreError as why:
            log.debug("how pools are asked for is not known: %s", why)  # who publishes says it aloud
            asked = {}
        if not asked or not self._is_sure():
            for each in self._pools.values():
                each.is_unknown()
            return
        now_s, members = time.monotonic(), self._members()
        changed = [
            pool.look(seen, members.get(name, ()), now_s, self._pace())
            for name, seen in asked.items()
            if (pool := self._pools.get(name)) is not None
        ]
        if any(changed):
            self._told.replan()

    def _members(self) -> Mapping[PoolName, Sequence[Instance]]:
        found: dict[PoolName, list[Instance]] = {}
        for each in self._instances():
            found.setdefault(each.pool, []).append(each)
        return found


@dataclass(slots=True)
class _Pool:
    """`followed` is in force, `decided` wanted. `at_most`: what there was room for, to be believed until `until_s`."""

    followed: Followed
    decided: Decided
    note: str = ""
    at_most: int | None = None
    until_s: float = 0.0
    busy: float | None = None  # the mean; None: not looked at yet
    looked_s: float = 0.0

    @property
    def wanted(self) -> Followed:
        return Followed(self.followed.limits, self.decided.instances, self.decided.why or self.followed.why)

    def is_refused(self, room_for: int, until_s: float) -> None:
        self.at_most, self.until_s = room_for, until_s

    def is_unknown(self) -> None:
        """Nobody can tell how it is asked for: that is no quiet while."""
        self.busy, self.decided = None, replace(self.decided, low_since_s=None, low_needs=0)

    def look(self, asked: AskedFor, members: Sequence[Instance], now_s: float, pace: Pace) -> bool:
        """Whether another number is wanted from now on."""
        self._mean(asked.busy, now_s, pace.mean_s)
        if not members or any(each.state in _COMING for each in members):
            return False  # what was decided is on its way: how that serves is to be seen first
        seen = self._seen(asked, members, now_s)
        if self.at_most is not None and now_s >= self.until_s:
            self.at_most = None
        before, limits = self.decided, self.followed.limits
        most = limits.most if self.at_most is None else min(self.at_most, limits.most or self.at_most)
        slots = max(each.slots for each in members)
        least = min(limits.least, before.instances)  # where fewer run, placement knows why, and tries again
        self.decided = decide(before, seen, slots_each=slots, least=least, most=most, pace=pace)
        if self.at_most is None and self.decided.instances <= before.instances:
            self.note = ""
        return self.decided.instances != before.instances

    def _mean(self, busy: int, now_s: float, over_s: float) -> None:
        kept = math.exp(-(now_s - self.looked_s) / over_s)
        self.busy = float(busy) if self.busy is None else self.busy * kept + busy * (1 - kept)
        self.looked_s = now_s

    def _seen(self, asked: AskedFor, members: Sequence[Instance], now_s: float) -> Seen:
        serving = [each for each in members if each.state is InstanceState.SERVING]
        loads = [each.load_s for each in members if each.load_s]
        return Seen(
            at_s=now_s,
            busy=self.busy or 0.0,
            slots=sum(each.slots for each in serving),
            queued=asked.queued,
            queue_wait_s=asked.wait_s,
            at_work=asked.busy,
            load_s=max(loads, default=USUAL_LOAD_S),
        )


def _begun(limits: Range, placed: int, before: Followed | None) -> _Pool:
    """`before`: as an earlier controller published it; where that came to the same, its reason stands."""
    if before is not None and (before.limits, before.instances) == (limits, placed):
        return _Pool(before, Decided(placed))
    why = f"{limits.foretold:g} calls at once were foretold" if limits.foretold is not None else "as it began"
    return _Pool(Followed(limits, placed, why), Decided(placed))
