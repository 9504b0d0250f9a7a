"""A slot for a call, and its return: leased from Redis, or taken `alone` while Redis is away."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import math
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, NamedTuple

from orchestrator import telemetry
from orchestrator.core.errors import CapacityError, InstanceError, StoreError
from orchestrator.core.limits import nano_of
from orchestrator.core.loads import loaded_in_s
from orchestrator.core.model import Answer, Instance, InstanceId, LeaseId, Pool, PoolName
from orchestrator.gateway.alone import Alone
from orchestrator.gateway.live import Limits, Live
from orchestrator.store import routed, usage
from orchestrator.store.admission import (
    AdmitRequest,
    Cached,
    Joined,
    Kept,
    Leased,
    Outcome,
    Queued,
    Refused,
    Usage,
    Why,
)
from orchestrator.store.answers import Answers
from orchestrator.store.connection import Connection
from orchestrator.store.joins import Joins
from orchestrator.store.leases import Leases

log = logging.getLogger(__name__)

# The instance works on for a while after its client left: a decode step, or the rest of a batch of 512 prompt tokens,
# seconds on a CPU (OLLAMA.md 2). Until then its slot is not free, whatever the socket says.
HOLD_ANSWERING_S, HOLD_PREFILL_S = 0.2, 2.0
FLUSH_EVERY_S = 1.0
# Longer than that no client waits idly; by then the queue is another one.
LONGEST_RETRY_S = 120

# This process' life, and its leases counted: as unique as a random name for each, and cheaper.
_LIFE: Final = uuid.uuid4().hex
_NUMBERS: Final = itertools.count(1)

# Told where a call stands in the queue: tickets ahead, and the seconds it is expected to wait yet (None: not known).
OnQueued = Callable[[int, float | None], None]


class Grant(NamedTuple):
    """The right to use one slot of `instance`; to be settled whatever happens."""

    pool: PoolName
    lease: LeaseId
    instance: Instance
    waited_s: float
    queued_behind: int | None = None  # tickets, when it was filed; None: it was not, a slot was free


class Hit(NamedTuple):
    """The answer cache had it, as it was kept."""

    kept: bytes


class Wanted(NamedTuple):
    """What a call asks of a pool's admission."""

    caller: str
    affinity: str
    answer_key: str
    excluded: tuple[str, ...]
    priority: int = 0  # class 0 to 9, 0 goes first
    wait_s: float | None = None  # longest wait for a slot, as far as the settings allow; 0: not at all
    prompt_tokens: int = 0  # as far as one can tell before the instance has counted them
    remembered: str = ""  # the affinity of the calls that go on from this one's answer; '': its own
    making: str = ""  # digest of the call, where one answer is made for all who ask it; '': its answer is its own
    void: str = ""  # the lease of a worker that should have made it, and does not


class Admission:
    """Slots, cached answers and counts of one gateway."""

    def __init__(self, live: Live, connection: Connection, leases: Leases, alone: Alone) -> None:
        self._live, self._connection, self._leases, self._alone = live, connection, leases, alone
        self._answers = Answers(connection)
        self.joins = Joins(connection, leases.holder)
        self._uncounted: dict[tuple[str, str], Counter[str]] = {}

    @property
    def is_alone(self) -> bool:
        """Redis is away, or was a moment ago: slots are this gateway's share, and nothing is cached."""
        return self._alone.is_alone

    # --- a slot -----------------------------------------------------------------------------------------------------

    async def admit(self, pool: Pool, wanted: Wanted, on_queued: OnQueued | None = None) -> Grant | Hit | Joined:
        """A slot, waited for in the pool's queue, or the cached answer, or who makes it already. Raises CapacityError.

        `on_queued` is called when a ticket is filed, and each second while it waits.
        """
        began_s, loop = time.perf_counter(), asyncio.get_running_loop()
        deadline_s = loop.time() + self.longest_wait_s(wanted.wait_s)
        while True:
            if not self.is_alone:
                lease = _new_lease()
                try:
                    admitted = await self._ask(pool, lease, wanted, deadline_s - loop.time(), on_queued)
                except StoreError as why:
                    self._alone.say(why)
                else:
                    self._alone.say_together()
                    if isinstance(admitted, Hit | Joined):
                        return admitted
                    grant = self._grant(pool, lease, *admitted, began_s)
                    if self._alone.has_room(grant.instance):
                        return grant
                    self._leases.give_up(pool.name, lease)
                    await self._alone.until_room_again(deadline_s)
                    continue
            else:
                self._alone.say()
            # A new name: Redis is told that nobody uses the one it was asked with, and shall not take it at its word
            # where the call does run.
            lease = _new_lease()
            remembered = wanted.remembered or wanted.affinity
            instance = await self._alone.admit(pool, lease, remembered, wanted.excluded, deadline_s)
            if instance is not None:
                return Grant(pool.name, lease, instance, time.perf_counter() - began_s)

    def longest_wait_s(self, wait_s: float | None) -> float:
        """How long a call may wait for a slot that would wait so long itself."""
        limit_s = self._live.rules.limits.queue_wait_s
        return limit_s if wait_s is None else min(wait_s, limit_s)

    async def _ask(
        self, pool: Pool, lease: LeaseId, wanted: Wanted, may_wait_s: float, on_queued: OnQueued | None
    ) -> tuple[Leased, int | None] | Hit | Joined:
        """A slot and how many tickets were ahead of this one's, or the cached answer, or who makes it already."""
        limits = self._live.rules.limits
        wait_s = max(0.001, may_wait_s)
        request = AdmitRequest(
            pool=pool.name,
            lease=lease,
            queue_limit=limits.queue_length,
            wait_s=wait_s,
            affinity=wanted.affinity,
            excluded=_excluded(pool, wanted.excluded) if wanted.excluded else (),
            answer_key=wanted.answer_key,
            may_queue=may_wait_s > 0,
            day=_today(),
            caller=wanted.caller,
            priority=wanted.priority,
            prompt_tokens=wanted.prompt_tokens,
            remembered=wanted.remembered,
            making=wanted.making,
            void=wanted.void,
        )
        tell = None if on_queued is None else self._telling(pool, on_queued)
        admitted = await self._leases.admit(request, on_queued=tell)
        if isinstance(admitted, Cached):
            return Hit(admitted.answer)
        if isinstance(admitted, Joined):
            return admitted
        if isinstance(admitted, Refused):
            raise _refusal(self._newest(pool), admitted, limits, wait_s)
        if isinstance(admitted, Queued):
            return await self._wait(pool, request, admitted, tell), admitted.position
        return admitted, None

    async def _wait(
        self, pool: Pool, request: AdmitRequest, place: Queued, tell: Callable[[Queued], None] | None
    ) -> Leased:
        if tell is not None:
            tell(place)
        granted = await self._leases.wait(pool.name, request.lease, request.wait_s)
        if granted is not None:
            return granted
        # As when it came: by the end of its wait a call may be first in line, and the next one is not.
        pool = self._newest(pool)
        again_s = place.expected_wait_s if place.expected_wait_s is not None else loaded_in_s(pool, request.wait_s)
        if again_s is None:
            again_s = 5.0 if pool.slots_serving else 30.0
        raise CapacityError(f"no slot of {pool.name} came free within {request.wait_s:.3g} s", _whole_s(again_s))

    def _newest(self, pool: Pool) -> Pool:
        """The pool may have been published anew while the call waited."""
        return self._live.pool(pool.name) or pool

    def _telling(self, pool: Pool, on_queued: OnQueued) -> Callable[[Queued], None]:
        began_s = time.perf_counter()

        def tell(place: Queued) -> None:
            expected_s = place.expected_wait_s
            if expected_s is None:
                expected_s = loaded_in_s(self._newest(pool), time.perf_counter() - began_s)
            on_queued(place.position, expected_s)

        return tell

    def _grant(self, pool: Pool, lease: LeaseId, leased: Leased, queued_behind: int | None, began_s: float) -> Grant:
        newest, wanted = self._newest(pool), leased.instance
        for known in (pool,) if newest is pool else (newest, pool):
            for each in known.instances:
                if each.id == wanted:
                    return Grant(pool.name, lease, each, time.perf_counter() - began_s, queued_behind)
        self._leases.give_up(pool.name, lease)
        raise InstanceError(leased.instance, "leased, but not in the cluster as published")

    # --- and back -----------------------------------------------------------------------------------------------------

    def served(self, grant: Grant, tier: str, caller: str, kept: Kept | None, tokens: tuple[int, int]) -> None:
        """The call was answered whole; `kept` of it for others. Never raises: the client has its answer."""
        counts = usage.fields(
            tier=tier, caller=caller, instance=grant.instance.id, prompt_tokens=tokens[0], completion_tokens=tokens[1]
        )
        self._settle(grant, Outcome.OK, kept=kept, used=Usage(_today(), counts, tokens))

    def doubted(self, grant: Grant, tier: str, caller: str, tokens: tuple[int, int], *, is_answering: bool) -> None:
        """The instance kept its promise, and another tier answers the call. `is_answering`: it was cut short."""
        counts = usage.fields(
            tier=tier, caller=caller, instance=grant.instance.id, prompt_tokens=tokens[0], completion_tokens=tokens[1]
        )
        hold_s = HOLD_ANSWERING_S if is_answering else 0.0
        self._settle(grant, Outcome.OK, hold_s=hold_s, used=Usage(_today(), counts, tokens))

    def failed(self, grant: Grant, *, is_dead: bool = False, is_hung: bool = False) -> None:
        """The instance broke its promise; a dead one refused the connection, a hung one was silent for too long."""
        self._settle(grant, Outcome.DEAD if is_dead else Outcome.HUNG if is_hung else Outcome.FAILED)

    def busy(self, grant: Grant, alone_s: float) -> None:
        """The instance takes no calls for so long, by its own word."""
        self._settle(grant, Outcome.BUSY, alone_s=alone_s)

    def unused(self, grant: Grant) -> None:
        """The call itself was at fault: nothing is said of the instance."""
        self._settle(grant, Outcome.GONE)

    def gone(self, grant: Grant, *, is_answering: bool) -> None:
        """The client left. The slot is free once the instance has noticed: last while it reads a prompt."""
        self._settle(grant, Outcome.GONE, hold_s=HOLD_ANSWERING_S if is_answering else HOLD_PREFILL_S)

    def leave_now(self) -> None:
        """Redis is told of the calls that have ended before it is told anything else."""
        self._leases.leave_now()

    def _settle(
        self,
        grant: Grant,
        outcome: Outcome,
        *,
        hold_s: float = 0.0,
        kept: Kept | None = None,
        used: Usage | None = None,
        alone_s: float = 0.0,
    ) -> None:
        if self._connection.is_up:
            self._leases.settle_soon(grant.lease, outcome, hold_s, kept, used, alone_s)
        else:
            self._leases.give_up(grant.pool, grant.lease, hold_s)
        self._alone.grant(grant.pool)

    # --- the answer cache of routes, and counting ---------------------------------------------------------------------

    async def answer(self, route: str, key: str) -> bytes | None:
        """What is kept for a route's call. None too while Redis is away: the call is then answered anew."""
        if self.is_alone:
            return None
        try:
            return await self._answers.get(route, key)
        except StoreError as why:
            self._alone.say(why)
            return None

    def keep(self, route: str, kept: Kept) -> None:
        """Keep a route's answer, as far as Redis is there; not waited for."""
        self._answers.put_soon(route, kept.key, kept.answer, kept.ttl_s)

    def count_cached(self, route: str, caller: str, answer: Answer) -> None:
        """Count an answer that came from the cache; written once a second."""
        counts = usage.fields(
            tier="cache",
            caller=caller,
            cache_hits=1,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
        )
        self._uncounted.setdefault((route, _today()), Counter()).update(counts)

    def count_outside(
        self, route: str, tier: str, caller: str, instance: str, tokens: tuple[int, int, int], usd: float
    ) -> None:
        """Count an answer of a provider's; `tokens`: of the prompt, of the answer, of that by thinking."""
        counts = usage.fields(
            tier=tier,
            caller=caller,
            instance=instance,
            prompt_tokens=tokens[0],
            completion_tokens=tokens[1],
            reasoning_tokens=tokens[2],
            usd_nano=nano_of(usd),
        )
        self._uncounted.setdefault((route, _today()), Counter()).update(counts)

    def count_routed(self, route: str, tier: str, escalated: str = "") -> None:
        """Count a call of a route that `tier` answered; `escalated`: why a lower tier's answer was not good enough."""
        telemetry.TALLY.count(telemetry.ROUTED, (route, tier))
        if escalated:
            telemetry.TALLY.count(telemetry.ESCALATED, (route, escalated))
        self._uncounted.setdefault((route, _today()), Counter()).update(routed.fields(tier, escalated))

    async def flush_counts(self) -> None:
        """Every FLUSH_EVERY_S, until cancelled: write what was counted."""
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            await self.flush()

    async def flush(self) -> None:
        """Write what was counted; what Redis does not take is kept for the next time."""
        for (route, day), counts in list(self._uncounted.items()):
            del self._uncounted[route, day]
            try:
                await usage.add(self._connection, route, day, counts)
            except StoreError:
                telemetry.STORE_ERRORS.inc()
                self._uncounted.setdefault((route, day), Counter()).update(counts)


_REASONS: Mapping[Why, str] = {
    Why.UNKNOWN: "is not published yet",
    Why.EMPTY: "has no instance that serves now",
    Why.EJECTED: "has only instances that failed a moment ago",
    Why.EXCLUDED: "failed this call on each of its instances",
    Why.FULL: "has a full queue",
    Why.LATE: "has too long a queue for so short a wait",
    Why.BUSY: "has no free slot",
    Why.ENDED: "has ended this call",
}


# Over as soon as an instance is back, or the pool published anew.
_PASSING = frozenset({Why.UNKNOWN, Why.EMPTY, Why.EJECTED, Why.EXCLUDED})


def _refusal(pool: Pool, refused: Refused, limits: Limits, wait_s: float) -> CapacityError:
    depth = f" ({refused.depth} waiting)" if refused.depth else ""
    limit = f": {wait_s:.3g} s" if refused.why is Why.LATE else ""
    usual_s = 1.0 if refused.why in (Why.EJECTED, Why.EXCLUDED) else min(30.0, limits.queue_wait_s / 2)
    again_s = refused.again_s if refused.again_s is not None else loaded_in_s(pool, 0.0)
    again_s = usual_s if again_s is None else again_s
    text = f"{pool.name} {_REASONS[refused.why]}{limit}{depth}"
    return CapacityError(text, _whole_s(again_s), is_passing=refused.why in _PASSING)


def _whole_s(seconds: float) -> int:
    """As Retry-After has it, within what makes sense."""
    return min(LONGEST_RETRY_S, max(1, math.ceil(seconds)))


def _new_lease() -> LeaseId:
    return LeaseId(f"{_LIFE}{next(_NUMBERS):x}")


def _excluded(pool: Pool, ids: tuple[str, ...]) -> tuple[InstanceId, ...]:
    return tuple(each.id for each in pool.instances if each.id in ids)


def _today() -> str:
    return _day(int(time.time()) // 86_400)


@functools.lru_cache(maxsize=2)
def _day(number: int) -> str:
    return datetime.fromtimestamp(number * 86_400, UTC).date().isoformat()
