"""What Redis grants before it knows again of every slot in use is looked at before it is used."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from orchestrator.core.errors import StoreError
from orchestrator.core.model import LeaseId
from orchestrator.store.admission import Leased, Outcome, Queued
from orchestrator.store.batch import Held
from orchestrator.store.leases import Leases
from tests.store.playing import ONE, POOL, Connect, Server, look, offer, request, taken
from tests.waiting import until

UNTOLD = LeaseId("untold")


class Pair:
    """A gateway that has lost Redis, and one that uses a slot of which Redis has not heard."""

    def __init__(self, cut: Leases, other: Leases, store) -> None:
        self.cut, self.other, self._store = cut, other, store

    async def until_granted(self, lease: LeaseId) -> asyncio.Task[Leased | None]:
        """The cut one waits with this ticket, and Redis has granted it: as Redis came back, before all have told."""
        first = await self.cut.admit(request("first"))
        assert isinstance(first, Leased)
        assert isinstance(await self.cut.admit(request(lease, wait_s=60.0)), Queued)
        waiting = asyncio.create_task(self.cut.wait(POOL, lease, 60.0))
        self.cut.doubt()
        await self.cut.settle(POOL, first.lease, Outcome.OK)

        async def is_granted() -> bool:
            return (await look(self._store)).queued == 0 and await taken(self._store) == {ONE: 1}

        await until(is_granted)
        return waiting

    async def are_taken(self, slots: int) -> None:
        async def are() -> bool:
            return await taken(self._store) == {ONE: slots}

        await until(are)


@pytest.fixture
async def pair(own_server: Server, connect: Connect) -> AsyncIterator[Pair]:
    store = await connect(own_server)
    await offer(store, gpu_1=1)
    cut, other = Leases(store, "gw0.x", 30.0), Leases(store, "gw1.x", 30.0)
    for each in (cut, other):
        await each.start()
    yield Pair(cut, other, store)
    for each in (cut, other):
        await each.close()
    assert await taken(store) == {ONE: 0}


async def test_one_too_many_is_given_back_and_who_waits_is_told(pair: Pair) -> None:
    waiting = await pair.until_granted(LeaseId("late"))
    pair.other.hold(UNTOLD, Held(POOL, ONE))
    await pair.other.tell()
    await pair.are_taken(2)
    assert not waiting.done()
    pair.cut.trust()
    with pytest.raises(StoreError, match="in use"):
        await waiting
    assert not pair.cut.held
    await pair.are_taken(1)


async def test_one_that_is_free_after_all_is_used(pair: Pair) -> None:
    waiting = await pair.until_granted(LeaseId("late"))
    assert not waiting.done()
    pair.cut.trust()
    assert await waiting == Leased(ONE, LeaseId("late"))
    await pair.are_taken(1)


async def test_a_slot_granted_at_once_is_not_used_either(pair: Pair) -> None:
    pair.cut.doubt()
    with pytest.raises(StoreError, match="does not know yet"):
        await pair.cut.admit(request("late"))
    await pair.are_taken(0)
    pair.cut.trust()
    assert isinstance(await pair.cut.admit(request("later")), Leased)
