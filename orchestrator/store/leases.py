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
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

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
from orchestrator.store.connection import Connection
from orchestrator.store.link import Arg
from orchestrator.store.schema import grants, pool_affinity, pool_answer, pool_keys, pool_usage

log = logging.getLogger(__name__)

ASK_AGAIN_S = 1.0  # pub/sub may lose a grant's message; a ticket nobody asks for within a lease's time is dropped
USAGE_KEPT_S = 40 * 86_400

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Held:
    """A lease of this gateway, on a call that has not been settled."""

    pool: PoolName
    instance: InstanceId
    affinity: str = ""


@dataclass(slots=True)
class _Ticket:
    request: AdmitRequest
    since: float  # loop time
    result: asyncio.Future[Leased | None] = field(repr=False)


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
        ejection: Ejection | None = None,
        priority_weight_s: float = 10.0,
        affinity_ttl_s: float = 600.0,
    ) -> None:
        self._connection = connection
        self._holder = holder
        self._ttl_s = lease_ttl_s
        self._ejection = ejection or Ejection()
        self._priority_weight_s = priority_weight_s
        self._affinity_ttl_s = affinity_ttl_s
        self._tickets: dict[LeaseId, _Ticket] = {}
        self._unwanted: dict[PoolName, list[LeaseId]] = {}
        self._has_unwanted = asyncio.Event()
        self._came_up = (asyncio.Event(), asyncio.Event())  # for renewing, for asking again
        self._loops: list[asyncio.Task[None]] = []
        self.held: dict[LeaseId, Held] = {}

    async def start(self) -> None:
        """Listen for grants, and begin to renew."""
        self._connection.on_up(self._note_up)
        await self._connection.subscribe(grants(self._holder), self._granted)
        work = (
            self._each(self._ttl_s / 3, self._came_up[0], self._renew),
            self._each(ASK_AGAIN_S, self._came_up[1], self._ask_again),
            self._each(None, self._has_unwanted, self._give_back),
        )
        self._loops = [asyncio.create_task(each, name="leases") for each in work]

    async def admit(self, request: AdmitRequest) -> Admission:
        """One round trip: a cached answer, a slot, a ticket (then `wait` for it), or why not. Raises StoreError."""
        try:
            admitted = await self._admit(request)
        except (asyncio.CancelledError, StoreError):
            # It may have been granted all the same; that nobody will use it, only we know.
            self.give_up(request.pool, request.lease)
            raise
        if isinstance(admitted, Leased):
            self.held[request.lease] = Held(request.pool, admitted.instance, request.affinity)
        elif isinstance(admitted, Queued):
            loop = asyncio.get_running_loop()
            self._tickets[request.lease] = _Ticket(request, loop.time(), loop.create_future())
        return admitted

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
        held = self.held.pop(lease, None)
        if held is None:
            return
        eject = self._ejection
        keys: list[str | bytes] = [*pool_keys(pool), pool_usage(pool, usage.day if usage else "")]
        args: list[Arg] = [lease, held.instance, outcome.value, ms(hold_s)]
        args += [eject.after_failures, ms(eject.for_s), ms(eject.at_most_s), ms(eject.dead_for_s)]
        if answer is not None:
            keys.append(pool_answer(pool, answer.key))
            args += [1, answer.answer, ms(answer.ttl_s)]
        else:
            args += [0, b"", 0]
        if held.affinity:
            keys.append(pool_affinity(pool, held.affinity))
        args += [1 if held.affinity else 0, ms(self._affinity_ttl_s), USAGE_KEPT_S]
        if usage is not None:
            for name, amount in usage.counts.items():
                args += [name, amount]
        await self._connection.script(scripts.SETTLE, keys, args, repeat=True)

    async def cancel(self, pool: PoolName, lease: LeaseId) -> None:
        """Withdraw a ticket, or give back the lease it became; twice is harmless. Raises StoreError."""
        self._forget(lease)
        await self._connection.script(scripts.CANCEL, pool_keys(pool), (lease,), repeat=True)

    async def drop_earlier_lives(self, pool: PoolName, prefix: str) -> tuple[int, int]:
        """End what earlier processes of this name ("gw0.") left in a pool; answers how many leases and tickets."""
        leases, tickets = await drop_holder(self._connection, pool, prefix, alive=self._holder)
        return leases, tickets

    async def close(self) -> None:
        """Give everything back. Calls still under way must have been ended before."""
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
            await self._connection.unsubscribe(grants(self._holder))
        except StoreError as why:
            log.warning("leases: closed while Redis went away: %s", why)

    # --- asking ---

    async def _admit(self, request: AdmitRequest, waited_s: float = 0.0) -> Admission:
        keys: list[str | bytes] = [*pool_keys(request.pool)]
        if request.answer_key:
            keys += [pool_usage(request.pool, request.day), pool_answer(request.pool, request.answer_key)]
        if request.affinity:
            keys.append(pool_affinity(request.pool, request.affinity))
        args: tuple[Arg, ...] = (
            request.lease,
            self._holder,
            ms(self._ttl_s),
            request.queue_limit,
            ms(request.wait_s),
            ms(waited_s),
            round(request.priority * self._priority_weight_s * 1_000_000),
            "\t".join(("", *request.excluded, "")) if request.excluded else "",
            1 if request.may_queue else 0,
            1 if request.answer_key else 0,
            1 if request.affinity else 0,
        )
        reply = await self._connection.script(scripts.ADMIT, keys, args, repeat=True)
        return admission_of(reply, request.lease)

    def _granted(self, payload: bytes) -> None:
        lease, _, instance = payload.decode().partition("\n")
        self._resolve(LeaseId(lease), Leased(InstanceId(instance), LeaseId(lease)))

    def _resolve(self, lease: LeaseId, result: Leased | None) -> None:
        ticket = self._tickets.pop(lease, None)
        if ticket is None or ticket.result.done():
            return  # Withdrawn meanwhile, or told already: a grant is told by message and by asking again.
        if result is not None:
            self.held[lease] = Held(ticket.request.pool, result.instance, ticket.request.affinity)
        ticket.result.set_result(result)

    def _forget(self, lease: LeaseId) -> None:
        self.held.pop(lease, None)
        self._resolve(lease, None)

    async def _ask_again(self) -> None:
        """Ask what became of each ticket; one that Redis lost is filed again where it stood."""
        now = asyncio.get_running_loop().time()
        asked = [each for each in self._tickets.values() if now - each.since < each.request.wait_s]
        answers = (
            self._admit(
                replace(each.request, wait_s=each.request.wait_s - (now - each.since), answer_key=""), now - each.since
            )
            for each in asked
        )
        for ticket, admitted in zip(asked, await asyncio.gather(*answers, return_exceptions=True), strict=True):
            if isinstance(admitted, Leased):
                self._resolve(ticket.request.lease, admitted)
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
            scripts.RENEW, pool_keys(pool), (self._holder, ms(self._ttl_s), *pairs), repeat=True
        )
        if anew:
            log.warning("%s: Redis had lost %d leases of this gateway; they are counted again", pool, len(anew))
        if over:
            log.warning("%s: %d leases of this gateway are on instances with more calls than slots", pool, len(over))

    def _note_up(self) -> None:
        for each in self._came_up:
            each.set()

    async def _each(
        self, period_s: float | None, stirred: asyncio.Event, act: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        """Act each period, and at once when stirred."""
        while True:
            with suppress(TimeoutError):  # The period is over.
                async with asyncio.timeout(period_s):  # wait_for can swallow a cancellation (CPython 86296)
                    await stirred.wait()
            stirred.clear()
            try:
                await act()
            except StoreError as why:
                log.warning("leases: %s", why)

    # --- giving back what nobody here will use ---

    def give_up(self, pool: PoolName, lease: LeaseId) -> None:
        """Let go of a ticket or lease without waiting for Redis: it is given back when Redis is there, or expires."""
        self._forget(lease)
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


def _in_parts(values: list[T]) -> Iterator[list[T]]:
    """A few hundred at a time: a longer script would hold up everybody's."""
    return (values[at : at + 500] for at in range(0, len(values), 500))
