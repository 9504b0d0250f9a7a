"""The books of kept answers: their room, who goes first when it is short, what is purged, and what is counted."""

from __future__ import annotations

import time

import pytest

from orchestrator.core.cache_entry import About
from orchestrator.store.answer_books import OVERHEAD_BYTES, AnswerBooks, Noted
from orchestrator.store.answers import Answers
from orchestrator.store.connection import Connection
from orchestrator.store.schema import pool_answer, route_answer

ROOMY = 2**30
ONE_KIB = 1024 - OVERHEAD_BYTES


@pytest.fixture
def books(store: Connection) -> AnswerBooks:
    return AnswerBooks(store)


async def kept(store: Connection, key: str, *, ends_in_s: float = 60, about: About | None = None) -> Noted:
    """An answer of one KiB, room and all."""
    now_ms = time.time_ns() // 1_000_000
    await store.command("SET", key, b"x" * ONE_KIB, "PX", 60_000)
    return Noted(key, ONE_KIB, now_ms, now_ms + int(ends_in_s * 1000), about or About("auto", True, "a"))


async def there(store: Connection, *keys: str) -> list[bool]:
    return [bool(await store.command("EXISTS", key)) for key in keys]


async def test_bytes_are_those_of_the_answers_that_are_there_however_often_one_is_kept(store, books):
    one, two = [await kept(store, route_answer("auto", name)) for name in ("1", "2")]
    assert (await books.reckon([one, two], {}, {}, ROOMY)).bytes == 2048
    assert (await books.reckon([one], {}, {}, ROOMY)).bytes == 2048
    assert await books.purge(lambda each: each.digest == "1") == 1
    told = await books.read()
    assert (told.entries, told.bytes) == (1, 1024)
    assert await there(store, one.key, two.key) == [False, True]


async def test_where_room_is_short_what_is_used_least_goes_first(store, books):
    notes = [await kept(store, route_answer("auto", str(at))) for at in range(10)]
    await books.reckon(notes, {}, {}, ROOMY)
    often = {notes[at].key: at + 1 for at in (3, 5, 8)}
    told = await books.reckon([], often, {}, 3 * 1024)
    assert (told.entries, told.bytes, told.deleted, told.counts["evicted"]) == (3, 3072, 7, 7)
    assert {each.key async for each in books.listed()} == often.keys()


async def test_a_use_of_long_ago_counts_less_than_one_of_now(store, books):
    old, new = [await kept(store, route_answer("auto", name)) for name in ("old", "new")]
    await books.reckon([old], {old.key: 9}, {}, ROOMY)
    days_ago = await store.command("ZSCORE", "olm:{answers}:uses", old.key) - 5  # half-lives
    await store.command("ZADD", "olm:{answers}:uses", days_ago, old.key)
    await books.reckon([new], {}, {}, 1024)
    assert await there(store, old.key, new.key) == [False, True]


async def test_an_answer_whose_time_is_over_leaves_the_books(store, books):
    note = await kept(store, route_answer("auto", "1"), ends_in_s=-1)
    told = await books.reckon([note], {}, {}, ROOMY)
    assert (told.entries, told.bytes, told.counts["expired"]) == (0, 0, 1)


async def test_however_many_answers_must_go_one_reckoning_lets_them_go(store, books):
    notes = [await kept(store, route_answer("auto", str(at)), ends_in_s=-1 if at % 2 else 60) for at in range(700)]
    told = await books.reckon(notes, {}, {"hits:exact": 1}, 10 * 1024)
    assert (told.entries, told.bytes, told.counts["expired"], told.deleted) == (10, 10_240, 350, 340)
    assert told.counts["hits:exact"] == 1


async def test_a_use_of_an_answer_that_is_not_in_the_books_puts_none_there(store, books):
    assert (await books.reckon([], {"olm:answers:{auto}:purged": 3}, {}, ROOMY)).entries == 0
    assert await store.command("ZCARD", "olm:{answers}:uses") == 0


async def test_leases_queues_and_counts_are_never_deleted_for_want_of_room(store, books):
    note = await kept(store, pool_answer("m", "1"))
    await store.command("SET", "olm:pool:{m}:slots", "x")
    await books.reckon([note], {}, {"hits:exact": 2}, 1)
    assert await there(store, note.key, "olm:pool:{m}:slots") == [False, True]
    assert (await books.read()).counts["hits:exact"] == 2


async def test_purging_selects_by_tag_tenant_scope_and_age_and_by_nothing_else(store, books):
    notes = [
        await kept(store, route_answer("auto", "1"), about=About("auto", True, "a", ("law", "2026"))),
        await kept(store, route_answer("auto", "2"), about=About("auto", True, "b")),
        await kept(store, pool_answer("m", "3"), about=About("m", False, "a")),
    ]
    await books.reckon(notes, {}, {}, ROOMY)
    assert await books.purge(lambda each: "law" in each.about.tags) == 1
    assert await books.purge(lambda each: each.about.scope == "m") == 1
    assert await there(store, *(each.key for each in notes)) == [False, True, False]
    assert (await books.read()).bytes == 1024


async def test_purging_everything_finds_answers_that_are_in_no_book(store, books):
    note = await kept(store, route_answer("auto", "1"))
    await kept(store, route_answer("auto", "2"))
    await kept(store, pool_answer("a*[b]", "3"))
    await store.command("SET", "olm:pool:{m}:slots", "x")
    await books.reckon([note], {}, {}, ROOMY)
    assert await Answers(store).purge_all() == 3
    assert await store.command("EXISTS", "olm:pool:{m}:slots") == 1
    told = await books.read()
    assert (told.entries, told.bytes) == (0, 0)
