"""A gateway that was paused for longer than its leases last uses none of the slots it was granted meanwhile."""

from __future__ import annotations

import asyncio
import threading
import time

from orchestrator.store.admission import Leased, Outcome, Queued
from orchestrator.store.connection import Connection
from orchestrator.store.leases import Leases
from tests.store.playing import POOL, Connect, Server, offer, request, taken

TTL_S = 1.0
BEYOND_S = 1.5 + TTL_S / 2  # by then it knows that it was paused, by whichever it looks at first


async def test_a_grant_that_ended_while_its_gateway_paused_is_not_used(own_server: Server, connect: Connect) -> None:
    store = await connect(own_server)
    await offer(store, gpu_1=1)
    paused = Leases(store, "gw0.x", TTL_S)
    await paused.start()
    others = threading.Thread(target=lambda: asyncio.run(meanwhile()))
    has_slot, is_queued, is_over, may_end = (threading.Event() for _ in range(4))

    async def meanwhile() -> None:
        """Another gateway, in a thread of its own: gives its slot to the paused one, and gets it when that is over."""
        connection = Connection(own_server.url)
        await connection.open(20)
        leases = Leases(connection, "gw1.x", 30.0)
        await leases.start()
        first = await leases.admit(request("first"))
        assert isinstance(first, Leased)
        has_slot.set()
        await asyncio.to_thread(is_queued.wait)
        await leases.settle(POOL, first.lease, Outcome.OK)  # granted to who waits, who hears nothing now
        last = await leases.admit(request("last", wait_s=30.0))
        if isinstance(last, Queued):
            last = await leases.wait(POOL, request("last").lease, 30.0)
        assert isinstance(last, Leased)
        is_over.set()
        await asyncio.to_thread(may_end.wait)
        await leases.settle(POOL, last.lease, Outcome.OK)
        await leases.close()
        await connection.close()

    others.start()
    try:
        await asyncio.to_thread(has_slot.wait)
        assert isinstance(await paused.admit(request("slow", wait_s=30.0)), Queued)
        waiting = asyncio.create_task(paused.wait(POOL, request("slow").lease, 30.0))
        await asyncio.sleep(0)
        is_queued.set()
        while not is_over.is_set():
            time.sleep(0.05)  # this loop is what is paused
        time.sleep(BEYOND_S)
        for _ in range(20):
            await asyncio.sleep(0.01)
            assert not paused.held
            assert (await taken(store)) == {"gpu-1": 1}
    finally:
        for each in (is_queued, may_end):
            each.set()
        await asyncio.to_thread(others.join)
        await paused.close()
    await asyncio.gather(waiting, return_exceptions=True)
