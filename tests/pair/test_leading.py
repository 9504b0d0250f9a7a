"""Whether a controller may act: as long as it knows that it leads, and not a moment longer."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.app import leading
from orchestrator.app.leading import TTL_S, Lead
from orchestrator.core.errors import StoreError
from orchestrator.store.connection import Connection
from orchestrator.store.schema import LEADER
from tests.store.playing import Connect, Server, back


class Clock:
    """The time as a controller sees it: it may sleep."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(leading, "_now_s", lambda: self.now_s)


async def a_moment(connection: Connection) -> None:
    """A millisecond of Redis: in the same one an emptied server gives the same token again."""

    async def now_ms() -> int:
        seconds, micros = await connection.command("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    begun_ms = await now_ms()
    while await now_ms() == begun_ms:
        pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def test_who_slept_through_its_time_may_not_act_before_it_has_asked_again(
    redis: Server, connect: Connect, clock: Clock
) -> None:
    lead = Lead(await connect(redis), "one", is_alone=False)
    await lead.stand_by()
    lead.check()
    clock.now_s += TTL_S
    with pytest.raises(StoreError, match="not known"):
        lead.check()
    await lead.renew()
    lead.check()


async def test_once_another_led_in_between_it_is_over_until_it_stands_by_again(
    redis: Server, connect: Connect, clock: Clock
) -> None:
    connection = await connect(redis)
    one, two = (Lead(connection, name, is_alone=False) for name in ("one", "two"))
    await one.stand_by()
    await connection.command("DEL", LEADER)  # as if its time were over
    await two.stand_by()
    await two.resign()
    with pytest.raises(StoreError, match="another controller leads"):
        await one.renew()
    assert one.over.is_set()
    assert not one.leads
    with pytest.raises(StoreError, match="another controller leads"):
        one.check()
    await one.stand_by()
    one.check()
    assert one.token > two.token


async def test_who_led_last_and_is_the_first_to_come_back_goes_on_as_before(
    redis: Server, connect: Connect, clock: Clock
) -> None:
    connection = await connect(redis)
    lead = Lead(connection, "one", is_alone=False)
    await lead.stand_by()
    token = lead.token
    await connection.command("DEL", LEADER)
    await lead.renew()
    assert lead.token == token
    assert not lead.over.is_set()


async def test_a_redis_that_was_emptied_ends_the_turn_of_whoever_led(
    redis: Server, connect: Connect, clock: Clock
) -> None:
    connection = await connect(redis)
    shared, own = Lead(connection, "one", is_alone=False), Lead(connection, "one", is_alone=True)
    await shared.stand_by()
    await own.stand_by()
    await a_moment(connection)
    await connection.command("FLUSHALL")
    await own.renew()
    own.check()
    with pytest.raises(StoreError, match="another controller leads"):
        await shared.renew()


async def test_without_redis_a_leader_acts_no_longer_than_another_could_not_lead(
    redis: Server, connect: Connect, clock: Clock
) -> None:
    connection = await connect(redis)
    shared, own = Lead(connection, "one", is_alone=False), Lead(connection, "one", is_alone=True)
    await shared.stand_by()
    await own.stand_by()
    redis.kill()
    shared.check()
    clock.now_s += TTL_S
    own.check()
    with pytest.raises(StoreError, match="nothing is changed until it is"):
        shared.check()
    redis.start()
    await back(connection)
    await shared.renew()
    shared.check()


async def test_the_other_leads_as_soon_as_the_first_resigns(redis: Server, connect: Connect) -> None:
    connection = await connect(redis)
    one, two = (Lead(connection, name, is_alone=False) for name in ("one", "two"))
    await one.stand_by()
    waiting = asyncio.create_task(two.stand_by())
    keeping = asyncio.create_task(one.keep())
    await one.resign()
    await waiting
    await keeping
    two.check()
