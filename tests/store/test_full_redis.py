"""A Redis that answers and takes no writes is as good as none, until it takes them again."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.core.errors import StoreError
from orchestrator.store.connection import Connection
from orchestrator.store.leases import Leases
from tests.store.playing import Connect, Server, offer, request, taken
from tests.waiting import until


async def is_down(connection: Connection) -> bool:
    return not connection.is_up


async def is_up(connection: Connection) -> bool:
    return connection.is_up


async def full(connection: Connection) -> None:
    """No more memory, as far as one write shows it."""
    await connection.command("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(StoreError, match="OOM"):
        await connection.command("SET", "olm:x", "y")


async def test_a_full_redis_is_told_of_as_one_that_takes_no_writes_and_is_still_read(
    own_server: Server, connect: Connect
) -> None:
    connection = await connect(own_server)
    await connection.command("SET", "olm:kept", "here")
    await full(connection)
    assert not connection.is_up
    assert "takes no writes: OOM" in connection.problem
    assert await connection.command("GET", "olm:kept") == b"here"


async def test_it_comes_back_by_itself_and_whoever_wants_to_know_is_told(own_server: Server, connect: Connect) -> None:
    connection, ups = await connect(own_server), []
    connection.on_up(lambda: ups.append(True))
    await full(connection)
    await connection.command("CONFIG", "SET", "maxmemory", 0)
    await until(lambda: is_up(connection))
    assert connection.problem == ""
    await until(lambda: _told(ups))


async def _told(ups: list[bool]) -> bool:
    return len(ups) == 1


async def test_one_that_dies_while_it_is_full_is_found_again_when_it_is_back(
    own_server: Server, connect: Connect
) -> None:
    connection = await connect(own_server)
    await full(connection)
    own_server.kill()
    await until(lambda: _is_silent(connection))
    own_server.start()
    await until(lambda: is_up(connection))
    assert await connection.command("PING") == b"PONG"


async def _is_silent(connection: Connection) -> bool:
    return "does not answer" in connection.problem


async def test_a_call_that_meets_a_full_redis_is_told_at_once(own_server: Server, connect: Connect) -> None:
    connection = await connect(own_server, timeout_s=60.0)
    await offer(connection, gpu_1=2)
    leases = Leases(connection, "gw0.test", 30.0)
    await leases.start()
    held = request()
    await leases.admit(held)
    await connection.command("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(StoreError, match="OOM"):
        async with asyncio.timeout(30):  # its repeats would take a minute
            await leases.admit(request())
    await connection.command("CONFIG", "SET", "maxmemory", 0)
    await until(lambda: is_up(connection))
    assert await taken(connection) == {"gpu-1": 1}
    await leases.close()
    assert await taken(connection) == {"gpu-1": 0}
