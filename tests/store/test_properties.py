"""Whatever gateways do, in whatever order: no slot is oversold, no count drifts, everything comes back."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import pytest

from orchestrator.core.model import InstanceId, LeaseId
from orchestrator.store.admission import Cached, Ejection, Kept, Leased, Outcome, Queued, Usage
from orchestrator.store.connection import Connection
from orchestrator.store.leases import Leases
from orchestrator.store.pools import PoolLoad, publish_pool, sweep
from tests.store.playing import POOL, look, request
from tests.waiting import until

SLOTS = {InstanceId("gpu-1"): 1, InstanceId("gpu-2"): 2, InstanceId("gpu-3"): 4}
QUICK = Ejection(after_failures=2, for_s=0.02, at_most_s=0.1, dead_for_s=0.02)


def within_slots(load: PoolLoad) -> None:
    assert not load.drift, load.drift
    for each in load.instances:
        assert each.in_flight <= SLOTS[each.instance], load


class Caller:
    """One gateway whose calls end in every way a call can."""

    def __init__(self, leases: Leases, rng: random.Random) -> None:
        self._leases = leases
        self._rng = rng
        self.served = 0

    async def calls(self, n: int) -> None:
        for _ in range(n):
            task = asyncio.create_task(self._call())
            if self._rng.random() < 0.2:
                for _ in range(self._rng.randrange(6)):
                    await asyncio.sleep(0)
                task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _call(self) -> None:
        rng = self._rng
        asked = request(
            priority=rng.randrange(3),
            affinity=rng.choice(("", "talk-1", "talk-2")),
            excluded=rng.choice(((), (), (InstanceId("gpu-1"),), (InstanceId("gpu-2"), InstanceId("gpu-3")))),
            queue_limit=rng.choice((2, 100)),
            answer_key=rng.choice(("", "", str(rng.randrange(100)))),
            day="2026-11-21",
            caller=rng.choice(("", "support", "batch")),
            prompt_tokens=rng.choice((0, 300)),
            wait_s=rng.choice((0.02, 60.0, 60.0)),
        )
        admitted = await self._leases.admit(asked)
        held = False
        try:
            if isinstance(admitted, Queued):
                if rng.random() < 0.1:
                    await self._leases.cancel(POOL, asked.lease)
                    return
                admitted = await self._leases.wait(POOL, asked.lease, rng.choice((0.005, 5.0)))
            held = isinstance(admitted, Leased)
            if held or isinstance(admitted, Cached):
                self.served += 1
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
        finally:
            if held:
                await asyncio.shield(self._end(asked.lease))

    async def _end(self, lease: LeaseId) -> None:
        outcome = self._rng.choice([Outcome.OK] * 6 + list(Outcome))
        hold_s = self._rng.choice((0, 0, 0, 0.01))
        answer = Kept(str(self._rng.randrange(100)), b"50 km/h", 0.05) if self._rng.random() < 0.3 else None
        tokens = self._rng.choice((None, (self._rng.randrange(1000), self._rng.randrange(1000))))
        usage = Usage("2026-11-21", {}, tokens)
        await self._leases.settle(POOL, lease, outcome, hold_s=hold_s, answer=answer, usage=usage)
        if self._rng.random() < 0.2:
            await self._leases.settle(POOL, lease, outcome)


@pytest.mark.parametrize("seed", [1, 2, 3, 20261121])
async def test_random_traffic_never_oversells_a_slot_and_ends_with_none_taken(store: Connection, seed: int) -> None:
    rng = random.Random(seed)
    assert await publish_pool(store, POOL, SLOTS, token=1)
    gateways = [Leases(store, f"gw{at}.x", 30, ejection=QUICK, priority_weight_s=0.005) for at in range(6)]
    callers = []
    for each in gateways:
        await each.start()
        callers += [Caller(each, random.Random(rng.random())) for _ in range(4)]
    traffic = asyncio.gather(*(each.calls(25) for each in callers))
    while not traffic.done():
        within_slots(await look(store))
        await sweep(store, POOL)
    await traffic
    assert sum(each.served for each in callers) > len(callers)

    async def is_idle() -> bool:
        await sweep(store, POOL)
        load = await look(store)
        return load.queued == 0 and not any(each.in_flight for each in load.instances)

    await until(is_idle)
    assert not any(each.held for each in gateways)
    await asyncio.gather(*(each.close() for each in gateways))


@pytest.mark.parametrize("seed", [5, 6])
async def test_gateways_that_die_at_any_moment_leave_no_slot_taken(store: Connection, seed: int) -> None:
    """They die between two awaits and say no word; what they held comes back with its time."""
    rng = random.Random(seed)
    assert await publish_pool(store, POOL, SLOTS, token=1)
    dying = [Leases(store, f"gw{at}.x", 0.2) for at in range(5)]
    tasks = [asyncio.create_task(each.admit(request(wait_s=5))) for each in dying for _ in range(8)]
    for _ in range(rng.randrange(10)):
        await asyncio.sleep(0)
    living = Leases(store, "gw9.x", 30)
    await living.start()
    asked = [request(wait_s=30) for _ in range(7)]
    got = [await living.admit(each) for each in asked]
    for each, admitted in zip(asked, got, strict=True):
        held = admitted if isinstance(admitted, Leased) else await living.wait(POOL, each.lease, 30)
        assert isinstance(held, Leased)
        within_slots(await look(store))
        await living.settle(POOL, held.lease, Outcome.OK)
    await asyncio.gather(*tasks)
    await living.close()

    async def is_idle() -> bool:
        await sweep(store, POOL)
        load = await look(store)
        return load.queued == 0 and not any(each.in_flight for each in load.instances)

    await until(is_idle)
