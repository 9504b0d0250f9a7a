"""Changes of models on their way through Redis: who asks, who leads, and who ends one."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from orchestrator.core.chores import Chore, ChoreKind, Ending
from orchestrator.core.errors import CapacityError
from orchestrator.store import chores as module
from orchestrator.store import cluster
from orchestrator.store.chores import Chores
from orchestrator.store.connection import Connection

PULL = Chore(ChoreKind.PULL, {"model": "m:8b"}, "boss")


@pytest.fixture
async def chores(store: Connection) -> Chores:
    made = Chores(store)
    await made.start()
    return made


async def token(store: Connection) -> int:
    leadership = await cluster.lead(store, "here", 30.0)
    assert leadership is not None
    return leadership.token


async def told(chores: Chores, chore: Chore) -> list[Any]:
    async with asyncio.timeout(20), aclosing(chores.follow(chore)) as said:
        return [each async for each in said]


async def test_who_asks_for_the_same_gets_the_one_under_way_and_a_new_one_once_that_has_ended(store, chores):
    first = await chores.ask(PULL)
    assert await chores.ask(PULL) == first
    assert await chores.ask(Chore(ChoreKind.PULL, {"model": "M:8b"}, "boss")) != PULL
    assert [each.id for each in await chores.open()] == [first.id]
    assert await chores.end(first, await token(store), Ending())
    assert await chores.open() == []
    assert (await chores.ask(PULL)).id != first.id


async def test_what_is_told_is_heard_in_order_by_all_who_follow_however_late(store, chores):
    chore, leader = await chores.ask(PULL), await token(store)
    early = asyncio.create_task(told(chores, chore))
    lines: list[dict[str, Any]] = [{"status": "pulling manifest"}, {"status": "writing manifest"}]
    for each in lines:
        assert await chores.tell(chore, leader, each)
    assert await chores.tell(chore, leader, None)
    assert await chores.end(chore, leader, Ending(500, "disk full"))
    expected = [*lines, None, Ending(500, "disk full")]
    assert await early == expected
    assert await told(chores, chore) == expected


async def test_only_the_controller_that_leads_tells_and_only_of_what_is_open(store, chores):
    chore, leader = await chores.ask(PULL), await token(store)
    assert not await chores.tell(chore, leader - 1, {"status": "from before"})
    assert not await chores.end(chore, leader + 1, Ending())
    assert not await chores.was_begun(chore)
    assert await chores.tell(chore, leader, None)
    assert await chores.was_begun(chore)
    assert await chores.end(chore, leader, Ending())
    assert not await chores.tell(chore, leader, {"status": "too late"})


async def test_one_that_nobody_is_at_work_on_is_ended_by_who_follows_it(store, chores, monkeypatch):
    monkeypatch.setattr(module, "SILENT_S", 0.1)
    chore = await chores.ask(PULL)
    [ended] = await told(chores, chore)
    assert ended.status == 503
    assert await chores.open() == []
    assert not await chores.tell(chore, await token(store), None)


async def test_they_are_done_in_the_order_in_which_they_were_asked_for_and_there_are_not_too_many(
    store, chores, monkeypatch
):
    monkeypatch.setattr(module, "OPEN_AT_MOST", 3)
    asked = [await chores.ask(Chore(ChoreKind.PULL, {"model": name})) for name in ("b", "a", "c")]
    found = await chores.open()
    assert {each.id for each in found} == {each.id for each in asked}
    assert [each.at_ms for each in found] == sorted(each.at_ms for each in found)
    with pytest.raises(CapacityError, match="3 changes of models are under way"):
        await chores.ask(Chore(ChoreKind.PULL, {"model": "d"}))
    assert (await chores.ask(Chore(ChoreKind.PULL, {"model": "a"}))).id == asked[1].id


async def test_what_another_version_asks_for_and_this_one_does_not_know_is_passed_over(store, chores, caplog):
    chore = await chores.ask(PULL)
    await store.command(b"HSET", module.CHORES, "odd", b'odd-id 7 {"kind":"dance","body":{}}')
    assert [each.id for each in await chores.open()] == [chore.id]
    assert "cannot be read, and is not done" in caplog.text
