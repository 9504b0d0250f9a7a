"""A gateway's hold on slots: asking for them, waiting, keeping them while in use, giving them back.

It knows which leases and tickets are this gateway's. Who gets what is decided by the scripts; what a call does with its
slot, and what to do while Redis is away, is left to the gateway.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from orchestrator.core.errors import StoreError
from orchestrator.core.model import InstanceId, LeaseId, PoolName
from orchestrator.store import scripts
from orchestrator.store.admission import (
    Admission,
    AdmitRequest,
    Ejection,
    Kept,
    Leased,
    Outcome,
    Queued,
    Refused,
    Usage,
    Why,
    admission_of,
    ms,
)
from orchestrator.store.batch import Batch, Held, on_one_line, terms
from orchestrator.store.connection import Connection
from orchestrator.store.schema import grants, pool_keys

log = logging.getLogger(__name__)

ASK_AGAIN_S = 1.0  # pub/sub may lose a grant's message; a ticket nobody asks for within a lease's time is dropped
HOLD_OVER_S = 0.005  # behind the end of a hold, by Redis' clock
# A slot given back leaves with the next call that comes, or after this: one write and one waking of Redis for both.
# Against seconds of an answer nothing; between a call's end and the next one's beginning, in a busy gateway, a lot.
LATER_S = 0.001
# A process that was paused may find leases of its own long given to others: what it is told within this time of waking
# may be old news, and is asked for again.
BEAT_S, OLD_NEWS_S = 1.0, 1.0

T = TypeVar("T")


class Count(Protocol):
    """Told of every slot as a call of this gateway takes it and gives it back."""

    def took(self, instance: InstanceId) -> None: ...

    def gave(self, instance: InstanceId, hold_s: float) -> None:
        """`hold_s`: the engine works on that much longer."""


@dataclass(slots=True)
class _Ticket:
    request: AdmitRequest
    since: float  # loop time
    result: asyncio.Future[Leased | None] = field(repr=False)
    place: Queued
    on_queued: Callable[[Queued], None] | None = None


class Leases:
    """The leases and tickets of one gateway process.

    `holder` names the process and its life ("gw0.<random>"): what an earlier life held is not this one's. A grant is
    told on the holder's channel; tickets are asked for again each second and upon reconnect besides.
    """

    def __init__(
        self,
        connection: Connection,
        holder: str,
        lease_ttl_s: float,
        *,
        count: Count | None = None,
        ejection: Ejection | None = None,
        priority_weight_s: float = 10.0,
        affinity_ttl_s: float = 600.0,
    ) -> None:
        self._connection = connection
        self.holder = holder
        self._ttl_s = lease_ttl_s
        self._count = count
        self._by = terms(
            holder,
            lease_ttl_s,
            priority_weight_s=priority_weight_s,
            ejection=ejection or Ejection(),
            affinity_ttl_s=affinity_ttl_s,
        )
        self._batches: dict[PoolName, Batch] = {}  # what has not left yet
        self._leaves_soon = self._leaves_later = False
        self._tickets: dict[LeaseId, _Ticket] = {}
        self._unwanted: dict[PoolName, list[LeaseId]] = {}
        self._has_unwanted = asyncio.Event()
        self._came_up = (asyncio.Event(), asyncio.Event())  # for renewing, for asking again
        self._loops: list[asyncio.Task[None]] = []
        self._beating: asyncio.TimerHandle | None = None
        self._beat_s, self._woke_s = 0.0, float("-inf")
        self.held: dict[LeaseId, Held] = {}

    async def start(self) -> None:
        """Listen for grants, and begin to renew."""
        await self._connection.load(scripts.CALLS, scripts.RENEW, scripts.CANCEL)
        self._connection.on_up(self._note_up)
        await self._connection.subscribe(grants(self.holder), self._granted)
        work = (
            self._each(self._ttl_s / 3, self._came_up[0], self._renew, self._in_use),
            self._each(ASK_AGAIN_S, self._came_up[1], self._ask_again, self._in_line),
            self._each(None, self._has_unwanted, self._give_back, lambda: "slots were not given back"),
        )
        self._loops = [asyncio.create_task(each, name="leases") for each in work]
        self._beat_s = asyncio.get_running_loop().time()
        self._beat()

    async def admit(self, request: AdmitRequest, *, on_queued: Callable[[Queued], None] | None = None) -> Admission:
        """One round trip: a cached answer, a slot, a ticket (then `wait` for it), or why not. Raises StoreError.

        `on_queued` is told where a ticket stands each time it was asked for again: each second, while it waits.
        """
        try:
            admitted = await self._admit(request)
            if isinstance(admitted, Leased) and self._was_paused():
                admitted = await self._admit(request)
        except (asyncio.CancelledError, StoreError):
            # It may have been granted all the same; that nobody will use it, only we know.
            self.give_up(request.pool, request.lease)
            raise
        if isinstance(admitted, Leased):
            self.hold(request.lease, _held(request, admitted))
        elif isinstance(admitted, Queued):
            loop = asyncio.get_running_loop()
            ticket = _Ticket(request, loop.time(), loop.create_future(), admitted, on_queued)
            self._tickets[request.lease] = ticket
        return admitted

    def position(self, lease: LeaseId) -> Queued | None:
        """Where a ticket stood when it was last asked for, a second ago at most. None: it does not wait."""
        ticket = self._tickets.get(lease)
        return ticket.place if ticket else None

    async def wait(self, pool: PoolName, lease: LeaseId, timeout_s: float) -> Leased | None:
        """Wait for a ticket's slot. None: not in time, or withdrawn; either way nothing is left behind."""
        ticket = self._tickets.get(lease)
        if ticket is None:
            held = self.held.get(lease)
            return Leased(held.instance, lease) if held else None
        try:
            await asyncio.wait((ticket.result,), timeout=timeout_s)
        except asyncio.CancelledError:
            self.give_up(pool, lease)
            raise
        if ticket.result.done():
            return ticket.result.result()
        self.give_up(pool, lease)
        return None

    async def settle(
        self,
        pool: PoolName,
        lease: LeaseId,
        outcome: Outcome,
        *,
        hold_s: float = 0.0,
        answer: Kept | None = None,
        usage: Usage | None = None,
    ) -> None:
        """Give a lease back; one that is not held is left alone.

        `hold_s`: the engine works on that much longer, its slot stays taken. The answer is kept and the conversation's
        affinity set only where the outcome is OK. Raises StoreError; the slot is then back after the lease's time at
        the latest, since it is no longer renewed.
        """
        if (held := self._let_go(lease, hold_s)) is not None:
            done = asyncio.get_running_loop().create_future()
            batch = self._leaving(held.pool, is_urgent=True)
            batch.settle(lease, held, outcome, hold_s, answer, usage, done)
            await done

    def settle_soon(
        self,
        lease: LeaseId,
        outcome: Outcome,
        hold_s: float,
        answer: Kept | None,
        usage: Usage | None,
        alone_s: float = 0.0,
    ) -> None:
        """`settle`, not waited for; where Redis does not take it, the log says so.

        `alone_s`: where the outcome is BUSY, for how long the instance wants no calls.
        """
        if (held := self._let_go(lease, hold_s)) is not None:
            # Somebody here waits for a slot: each millisecond would be added to all who wait behind.
            batch = self._leaving(held.pool, is_urgent=bool(self._tickets))
            batch.settle(lease, held, outcome, hold_s, answer, usage, alone_s=alone_s)
            if hold_s > 0:
                # No call's end gives this slot on: whoever waits for it would be told a second later.
                asyncio.get_running_loop().call_later(hold_s + HOLD_OVER_S, self._sweep, held.pool)

    def _sweep(self, pool: PoolName) -> None:
        if self._loops:
            self._connection.post(f"a sweep of {pool}", scripts.SWEEP, pool_keys(pool), ())

    def tell_now(self) -> None:
        """Have Redis told at once of all that is held here, of which it may not know."""
        self._came_up[0].set()

    def leave_now(self) -> None:
        """Let go of what is on its way: Redis has it before what it is told next."""
        self._leave()

    async def cancel(self, pool: PoolName, lease: LeaseId) -> None:
        """Withdraw a ticket, or give back the lease it became; twice is harmless. Raises StoreError."""
        self._forget(lease)
        await self._connection.script(scripts.CANCEL, pool_keys(pool), (lease,), repeat=True)

    async def drop_earlier_lives(self, pool: PoolName, prefix: str) -> tuple[int, int]:
        """End what earlier processes of this name ("gw0.") left in a pool; answers how many leases and tickets."""
        leases, tickets = await drop_holder(self._connection, pool, prefix, alive=self.holder)
        return leases, tickets

    async def close(self) -> None:
        """Give everything back. Calls still under way must have been ended before."""
        self._leave()
        if self._beating is not None:
            self._beating.cancel()
        for each in self._loops:
            each.cancel()
        if self._loops:
            await asyncio.wait(self._loops)
        self._loops = []
        for lease, ticket in list(self._tickets.items()):
            self.give_up(ticket.request.pool, lease)
        for lease, held in list(self.held.items()):
            self.give_up(held.pool, lease)
        await self._give_back()
        try:
            await self._connection.unsubscribe(grants(self.holder))
        except StoreError as why:
            log.warning("leases: closed while Redis went away: %s", why)

    # --- asking ---

    async def _admit(self, request: AdmitRequest, waited_s: float = 0.0) -> Admission:
        reply = asyncio.get_running_loop().create_future()
        self._leaving(request.pool, is_urgent=True).admit(request, waited_s, reply)
        return admission_of(await reply, request.lease)

    def _leaving(self, pool: PoolName, *, is_urgent: bool) -> Batch:
        """The pool's calls that leave next: at the end of this turn of the loop, or a little later."""
        batch = self._batches.get(pool)
        if batch is None or batch.is_full:
            self._leave()
            batch = self._batches[pool] = Batch(pool, self._by)
        if is_urgent:
            if not self._leaves_soon:
                self._leaves_soon = True
                asyncio.get_running_loop().call_soon(self._leave)
        elif not self._leaves_later:
            self._leaves_later = True
            asyncio.get_running_loop().call_later(LATER_S, self._leave_at_last)
        return batch

    def _leave_at_last(self) -> None:
        self._leaves_later = False
        self._leave()

    def _leave(self) -> None:
        self._leaves_soon = False
        batches, self._batches = self._batches, {}
        for each in batches.values():
            self._connection.send(scripts.CALLS, *each.asked(), each.told)

    def _granted(self, payload: bytes) -> None:
        lease, _, instance = payload.decode().partition("\n")
        if not lease:  # Redis was away, or its clock went ahead: what is not renewed now is taken for left behind
            self.tell_now()
            return
        if self._was_paused():
            self._came_up[1].set()
            return
        self._resolve(LeaseId(lease), Leased(InstanceId(instance), LeaseId(lease)))

    def _beat(self) -> None:
        """Notice that this process did not run for so long that its leases may have ended."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        if now_s - self._beat_s > BEAT_S + self._ttl_s / 2:
            self._woke_s = now_s
            self._note_up()
        self._beat_s = now_s
        self._beating = loop.call_later(BEAT_S, self._beat)

    def _was_paused(self) -> bool:
        now_s = asyncio.get_running_loop().time()
        return now_s - self._beat_s > BEAT_S + self._ttl_s / 2 or now_s - self._woke_s < OLD_NEWS_S

    def _resolve(self, lease: LeaseId, result: Leased | None) -> None:
        ticket = self._tickets.pop(lease, None)
        if ticket is None or ticket.result.done():
            return  # Withdrawn meanwhile, or told already: a grant is told by message and by asking again.
        if result is not None:
            self.hold(lease, _held(ticket.request, result))
        ticket.result.set_result(result)

    def hold(self, lease: LeaseId, held: Held) -> None:
        """Keep a lease from now on. One that Redis did not grant is told to it by renewing."""
        self.held[lease] = held
        if self._count is not None:
            self._count.took(held.instance)

    def _let_go(self, lease: LeaseId, hold_s: float) -> Held | None:
        held = self.held.pop(lease, None)
        if held is not None and self._count is not None:
            self._count.gave(held.instance, hold_s)
        return held

    def _forget(self, lease: LeaseId, hold_s: float = 0.0) -> None:
        self._let_go(lease, hold_s)
        self._resolve(lease, None)

    async def _ask_again(self) -> None:
        """Ask what became of each ticket; one that Redis lost is filed again where it stood."""
        now = asyncio.get_running_loop().time()
        asked = [each for each in self._tickets.values() if now - each.since < each.request.wait_s]
        answers = (
            self._admit(
                each.request._replace(wait_s=each.request.wait_s - (now - each.since), answer_key="", making=""),
                now - each.since,
            )
            for each in asked
        )
        for ticket, admitted in zip(asked, await asyncio.gather(*answers, return_exceptions=True), strict=True):
            if isinstance(admitted, Leased):
                self._resolve(ticket.request.lease, admitted)
            elif isinstance(admitted, Queued):
                _tell(ticket, admitted)
            elif isinstance(admitted, Refused) and admitted.why is Why.ENDED:
                self._resolve(ticket.request.lease, None)
            elif isinstance(admitted, BaseException):
                raise admitted

    # --- keeping ---

    async def _renew(self) -> None:
        by_pool: dict[PoolName, list[tuple[LeaseId, InstanceId]]] = defaultdict(list)
        for lease, held in self.held.items():
            by_pool[held.pool].append((lease, held.instance))
        for pool, held_here in by_pool.items():
            for some in _in_parts(held_here):
                await self._renew_some(pool, some)

    async def _renew_some(self, pool: PoolName, held: list[tuple[LeaseId, InstanceId]]) -> None:
        # Those settled while others were being renewed are left out: they would come back to life.
        pairs = [each for lease, instance in held if lease in self.held for each in (lease, instance)]
        anew, over = await self._connection.script(
            scripts.RENEW, pool_keys(pool), (self.holder, ms(self._ttl_s), *pairs), repeat=True
        )
        if anew:
            log.warning("%s: Redis had lost %d leases of this gateway; they are counted again", pool, len(anew))
        if over:
            log.warning("%s: %d leases of this gateway are on instances with more calls than slots", pool, len(over))

    def _note_up(self) -> None:
        for each in self._came_up:
            each.set()

    async def _each(
        self,
        period_s: float | None,
        stirred: asyncio.Event,
        act: Callable[[], Coroutine[Any, Any, None]],
        what_if_not: Callable[[], str],
    ) -> None:
        """Act each period, and at once when stirred. Where Redis does not let it, the log says what that means."""
        while True:
            with suppress(TimeoutError):  # The period is over.
                async with asyncio.timeout(period_s):  # wait_for can swallow a cancellation (CPython 86296)
                    await stirred.wait()
            stirred.clear()
            try:
                await act()
            except StoreError as why:
                log.warning("%s: %s", what_if_not(), why)

    def _in_use(self) -> str:
        return (
            f"Redis was not told that calls are under way here ({len(self.held)}): they run on, and it frees their "
            f"slots {self._ttl_s:g} s after it last heard of them"
        )

    def _in_line(self) -> str:
        return f"Redis was not asked what became of the calls that wait for a slot here ({len(self._tickets)})"

    # --- giving back what nobody here will use ---

    def give_up(self, pool: PoolName, lease: LeaseId, hold_s: float = 0.0) -> None:
        """Let go of a ticket or lease without waiting for Redis: it is given back when Redis is there, or expires."""
        self._forget(lease, hold_s)
        self._unwanted.setdefault(pool, []).append(lease)
        self._has_unwanted.set()

    async def _give_back(self) -> None:
        unwanted, self._unwanted = self._unwanted, {}
        for pool, leases in unwanted.items():
            try:
                for some in _in_parts(leases):
                    await self._connection.script(scripts.CANCEL, pool_keys(pool), some, repeat=True)
            except StoreError as why:
                log.warning("%s: %d leases or tickets, given up here, are left to expire: %s", pool, len(leases), why)


async def drop_holder(connection: Connection, pool: PoolName, prefix: str, *, alive: str = "") -> tuple[int, int]:
    """End the leases and tickets of holders whose names start with `prefix`, but for the one that is alive."""
    leases, tickets = await connection.script(scripts.DROP_HOLDER, pool_keys(pool), (prefix, alive), repeat=True)
    return leases, tickets


def _held(request: AdmitRequest, leased: Leased) -> Held:
    remembered = request.remembered or request.affinity
    return Held(request.pool, leased.instance, remembered, on_one_line(request.caller), request.making)


def _tell(ticket: _Ticket, place: Queued) -> None:
    """Say where a ticket stands now, unless it was granted or withdrawn meanwhile."""
    ticket.place = place
    if ticket.on_queued is not None and not ticket.result.done():
        ticket.on_queued(place)


def _in_parts(values: list[T]) -> Iterator[list[T]]:
    """A few hundred at a time: a longer script would hold up everybody's."""
    return (values[at : at + 500] for at in range(0, len(values), 500))
