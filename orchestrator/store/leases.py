"""A gateway's hold on slots: asking for them, waiting, keeping them while in use, giving them back.

It knows which leases and tickets are this gateway's. Who gets what is decided by the scripts; what a call does with its
slot, and what to do while Redis is away, is left to the gateway.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

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
from orchestrator.store.batch import Count, Held, held_of, in_parts, terms
from orchestrator.store.batches import Batches
from orchestrator.store.connection import Connection
from orchestrator.store.pulse import Pulse
from orchestrator.store.schema import grants, pool_keys
from orchestrator.store.tickets import Ticket
from orchestrator.store.unwanted import Unwanted

log = logging.getLogger(__name__)

ASK_AGAIN_S = 1.0  # pub/sub may lose a grant's message; a ticket nobody asks for within a lease's time is dropped
HOLD_OVER_S = 0.005  # behind the end of a hold, by Redis' clock


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
        by = terms(
            holder,
            lease_ttl_s,
            priority_weight_s=priority_weight_s,
            ejection=ejection or Ejection(),
            affinity_ttl_s=affinity_ttl_s,
        )
        self._batches = Batches(connection, by)  # what has not left yet
        self._tickets: dict[LeaseId, Ticket] = {}
        self._unwanted = Unwanted(connection)
        self._pulse = Pulse(lease_ttl_s / 2, self._note_up)
        self._came_up = (asyncio.Event(), asyncio.Event())  # for renewing, for asking again
        self._loops: list[asyncio.Task[None]] = []
        self._is_in_doubt = False
        self.held: dict[LeaseId, Held] = {}

    async def start(self) -> None:
        """Listen for grants, and begin to renew."""
        await self._connection.load(scripts.CALLS, scripts.RENEW, scripts.CANCEL)
        self._connection.on_up(self._note_up)
        await self._connection.subscribe(grants(self.holder), self._granted)
        work = (
            self._each(self._ttl_s / 3, self._came_up[0], self._renew, self._in_use),
            self._each(ASK_AGAIN_S, self._came_up[1], self._ask_again, self._in_line),
            self._each(None, self._unwanted.stirred, self._unwanted.give_back, lambda: "slots were not given back"),
        )
        self._loops = [asyncio.create_task(each, name="leases") for each in work]
        self._pulse.start()

    async def admit(self, request: AdmitRequest, *, on_queued: Callable[[Queued], None] | None = None) -> Admission:
        """One round trip: a cached answer, a slot, a ticket (then `wait` for it), or why not. Raises StoreError.

        `on_queued` is told where a ticket stands each time it was asked for again: each second, while it waits.
        """
        try:
            admitted = await self._admit(request)
            if isinstance(admitted, Leased) and self._pulse.was_missed:
                admitted = await self._admit(request)
            if isinstance(admitted, Leased) and self._is_in_doubt:
                raise StoreError("Redis is back, and does not know yet of every slot in use")
        except (asyncio.CancelledError, StoreError):
            # It may have been granted all the same; that nobody will use it, only we know.
            self.give_up(request.pool, request.lease)
            raise
        if isinstance(admitted, Leased):
            self.hold(request.lease, held_of(request, admitted))
        elif isinstance(admitted, Queued):
            loop = asyncio.get_running_loop()
            ticket = Ticket(request, loop.time(), loop.create_future(), admitted, on_queued, self._is_in_doubt)
            self._tickets[request.lease] = ticket
        return admitted

    def position(self, lease: LeaseId) -> Queued | None:
        """Where a ticket stood when it was last asked for, a second ago at most. None: it does not wait."""
        ticket = self._tickets.get(lease)
        return ticket.place if ticket else None

    async def wait(self, pool: PoolName, lease: LeaseId, timeout_s: float) -> Leased | None:
        """Wait for a ticket's slot. None: not in time, or withdrawn; either way nothing is left behind.

        Raises StoreError where those who wait are let go.
        """
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
            return ticket.outcome()
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
            batch = self._batches.of(held.pool, is_urgent=True)
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
            batch = self._batches.of(held.pool, is_urgent=bool(self._tickets))
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

    async def tell(self) -> None:
        """Redis has been told of all that was held here when this began. Raises StoreError."""
        await self._renew()

    def leave_now(self) -> None:
        """Let go of what is on its way: Redis has it before what it is told next."""
        self._batches.leave()

    def doubt(self) -> None:
        """Redis is away: what it grants is not used until `trust`. It may have lost leases, and not know of others."""
        self._is_in_doubt = True
        for each in self._tickets.values():
            each.is_doubted = True

    def trust(self) -> None:
        """Redis knows of every slot in use. Where it granted one too many before it did, that one is not used."""
        self._is_in_doubt = False
        self._came_up[1].set()

    def let_waiting_go(self, why: StoreError) -> None:
        """Whoever waits here for Redis to grant a slot is told that it will not, in the order of asking."""
        for each in list(self._tickets.values()):
            self._let_go_of(each, why)

    def _let_go_of(self, ticket: Ticket, why: StoreError) -> None:
        self._tickets.pop(ticket.request.lease, None)
        self.give_up(ticket.request.pool, ticket.request.lease)
        if not ticket.result.done():
            ticket.result.set_result(why)

    async def cancel(self, pool: PoolName, lease: LeaseId) -> None:
        """Withdraw a ticket, or give back the lease it became; twice is harmless. Raises StoreError."""
        self._forget(lease)
        await self._connection.script(scripts.CANCEL, pool_keys(pool), (lease,), repeat=True)

    async def drop_earlier_lives(self, pool: PoolName, prefix: str) -> tuple[int, int]:
        """End what earlier processes of this name ("gw0.") left in a pool; answers how many leases and tickets."""
        keys, named = pool_keys(pool), (prefix, self.holder)
        leases, tickets = await self._connection.script(scripts.DROP_HOLDER, keys, named, repeat=True)
        return leases, tickets

    async def close(self) -> None:
        """Give everything back. Calls still under way must have been ended before."""
        self._batches.leave()
        self._pulse.stop()
        for each in self._loops:
            each.cancel()
        if self._loops:
            await asyncio.wait(self._loops)
        self._loops = []
        for lease, ticket in list(self._tickets.items()):
            self.give_up(ticket.request.pool, lease)
        for lease, held in list(self.held.items()):
            self.give_up(held.pool, lease)
        await self._unwanted.give_back()
        try:
            await self._connection.unsubscribe(grants(self.holder))
        except StoreError as why:
            log.warning("leases: closed while Redis went away: %s", why)

    # --- asking ---

    async def _admit(self, request: AdmitRequest, waited_s: float = 0.0) -> Admission:
        reply = asyncio.get_running_loop().create_future()
        self._batches.of(request.pool, is_urgent=True).admit(request, waited_s, reply)
        return admission_of(await reply, request.lease)

    def _granted(self, payload: bytes) -> None:
        lease, _, instance = payload.decode().partition("\n")
        if not lease:  # Redis was away, or its clock went ahead: what is not renewed now is taken for left behind
            self.tell_now()
            return
        ticket = self._tickets.get(LeaseId(lease))
        if self._pulse.was_missed or (ticket is not None and ticket.is_doubted):
            self._came_up[1].set()
            return
        self._resolve(LeaseId(lease), Leased(InstanceId(instance), LeaseId(lease)))

    def _resolve(self, lease: LeaseId, result: Leased | None) -> None:
        ticket = self._tickets.pop(lease, None)
        if ticket is None or ticket.result.done():
            return  # Withdrawn meanwhile, or told already: a grant is told by message and by asking again.
        if result is not None:
            self.hold(lease, held_of(ticket.request, result))
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
        if self._is_in_doubt:
            return
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
                await self._take_up(ticket, admitted)
            elif isinstance(admitted, Queued):
                ticket.is_doubted = self._is_in_doubt
                ticket.stands(admitted)
            elif isinstance(admitted, Refused) and admitted.why is Why.ENDED:
                self._resolve(ticket.request.lease, None)
            elif isinstance(admitted, BaseException):
                raise admitted

    async def _take_up(self, ticket: Ticket, leased: Leased) -> None:
        """Use what was granted, unless it was while Redis did not know of every slot, and it is one too many."""
        lease = ticket.request.lease
        if ticket.is_doubted:
            keys, pair = pool_keys(ticket.request.pool), (lease, leased.instance)
            _, over = await self._connection.script(scripts.RENEW, keys, (self.holder, ms(self._ttl_s), *pair))
            if over:
                self._let_go_of(ticket, StoreError(f"{leased.instance}: a slot was granted that is in use"))
                return
        if not self._is_in_doubt:
            self._resolve(lease, leased)

    # --- keeping ---

    async def _renew(self) -> None:
        by_pool: dict[PoolName, list[tuple[LeaseId, InstanceId]]] = defaultdict(list)
        for lease, held in self.held.items():
            by_pool[held.pool].append((lease, held.instance))
        for pool, held_here in by_pool.items():
            for some in in_parts(held_here):
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
        self._unwanted.stir()

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
        """Let go of a ticket or lease without waiting for Redis: it is given back when Redis is there, or expires.

        Where the instance works on for `hold_s`, not before: its slot is not free yet.
        """
        self._forget(lease, hold_s)
        if hold_s > 0:
            asyncio.get_running_loop().call_later(hold_s, self._unwanted.add, pool, lease)
        else:
            self._unwanted.add(pool, lease)
