"""Slots while Redis is away: whoever held what as it went, instances never work on more calls than they have slots.

The instances count for themselves what they work on; Redis is real, and is killed.
"""

from __future__ import annotations

import asyncio
import operator
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from orchestrator.app.rules import rules_from
from orchestrator.core.admission import Share
from orchestrator.core.errors import CapacityError
from orchestrator.core.model import InstanceId, Pool
from orchestrator.gateway import alone
from orchestrator.gateway.admission import Admission, Grant, Wanted
from orchestrator.gateway.alone import Alone
from orchestrator.gateway.live import Live
from orchestrator.gateway.shared_slots import SharedSlots
from orchestrator.settings import ClusterSettings
from orchestrator.store.connection import Connection
from orchestrator.store.leases import Leases
from orchestrator.store.pools import pool_load, publish_pool
from tests.gateway.asking import ask
from tests.gateway.played import Played, played, pool_of
from tests.gateway.stand_in import standing_in
from tests.store.playing import Server, back
from tests.waiting import until

# Less than a gateway takes it to be, as of a real one: gateway/admission, HOLD_ANSWERING_S.
WORKS_ON_S = 0.15
CALLS = 40


@dataclass(slots=True)
class Gateway:
    """One worker's admission: everything of it but HTTP."""

    connection: Connection
    leases: Leases
    slots: SharedSlots
    admission: Admission

    async def call(self, pool: Pool) -> Grant:
        grant = await self.admission.admit(pool, Wanted(caller="", affinity="", answer_key="", excluded=()))
        assert isinstance(grant, Grant)
        return grant

    async def until_alone(self) -> None:
        await until(lambda: self.admission.is_alone)


@dataclass(slots=True)
class World:
    """Gateways of one machine, and the pool they serve."""

    redis: Server
    gateways: list[Gateway]
    pool: Pool
    active: dict[str, int] = field(default_factory=dict)
    most: dict[str, int] = field(default_factory=dict)

    def begins(self, instance: InstanceId) -> None:
        self.active[instance] = self.active.get(instance, 0) + 1
        self.most[instance] = max(self.most.get(instance, 0), self.active[instance])

    def ends(self, instance: InstanceId) -> None:
        self.active[instance] -= 1

    async def load(self, gateway: Gateway, rng: random.Random, calls: int) -> int:
        """Calls one after another, some given up half way; answers how many were given a slot."""
        served = 0
        for _ in range(calls):
            try:
                grant = await gateway.call(self.pool)
            except CapacityError:
                continue
            served += 1
            self.begins(grant.instance.id)
            await asyncio.sleep(rng.uniform(0.001, 0.06))
            if rng.random() < 0.25:
                gateway.admission.gone(grant, is_answering=True)
                asyncio.get_running_loop().call_later(WORKS_ON_S, self.ends, grant.instance.id)
            else:
                self.ends(grant.instance.id)
                gateway.admission.unused(grant)
        return served

    def is_idle(self) -> bool:
        return not any(each.slots.everyones(one.id) for each in self.gateways for one in self.pool.instances)

    async def cut_off(self, index: int) -> None:
        """End one gateway's connection; Redis and the others' stay."""
        told = bytes(await self.gateways[index - 1].connection.command("CLIENT", "LIST")).decode()
        row = next(each for each in told.splitlines() if f" name=gateway-{index} " in each)
        await self.gateways[index - 1].connection.command("CLIENT", "KILL", "ID", row.split()[0].removeprefix("id="))


@pytest.fixture
async def start(tmp_path: Path, redis: Server) -> AsyncIterator[object]:
    """Makes a world of gateways that lease the slots of some instances; at the end none may be in use."""
    async with AsyncExitStack() as stack:
        worlds: list[World] = []

        async def begin(gateways: int, *slots: int, elsewhere: int = 0) -> World:
            live = Live(rules_from(ClusterSettings.model_validate({"models": {"m": {}}})))
            pool = _pool(slots)
            shares = [Share(index, gateways + elsewhere, elsewhere) for index in range(gateways)]
            made = [await _gateway(stack, redis, tmp_path, live, share) for share in shares]
            offered = {each.id: each.slots for each in pool.instances}
            assert await publish_pool(made[0].connection, pool.name, offered, token=1)
            worlds.append(World(redis, made, pool))
            return worlds[-1]

        yield begin
        for world in worlds:
            await until(world.is_idle)  # what works on after its caller left


def _pool(slots: tuple[int, ...]) -> Pool:
    pools = [pool_of(f"m{n}", [1], slots=each) for n, each in enumerate(slots)]
    return Pool(pools[0].name, 4096, False, tuple(pool.instances[0] for pool in pools))


async def _gateway(stack: AsyncExitStack, redis: Server, folder: Path, live: Live, share: Share) -> Gateway:
    connection = Connection(redis.url, name=f"gateway-{share.index}")
    slots = SharedSlots(folder / "slots.map", share.index, share.gateways)
    leases = Leases(connection, f"gw{share.index}.x", 15.0, count=slots)
    alone = Alone(live, connection, leases, slots, lambda: share)
    stack.callback(slots.close)
    stack.push_async_callback(connection.close)
    await connection.open(20)
    await leases.start()
    stack.push_async_callback(leases.close)
    return Gateway(connection, leases, slots, Admission(live, connection, leases, alone))


async def _turns(number: int = 20) -> None:
    """Let everything that can go on go on."""
    for _ in range(number):
        await asyncio.sleep(0)


# --- gateways on other machines ---------------------------------------------------------------------------------------


async def test_beside_another_machine_no_slot_is_taken_until_its_calls_have_had_time_to_end(start, monkeypatch):
    monkeypatch.setattr(alone, "OTHERS_END_S", 3600.0)
    world = await start(1, 4, elsewhere=1)
    (one,) = world.gateways
    world.redis.kill()
    await one.until_alone()
    waiting = [asyncio.create_task(one.call(world.pool)) for _ in range(3)]
    await _turns()
    assert not any(each.done() for each in waiting)
    monkeypatch.setattr(alone, "OTHERS_END_S", 0.0)
    first, second = [await each for each in waiting[:2]]
    await _turns()
    assert not waiting[2].done(), "the other half is the other machine's"
    one.admission.unused(first)
    for grant in (second, await waiting[2]):
        one.admission.unused(grant)


async def test_who_waits_in_redis_line_as_it_goes_is_served_here_before_who_comes_later(start, monkeypatch):
    monkeypatch.setattr(alone, "OTHERS_END_S", 0.0)
    world = await start(1, 1)
    (gateway,) = world.gateways
    running = await gateway.call(world.pool)
    first = asyncio.create_task(gateway.call(world.pool))
    await until(lambda: pool_load(gateway.connection, world.pool.name), holds=lambda seen: seen.queued != 0)
    world.redis.kill()
    await gateway.until_alone()
    await asyncio.sleep(0)
    second = asyncio.create_task(gateway.call(world.pool))
    await _turns()
    gateway.admission.unused(running)
    gateway.admission.unused(await first)
    gateway.admission.unused(await second)
    world.redis.start()


# --- one gateway had more than its share -----------------------------------------------------------------------------


async def test_a_share_is_waited_for_while_a_sibling_holds_every_slot(start):
    world = await start(2, 4)
    busy, other = world.gateways
    grants = [await busy.call(world.pool) for _ in range(4)]
    world.redis.kill()
    await asyncio.gather(busy.until_alone(), other.until_alone())
    waiting = [asyncio.create_task(other.call(world.pool)) for _ in range(3)]
    await _turns()
    assert not any(each.done() for each in waiting)
    for number, grant in enumerate(grants):
        busy.admission.unused(grant)
        got = min(number + 1, 2)  # of its share
        await until(partial(other.slots.own, grant.instance.id), holds=partial(operator.le, got))
        assert other.slots.everyones(grant.instance.id) <= 4
    assert sum(each.done() for each in waiting) == 2
    other.admission.unused(await next(each for each in waiting if each.done()))
    for each in waiting:
        other.leases.give_up(world.pool.name, (await each).lease)
    world.redis.start()


async def test_a_slot_whose_caller_left_while_redis_is_away_is_not_given_to_the_next_before_it_is_free(start):
    world = await start(1, 1)
    (gateway,) = world.gateways
    world.redis.kill()
    await gateway.until_alone()
    grant = await gateway.call(world.pool)
    left_s = time.monotonic()
    gateway.admission.gone(grant, is_answering=True)
    gateway.admission.unused(await gateway.call(world.pool))
    assert time.monotonic() - left_s > WORKS_ON_S
    world.redis.start()


async def test_what_redis_grants_is_not_used_where_a_gateway_that_lost_it_uses_it_already(start):
    world = await start(2, 1, 1)
    told, cut = world.gateways
    await world.cut_off(1)
    await cut.until_alone()
    grant = await cut.call(world.pool)
    both = [asyncio.create_task(told.call(world.pool)) for _ in range(2)]
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    await _turns()
    assert [told.slots.everyones(each.id) for each in world.pool.instances] == [1, 1]
    cut.admission.unused(grant)
    for each in both:
        told.admission.unused(await each)


@pytest.mark.parametrize("seed", range(3))
async def test_under_load_no_instance_gets_more_than_its_slots_while_redis_dies_and_comes_back(start, seed):
    rng = random.Random(seed)
    world = await start(3, 4, 1, 2)
    # The first asks for more than the others, and so has more than its share when Redis dies.
    callers = [gateway for gateway, number in zip(world.gateways, (9, 2, 4), strict=True) for _ in range(number)]
    loads = [
        asyncio.create_task(world.load(each, random.Random(f"{seed} {n}"), CALLS)) for n, each in enumerate(callers)
    ]
    for _ in range(2):
        await asyncio.sleep(rng.uniform(0.1, 0.5))
        await world.cut_off(rng.randrange(3))
        await asyncio.sleep(rng.uniform(0.1, 0.5))
        world.redis.kill()
        await asyncio.sleep(rng.uniform(0.1, 1.0))
        world.redis.start()
        await back(*(each.connection for each in world.gateways))
    served = await asyncio.gather(*loads)
    assert all(world.most[each.id] <= each.slots for each in world.pool.instances), world.most
    assert sum(served) == CALLS * len(callers)
    assert max(world.most.values()) == 4, "not under load"


# --- as processes ----------------------------------------------------------------------------------------------------


async def test_a_worker_keeps_off_the_slots_that_another_had_when_redis_died(tmp_path, redis):
    settings = ClusterSettings.model_validate({"models": {"m": {}, "other": {}}})
    async with standing_in(2) as (instance, free):
        pools = [pool_of("m", [instance.port], slots=4), pool_of("other", [free.port], slots=2)]
        async with played(tmp_path, settings, pools, redis=redis, workers=2, apart=True) as world:
            has_all, has_none = world.urls
            first = [asyncio.create_task(_ask(has_all, "wait first")) for _ in range(4)]
            await instance.until(active=4)
            redis.kill()
            second = [asyncio.create_task(_ask(has_none, "wait second")) for _ in range(4)]
            await _until_it_had_its_turn(world, has_none, len(free.asked))
            instance.gate.set()
            assert {await each for each in (*first, *second)} == {200}
            assert instance.most == 4
            assert sorted(instance.asked) == ["wait first"] * 4 + ["wait second"] * 4


async def _ask(url: str, text: str, **more: str) -> int:
    return (await ask(url, "/api/chat", text, stream=False, **more)).status


async def _until_it_had_its_turn(world: Played, url: str, before: int) -> None:
    """Wait until a worker serves alone, and has served calls that came after those of the test."""
    await until(lambda: "serving alone" in (world.state / "gateway-1.log").read_text())
    for _ in range(5):
        assert await _ask(url, "hi", model="other") == 200
