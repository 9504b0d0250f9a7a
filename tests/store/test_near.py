"""Answers near at hand: no round trip for them, and none that Redis would not give, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack

import pytest

from orchestrator.core.cache_entry import About
from orchestrator.core.errors import StoreError
from orchestrator.store.answer_books import AnswerBooks, Noted
from orchestrator.store.answers import Answers
from orchestrator.store.connection import Connection
from orchestrator.store.near import OVERHEAD_BYTES, Near
from orchestrator.store.schema import route_answer
from tests.store.playing import Connect, Server, back, everywhere, free_port, playing
from tests.waiting import until

KEY, OTHER = route_answer("auto", "one"), route_answer("auto", "two")
ROOM = 2**20
ABOUT = About("auto", True, "a")


async def fetched(near: Near, key: str, answer: bytes = b"said") -> None:
    """As after a first hit: the answer is near."""
    near.want(key, len(answer))
    await until(lambda: near.get(key) is not None)
    assert near.get(key) == answer


async def calls(connection: Connection) -> int:
    """Commands that the server has had, but for this one."""
    told = await connection.command("INFO", "commandstats")
    lines = (line for line in told.decode().splitlines() if line.startswith("cmdstat_") and "_info:" not in line)
    return sum(int(line.split("calls=")[1].split(",")[0]) for line in lines)


async def settled(connection: Connection) -> None:
    """What was asked before is answered, by whichever server, and what Redis says of it heard."""
    await everywhere(connection, "PING")


@pytest.fixture
async def near(store: Connection) -> Near:
    """On the connection `store`, following it."""
    made = Near(store, ROOM)
    made.start()
    await settled(store)
    return made


@pytest.fixture
async def other(shared_server: Server, connect: Connect) -> Connection:
    """Another worker's connection."""
    return await connect(shared_server)


async def test_what_was_given_once_is_given_again_without_a_word_to_redis(store, near):
    await store.command("SET", KEY, b"said", "PX", 600_000)
    assert near.get(KEY) is None
    await fetched(near, KEY)
    before = await calls(store)
    for _ in range(100):
        assert near.get(KEY) == b"said"
        near.want(KEY, 4)
    assert await calls(store) == before


async def test_many_who_want_the_same_ask_once(store, near):
    await store.command("SET", KEY, b"said", "PX", 600_000)
    before = await calls(store)
    for _ in range(100):
        near.want(KEY, 4)
    await until(lambda: near.get(KEY) == b"said")
    assert await calls(store) == before + 3  # its time, that it is tracked, and itself


async def test_reads_for_others_are_not_tracked(store, near, other):
    await store.command("SET", KEY, b"said", "PX", 600_000)
    await Answers(store).get("auto", "one")
    heard: list[Sequence[bytes] | None] = []

    class Ear:
        changed = staticmethod(heard.append)

        def lost(self) -> None: ...

    store.follow(Ear())
    await other.command("SET", KEY, b"other")
    await settled(store)
    assert heard == []


@pytest.mark.parametrize(
    "change",
    [("SET", KEY, b"other", "PX", 600_000), ("UNLINK", KEY), ("PEXPIRE", KEY, 1), ("FLUSHALL",)],
    ids=lambda each: each[0],
)
@pytest.mark.parametrize("by_itself", [False, True])
async def test_a_change_by_anybody_is_followed(store, near, other, change, by_itself):
    await store.command("SET", KEY, b"said", "PX", 600_000)
    await fetched(near, KEY)
    await (store if by_itself else other).command(*change)
    await until(lambda: near.get(KEY) is None)
    assert near.bytes == 0


async def test_after_a_change_the_new_answer_is_near_again(store, near, other):
    for answer in (b"one", b"two", b"three"):
        await other.command("SET", KEY, answer, "PX", 600_000)
        await until(lambda: near.get(KEY) is None)
        await fetched(near, KEY, answer)


async def test_a_purge_of_the_route_is_followed(store, near, other):
    for key in (KEY, OTHER):
        await store.command("SET", key, b"said", "PX", 600_000)
        await fetched(near, key)
    assert await Answers(other).purge_route("auto") == 2
    await until(lambda: len(near) == 0)


async def test_an_answer_that_the_books_have_no_room_for_is_not_near_either(store, near, other):
    await store.command("SET", KEY, b"said", "PX", 600_000)
    await fetched(near, KEY)
    books = await AnswerBooks(other).reckon([Noted(KEY, 4, 1, 2**42, ABOUT)], {}, {}, room_bytes=1)
    assert books.deleted == 1
    await until(lambda: near.get(KEY) is None)


async def test_an_answer_ends_near_when_redis_forgets_it(store, near):
    await store.command("SET", KEY, b"said", "PX", 1000)
    await fetched(near, KEY)
    await until(lambda: len(near) == 0)  # by Redis' word alone: nobody looks here


async def test_an_answer_whose_time_is_over_is_not_given_though_redis_has_not_said_so(own_server, connect):
    store = await connect(own_server, timeout_s=60)
    near = Near(store, ROOM)
    near.start()
    await settled(store)
    await store.command("SET", KEY, b"said", "PX", 1500)
    await fetched(near, KEY)
    own_server.pause()  # it cannot say anything
    try:
        await until(lambda: near.get(KEY) is None)
        assert store.is_up
    finally:
        own_server.go_on()


async def test_what_is_dropped_here_is_not_given_though_redis_has_it_yet(store, near):
    await store.command("SET", KEY, b"said", "PX", 600_000)
    await fetched(near, KEY)
    near.drop(KEY)
    assert near.get(KEY) is None
    near.want(KEY, 4)
    near.drop(KEY)  # while it is on its way
    await settled(store)
    assert near.get(KEY) is None


async def test_an_answer_that_is_gone_by_then_is_not_near(store, near):
    near.want(KEY, 4)
    await settled(store)
    assert len(near) == 0


async def test_no_more_is_near_than_there_is_room_for_and_those_given_last_stay(store):
    keys = [route_answer("auto", f"{at:04}") for at in range(20)]
    near = Near(store, 10 * (100 + len(keys[0]) + OVERHEAD_BYTES))
    near.start()
    await settled(store)
    for key in keys:
        await store.command("SET", key, b"x" * 100, "PX", 600_000)
        await fetched(near, key, b"x" * 100)
        near.get(keys[0])
    assert len(near) == 10
    assert near.get(keys[0]) is not None
    assert near.get(keys[1]) is None
    near.want(keys[1], ROOM)  # larger than all there is
    before = await calls(store)
    await settled(store)
    assert await calls(store) == before + 1


async def test_without_room_redis_is_not_asked_to_tell_anything(store):
    near = Near(store, 0)
    near.start()
    await store.command("SET", KEY, b"said", "PX", 600_000)
    near.want(KEY, 4)
    await settled(store)
    assert near.get(KEY) is None
    assert (await store.command("CLIENT", "TRACKINGINFO"))[b"flags"] == [b"off"]
    near.resize(ROOM)
    await settled(store)
    await fetched(near, KEY)
    near.resize(0)
    assert near.get(KEY) is None
    assert near.bytes == 0


async def test_a_connection_that_is_cut_takes_all_along_and_all_is_true_again_on_the_next(store, near, other):
    await store.command("SET", KEY, b"said", "PX", 600_000)
    await fetched(near, KEY)
    own = await store.command("CLIENT", "ID")
    assert await other.command("CLIENT", "KILL", "ID", own) == 1
    await until(lambda: len(near) == 0)
    await other.command("SET", KEY, b"other", "PX", 600_000)
    await back(store)
    await _until_near(near, KEY, b"other")
    await other.command("SET", KEY, b"third", "PX", 600_000)
    await until(lambda: near.get(KEY) is None)


async def test_a_server_that_is_another_one_afterwards_is_followed(own_server, connect):
    store = await connect(own_server)
    near = Near(store, ROOM)
    near.start()
    await settled(store)
    await store.command("SET", KEY, b"said", "PX", 600_000)
    await fetched(near, KEY)
    own_server.kill()
    await until(lambda: not store.is_up)
    assert len(near) == 0
    near.want(KEY, 4)
    own_server.lose_data()
    own_server.start()
    await back(store)
    near.want(KEY, 4)
    await settled(store)
    assert near.get(KEY) is None
    await store.command("SET", KEY, b"new", "PX", 600_000)
    await _until_near(near, KEY, b"new")


async def test_a_master_that_becomes_anothers_replica_takes_all_along_and_tells_of_changes_made_there(binary, tmp_path):
    async with AsyncExitStack() as stack:
        ports = [free_port(), free_port()]
        for port in ports:
            (folder := tmp_path / str(port)).mkdir()
            stack.enter_context(playing(binary, folder, port, ["--repl-diskless-sync-delay", "0"]))
        first, second = (Connection(f"redis://127.0.0.1:{port}") for port in ports)
        for each in (first, second):
            stack.push_async_callback(each.close)
            await each.open(20)
        near = Near(first, ROOM)
        near.start()
        for store, answer in ((first, b"lost"), (second, b"new")):
            await store.command("SET", KEY, answer, "PX", 600_000)
        await _until_near(near, KEY, b"lost")
        await first.command("REPLICAOF", "127.0.0.1", ports[1])
        await until(lambda: near.get(KEY) is None)
        await _until_near(near, KEY, b"new")
        await second.command("SET", KEY, b"newer", "PX", 600_000)
        await until(lambda: near.get(KEY) is None)


async def test_where_redis_forbids_tracking_nothing_is_near_and_all_else_works(store, shared_server, connect, caplog):
    url = shared_server.url
    await everywhere(store, "ACL", "SETUSER", "plain", "on", ">secret", "~*", "&*", "+@all", "-client|tracking")
    restricted = Connection(url.replace("://", "://plain:secret@", 1))
    try:
        await restricted.open(20)
        near = Near(restricted, ROOM)
        near.start()
        await restricted.command("SET", KEY, b"said", "PX", 600_000)
        near.want(KEY, 4)
        await settled(restricted)
        assert near.get(KEY) is None
        assert "no answer is kept near: Redis does not tell of changes" in caplog.text
    finally:
        await restricted.close()
        await everywhere(store, "ACL", "DELUSER", "plain")


async def test_in_any_order_of_reads_and_writes_what_stays_near_is_what_redis_has(store, near, other):
    """Two write, one also reads: what is there once all is told must be the truth, for every seed."""
    rng = random.Random(9)
    keys = [route_answer("auto", str(at)) for at in range(5)]
    for _ in range(200):
        tasks: list[Awaitable[object]] = []
        for _ in range(rng.randrange(1, 12)):
            key, act = rng.choice(keys), rng.random()
            writer = rng.choice((store, other))
            if act < 0.4:
                near.want(key, 4)
            elif act < 0.8:
                tasks.append(asyncio.ensure_future(writer.command("SET", key, rng.randbytes(4), "PX", 600_000)))
            elif act < 0.9:
                tasks.append(asyncio.ensure_future(writer.command("UNLINK", key)))
            else:
                await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        await settled(other)
        await settled(store)
        for key in keys:
            if (kept := near.get(key)) is not None:
                assert kept == await store.command("GET", key)


async def test_a_change_that_comes_behind_the_read_takes_what_was_read(store, near, other):
    """The race that client-side caches are known for: read, changed by another, and only then put into the map."""
    for at in range(300):
        answer = str(at).encode()
        await store.command("SET", KEY, b"old", "PX", 600_000)
        near.want(KEY, 3)
        await other.command("SET", KEY, answer, "PX", 600_000)
        await settled(store)
        assert near.get(KEY) in (None, answer)


async def _until_near(near: Near, key: str, answer: bytes) -> None:
    """Wanted again and again, as by calls that hit in Redis."""
    async with asyncio.timeout(30):
        while near.get(key) != answer:
            near.want(key, len(answer))
            await asyncio.sleep(0.005)


async def test_asking_while_redis_is_away_fails_quietly(own_server, connect):
    store = await connect(own_server)
    near = Near(store, ROOM)
    near.start()
    own_server.kill()
    near.want(KEY, 4)
    await until(lambda: not store.is_up)
    near.want(KEY, 4)
    with pytest.raises(StoreError):
        await settled(store)
    assert len(near) == 0
