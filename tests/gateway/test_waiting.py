"""A gateway's calls in the queue: how long they wait at most, what they are told meanwhile and when refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.app.rules import rules_from
from orchestrator.core.admission import Share
from orchestrator.core.errors import CapacityError
from orchestrator.core.model import InstanceState, Pool
from orchestrator.gateway.admission import Admission, Grant, OnQueued, Wanted
from orchestrator.gateway.alone import Alone
from orchestrator.gateway.live import Live
from orchestrator.gateway.shared_slots import SharedSlots
from orchestrator.settings import ClusterSettings
from orchestrator.store.connection import Connection
from orchestrator.store.embedded import find_server
from orchestrator.store.leases import Leases
from orchestrator.store.pools import pool_load, publish_pool
from tests.gateway.played import pool_of
from tests.store.playing import Server
from tests.waiting import until

POOL = pool_of("m", [1], slots=1)
SETTINGS = {"models": {"m": {}}, "limits": {"queue_wait_s": 30}}


@dataclass(slots=True)
class Queue:
    """One worker's admission before a pool of one slot."""

    connection: Connection
    admission: Admission

    async def admit(self, on_queued: OnQueued | None = None, *, pool: Pool = POOL, **more: Any) -> Grant:
        wanted = Wanted(**{"caller": "a", "affinity": "", "answer_key": "", "excluded": (), **more})
        grant = await self.admission.admit(pool, wanted, on_queued)
        assert isinstance(grant, Grant)
        return grant

    async def as_if_measured(self, seconds: float) -> None:
        """Calls held the slot for so long."""
        field = f"\tp{POOL.instances[0].id}"
        await self.connection.command("HSET", "olm:pool:{m}:slots", field, round(seconds * 1e6) * 1024 + 64)

    async def until_waiting(self, n: int) -> None:
        async def are_waiting() -> bool:
            return (await pool_load(self.connection, POOL.name)).queued == n

        await until(are_waiting)


@pytest.fixture
async def queue(tmp_path: Path) -> AsyncIterator[Queue]:
    async with AsyncExitStack() as stack:
        redis = Server(find_server(), tmp_path)
        redis.start()
        stack.callback(redis.kill)
        live = Live(rules_from(ClusterSettings.model_validate(SETTINGS)))
        connection = Connection(redis.url, name="gateway-0")
        slots = SharedSlots(tmp_path / "slots.map", 0, 1)
        stack.callback(slots.close)
        leases = Leases(connection, "gw0.x", 15.0, count=slots)
        stack.push_async_callback(connection.close)
        alone = Alone(live, connection, leases, slots, lambda: Share(0, 1))
        admission = Admission(live, connection, leases, alone)
        await connection.open(20)
        await leases.start()
        stack.push_async_callback(leases.close)
        assert await publish_pool(connection, POOL.name, {each.id: each.slots for each in POOL.instances}, token=1)
        yield Queue(connection, admission)


async def test_a_call_that_waits_is_told_where_it_stands_and_how_long_yet(queue: Queue) -> None:
    await queue.as_if_measured(3.0)
    running = await queue.admit()
    assert running.queued_behind is None
    told: list[tuple[int, float | None]] = []
    is_next = asyncio.Event()

    def on_queued(position: int, expected_wait_s: float | None) -> None:
        told.append((position, expected_wait_s))
        if position == 0:
            is_next.set()

    first = asyncio.create_task(queue.admit())
    await queue.until_waiting(1)
    second = asyncio.create_task(queue.admit(on_queued))
    await queue.until_waiting(2)
    assert told[0] == (1, 6.0)
    queue.admission.unused(running)
    one = await first
    assert one.queued_behind == 0
    async with asyncio.timeout(30):
        await is_next.wait()
    queue.admission.unused(one)
    two = await second
    assert two.queued_behind == 1
    assert two.waited_s > 0
    queue.admission.unused(two)


async def test_a_call_waits_no_longer_than_it_asked_to_and_is_told_when_to_come_again(queue: Queue) -> None:
    await queue.as_if_measured(7.5)
    running = await queue.admit()
    with pytest.raises(CapacityError, match=r"within 0\.2 s") as refused:
        await queue.admit(wait_s=0.2)
    assert refused.value.retry_after_s == 8
    await queue.until_waiting(0)
    queue.admission.unused(running)


async def test_a_call_that_would_wait_far_too_long_is_refused_at_once(queue: Queue) -> None:
    await queue.as_if_measured(20.0)
    running = await queue.admit()
    waiting = [asyncio.create_task(queue.admit()) for _ in range(5)]
    await queue.until_waiting(5)
    with pytest.raises(CapacityError, match="too long a queue for so short a wait: 10 s") as refused:
        await queue.admit(wait_s=10)
    assert refused.value.retry_after_s == 110  # 6 calls of 20 s, less what it would have waited
    assert not refused.value.is_passing
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    queue.admission.unused(running)


async def test_retry_after_is_never_more_than_two_minutes(queue: Queue) -> None:
    await queue.as_if_measured(3000.0)
    running = await queue.admit()
    with pytest.raises(CapacityError) as refused:
        await queue.admit(wait_s=0.05)
    assert refused.value.retry_after_s == 120
    queue.admission.unused(running)


async def test_a_call_that_will_not_wait_is_refused_where_no_slot_is_free(queue: Queue) -> None:
    running = await queue.admit(wait_s=0)
    with pytest.raises(CapacityError, match="no free slot"):
        await queue.admit(wait_s=0)
    queue.admission.unused(running)


async def test_who_waits_for_a_model_that_is_nowhere_in_memory_is_told_how_long_its_load_takes(queue: Queue) -> None:
    cold = [replace(each, state=InstanceState.COLD, is_given=True, load_s=12.0) for each in POOL.instances]
    pool = replace(POOL, instances=tuple(cold))
    assert await publish_pool(queue.connection, pool.name, {each.id: 0 for each in cold}, token=2)
    told: list[tuple[int, float | None, float]] = []
    began_s = time.perf_counter()
    with pytest.raises(CapacityError, match=r"within 0\.2 s") as refused:
        await queue.admit(lambda *place: told.append((*place, time.perf_counter())), pool=pool, wait_s=0.2)
    position, expected_wait_s, told_s = told[0]
    assert position == 0
    assert expected_wait_s is not None
    assert 12.0 - (told_s - began_s) <= expected_wait_s <= 12.0
    assert refused.value.retry_after_s == 12
    with pytest.raises(CapacityError, match="no free slot") as refused:
        await queue.admit(pool=pool, wait_s=0)
    assert refused.value.retry_after_s == 12


async def test_keys_take_turns_by_the_tokens_they_used(queue: Queue) -> None:
    running = await queue.admit(caller="crowd")
    order: list[str] = []

    async def call(caller: str) -> None:
        grant = await queue.admit(caller=caller, prompt_tokens=10)
        order.append(caller)
        queue.admission.served(grant, "small", caller, None, (10, 100))

    waiting = []
    for caller in ("crowd", "crowd", "crowd", "guest"):
        waiting.append(asyncio.create_task(call(caller)))
        await queue.until_waiting(len(waiting))
    queue.admission.served(running, "small", "crowd", None, (10, 100))
    await asyncio.gather(*waiting)
    assert order.index("guest") <= 1


async def test_a_higher_class_is_served_first(queue: Queue) -> None:
    running = await queue.admit()
    order: list[int] = []

    async def call(priority: int) -> None:
        grant = await queue.admit(priority=priority)
        order.append(priority)
        queue.admission.unused(grant)

    waiting = []
    for priority in (2, 1, 0):
        waiting.append(asyncio.create_task(call(priority)))
        await queue.until_waiting(len(waiting))
    queue.admission.unused(running)
    await asyncio.gather(*waiting)
    assert order == [0, 1, 2]
