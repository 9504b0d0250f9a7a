"""Two machines on one Redis: two state folders, each with its own supervisor, controller and workers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest

from orchestrator.store.connection import Connection
from tests.chaos.world import Plan, World, world_of
from tests.cluster.running import needs_redis
from tests.store.playing import Connect, Server, own_server


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Both before two servers with two slots each; one Redis, no Sentinel."""
    needs_redis()
    # A lease that nobody gives back would be there until the end of a test.
    plan = Plan(instances=2, sentinels=0, settings={"limits": {"lease_ttl_s": 120}})
    with world_of(tmp_path_factory.mktemp("pair"), plan) as made:
        yield made


@pytest.fixture
def pair(machines: World) -> World:
    """The same, whole again after what the test before did to it."""
    for each in (*machines.store.servers, *machines.instances, *machines.sides):
        if not each.is_running:
            each.start()
    for side in machines.sides:
        side.wait_until_ready()
    for instance in machines.instances:
        instance.behave()
    machines.until(lambda: machines.is_whole() and machines.is_idle(), "both machines are whole")
    return machines


@pytest.fixture
def redis() -> Iterator[Server]:
    """A server for one test."""
    needs_redis()
    with own_server() as server:
        yield server


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Opens connections, closed at the end."""
    async with AsyncExitStack() as stack:

        async def make(server: Server) -> Connection:
            connection = Connection(server.url)
            stack.push_async_callback(connection.close)
            await connection.open(20)
            return connection

        yield make
