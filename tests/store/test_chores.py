"""Changes of models on their way through Redis: who asks, who leads, and who ends one."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.core.chores import Chore, ChoreKind, Ending
from orchestrator.core.errors import CapacityError
from orchestrator.store import chore_seals, cluster
from orchestrator.store import chores as module
from orchestrator.store.chore_seals import Seals
from orchestrator.store.chores import Chores
from orchestrator.store.connection import Connection
from tests.waiting import WITHIN_S

PULL = Chore(ChoreKind.PULL, {"model": "m:8b"}, "boss")
KEY, OTHER_KEY = (hashlib.sha256(each).digest() for each in (b"the machines' secret", b"somebody else's"))


@pytest.fixture
async def chores(store: Connection) -> Chores:
    made = Chores(store, KEY)
    await made.start()
    return made


async def token(store: Connection) -> int:
    leadership = await cluster.lead(store, "here", 30.0)
    assert leadership is not None
    return leadership.token


async def told(chores: Chores, chore: Chore) -> list[Any]:
    async with asyncio.timeout(WITHIN_S), aclosing(chores.follow(chore)) as said:
        return [each async for each in said]


async def test_who_asks_for_the_same_gets_the_one_under_way_and_a_new_one_once_that_has_ended(store, chores):
    first = await chores.ask(PULL)
    assert await chores.ask(PULL) == first
    assert await chores.ask(Chore(ChoreKind.PULL, {"model": "M:8b"}, "boss")) != PULL
    leader = await token(store)
    assert [each.id for each in await chores.open(leader)] == [first.id]
    assert await chores.end(first, leader, Ending())
    assert await chores.open(leader) == []
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
    leader = await token(store)
    assert await chores.open(leader) == []
    assert not await chores.tell(chore, leader, None)


async def test_they_are_done_in_the_order_in_which_they_were_asked_for_and_there_are_not_too_many(
    store, chores, monkeypatch
):
    monkeypatch.setattr(module, "OPEN_AT_MOST", 3)
    asked = [await chores.ask(Chore(ChoreKind.PULL, {"model": name})) for name in ("b", "a", "c")]
    found = await chores.open(await token(store))
    assert {each.id for each in found} == {each.id for each in asked}
    assert [each.at_ms for each in found] == sorted(each.at_ms for each in found)
    with pytest.raises(CapacityError, match="3 changes of models are under way"):
        await chores.ask(Chore(ChoreKind.PULL, {"model": "d"}))
    assert (await chores.ask(Chore(ChoreKind.PULL, {"model": "a"}))).id == asked[1].id


async def test_what_another_version_asks_for_and_this_one_does_not_know_is_passed_over(store, chores, caplog):
    chore = await chores.ask(PULL)
    dance = b'{"kind":"dance","body":{}}'
    seal = Seals(KEY).of(b"asked", b"odd", dance)
    await store.command(b"HSET", module.CHORES, "odd", b"odd-id 7 %s %s" % (seal, dance))
    for _ in range(2):
        assert [each.id for each in await chores.open(await token(store))] == [chore.id]
    assert caplog.text.count("cannot be read, and is not done") == 1


# --- what was not asked for by a machine of the cluster ---------------------------------------------------------------


async def kept_in(store: Connection) -> dict[bytes, bytes]:
    kept: dict[bytes, bytes] = await store.command(b"HGETALL", module.CHORES)
    return kept


async def put_back(store: Connection, kept: dict[bytes, bytes]) -> None:
    for place, each in kept.items():
        await store.command(b"HSET", module.CHORES, place, each)


@pytest.mark.parametrize(
    "forged",
    [
        b'%(id)s %(at)d {"kind":"delete","body":{"model":"m:8b"},"who":"boss"}',  # as it was before there were seals
        b'%(id)s %(at)d %(seal)s {"kind":"delete","body":{"model":"m:8b"},"who":"boss","id":"%(id)s","at_ms":%(at)d}',
        b"%(id)s",
        b" ",
        b"",
        b"\xff\x00 7 x y",
    ],
)
async def test_what_is_written_to_redis_without_the_key_is_dropped_and_said_once(store, chores, caplog, forged):
    chore, leader = await chores.ask(PULL), await token(store)
    [real] = (await kept_in(store)).values()
    _, at, seal, _ = real.split(b" ", 3)
    filled = forged % {b"id": 32 * b"a", b"at": int(at), b"seal": seal} if b"%" in forged else forged
    await store.command(b"HSET", module.CHORES, "forged", filled)
    for _ in range(2):
        assert [each.id for each in await chores.open(leader)] == [chore.id]
    assert list((await kept_in(store)).values()) == [real]
    assert caplog.text.count("was not asked for with this cluster's secret") == 1


async def test_what_was_asked_for_is_done_in_its_own_place_alone_and_unchanged(store, chores):
    first, leader = await chores.ask(PULL), await token(store)
    [real] = (await kept_in(store)).values()
    await store.command(b"HSET", module.CHORES, "elsewhere", real)
    await store.command(b"HSET", module.CHORES, first.digest, real.replace(b"m:8b", b"n:8b"))
    assert await chores.open(leader) == []


async def test_what_another_machine_asks_for_with_another_secret_is_not_done_and_its_caller_is_told_why(
    store, chores, monkeypatch
):
    monkeypatch.setattr(module, "SILENT_S", 0.1)
    stranger = Chores(store, OTHER_KEY)
    chore = await stranger.ask(PULL)
    assert await chores.open(await token(store)) == []
    [ended] = await told(stranger, chore)
    assert ended.status == 503
    assert "give all the same `cache.secret`" in ended.error


async def test_what_is_told_without_the_key_or_of_another_one_is_not_believed(store, chores):
    blob = Chore(ChoreKind.BLOB, {"digest": f"sha256:{64 * '0'}"}, "boss")
    leader, stranger = await token(store), Chores(store, OTHER_KEY)
    chore, other = await chores.ask(blob), await chores.ask(PULL)
    forged = b'{"end":{"status":200,"error":"","told":{"missing":[["a","192.0.2.1",80]]}}}'
    stream = module.chore_told(chore.id)
    await store.command(b"XADD", stream, b"*", b"t", forged)
    await store.command(b"XADD", stream, b"*", b"t", forged, b"s", Seals(KEY).told(other, forged))
    assert await stranger.tell(chore, leader, {"status": "forged"})
    right = Ending(told={"missing": []})
    assert await chores.end(chore, leader, right)
    assert await told(chores, chore) == [right]


@pytest.mark.parametrize("is_ended_by_controller", [True, False])
async def test_what_is_over_is_not_done_again_by_putting_it_back(
    store, chores, caplog, monkeypatch, is_ended_by_controller
):
    chore, leader = await chores.ask(PULL), await token(store)
    kept = await kept_in(store)
    assert [each.id for each in await chores.open(leader)] == [chore.id]
    if is_ended_by_controller:
        assert await chores.end(chore, leader, Ending())
    else:
        gateway = Chores(store, KEY)
        monkeypatch.setattr(module, "SILENT_S", 0.1)
        assert [each.status for each in await told(gateway, chore)] == [503]
        assert await chores.open(leader) == []
    await put_back(store, kept)
    assert await chores.open(leader) == []
    assert await kept_in(store) == {}
    assert "it was done or given up before" in caplog.text


async def test_an_old_one_is_taken_up_only_where_another_controller_was_at_work_on_it_lately(
    store, chores, caplog, monkeypatch
):
    clock = Chores._now_ms
    asked_ago_ms = 1000 * (int(chore_seals.VALID_S) + 60)

    async def long_ago(self: Chores) -> int:
        return await clock(self) - asked_ago_ms

    begun, forgotten = replace(PULL, body={"model": "begun"}), replace(PULL, body={"model": "forgotten"})
    leader, predecessor = await token(store), Chores(store, KEY)
    with monkeypatch.context() as then:
        then.setattr(Chores, "_now_ms", long_ago)
        begun, forgotten = await chores.ask(begun), await chores.ask(forgotten)
        assert len(await predecessor.open(leader)) == 2
        assert await predecessor.tell(forgotten, leader, None)
    assert await predecessor.tell(begun, leader, None)
    assert len(await predecessor.open(leader)) == 2  # which goes on with what it has begun, however long that takes
    assert [each.id for each in await chores.open(leader)] == [begun.id]
    assert "nobody was at work on it" in caplog.text
