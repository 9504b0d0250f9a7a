"""One answer for many askers: identical calls under way at once, on one worker and on several, and what may fail."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import pytest

from orchestrator.core.errors import CapacityError
from orchestrator.core.model import Call, Endpoint
from orchestrator.gateway.asked import Asked
from orchestrator.gateway.elsewhere import _broken, _failure_from
from orchestrator.gateway.identity import Caller
from orchestrator.gateway.joining import _see_whether_again
from orchestrator.gateway.making import MakerGoneError, Making
from orchestrator.gateway.trace import Trace
from orchestrator.settings import ClusterSettings
from tests.gateway.asking import STREAMS, Reply, ask, body_for, connected, get, request_bytes, until_queued
from tests.gateway.played import Played, played, pool_of
from tests.gateway.stand_in import WORDS, StandIn, standing_in
from tests.store.playing import Server
from tests.waiting import WITHIN_S, until

TEXT = "".join(WORDS)
CERTAIN: dict[str, Any] = {"temperature": 0, "options": {"temperature": 0}}
MANY = 200
JOINS, FOLLOWERS = "olm_cache_joins_total", "olm_cache_followers"
Start = Callable[..., Awaitable[tuple[Played, list[StandIn]]]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts workers before stand-ins that serve one pool, m."""
    async with AsyncExitStack() as stack:

        async def begin(
            count: int = 1,
            *,
            slots: int = 2,
            workers: int = 1,
            redis: Server | None = None,
            more: dict[str, Any] | None = None,
            **limits: float,
        ) -> tuple[Played, list[StandIn]]:
            instances = await stack.enter_async_context(standing_in(count))
            pool = pool_of("m", [each.port for each in instances], slots=slots)
            told = {"models": {"m": {}}, "limits": limits, **(more or {})}
            settings = ClusterSettings.model_validate(told)
            world = await stack.enter_async_context(
                played(tmp_path, settings, [pool], workers=workers, redis=redis, apart=True)
            )
            return world, instances

        yield begin


class Asker:
    """One who asks over a bare connection of its own, sees what has come so far, and may leave."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.came = b""

    async def ask(self, path: str, text: str, **more: Any) -> None:
        self._writer.write(request_bytes(path, body_for(path, text, **CERTAIN, **more)))
        await self._writer.drain()

    async def until(self, told: bytes) -> bytes:
        """Read until that has come."""
        async with asyncio.timeout(WITHIN_S):
            while told not in self.came:
                piece = await self._reader.read(65_536)
                assert piece, f"{told!r} is not in {self.came!r}"
                self.came += piece
        return self.came

    async def whole(self) -> str:
        """Read to the end of the answer; its text."""
        head, _, body = (await self.until(b"0\r\n\r\n")).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        return "".join(part["message"]["content"] for part in _lines(body))

    async def broken(self) -> dict[str, Any]:
        """Read until the connection ends; the last frame."""
        async with asyncio.timeout(WITHIN_S):
            self.came += await self._reader.read()
        assert not self.came.endswith(b"0\r\n\r\n")
        return _lines(self.came.partition(b"\r\n\r\n")[2])[-1]

    def leave(self) -> None:
        self._writer.transport.abort()


def _lines(chunked: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in chunked.split(b"\n") if line.startswith(b"{")]


async def asker(stack: AsyncExitStack, world: Played, worker: int = 0) -> Asker:
    return Asker(*await stack.enter_async_context(connected(world.urls[worker])))


async def until_counted(world: Played, metric: str, n: int) -> None:
    """Wait until the workers' counts of a metric come to so many; some are counted once a second."""

    async def found() -> float:
        count = sum([await counted(url, metric) for url in world.urls])
        assert metric != JOINS or count <= n, count
        return count

    await until(found, metric, holds=lambda count: count == n)


async def counted(url: str, metric: str) -> int:
    told = (await get(url, "/metrics")).body.decode()
    lines = [line for line in told.splitlines() if line.partition("{")[0].partition(" ")[0] == metric]
    return sum(int(float(line.rpartition(" ")[2])) for line in lines)


def texts(replies: list[Reply]) -> set[tuple[int, str, bool]]:
    return {(each.status, each.text, each.is_whole) for each in replies}


# --- one worker ------------------------------------------------------------------------------------------------------


async def test_identical_calls_at_once_are_answered_by_one_generation_in_every_path_and_form(start):
    world, (instance,) = await start(slots=1)
    for n, path in enumerate(STREAMS, 1):
        asked = [
            asyncio.create_task(ask(world.url, path, f"wait {path}", stream=each % 2 == 0, **CERTAIN))
            for each in range(20)
        ]
        await until_counted(world, FOLLOWERS, 19)
        instance.gate.set()
        replies = await asyncio.gather(*asked)
        instance.gate.clear()
        assert texts(replies) == {(200, TEXT, True)}
        assert sorted(each.headers["X-Cache"] for each in replies) == ["joined"] * 19 + ["miss"]
        assert len(instance.asked) == n
    await world.until_idle()


async def test_calls_of_the_younger_apis_join_as_streams_and_as_wholes(start):
    world, (instance,) = await start(slots=1)
    for path, end in (("/v1/messages", b'"type":"message_stop"'), ("/v1/responses", b'"type":"response.completed"')):
        for is_led_by_stream in (True, False):
            question = f"wait {is_led_by_stream}"
            first = asyncio.create_task(ask(world.url, path, question, stream=is_led_by_stream, **CERTAIN))
            await instance.until(active=1)
            others = [
                asyncio.create_task(ask(world.url, path, question, stream=each, **CERTAIN)) for each in (True, False)
            ]
            await until_counted(world, FOLLOWERS, 2)
            instance.gate.set()
            await first
            streamed, whole = await asyncio.gather(*others)
            instance.gate.clear()
            assert TEXT.encode() in whole.body
            assert all(word.encode() in streamed.body for word in WORDS)
            assert end in streamed.body
    assert len(instance.asked) == 4


async def test_who_comes_late_to_a_stream_gets_what_was_said_and_then_the_rest(start):
    world, (instance,) = await start()
    async with AsyncExitStack() as stack:
        first, second = [await asker(stack, world) for _ in range(2)]
        await first.ask("/api/chat", "wait-midway")
        await first.until(b"two ")
        await second.ask("/api/chat", "wait-midway")
        late = await second.until(b"two ")
        assert b"X-Cache: joined" in late
        assert b"X-Instance: m-0" in late
        assert b"X-Simulated: true" in late
        instance.gate.set()
        assert [await first.whole(), await second.whole()] == [TEXT, TEXT]
    assert len(instance.asked) == 1
    await world.until_idle()


async def test_a_joined_answer_bears_the_name_and_the_counts_its_own_caller_asked_for(start):
    world, (instance,) = await start()
    path, usage = "/v1/chat/completions", {"stream_options": {"include_usage": True}}
    first = asyncio.create_task(ask(world.url, path, "wait", stream=True, **CERTAIN))
    await instance.until(active=1)
    second = asyncio.create_task(ask(world.url, path, "wait", model="m:latest", stream=True, **CERTAIN, **usage))
    third = asyncio.create_task(ask(world.url, path, "wait", stream=False, **CERTAIN))
    await until_counted(world, FOLLOWERS, 2)
    instance.gate.set()
    await first
    streamed, whole = await second, await third
    assert (streamed.text, whole.text) == (TEXT, TEXT)
    assert {frame["model"] for frame in streamed.frames()} == {"m:latest"}
    assert streamed.frames()[-1]["usage"] == whole.json()["usage"]
    assert whole.json()["usage"]["total_tokens"] == 10
    assert len(instance.asked) == 1


@pytest.mark.parametrize("question", ["wait", "wait-midway"])
async def test_the_leaders_client_leaves_and_those_who_joined_get_the_whole_answer(start, question):
    world, (instance,) = await start(workers=2)
    async with AsyncExitStack() as stack:
        first = await asker(stack, world)
        await first.ask("/api/chat", question)
        await instance.until(active=1)
        others = [await asker(stack, world, worker) for worker in (0, 1)]
        for each in others:
            await each.ask("/api/chat", question)
        whole = asyncio.create_task(ask(world.url, "/api/chat", question, stream=False, **CERTAIN))
        await until_counted(world, FOLLOWERS, 3)
        first.leave()
        instance.gate.set()
        assert [await each.whole() for each in others] == [TEXT, TEXT]
        assert (await whole).text == TEXT
    assert len(instance.asked) == 1
    await world.until_idle()


async def test_an_answer_that_nobody_wants_any_more_is_given_up_and_its_slot_comes_back(start):
    world, (instance,) = await start(workers=2, drain_s=0)
    async with AsyncExitStack() as stack:
        askers = [await asker(stack, world, worker) for worker in (0, 0, 1)]
        for each in askers:
            await each.ask("/api/chat", "hang-midway")
            await each.until(b"two ")
        for each in askers:
            assert instance.active == 1
            each.leave()
        await instance.until(active=0)
    await world.until_idle()


async def test_a_client_that_reads_nothing_holds_up_nobody_who_joined(start):
    world, (instance,) = await start(more={"cache": {"max_answer_bytes": 64 * 2**20}})
    async with AsyncExitStack() as stack:
        first = await asker(stack, world)
        await first.ask("/api/chat", "bulky")
        await instance.until(active=1)
        await first.until(b"xxx")
        second = await ask(world.url, "/api/chat", "bulky", stream=True, **CERTAIN)
        assert (second.headers["X-Cache"], second.is_whole) == ("joined", True)
        assert second.frames()[-1]["done"] is True
    await world.until_idle()


# --- who does not join -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", [{}, {"enabled": False}, {"join": False}])
async def test_calls_that_want_an_answer_of_their_own_get_one(start, cache):
    world, (instance,) = await start(more={"cache": cache})
    wishes = [(CERTAIN, {})] if cache else [(CERTAIN, {"Cache-Control": each}) for each in ("no-store", "no-cache")]
    for certain, headers in [*wishes, ({}, {})]:
        asked = [
            asyncio.create_task(ask(world.url, "/api/chat", "wait", stream=True, headers=headers, **certain))
            for _ in range(2)
        ]
        await instance.until(active=2)
        instance.gate.set()
        assert texts(await asyncio.gather(*asked)) == {(200, TEXT, True)}
        instance.gate.clear()
    await world.until_idle()


async def test_calls_of_different_keys_never_join(start):
    keys = [{"name": name, "secret": name * 16} for name in ("a", "b")]
    world, (instance,) = await start(workers=2, more={"keys": keys})
    asked = [
        asyncio.create_task(
            ask(url, "/api/chat", "wait", headers={"Authorization": f"Bearer {name * 16}"}, stream=True, **CERTAIN)
        )
        for name in ("a", "b")
        for url in world.urls
    ]
    await instance.until(active=2)
    instance.gate.set()
    replies = await asyncio.gather(*asked)
    assert texts(replies) == {(200, TEXT, True)}
    assert len(instance.asked) == 2


# --- the queue -------------------------------------------------------------------------------------------------------


async def test_those_who_join_stand_in_no_queue_and_each_waits_no_longer_than_it_would(start):
    world, (instance,) = await start(slots=1, workers=2)
    busy = asyncio.create_task(ask(world.url, "/api/chat", "wait for others", stream=False))
    await instance.until(active=1)
    asked = [
        asyncio.create_task(ask(world.urls[each % 2], "/api/chat", "wait", stream=True, **CERTAIN))
        for each in range(20)
    ]
    await until_counted(world, FOLLOWERS, 19)
    await until_queued(world.url, 1)
    hurried = await ask(world.url, "/api/chat", "wait", headers={"X-Queue-Timeout": "0.2"}, stream=True, **CERTAIN)
    assert (hurried.status, "Retry-After" in hurried.headers) == (503, True)
    first = asyncio.create_task(ask(world.url, "/api/chat", "wait", headers={"X-Priority": "0"}, **CERTAIN))
    await until_counted(world, FOLLOWERS, 20)
    await until_queued(world.url, 1)
    instance.gate.set()
    assert texts(await asyncio.gather(*asked, first)) == {(200, TEXT, True)}
    assert (await busy).status == 200
    assert len(instance.asked) == 2
    await world.until_idle()


async def test_a_call_of_a_better_class_does_not_wait_behind_a_leader_of_a_worse_one(start):
    world, (instance,) = await start(slots=1, workers=2)
    busy = asyncio.create_task(ask(world.url, "/api/chat", "wait for others", stream=False))
    await instance.until(active=1)
    late = {"X-Priority": "9"}
    asked = [asyncio.create_task(ask(world.url, "/api/chat", "wait", headers=late, **CERTAIN))]
    await until_queued(world.url, 1)
    asked += [asyncio.create_task(ask(url, "/api/chat", "wait", **CERTAIN)) for url in reversed(world.urls)]
    await until_queued(world.url, 2)
    instance.gate.set()
    assert texts(await asyncio.gather(*asked)) == {(200, TEXT, True)}
    assert (await busy).status == 200


# --- instances that fail ---------------------------------------------------------------------------------------------


async def test_an_instance_that_dies_before_its_first_byte_fails_nobody(start):
    world, (bad, good) = await start(2, slots=1, workers=2)
    bad.does = "die"
    asked = [
        asyncio.create_task(ask(world.urls[each % 2], "/api/chat", "hi", stream=each % 3 != 0, **CERTAIN))
        for each in range(30)
    ]
    assert texts(await asyncio.gather(*asked)) == {(200, TEXT, True)}
    assert len(good.asked) == 1
    await world.until_idle()


async def test_a_stream_that_breaks_for_its_leader_is_gone_on_with_for_those_who_joined(start):
    world, (bad, good) = await start(2, slots=1, workers=2)
    bad.does, good.does = "cut-when-told", "cut-when-told"
    async with AsyncExitStack() as stack:
        askers = [await asker(stack, world, worker) for worker in (0, 0, 1, 1)]
        for each in askers:
            await each.ask("/api/chat", "hi")
            await each.until(b"two ")
        whole = asyncio.create_task(ask(world.urls[1], "/api/chat", "hi", stream=False, **CERTAIN))
        await until_counted(world, FOLLOWERS, 4)
        failing, other = (bad, good) if bad.active else (good, bad)
        other.does = ""
        failing.gate.set()
        assert "cut off" in (await askers[0].broken())["error"]
        assert [await each.whole() for each in askers[1:]] == [TEXT] * 3
        assert (await whole).text == TEXT
    assert (len(failing.asked), len(other.asked)) == (1, 1)
    await world.until_idle()


async def test_a_stream_that_another_instance_does_not_go_on_with_ends_visibly(start):
    world, (bad, good) = await start(2, slots=1, workers=2)
    bad.does, good.does = "cut-when-told", "cut-when-told"
    async with AsyncExitStack() as stack:
        askers = [await asker(stack, world, worker) for worker in (0, 0, 1)]
        for each in askers:
            await each.ask("/api/chat", "hi")
            await each.until(b"two ")
        failing = bad if bad.active else good
        bad.does = good.does = "say-otherwise"  # both: who leads next may find the other's one slot taken
        failing.gate.set()
        assert [why for each in askers if "cut off" not in (why := (await each.broken())["error"])] == []
    await world.until_idle()


async def test_a_request_that_is_wrong_is_asked_once_and_refused_to_all(start):
    world, (instance,) = await start(slots=1, workers=2)
    blocking = asyncio.create_task(ask(world.url, "/api/chat", "wait for others"))
    await instance.until(active=1)
    asked = [
        asyncio.create_task(ask(world.urls[each % 2], "/api/chat", "callers-400", stream=each % 3 != 0, **CERTAIN))
        for each in range(12)
    ]
    await until_counted(world, FOLLOWERS, 11)
    await until_queued(world.url, 1)
    instance.gate.set()
    assert {(each.status, each.json()["error"]) for each in await asyncio.gather(*asked)} == {
        (400, "invalid image input")
    }
    assert (await blocking).status == 200
    assert instance.asked.count("callers-400") == 1
    await world.until_idle()


# --- several workers -------------------------------------------------------------------------------------------------


async def test_two_hundred_identical_calls_over_three_workers_are_one_generation(start):
    world, (instance,) = await start(workers=3)
    async with AsyncExitStack() as stack:
        askers = [await asker(stack, world, each % 3) for each in range(MANY)]
        await asyncio.gather(*(each.ask("/api/chat", "wait-midway") for each in askers))
        await asyncio.gather(*(each.until(b"two ") for each in askers))
        assert (instance.active, await world.in_flight()) == (1, {"m-0": 1})
        instance.gate.set()
        assert {await each.whole() for each in askers} == {TEXT}
        assert sum(b"X-Cache: joined" in each.came for each in askers) == MANY - 1
    assert (len(instance.asked), instance.most) == (1, 1)
    await until_counted(world, JOINS, MANY - 1)
    await world.until_idle()


async def test_the_leaders_worker_is_killed_midway_and_all_others_get_whole_answers(start):
    world, (instance,) = await start(workers=3, lease_ttl_s=3)
    async with AsyncExitStack() as stack:
        leader = await asker(stack, world, 0)
        await leader.ask("/api/chat", "wait-midway")
        await leader.until(b"two ")
        askers = [await asker(stack, world, 1 + each % 2) for each in range(MANY - 20)]
        await asyncio.gather(*(each.ask("/api/chat", "wait-midway") for each in askers))
        await asyncio.gather(*(each.until(b"two ") for each in askers))
        wholes = [
            asyncio.create_task(ask(world.urls[1 + each % 2], "/api/chat", "wait-midway", stream=False, **CERTAIN))
            for each in range(19)
        ]
        await until_counted(world, FOLLOWERS, MANY - 1)
        world.gateways[0].kill()
        await instance.until(active=0)
        instance.gate.set()
        assert {await each.whole() for each in askers} == {TEXT}
        assert texts(await asyncio.gather(*wholes)) == {(200, TEXT, True)}
    assert len(instance.asked) == 2
    world.urls, world.gateways = world.urls[1:], world.gateways[1:]
    await world.until_idle()


async def test_routes_join_like_models_do(start):
    more = {
        "models": {"m": {}},
        "tiers": {"small": {"model": "m"}, "full": {"model": "m"}},
        "routes": {"auto": {}},
    }
    world, (instance,) = await start(workers=2, more=more)
    asked = [
        asyncio.create_task(ask(world.urls[each % 2], "/api/chat", "wait", model="auto", stream=each % 3 != 0))
        for each in range(20)
    ]
    await until_counted(world, FOLLOWERS, 19)
    instance.gate.set()
    assert texts(await asyncio.gather(*asked)) == {(200, TEXT, True)}
    assert len(instance.asked) == 1
    await world.until_idle()


async def test_without_redis_calls_join_on_each_worker(start, redis):
    world, (instance,) = await start(workers=2, redis=redis, slots=4)
    redis.kill()
    for url in world.urls:
        async with asyncio.timeout(WITHIN_S):
            while (await ask(url, "/api/chat", "hi", stream=False)).headers["X-Cache"] != "off":
                pass
    before = len(instance.asked)
    asked = [
        asyncio.create_task(ask(world.urls[each % 2], "/api/chat", "wait", stream=each % 3 != 0, **CERTAIN))
        for each in range(20)
    ]
    await until_counted(world, FOLLOWERS, 18)
    instance.gate.set()
    assert texts(await asyncio.gather(*asked)) == {(200, TEXT, True)}
    assert len(instance.asked) - before == 2


async def test_redis_going_away_leaves_those_who_follow_another_worker_with_whole_answers(start, redis):
    world, (instance,) = await start(workers=2, redis=redis, slots=4)
    async with AsyncExitStack() as stack:
        askers = [await asker(stack, world, worker) for worker in (0, 0, 1, 1)]
        for each in askers:
            await each.ask("/api/chat", "wait-midway")
            await each.until(b"two ")
        redis.kill()
        await instance.until(active=2)
        instance.gate.set()
        assert [await each.whole() for each in askers] == [TEXT] * 4


async def test_a_leader_whose_key_is_used_up_fails_nobody_else() -> None:
    nobody, now_s = cast(Any, None), time.perf_counter()
    call = Call(Endpoint.OLLAMA_CHAT, "m", False, {"messages": []})

    def trace(key: str) -> Trace:
        return Trace("call", now_s, Caller(key))

    class Owner:
        def forget(self, making: Making) -> None: ...
        def keep(self, task: asyncio.Task[None]) -> None: ...

    follower = Asked(nobody, nobody, call, 2, "m", (), "key", False, trace("b"), None)
    making = Making("key", call.endpoint, trace("a"), 0, Owner())
    used_up = CapacityError("API key a has used its 10 tokens a minute (`limits.tpm`)", 20, 429)
    making.fail(used_up)
    _see_whether_again(follower, making, now_s + 30)
    assert isinstance(_failure_from(_broken(used_up, 0, None)), MakerGoneError), "on another worker neither"
    full = Making("key", call.endpoint, trace("a"), 0, Owner())
    full.fail(CapacityError("m has a full queue", 1))
    with pytest.raises(CapacityError):
        _see_whether_again(follower, full, now_s + 30)
