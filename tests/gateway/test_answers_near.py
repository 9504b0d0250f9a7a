"""Hits from the worker's own memory as callers and operators meet them: nobody is asked for them, and none is stale."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest

from orchestrator.app import settings_in_use
from orchestrator.app.paths import StatePaths
from orchestrator.settings import ClusterSettings
from orchestrator.store import usage
from orchestrator.store.answers import Answers
from orchestrator.store.embedded import find_server
from orchestrator.store.schema import ANSWER_BOOKS
from tests.gateway.asking import Reply, ask, get
from tests.gateway.played import Played, played, pool_of
from tests.gateway.stand_in import StandIn, standing_in
from tests.gateway.test_answer_cache import KEYS, SETTINGS, report, until_kept
from tests.store.playing import Server
from tests.waiting import until

MODEL = {"model": "little:1b", "options": {"temperature": 0}}
Start = Callable[..., Awaitable[tuple[Played, list[StandIn]]]]


@pytest.fixture
def redis(tmp_path: Path) -> Any:
    (tmp_path / "redis").mkdir()
    server = Server(find_server(), tmp_path / "redis")
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def start(tmp_path: Path, redis: Server) -> AsyncIterator[Start]:
    """Starts gateways, each on a port of its own, before two stand-ins: the pools little:1b and big:8b."""
    async with AsyncExitStack() as stack:

        async def begin(workers: int = 1, **changes: Any) -> tuple[Played, list[StandIn]]:
            instances = await stack.enter_async_context(standing_in(2))
            pools = [pool_of(name, [each.port]) for name, each in zip(SETTINGS["models"], instances, strict=True)]
            settings = ClusterSettings.model_validate({**SETTINGS, **changes})
            world = played(tmp_path, settings, pools, workers=workers, redis=redis, apart=True)
            return await stack.enter_async_context(world), instances

        yield begin


async def at(world: Played, worker: int, **more: Any) -> Reply:
    """What `auto` asks, of one worker."""
    body = {"model": "auto", "stream": False, **more}
    return await ask(world.urls[worker], "/api/chat", "hello", **body)


async def looked_up(world: Played) -> int:
    """Hits that Redis was asked for: of the route, and of the models."""
    told = await Answers(world.connection).counts("auto")
    days = await world.connection.command("KEYS", "olm:pool:*:usage:*")
    found = [await world.connection.command("HGET", key, "cache_hits") for key in days]
    return told.hits + sum(int(each or 0) for each in found)


async def until_near(world: Played, worker: int = 0, **more: Any) -> Reply:
    """Asks until a hit is not looked up in Redis any more."""
    async with asyncio.timeout(30):
        while True:
            before = await looked_up(world)
            reply = await at(world, worker, **more)
            if reply.cache == "hit" and await looked_up(world) == before:
                return reply


async def until_said(world: Played, text: str, worker: int = 0) -> None:
    await until(lambda: at(world, worker), holds=lambda seen: seen.text == text)


async def overwrite(world: Played, text: str) -> None:
    """As another gateway would with an answer made anew."""
    (place,) = await until_kept(world)
    entry = orjson.loads(await world.connection.command("GET", place))
    entry["answer"]["text"] = text
    await world.connection.command("SET", place, orjson.dumps(entry), "KEEPTTL")


@pytest.mark.parametrize("asked", [{}, MODEL], ids=["route", "model"])
@pytest.mark.parametrize("sealed", [{}, {"encryption_key": "0123456789abcdef"}], ids=["clear", "sealed"])
async def test_a_hot_answer_is_given_while_redis_does_not_answer_at_all(start, redis, asked, sealed):
    world, (little, _) = await start(cache=sealed)
    await at(world, 0, **asked)
    first = await until_near(world, **asked)
    redis.pause()
    try:
        async with asyncio.timeout(4):  # less than the time after which Redis is given up
            seen = [await at(world, 0, **asked, stream=is_stream) for is_stream in (False, True)]
    finally:
        redis.go_on()
    assert [(each.cache, each.text) for each in seen] == [("hit", first.text)] * 2
    assert "layer=exact; age=" in seen[0].headers["X-Cache"]
    assert len(little.asked) == 1


async def test_hits_that_ask_nobody_are_counted_as_hits_and_as_uses(start):
    world, _ = await start()
    await at(world, 0)
    (place,) = await until_kept(world)
    await until_near(world)
    score = await _uses(world, place)
    before = float(await _metric(world, 'olm_cache_near_total{outcome="hit"}'))
    for _ in range(50):
        assert (await at(world, 0)).cache == "hit"
    await until(
        lambda: _metric(world, 'olm_cache_near_total{outcome="hit"}'), holds=lambda seen: float(seen) >= before + 50
    )
    # A power of two: 50 uses on top of few.
    await until(lambda: _uses(world, place), holds=lambda uses: uses >= score + 2)
    hits = float(await _metric(world, 'olm_cache_hits_total{how="fresh",layer="exact"}'))
    assert hits >= before + 50
    assert float(await _metric(world, "olm_cache_near_bytes")) > 0
    (key,) = await world.connection.command("KEYS", "olm:usage:{auto}:*")
    day = key.decode().rpartition(":")[2]
    await until(
        lambda: usage.read(world.connection, day), holds=lambda seen: seen["auto"]["tier:cache:cache_hits"] >= 50
    )  # written in batches


async def _uses(world: Played, place: bytes) -> float:
    return float(await world.connection.command("ZSCORE", ANSWER_BOOKS[0], place) or 0)


async def _metric(world: Played, name: str) -> str:
    told = (await get(world.url, "/metrics")).body.decode()
    return next((line.rpartition(" ")[2] for line in told.splitlines() if line.startswith(name)), "0")


async def test_what_one_worker_had_made_anew_is_given_by_the_other(start):
    world, (little, _) = await start(workers=2)
    await at(world, 0)
    await overwrite(world, "the old one")
    for worker in (0, 1):
        assert (await until_near(world, worker)).text == "the old one"
    assert (await at(world, 0, headers={"Cache-Control": "no-cache"})).cache == "miss"
    for worker in (0, 1):
        await until_said(world, "one two three", worker)
        assert (await until_near(world, worker)).text == "one two three"
    assert len(little.asked) == 2


async def test_a_purge_ends_it_on_every_worker(start):
    world, (little, _) = await start(workers=2)
    await at(world, 0)
    for worker in (0, 1):
        await until_near(world, worker)
    assert await Answers(world.connection).purge_all() == 1
    await until(lambda: at(world, 1), holds=lambda seen: not (seen.cache == "hit" and len(little.asked) == 1))
    assert len(little.asked) == 2


async def test_a_wrong_hit_that_was_reported_is_given_by_no_worker_again(start):
    world, (little, _) = await start(workers=2)
    await at(world, 0)
    await until_kept(world)  # or the other would have it made, too
    hit = await until_near(world, 1)
    await until_near(world, 0)
    assert (await report(world, hit.headers["X-Cache-Key"])).status == 200  # to the first
    assert (await at(world, 0)).cache == "miss"
    await until_kept(world)
    assert len(little.asked) == 2


async def test_what_is_near_for_one_key_is_given_to_no_other(start):
    world, (little, _) = await start(keys=KEYS)
    a, b = ({"Authorization": f"Bearer {who * 16}"} for who in "ab")
    await at(world, 0, headers=a)
    await until_near(world, headers=a)
    assert (await at(world, 0, headers=b)).cache == "miss"
    assert len(little.asked) == 2


async def test_a_callers_wish_is_heeded_near_too(start):
    world, (little, _) = await start()
    await at(world, 0)
    await until_near(world)
    told = [(await at(world, 0, headers={"Cache-Control": each})).cache for each in ("no-store", "no-cache")]
    assert told == ["bypass", "miss"]
    assert len(little.asked) == 3


async def test_a_worker_whose_connection_was_cut_gives_what_redis_has_by_then(start):
    world, _ = await start()
    await at(world, 0)
    await until_near(world)
    for line in (await world.connection.command("CLIENT", "LIST")).decode().splitlines():
        told = dict(each.split("=", 1) for each in line.split())
        if told["name"].startswith("gateway-"):
            await world.connection.command("CLIENT", "KILL", "ID", told["id"])
    async with asyncio.timeout(30):
        # While it is cut off it has answers made anew, and keeps them once it is back: perhaps over what was written.
        while (await until_near(world)).text != "overwritten":
            await overwrite(world, "overwritten")
    await overwrite(world, "and again")
    await until_said(world, "and again")


async def test_an_answer_past_its_time_is_given_late_from_near_and_then_fresh(start):
    world, (little, _) = await start(
        cache={"ttl_s": 1, "ttl_jitter": 0, "stale_while_revalidate_s": 600}, limits={"queue_wait_s": 30}
    )
    await at(world, 0)
    await until(lambda: until_near(world), holds=lambda seen: "stale" in seen.headers["X-Cache"])
    await until(lambda: len(little.asked) >= 2)
    await until(lambda: at(world, 0), holds=lambda seen: "stale" not in seen.headers["X-Cache"])


async def test_it_is_turned_off_and_on_while_it_runs(start):
    world, (little, _) = await start(cache={"near_bytes": 0})
    await at(world, 0)
    before = await looked_up(world)
    for _ in range(5):
        assert (await at(world, 0)).cache == "hit"
    assert await looked_up(world) == before + 5
    assert "t" not in _flags(await world.connection.command("CLIENT", "LIST"))
    _change(world, {})
    await until_near(world)
    assert "t" in _flags(await world.connection.command("CLIENT", "LIST"))
    _change(world, {"near_bytes": 0})
    async with asyncio.timeout(30):
        while True:
            before = await looked_up(world)
            await at(world, 0)
            if await looked_up(world) == before + 1:
                break
    assert len(little.asked) == 1


def _flags(clients: bytes) -> str:
    """Those of all connections; `t`: Redis tracks what it reads."""
    return "".join(each[6:] for each in clients.decode().split() if each.startswith("flags="))


def _change(world: Played, cache: dict[str, Any]) -> None:
    paths, current = StatePaths(world.state), settings_in_use.read(StatePaths(world.state))
    settings_in_use.write(paths, current.model_copy(update={"cache": current.cache.model_validate(cache)}))
    for each in world.gateways:
        each.send_signal(signal.SIGHUP)
