"""Publishing the cluster: one leader, snapshots that arrive whole, and what people are told."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.core.errors import StoreError
from orchestrator.core.model import (
    Accelerator,
    Engine,
    GpuProcess,
    Instance,
    InstanceId,
    InstanceState,
    NodeFacts,
    NodeName,
    Pool,
    PoolName,
    Snapshot,
)
from orchestrator.store import cluster
from orchestrator.store.cluster import Leadership, lead, publish, read, resign, watch
from orchestrator.store.connection import Connection
from orchestrator.store.pools import in_flight
from tests.store.playing import Connect, Server, back, everywhere
from tests.waiting import until

NODE = NodeName("local")


def instance(name: str, pool: str, state: InstanceState = InstanceState.SERVING) -> Instance:
    return Instance(
        InstanceId(name), NODE, PoolName(pool), "127.0.0.1", 9001, Engine.LLAMA_CPP, "m", 2, 4096, ("GPU-1",), state
    )


def snapshot(version: int, *pools: Pool) -> Snapshot:
    card = Accelerator("GPU-1", 0, "RTX 4090", 24 << 30, 20 << 30, 4 << 30, (GpuProcess(7, None),), is_simulated=True)
    facts = NodeFacts(NODE, "host", "cpu", 2, 1 << 34, 1 << 33, 1 << 40, (card,), None, None, ("no driver: …",))
    return Snapshot(version, 1_763_700_000_000, pools, (facts,), ("simulated: local",))


SMALL = Pool(
    PoolName("small"),
    4096,
    False,
    (instance("a", "small"), instance("b", "small", InstanceState.LOADING)),
    {"family": "llama", "size": 7},
)
FULL = Pool(PoolName("full"), 8192, False, (instance("c", "full"),))


async def leader(connection: Connection, name: str = "controller-1") -> Leadership:
    led = await lead(connection, name, 600)
    assert led
    return led


async def test_only_one_controller_leads_and_its_token_stays_while_it_does(store: Connection) -> None:
    first = await leader(store)
    assert await lead(store, "controller-2", 600) is None
    assert await leader(store) == first


async def test_the_next_leader_has_a_higher_token(store: Connection) -> None:
    first = await leader(store)
    await resign(store, first)
    second = await leader(store, "controller-2")
    assert second.token > first.token
    await resign(store, first)  # once more, too late: the second goes on leading
    assert await leader(store, "controller-2") == second


async def test_a_leader_that_does_not_renew_is_followed(store: Connection) -> None:
    first = await lead(store, "controller-1", 0.05)
    assert first

    async def has_taken_over() -> bool:
        return await lead(store, "controller-2", 600) is not None

    await until(has_taken_over)
    assert not await publish(store, first, snapshot(1, SMALL))
    assert await read(store) is None
    assert await in_flight(store) == ()


async def test_tokens_rise_even_when_redis_lost_its_data(store: Connection) -> None:
    first = await leader(store)
    await asyncio.sleep(0.002)
    await everywhere(store, "FLUSHALL")
    assert (await leader(store, "controller-2")).token > first.token


async def test_a_snapshot_is_read_as_it_was_published(store: Connection) -> None:
    assert await read(store) is None
    published = snapshot(3, SMALL, FULL)
    assert await publish(store, await leader(store), published)
    assert await read(store) == published


async def test_only_serving_instances_offer_slots(store: Connection) -> None:
    assert await publish(store, await leader(store), snapshot(1, SMALL))
    (pool,) = await in_flight(store)
    assert [(each.instance, each.slots) for each in pool.instances] == [("a", 2)]


async def test_a_pool_that_is_no_longer_in_the_snapshot_offers_nothing(store: Connection) -> None:
    led = await leader(store)
    await publish(store, led, snapshot(1, SMALL, FULL))
    await publish(store, led, snapshot(2, FULL))
    assert [each.pool for each in await in_flight(store)] == ["full"]


async def test_watchers_get_the_present_snapshot_and_each_new_one_once(store: Connection) -> None:
    led = await leader(store)
    await publish(store, led, snapshot(1, SMALL))
    seen: asyncio.Queue[Snapshot] = asyncio.Queue()
    watching = await watch(store, seen.put_nowait)
    assert (await seen.get()).version == 1
    await publish(store, led, snapshot(1, SMALL))
    await publish(store, led, snapshot(2, SMALL, FULL))
    assert (await seen.get()).version == 2
    assert seen.empty()
    await watching.close()


async def test_watchers_see_after_a_restart_what_was_published_meanwhile(own_server: Server, connect: Connect) -> None:
    connection, controller = await connect(own_server), await connect(own_server)
    seen: asyncio.Queue[Snapshot] = asyncio.Queue()
    watching = await watch(connection, seen.put_nowait)
    await publish(controller, await leader(controller), snapshot(1, SMALL))
    assert (await seen.get()).version == 1
    own_server.kill()
    own_server.lose_data()
    own_server.start()
    await back(connection, controller)

    async def is_published() -> bool:
        return await publish(controller, await leader(controller), snapshot(2, SMALL))

    await until(is_published)
    assert (await seen.get()).version == 2
    await watching.close()


@pytest.mark.parametrize("payload", [b"not json", b"[]", b'{"format":1}', b'{"format":1,"snapshot":{"version":"x"}}'])
async def test_a_snapshot_that_makes_no_sense_is_an_error(store: Connection, payload: bytes) -> None:
    await store.command("SET", "olm:{cluster}", payload)
    with pytest.raises(StoreError, match="cannot be read"):
        await read(store)


async def test_a_snapshot_of_a_later_version_is_an_error_that_says_so(store: Connection) -> None:
    await store.command("SET", "olm:{cluster}", b'{"format":2,"snapshot":{}}')
    with pytest.raises(StoreError, match="format 2"):
        await read(store)


async def test_progress_lines_are_shown_until_taken_away(store: Connection) -> None:
    await cluster.set_progress(store, "llama3.2:3b", "yükleniyor 40 %")
    await cluster.set_progress(store, "b", "x")
    await cluster.set_progress(store, "b", None)
    assert await cluster.progress(store) == {"llama3.2:3b": "yükleniyor 40 %"}
