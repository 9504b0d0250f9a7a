"""Slots while Redis is away: those of this gateway's own share, as far as no sibling uses them, waited for here.

It knows when this gateway is on its own and who waits for a slot of its share. Which slot that is,
`core.admission.choose_alone` decides; what siblings use, `shared_slots` tells; when to ask Redis, `admission` decides.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator import telemetry
from orchestrator.core.admission import Share, choose_alone
from orchestrator.core.errors import CapacityError, StoreError
from orchestrator.core.model import Instance, InstanceState, LeaseId, Pool, PoolName
from orchestrator.gateway.live import Live
from orchestrator.gateway.shared_slots import SharedSlots
from orchestrator.store.batch import Held
from orchestrator.store.connection import Connection
from orchestrator.store.leases import Leases

log = logging.getLogger(__name__)

# When Redis is back it has not heard of the slots that gateways took meanwhile. Each tells it at once, but may notice a
# second later than the first (store/connection), and a slot whose caller left before is taken for two seconds more
# (admission): until then all keep to their shares, or slots would be sold twice.
REJOIN_AFTER_S = 2.5
# Where there are gateways on other machines, each stops taking slots by itself so long after Redis is back, and tells
# it of those that it has: the first that asks Redis again must find there what the last has taken.
TAKES_NO_MORE_AFTER_S = 1.0
# A slot that a sibling gives back, or a lock that it lets go, wakes nobody here. While calls wait, the table is looked
# at again after this: a few per cent of a short answer, and next to no work.
LOOK_AGAIN_S = 0.05
# Of gateways on other machines nobody here knows what they use. What Redis gave them beyond their share before it went
# is given this long to end; nearly every fail-over of Redis is over by then, too, and no slot was shared out at all.
OTHERS_END_S = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    """A call that waits for a slot of this gateway's share; its turn is None where it is to ask Redis instead."""

    pool: Pool
    lease: LeaseId
    affinity: str
    excluded: tuple[str, ...]
    turn: asyncio.Future[Instance | None]


class Alone:
    """What one gateway may do by itself, and who waits for it. `share`: its part, as gateways are known now."""

    def __init__(
        self, live: Live, connection: Connection, leases: Leases, slots: SharedSlots, share: Callable[[], Share]
    ) -> None:
        self._live, self._connection, self._leases = live, connection, leases
        self._slots, self._share = slots, share
        self._waiting: dict[PoolName, deque[_Waiter]] = {}
        self._untold: set[LeaseId] = set()  # taken without Redis, which hears of them by and by
        self._is_marked = False
        self._has_said = False
        self._was_up = False
        self._lost_s = time.monotonic()
        self._rejoining: asyncio.TimerHandle | None = None
        self._stopping: asyncio.TimerHandle | None = None
        self._takes_no_more = False
        self._looking: asyncio.TimerHandle | None = None
        connection.on_up(self._came_up)
        connection.follow(self)

    @property
    def is_alone(self) -> bool:
        """Redis is away, or was a moment ago."""
        return not self._connection.is_up or self._rejoining is not None

    async def admit(
        self, pool: Pool, lease: LeaseId, affinity: str, excluded: tuple[str, ...], deadline_s: float
    ) -> Instance | None:
        """A slot of this gateway's own share, in the order of asking; None: Redis is back and is to be asked."""
        loop = asyncio.get_running_loop()
        waiter = _Waiter(pool, lease, affinity, excluded, loop.create_future())
        queue = self._waiting.setdefault(pool.name, deque())
        queue.append(waiter)
        self.grant(pool.name)
        try:
            waiting = sum(not each.turn.done() for each in queue)
            if waiting > self._live.rules.limits.queue_length or not _has_a_chance(pool, excluded):
                raise CapacityError(f"{pool.name}: Redis is away and this gateway's slots are taken", 1)
            async with asyncio.timeout_at(deadline_s):
                return await waiter.turn
        except BaseException as why:
            if waiter.lease in self._leases.held:  # granted in the same turn of the loop
                self._leases.give_up(pool.name, lease)
            if isinstance(why, TimeoutError):
                raise CapacityError(f"{pool.name}: Redis is away and no slot came free in time", 5) from why
            raise
        finally:
            queue.remove(waiter)
            self.grant(pool.name)

    def has_room(self, instance: Instance) -> bool:
        """Whether a slot that Redis granted, and that is counted, is truly there.

        It may not be while a sibling has lost Redis and this gateway has not, or not yet read that it has.
        """
        return not self._slots.is_somebody_untold or self._slots.everyones(instance.id) <= instance.slots

    async def until_room_again(self, deadline_s: float) -> None:
        """Wait before Redis is asked again after it granted a slot that was not there. Raises CapacityError."""
        if asyncio.get_running_loop().time() > deadline_s:
            raise CapacityError("slots that Redis takes for free are used by a gateway that has lost it", 1)
        await asyncio.sleep(LOOK_AGAIN_S)

    def grant(self, pool: PoolName) -> None:
        """Give what is free of this gateway's share to who has waited longest."""
        waiting = [each for each in self._waiting.get(pool, ()) if not each.turn.done()]
        if waiting:
            self._mark(is_untold=True)
            with self._slots.locked() as is_ours:
                if is_ours:
                    self._grant_in_turn(waiting)
            if self._looking is None and not all(each.turn.done() for each in waiting):
                self._looking = asyncio.get_running_loop().call_later(LOOK_AGAIN_S, self._look_again)
        elif self._is_marked:
            self._mark(is_untold=self.is_alone)

    def _grant_in_turn(self, waiting: list[_Waiter]) -> None:
        share = self._share()
        if share.elsewhere and (self._takes_no_more or time.monotonic() - self._lost_s < OTHERS_END_S):
            return
        full: set[int] = set()  # pools that have no slot for who would take any: thousands may wait
        for waiter in waiting:
            if id(waiter.pool) in full:
                continue
            instances: list[str] = [each.id for each in waiter.pool.instances]
            own = {each: self._slots.own(each) for each in instances}
            everyones = {each: self._slots.everyones(each) for each in instances}
            instance = choose_alone(waiter.pool, own, everyones, share, waiter.excluded)
            if instance is not None:
                # Held like any lease: when Redis is back, renewing tells it of this one.
                self._leases.hold(waiter.lease, Held(waiter.pool.name, instance.id, waiter.affinity))
                self._untold.add(waiter.lease)
                waiter.turn.set_result(instance)
            elif not waiter.excluded:
                full.add(id(waiter.pool))

    def _look_again(self) -> None:
        self._looking = None
        if self.is_alone:
            for pool in tuple(self._waiting):
                self.grant(pool)
        else:
            self._send_to_redis()

    def _mark(self, *, is_untold: bool) -> None:
        """Tell the siblings whether Redis knows of all that this gateway uses."""
        self._untold &= self._leases.held.keys()
        self._is_marked = is_untold or bool(self._untold)
        self._slots.mark_untold(self._is_marked)

    def changed(self, keys: Sequence[bytes] | None) -> None:
        """Nothing is tracked here."""

    def lost(self) -> None:
        """Redis is away from now on."""
        self._lost_s = time.monotonic()
        self._takes_no_more = False
        for each in (self._rejoining, self._stopping):
            if each is not None:
                each.cancel()
        self._rejoining = self._stopping = None

    def _came_up(self) -> None:
        if self._rejoining is not None:
            self._rejoining.cancel()
        # Where it was away when this worker began, others have taken slots meanwhile, too.
        if self._was_up or self._connection.has_failed:
            loop = asyncio.get_running_loop()
            self._stopping = loop.call_later(TAKES_NO_MORE_AFTER_S, self._take_no_more)
            self._rejoining = loop.call_later(REJOIN_AFTER_S, self._rejoin)
        self._was_up = True

    def _take_no_more(self) -> None:
        self._stopping, self._takes_no_more = None, True
        self._leases.tell_now()

    def _rejoin(self) -> None:
        """Redis counts every slot again: what waits here is to wait there, where every gateway's calls do."""
        self._rejoining, self._takes_no_more = None, False
        self._send_to_redis()
        self._mark(is_untold=False)

    def _send_to_redis(self) -> None:
        for queue in self._waiting.values():
            for waiter in queue:
                if not waiter.turn.done():
                    waiter.turn.set_result(None)

    def say(self, why: StoreError | None = None) -> None:
        """Say once that this gateway is on its own, and why."""
        telemetry.STORE_ERRORS.inc()
        if not self._has_said:
            reason = why or self._connection.problem or "Redis is back, not all slots are counted yet"
            log.error("serving alone, by this gateway's share of the slots and without the cache: %s", reason)
        self._has_said = True
        telemetry.UP.set(0)

    def say_together(self) -> None:
        """Say that Redis leases the slots again, where something else was said before."""
        if self._has_said:
            log.warning("Redis is back: slots are leased together again")
            self._has_said = False
            telemetry.UP.set(1)


def _has_a_chance(pool: Pool, excluded: tuple[str, ...]) -> bool:
    """Whether waiting can help: an instance serves that has not failed this call already."""
    serving = (each for each in pool.instances if each.state is InstanceState.SERVING and each.slots)
    return any(each.id not in excluded for each in serving)
