"""Real servers: the embedded Valkey, Debian's Redis 7.0 where it is installed, a cluster of three masters. Each test
gets them emptied."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.store.connection import Connection
from orchestrator.store.embedded import find_server
from orchestrator.store.leases import Leases
from tests.store.playing import Cluster, Connect, MakeGateway, Server, everywhere

DEBIAN_REDIS = Path("/usr/bin/redis-server")


@pytest.fixture(scope="session", params=["valkey", "redis-7.0"])
def binary(request: pytest.FixtureRequest) -> Path:
    if request.param == "valkey":
        return find_server()
    if not DEBIAN_REDIS.exists():
        pytest.skip(f"{DEBIAN_REDIS} is not there (apt-get install redis-server)")
    return DEBIAN_REDIS


@pytest.fixture(scope="session", params=["valkey", "redis-7.0", "cluster"])
def shared_server(request: pytest.FixtureRequest) -> Iterator[Server | Cluster]:
    if request.param == "redis-7.0" and not DEBIAN_REDIS.exists():
        pytest.skip(f"{DEBIAN_REDIS} is not there (apt-get install redis-server)")
    with tempfile.TemporaryDirectory(prefix="store-") as folder:
        binary = DEBIAN_REDIS if request.param == "redis-7.0" else find_server()
        server = Cluster(binary, Path(folder)) if request.param == "cluster" else Server(binary, Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.kill()


@pytest.fixture
def own_server(binary: Path) -> Iterator[Server]:
    """For tests that kill it."""
    with tempfile.TemporaryDirectory(prefix="store-") as folder:
        server = Server(binary, Path(folder))
        server.start()
        yield server
        server.kill()


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Opens connections and sees to it that none, and no task, is left."""
    before = asyncio.all_tasks()
    opened: list[Connection] = []

    async def make(server: Server | Cluster, **options: Any) -> Connection:
        connection = Connection(server.url, **options)
        opened.append(connection)
        await connection.open(20)
        return connection

    yield make
    for each in opened:
        await each.close()
    left = {each for each in asyncio.all_tasks() - before - {asyncio.current_task()} if not each.done()}
    assert not left, f"tasks left behind: {left}"


@pytest.fixture
async def store(shared_server: Server | Cluster, connect: Connect) -> Connection:
    """A connection to an empty Redis."""
    connection = await connect(shared_server)
    await everywhere(connection, "FLUSHALL")
    return connection


@pytest.fixture
async def gateway(store: Connection) -> AsyncIterator[MakeGateway]:
    """Makes gateways' leases; on the way out all are closed and nothing may be left in the pool."""
    made: list[Leases] = []

    async def make(
        holder: str = "", *, connection: Connection | None = None, ttl_s: float = 30.0, **more: Any
    ) -> Leases:
        leases = Leases(connection or store, holder or f"gw{len(made)}.x", ttl_s, **more)
        made.append(leases)
        await leases.start()
        return leases

    yield make
    for each in made:
        await each.close()
