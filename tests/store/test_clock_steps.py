"""Redis' clock is set while slots are in use: none is given twice, and none stays taken for an hour."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.core.model import InstanceId
from orchestrator.store.admission import Leased, Outcome, Queued, Refused, Why
from orchestrator.store.connection import Connection
from orchestrator.store.embedded import find_server, server_command
from orchestrator.store.leases import Leases
from orchestrator.store.pools import sweep
from orchestrator.store.schema import pool_keys
from tests.chaos.clock import Clock, needs_compiler
from tests.store.playing import ONE, POOL, Connect, Server, look, offer, request, taken
from tests.waiting import until

HOUR_S = 3600
TTL_S = 12.0
RETURN_S = 2.0  # of the scripts


class Clocked(Server):
    """A server with a clock that can be set."""

    def __init__(self, state: Path) -> None:
        super().__init__(find_server(), state)
        self.clock = Clock(state)
        self._command = self.clock.before(server_command(state))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Clocked]:
    needs_compiler()
    made = Clocked(tmp_path)
    made.start()
    try:
        yield made
    finally:
        made.kill()


async def now_s(connection: Connection) -> int:
    return int((await connection.command("TIME"))[0])


async def gateway(connection: Connection, name: str) -> Leases:
    leases = Leases(connection, f"{name}.test", TTL_S)
    await leases.start()
    return leases


@pytest.mark.parametrize("seconds", [HOUR_S, -HOUR_S], ids=["ahead", "back"])
async def test_the_clock_of_the_server_is_set_while_it_runs(server: Clocked, connect: Connect, seconds: int) -> None:
    connection = await connect(server)
    before_s = await now_s(connection)
    server.clock.set_ahead(seconds)
    await until(lambda: _is_about(connection, before_s + seconds))


async def _is_about(connection: Connection, at_s: int, within_s: int = 60) -> bool:
    return abs(await now_s(connection) - at_s) < within_s


@pytest.mark.parametrize("seconds", [HOUR_S, -HOUR_S], ids=["ahead", "back"])
async def test_slots_in_use_are_given_to_nobody_else(server: Clocked, connect: Connect, seconds: int) -> None:
    one, two = await connect(server), await connect(server)
    holder, other = await gateway(one, "gw0"), await gateway(two, "gw1")
    await offer(one, gpu_1=2)
    held = [request(), request()]
    for each in held:
        assert isinstance(await holder.admit(each), Leased)
    server.clock.set_ahead(seconds)
    wanted = request(wait_s=60.0)
    assert isinstance(await other.admit(wanted), Queued)
    waiting = asyncio.create_task(other.wait(POOL, wanted.lease, 60.0))
    await until(lambda: _are_renewed(one))
    assert not waiting.done()
    assert await taken(one) == {"gpu-1": 2}
    await holder.settle(POOL, held[0].lease, Outcome.OK)
    assert await waiting == Leased(InstanceId("gpu-1"), wanted.lease)
    await asyncio.gather(holder.close(), other.close())
    assert await taken(one) == {"gpu-1": 0}


async def _are_renewed(connection: Connection) -> bool:
    """Whether every lease is good for longer than one that only waits for its holder's word, and for no hour."""
    expiry = pool_keys(POOL)[4]
    leases = await connection.command("ZRANGE", expiry, 0, -1, "WITHSCORES")
    ends_s = [float(score) / 1e3 - await now_s(connection) for _, score in leases]
    return all(RETURN_S + 1 < each < TTL_S + 60 for each in ends_s)


async def test_what_a_dead_gateway_left_is_free_after_its_time_though_the_clock_went_back(
    server: Clocked, connect: Connect
) -> None:
    one, two = await connect(server), await connect(server)
    await offer(one, gpu_1=1)
    await Leases(one, "gw0.test", 2.0).admit(request())  # never started: it renews nothing, and gives nothing back
    server.clock.set_ahead(-HOUR_S)
    other = await gateway(two, "gw1")
    waiting = request(wait_s=60.0)
    assert isinstance(await other.admit(waiting), Queued)
    assert isinstance(await other.wait(POOL, waiting.lease, 60.0), Leased)
    await other.close()
    await until(lambda: _is_free(two))


async def _is_free(connection: Connection) -> bool:
    return not any(each.in_flight for each in (await look(connection)).instances)


async def test_a_call_that_has_ended_is_known_to_have_for_half_a_minute_and_forgotten_after_another(
    server: Clocked, connect: Connect
) -> None:
    connection = await connect(server)
    leases = Leases(connection, "gw0.test", TTL_S)
    await offer(connection, gpu_1=1)
    await sweep(connection, POOL)
    asked, began_s = request(), await now_s(connection)
    assert isinstance(await leases.admit(asked), Leased)
    await leases.settle(POOL, asked.lease, Outcome.OK)
    for passed_s, then in ((0, Refused(Why.ENDED, 0)), (31, Refused(Why.ENDED, 0)), (62, Leased(ONE, asked.lease))):
        server.clock.set_ahead(passed_s)
        await until(lambda since_s=began_s + passed_s: _is_about(connection, since_s, within_s=15))
        await sweep(connection, POOL)
        assert await leases.admit(asked) == then
    await leases.settle(POOL, asked.lease, Outcome.OK)
