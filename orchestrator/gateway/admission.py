"""A slot for a call, and its return: leased from Redis, or of this gateway's own share while Redis is away."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import orjson

from orchestrator import telemetry
from orchestrator.core.admission import choose_alone
from orchestrator.core.errors import CapacityError, InstanceError, StoreError
from orchestrator.core.model import Answer, Finish, Instance, InstanceState, LeaseId, Pool, PoolName, ToolCall
from orchestrator.gateway.live import CacheRules, Limits, Live
from orchestrator.store import usage
from orchestrator.store.admission import AdmitRequest, Cached, Kept, Leased, Outcome, Queued, Refused, Usage, Why
from orchestrator.store.answers import Answers
from orchestrator.store.connection import Connection
from orchestrator.store.leases import Held, Leases

log = logging.getLogger(__name__)

# The instance works on for a while after its client left: a decode step, or the rest of a batch of 512 prompt tokens,
# seconds on a CPU (OLLAMA.md 2). Until then its slot is not free, whatever the socket says.
HOLD_ANSWERING_S, HOLD_PREFILL_S = 0.2, 2.0
FLUSH_EVERY_S = 1.0
# When Redis is back it has not heard of the slots that gateways took meanwhile. Each tells it at once, but may notice a
# second later than the first (store/connection): until then all keep to their shares, or slots would be sold twice.
REJOIN_AFTER_S = 1.5


@dataclass(frozen=True, slots=True)
class Grant:
    """The right to use one slot of `instance`; to be settled whatever happens."""

    pool: PoolName
    lease: LeaseId
    instance: Instance
    waited_s: float


@dataclass(frozen=True, slots=True)
class Hit:
    """The answer cache had it."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a call asks of a pool's admission."""

    caller: str
    affinity: str
    answer_key: str
    excluded: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    """A call that waits for a slot of this gateway's share; its turn is None where it is to ask Redis instead."""

    pool: Pool
    lease: LeaseId
    wanted: Wanted
    turn: asyncio.Future[Instance | None]


class Admission:
    """Slots, cached answers and counts of one gateway: number `index` of `gateways` on this machine."""

    def __init__(self, live: Live, connection: Connection, leases: Leases, index: int, gateways: int) -> None:
        self._live, self._connection, self._leases = live, connection, leases
        self._answers = Answers(connection)
        self._index, self._gateways = index, gateways
        self._waiting_alone: dict[PoolName, deque[_Waiter]] = {}
        self._uncounted: dict[tuple[str, str], Counter[str]] = {}
        self._said_alone = False
        self._was_up = False
        self._rejoining: asyncio.TimerHandle | None = None
        connection.on_up(self._came_up)

    @property
    def is_alone(self) -> bool:
        """Redis is away, or was a moment ago: slots are this gateway's share, and nothing is cached."""
        return not self._connection.is_up or self._rejoining is not None

    # --- a slot -----------------------------------------------------------------------------------------------------

    async def admit(self, pool: Pool, wanted: Wanted) -> Grant | Hit:
        """A slot, waited for in the pool's queue, or the cached answer. Raises CapacityError."""
        began_s = time.perf_counter()
        deadline_s = asyncio.get_running_loop().time() + self._live.rules.limits.queue_wait_s
        while True:
            if not self.is_alone:
                lease = _new_lease()
                try:
                    admitted = await self._ask(pool, lease, wanted, deadline_s)
                except StoreError as why:
                    self._say_alone(why)
                else:
                    self._say_together()
                    return admitted if isinstance(admitted, Hit) else self._grant(pool, lease, admitted, began_s)
            else:
                self._say_alone(StoreError(self._connection.problem or "Redis is back, not all slots are counted yet"))
            # A new name: Redis is told that nobody uses the one it was asked with, and shall not take it at its word
            # where the call does run.
            lease = _new_lease()
            instance = await self._admit_alone(pool, lease, wanted, deadline_s)
            if instance is not None:
                return Grant(pool.name, lease, instance, time.perf_counter() - began_s)

    async def _ask(self, pool: Pool, lease: LeaseId, wanted: Wanted, deadline_s: float) -> Leased | Hit:
        limits = self._live.rules.limits
        wait_s = max(0.001, deadline_s - asyncio.get_running_loop().time())
        request = AdmitRequest(
            pool=pool.name,
            lease=lease,
            queue_limit=limits.queue_length,
            wait_s=wait_s,
            affinity=wanted.affinity,
            excluded=tuple(each.id for each in pool.instances if each.id in wanted.excluded),
            answer_key=wanted.answer_key,
            day=_today(),
        )
        admitted = await self._leases.admit(request)
        if isinstance(admitted, Cached):
            return Hit(answer_from(admitted.answer))
        if isinstance(admitted, Refused):
            raise _refusal(pool.name, admitted, limits)
        if isinstance(admitted, Queued):
            granted = await self._leases.wait(pool.name, lease, wait_s)
            if granted is None:
                raise CapacityError(
                    f"no slot of {pool.name} came free within {limits.queue_wait_s:g} s", _retry_after_s(pool)
                )
            return granted
        return admitted

    def _grant(self, pool: Pool, lease: LeaseId, leased: Leased, began_s: float) -> Grant:
        # The pool may have been published anew while the call waited.
        newest = self._live.pool(pool.name) or pool
        for each in (*newest.instances, *pool.instances):
            if each.id == leased.instance:
                return Grant(pool.name, lease, each, time.perf_counter() - began_s)
        self._leases.give_up(pool.name, lease)
        raise InstanceError(leased.instance, "leased, but not in the cluster as published")

    # --- alone ------------------------------------------------------------------------------------------------------

    async def _admit_alone(self, pool: Pool, lease: LeaseId, wanted: Wanted, deadline_s: float) -> Instance | None:
        """A slot of this gateway's own share, in the order of asking; None: Redis is back and is to be asked."""
        loop = asyncio.get_running_loop()
        waiter = _Waiter(pool, lease, wanted, loop.create_future())
        queue = self._waiting_alone.setdefault(pool.name, deque())
        queue.append(waiter)
        self._grant_alone(pool.name)
        try:
            waiting = sum(not each.turn.done() for each in queue)
            if waiting > self._live.rules.limits.queue_length or not _has_a_chance(pool, wanted):
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
            self._grant_alone(pool.name)

    def _grant_alone(self, pool: PoolName) -> None:
        """Give what is free of this gateway's share to who has waited longest."""
        queue = self._waiting_alone.get(pool, ())
        held = Counter(str(each.instance) for each in self._leases.held.values())
        for waiter in tuple(queue):
            # Its caller may have left in this very turn of the loop.
            if waiter.turn.done():
                continue
            instance = choose_alone(waiter.pool, held, self._index, self._gateways, waiter.wanted.excluded)
            if instance is None:
                continue
            # Held like any lease: when Redis is back, renewing tells it of this one.
            self._leases.held[waiter.lease] = Held(pool, instance.id, waiter.wanted.affinity)
            held[instance.id] += 1
            waiter.turn.set_result(instance)

    def _came_up(self) -> None:
        if self._rejoining is not None:
            self._rejoining.cancel()
        if self._was_up:
            self._rejoining = asyncio.get_running_loop().call_later(REJOIN_AFTER_S, self._rejoin)
        self._was_up = True

    def _rejoin(self) -> None:
        """Redis counts every slot again: what waits here is to wait there, where every gateway's calls do."""
        self._rejoining = None
        for queue in self._waiting_alone.values():
            for waiter in queue:
                if not waiter.turn.done():
                    waiter.turn.set_result(None)

    def _say_alone(self, why: StoreError) -> None:
        telemetry.STORE_ERRORS.inc()
        if not self._said_alone:
            log.error("serving alone, by this gateway's share of the slots and without the cache: %s", why)
        self._said_alone = True
        telemetry.UP.set(0)

    def _say_together(self) -> None:
        if self._said_alone:
            log.warning("Redis is back: slots are leased together again")
        self._said_alone = False
        telemetry.UP.set(1)

    # --- and back -----------------------------------------------------------------------------------------------------

    async def served(
        self, grant: Grant, tier: str, caller: str, answer: tuple[str, Answer] | None, tokens: tuple[int, int]
    ) -> None:
        """The call was answered whole; `answer` is kept under its key. Never raises: the client has its answer."""
        kept = None
        rules = self._live.rules.cache
        if answer is not None and answer[0]:
            kept = Kept(answer[0], answer_bytes(answer[1]), rules.ttl_s)
        counts = usage.fields(
            tier=tier, caller=caller, instance=grant.instance.id, prompt_tokens=tokens[0], completion_tokens=tokens[1]
        )
        await self._settle(grant, Outcome.OK, kept=kept, used=Usage(_today(), counts))

    async def failed(self, grant: Grant, *, is_dead: bool) -> None:
        """The instance broke its promise; a dead one refused the connection."""
        await self._settle(grant, Outcome.DEAD if is_dead else Outcome.FAILED)

    async def unused(self, grant: Grant) -> None:
        """The call itself was at fault: nothing is said of the instance."""
        await self._settle(grant, Outcome.GONE)

    async def gone(self, grant: Grant, *, is_answering: bool) -> None:
        """The client left. The slot is free once the instance has noticed: last while it reads a prompt."""
        await self._settle(grant, Outcome.GONE, hold_s=HOLD_ANSWERING_S if is_answering else HOLD_PREFILL_S)

    async def _settle(
        self,
        grant: Grant,
        outcome: Outcome,
        *,
        hold_s: float = 0.0,
        kept: Kept | None = None,
        used: Usage | None = None,
    ) -> None:
        if self._connection.is_up:
            try:
                await self._leases.settle(grant.pool, grant.lease, outcome, hold_s=hold_s, answer=kept, usage=used)
            except StoreError as why:
                log.warning("%s: not settled, its slot comes back when the lease expires: %s", grant.lease, why)
        else:
            self._leases.give_up(grant.pool, grant.lease)
        self._grant_alone(grant.pool)

    # --- the answer cache of routes, and counting ---------------------------------------------------------------------

    async def answer(self, route: str, key: str) -> Answer | None:
        """The cached answer to a route's call. None too while Redis is away: the call is then answered anew."""
        if self.is_alone:
            return None
        try:
            found = await self._answers.get(route, key)
        except StoreError as why:
            self._say_alone(why)
            return None
        return answer_from(found) if found else None

    async def keep(self, route: str, key: str, answer: Answer) -> None:
        """Keep a route's answer, as far as Redis is there."""
        rules: CacheRules = self._live.rules.cache
        try:
            await self._answers.put(route, key, answer_bytes(answer), rules.ttl_s)
        except StoreError as why:
            log.warning("an answer was not kept: %s", why)

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


def answer_bytes(answer: Answer) -> bytes:
    """An answer as the cache keeps it."""
    return orjson.dumps(asdict(answer))


def answer_from(kept: bytes) -> Answer:
    """An answer out of the cache."""
    told = orjson.loads(kept)
    calls = tuple(ToolCall(each["id"], each["name"], each["arguments"]) for each in told.pop("tool_calls"))
    return Answer(**{**told, "finish": Finish(told["finish"]), "tool_calls": calls})


_REASONS: Mapping[Why, str] = {
    Why.UNKNOWN: "is not published yet",
    Why.EMPTY: "has no instance that serves now",
    Why.EJECTED: "has only instances that failed a moment ago",
    Why.EXCLUDED: "failed this call on each of its instances",
    Why.FULL: "has a full queue",
    Why.BUSY: "has no free slot",
    Why.ENDED: "has ended this call",
}


# Over as soon as an instance is back, or the pool published anew.
_PASSING = frozenset({Why.UNKNOWN, Why.EMPTY, Why.EJECTED, Why.EXCLUDED})


def _refusal(pool: str, refused: Refused, limits: Limits) -> CapacityError:
    depth = f" ({refused.depth} waiting)" if refused.depth else ""
    wait_s = 1 if refused.why in (Why.EJECTED, Why.EXCLUDED) else min(30, max(1, int(limits.queue_wait_s / 2)))
    return CapacityError(f"{pool} {_REASONS[refused.why]}{depth}", wait_s, is_passing=refused.why in _PASSING)


def _retry_after_s(pool: Pool) -> int:
    return 5 if pool.slots_serving else 30


def _has_a_chance(pool: Pool, wanted: Wanted) -> bool:
    """Whether waiting can help: an instance serves that has not failed this call already."""
    return any(
        each.state is InstanceState.SERVING and each.slots and each.id not in wanted.excluded for each in pool.instances
    )


def _new_lease() -> LeaseId:
    return LeaseId(uuid.uuid4().hex)


def _today() -> str:
    return datetime.now(UTC).date().isoformat()
