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
from orchestrator.store.returning import told

log = logging.getLogger(__name__)

# When Redis is back it has not heard of the slots that gateways took meanwhile, and may have lost who had some before.
# Each tells it at once, and asks it again once all have: otherwise a slot would be sold twice. One that is gone, or was
# not cut off at all, tells nothing; it is waited for no longer than the others take to notice (store/line).
REJOIN_AFTER_S = 2.5
LOOK_FOR_OTHERS_S = 0.1
# A slot whose caller had left is taken for two seconds more (admission), also where Redis has lost the word of it.
ENDED_AFTER_S = 2.0
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
        self._rejoining: asyncio.Task[None] | None = None
        self._calling_home: asyncio.TimerHandle | None = None
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
        # Once Redis was told of all that this gateway uses, or leases again, those of other machines go by that.
        is_told = self._rejoining is not None or self._connection.is_up
        if share.elsewhere and (is_told or time.monotonic() - self._lost_s < OTHERS_END_S):
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
        self._leases.doubt()
        if self._rejoining is not None:
            self._rejoining.cancel()
            self._rejoining = None
        if self._calling_home is not None:
            self._calling_home.cancel()
        self._calling_home = asyncio.get_running_loop().call_later(OTHERS_END_S, self._call_home)

    def _call_home(self) -> None:
        """What waits in Redis' line would wait for as long as it is away, while whoever comes later is served here."""
        self._calling_home = None
        if not self._connection.is_up:
            self._leases.let_waiting_go(StoreError(self._connection.problem))

    def _came_up(self) -> None:
        if self._rejoining is not None:
            self._rejoining.cancel()
            self._rejoining = None
        was_up, self._was_up = self._was_up, True
        if not self._connection.is_up:
            return  # lost again in the same turn of the loop
        # Where it was away when this worker began, others have taken slots meanwhile, too.
        if was_up or self._connection.has_failed:
            self._rejoining = asyncio.create_task(self._rejoin(), name="back to Redis")
        else:
            self._leases.trust()

    async def _rejoin(self) -> None:
        """Wait until Redis counts every slot again; what waits here is to wait there then, as everybody's calls do."""
        up_s = time.monotonic()
        try:
            async with asyncio.timeout(REJOIN_AFTER_S):
                await self._until_all_have_told()
        except TimeoutError:
            log.info("Redis is back, and not every gateway has told it what it uses: they are waited for no longer")
        except StoreError as why:
            log.warning("Redis is back, and cannot be told what this gateway uses: %s", why)
            await asyncio.sleep(up_s + REJOIN_AFTER_S - time.monotonic())
        await asyncio.sleep(self._lost_s + ENDED_AFTER_S - time.monotonic())
        self._rejoining = None
        self._leases.trust()
        self._send_to_redis()
        self._mark(is_untold=False)

    async def _until_all_have_told(self) -> None:
        await self._leases.tell()
        gateway = self._leases.holder.rpartition(".")[0].rstrip("b")  # a worker and its successor are one
        while True:
            have_told = await told(self._connection, gateway, time.monotonic() - self._lost_s)
            if have_told >= self._share().gateways:
                break
            await asyncio.sleep(LOOK_FOR_OTHERS_S)

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
