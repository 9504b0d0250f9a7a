"""A Redis Cluster: each key at its master, and what happens as masters fail and slots move."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import StoreError
from orchestrator.store.admission import Leased, Outcome
from orchestrator.store.connection import Connection
from orchestrator.store.embedded import find_server
from orchestrator.store.leases import Leases
from orchestrator.store.schema import pool_keys
from orchestrator.store.slots import SLOTS, Ranges, slot_of
from tests.store.playing import POOL, Cluster, ask, back, free_port, look, offer, request, taken
from tests.waiting import until


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three masters and a replica of each."""
    made = Cluster(find_server(), tmp_path, has_replicas=True)
    try:
        made.start()
        yield made
    finally:
        made.kill()


@pytest.fixture
async def store(cluster: Cluster) -> AsyncIterator[Connection]:
    connection = Connection(cluster.url)
    await connection.open(20)
    yield connection
    await connection.close()


# --- slots ---


@pytest.mark.parametrize(
    ("key", "slot"),
    [  # as `CLUSTER KEYSLOT` has them
        (b"123456789", 12739),
        (b"foo", 12182),
        (b"{foo}bar", 12182),
        (b"a{foo}{bar}", 12182),
        (b"foo{}", 5542),
        (b"{", 4092),
        (b"", 0),
    ],
)
def test_a_keys_slot_is_that_of_its_tag(key: bytes, slot: int) -> None:
    assert slot_of(key) == slot


def test_all_keys_of_a_pool_lie_together() -> None:
    assert len({slot_of(each) for each in pool_keys("llama3.2:3b-instruct-q4_K_M")}) == 1


@given(st.lists(st.integers(1, SLOTS - 1), unique=True, max_size=8))
def test_every_slot_has_the_master_whose_range_it_is_in(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), SLOTS]
    told = [[low, high - 1, [b"", 7000 + n, b"id"]] for n, (low, high) in enumerate(pairwise(edges))]
    ranges = Ranges.told(told, ("h", 1))
    assert ranges.is_whole
    by_slot = ranges.by_slot()
    for first, last, _ in told:
        assert by_slot[first] == by_slot[last] == ("h", 7000 + edges.index(first))
    assert not Ranges.told(told[1:], ("h", 1)).is_whole


# --- a real one ---


async def test_where_a_master_dies_calls_go_on_with_its_replica(cluster: Cluster, store: Connection) -> None:
    leases = Leases(store, "gw0.x", 30.0)
    await leases.start()
    await offer(store, gpu_1=1)
    held = await leases.admit(request())
    assert isinstance(held, Leased)
    cluster.kill_node(master_of(cluster, slot_of(pool_keys(POOL)[0])))
    waiting = asyncio.create_task(leases.admit(request("next")))
    settled = asyncio.create_task(leases.settle(POOL, held.lease, Outcome.OK))
    await until(lambda: goes_on(store))
    assert store.is_up
    # What was written last may be lost with a master; what is told of leases afterwards is consistent again.
    await asyncio.gather(waiting, settled, return_exceptions=True)
    await offer(store, gpu_1=1)
    assert sum((await taken(store)).values()) <= 1
    await leases.close()  # gives back what it holds, as far as the cluster still knows of it
    another = Leases(store, "gw1.x", 30.0)
    await another.start()
    assert isinstance(await another.admit(request("after")), Leased)
    await another.close()


async def goes_on(store: Connection) -> bool:
    try:
        await look(store)
    except StoreError:
        return False
    return True


async def test_channels_are_heard_again_where_their_master_dies(cluster: Cluster, store: Connection) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    await store.subscribe("olm:news", heard.put_nowait)
    cluster.kill_node(master_of(cluster, 0))

    async def is_heard() -> bool:
        with suppress(StoreError):
            await store.command("PUBLISH", "olm:news", "after")
        return not heard.empty()

    await until(is_heard)
    assert await heard.get() == b"after"


async def test_a_slot_that_moved_is_followed_and_one_that_is_on_its_way_is_asked_for_there(
    cluster: Cluster, store: Connection
) -> None:
    slot, moving = slot_of(b"olm:{a}"), "olm:{a}"
    there = master_of(cluster, slot)
    other = next(each for each in cluster.masters if each != there)
    ids = {port: ask(port, "CLUSTER", "MYID").decode() for port in (there, other)}
    ask(other, "CLUSTER", "SETSLOT", str(slot), "IMPORTING", ids[there])
    ask(there, "CLUSTER", "SETSLOT", str(slot), "MIGRATING", ids[other])
    await store.command("SET", moving, "new")  # is not there: the old master says where to ask for it
    assert ask(other, "CLUSTER", "COUNTKEYSINSLOT", str(slot)) == b"1"
    assert await store.command("GET", moving) == b"new"
    for port in (other, there):
        ask(port, "CLUSTER", "SETSLOT", str(slot), "NODE", ids[other])
    assert await store.command("GET", moving) == b"new"
    assert store.is_up


async def test_keys_of_all_masters_are_found(store: Connection) -> None:
    names = {f"olm:{{{n}}}" for n in range(50)}
    await asyncio.gather(*(store.command("SET", each, "x") for each in names))
    assert {key.decode() async for keys in store.scan("olm:{*") for key in keys} == names


async def test_one_living_address_of_the_cluster_is_enough(cluster: Cluster) -> None:
    connection = Connection(f"cluster://127.0.0.1:{free_port()},127.0.0.1:{cluster.masters[0]}")
    try:
        await connection.open(20)
        await back(connection)
    finally:
        await connection.close()


async def test_a_cluster_that_is_not_there_is_told_of() -> None:
    connection = Connection(f"cluster://127.0.0.1:{free_port()}")
    try:
        with pytest.raises(StoreError, match=r"cluster://127\.0\.0\.1:\d+ does not answer"):
            await connection.open(1.0)
    finally:
        await connection.close()


def master_of(cluster: Cluster, slot: int) -> int:
    """The port of the master that has a slot, as the cluster was made."""
    share = -(-SLOTS // len(cluster.masters))
    return cluster.masters[slot // share]
