"""What fails behind the gateway, before it and within it, and what callers and slots see of it."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from orchestrator.app.paths import StatePaths
from orchestrator.core.model import Instance, InstanceState
from orchestrator.settings import ClusterSettings
from orchestrator.store.pools import pool_load
from tests.gateway.asking import STREAMS, Reply, ask, body_for, connected, get, request_bytes, until_queued
from tests.gateway.played import Played, played, pool_of, serving, start_gateway
from tests.gateway.stand_in import BULKY_FRAMES, WORDS, StandIn, standing_in
from tests.store.playing import Server
from tests.waiting import until

TEXT = "".join(WORDS)
Start = Callable[..., Awaitable[tuple[Played, list[StandIn]]]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a gateway before stand-ins that serve one pool, m."""
    async with AsyncExitStack() as stack:

        async def begin(
            count: int = 1, *, slots: int = 2, workers: int = 1, redis: Server | None = None, **limits: float
        ) -> tuple[Played, list[StandIn]]:
            instances = await stack.enter_async_context(standing_in(count))
            pool = pool_of("m", [each.port for each in instances], slots=slots)
            settings = ClusterSettings.model_validate({"models": {"m": {}}, "limits": limits})
            world = await stack.enter_async_context(played(tmp_path, settings, [pool], workers=workers, redis=redis))
            return world, instances

        yield begin


def dialect_of_error(path: str, reply: Reply) -> str:
    """The error's text, which must be in the shape of the path's dialect."""
    error = reply.json()["error"]
    if path.startswith("/v1/"):
        assert {"message", "type", "param", "code"} <= set(error)
        return error["message"]
    assert isinstance(error, str)
    return error


# --- instances -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("does", ["die", "own-500", "busy-503"])
async def test_an_instance_that_fails_before_its_first_byte_is_stood_in_for_by_another(start, does):
    world, (bad, good) = await start(2)
    bad.does = does
    for path in STREAMS:
        for is_stream in (True, False):
            reply = await ask(world.url, path, "hi", stream=is_stream)
            assert (reply.status, reply.text, reply.is_whole) == (200, TEXT, True)
    assert bad.asked
    assert len(good.asked) == 8
    await world.until_idle()


async def test_an_instance_that_is_gone_is_stood_in_for_by_another(start):
    world, (gone, _) = await start(2)
    await gone.stop()
    replies = await asyncio.gather(*(ask(world.url, "/api/chat", "hi", stream=False) for _ in range(12)))
    assert {(each.status, each.text) for each in replies} == {(200, TEXT)}
    await world.until_idle()


async def test_a_call_whose_only_instance_is_being_restarted_waits_for_it_and_is_answered(start):
    world, (instance,) = await start()
    await instance.stop()
    asked = asyncio.create_task(ask(world.url, "/api/chat", "hi", stream=False))
    await world.publish([replace(world.pools[0], instances=(_in_state(world, InstanceState.STARTING),))])
    assert not (await asyncio.wait((asked,), timeout=0.3))[0]
    await instance.start()
    await world.publish([replace(world.pools[0], instances=(_in_state(world, InstanceState.SERVING),))])
    reply = await asked
    assert (reply.status, reply.text) == (200, TEXT)
    await world.until_idle()


async def test_a_call_whose_only_instance_is_down_is_refused_at_once(start):
    world, _ = await start()
    await world.publish([replace(world.pools[0], instances=(_in_state(world, InstanceState.DOWN),))])
    # Until the worker has heard of it.
    reply = await until(
        lambda: ask(world.url, "/api/chat", "hi", stream=False), holds=lambda reply: reply.status != 200
    )
    assert (reply.status, "Retry-After" in reply.headers) == (503, True)


def _in_state(world: Played, state: InstanceState) -> Instance:
    return replace(world.pools[0].instances[0], state=state)


@pytest.mark.parametrize("question", ["cut off", "hang-midway"])
async def test_a_stream_cut_midway_ends_with_an_error_in_the_callers_dialect_and_no_clean_end(start, question):
    world, _ = await start(between_bytes_s=0.4)
    for path in STREAMS:
        reply = await ask(world.url, path, question, stream=True)
        assert (reply.status, reply.is_whole) == (200, False)
        *told, error = reply.frames()
        assert len(told) == 2
        assert "cut off" in (error["error"]["message"] if path.startswith("/v1/") else error["error"])
        assert b"[DONE]" not in reply.body
    await world.until_idle()


async def test_a_stream_that_just_stops_is_told_to_be_no_whole_answer(start):
    world, _ = await start()
    for path in STREAMS:
        reply = await ask(world.url, path, "end early", stream=True)
        assert reply.is_whole is False
        assert "error" in reply.frames()[-1]


@pytest.mark.parametrize("question", ["cut-within", "cut-between-lines", "cut"])
async def test_the_error_behind_a_stream_cut_within_an_event_is_an_event_by_itself(start, question):
    world, _ = await start()
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"):
        for more in ({}, {"stream_options": {"include_usage": True}} if "completions" in path else {}):
            reply = await ask(world.url, path, question, stream=True, **more)
            events = server_sent_events(reply.body)
            assert (reply.is_whole, "cut off" in json.loads(events[-1])["error"]["message"]) == (False, True)
            if "completions" in path and not more:  # these go out event by event: half a one is nobody's
                assert all(json.loads(each) for each in events)
    native = await ask(world.url, "/api/chat", question, stream=True)
    assert (native.body[-1:], json.loads(native.body.split(b"\n")[-2]).keys()) == (b"\n", {"error"})


def server_sent_events(body: bytes) -> list[str]:
    """The data of each event as clients are to read them: a blank line ends one, its data lines are joined."""
    events: list[str] = []
    for block in body.decode().split("\n\n")[:-1]:
        data = [line.removeprefix("data: ") for line in block.split("\n") if line.startswith("data: ")]
        events += ["\n".join(data)] if data else []
    return events


async def eject(world: Played, *instances: str) -> None:
    until_ms = time.time_ns() // 1_000_000 + 600_000
    for each in instances:
        await world.connection.command("HSET", "olm:pool:{m}:health", each, f"2 {until_ms} 1")


async def test_a_call_that_all_but_an_ejected_instance_failed_is_told_how_and_waits_for_no_ejections_end(start):
    world, (well, ejected) = await start(2)
    await eject(world, "m-1")
    for path, is_stream in (("/api/chat", True), ("/v1/completions", False)):
        reply = await ask(world.url, path, "own-500", stream=is_stream, headers={"X-Queue-Timeout": "20"})
        assert reply.status == 502
        assert "answered 500" in dialect_of_error(path, reply)
    assert not ejected.asked
    assert (await ask(world.url, "/api/chat", "hi")).text == TEXT
    assert well.asked[-1] == "hi"
    await world.until_idle()


@pytest.mark.parametrize("header", ["X-Queue-Timeout", "X-Deadline"])
async def test_where_all_instances_are_ejected_nobody_waits_longer_than_they_asked_to(start, header):
    world, instances = await start(2)
    await eject(world, "m-0", "m-1")
    async with asyncio.timeout(20):  # the settings would let it wait a minute
        reply = await ask(world.url, "/api/chat", "hi", headers={header: "0.5"})
    assert reply.status in (503, 504)
    assert int(reply.headers["Retry-After"]) > 0
    assert not any(each.asked for each in instances)


async def test_an_instance_that_hangs_is_cut_at_the_limit_and_another_answers(start):
    world, (bad, _) = await start(2, first_byte_s=1.5)  # which the other keeps on a busy machine, too
    bad.does = "hang"
    replies = await asyncio.gather(*(ask(world.url, "/api/chat", "hi", stream=True) for _ in range(4)))
    assert {each.text for each in replies} == {TEXT}
    assert bad.asked
    await bad.until(active=0)
    await world.until_idle()


async def test_where_every_instance_fails_the_caller_is_told_in_its_dialect(start):
    world, instances = await start(2)
    for each in instances:
        each.does = "die"
    for path in ("/api/chat", "/v1/chat/completions"):
        reply = await ask(world.url, path, "hi", stream=True)
        assert reply.status in (502, 503)
        assert dialect_of_error(path, reply)
    await world.until_idle()


@pytest.mark.parametrize(("question", "status"), [("callers-500", 500), ("callers-400", 400)])
async def test_a_callers_mistake_is_handed_back_and_ejects_nobody(start, question, status):
    world, (instance,) = await start()
    for _ in range(5):
        reply = await ask(world.url, "/api/chat", question)
        assert reply.status == status
    assert len(instance.asked) == 5
    load = await pool_load(world.connection, world.pools[0].name)
    assert [(each.failures, each.ejected_for_s) for each in load.instances] == [(0, 0)]


async def test_a_kept_connection_that_the_instance_closed_costs_no_call(start):
    world, (instance,) = await start()
    for _ in range(20):
        reply = await ask(world.url, "/api/chat", "close after", stream=False)
        assert (reply.status, reply.text) == (200, TEXT)
    load = await pool_load(world.connection, world.pools[0].name)
    assert load.instances[0].failures == 0
    assert len(instance.asked) == 20


async def test_connections_to_an_instance_are_kept_and_used_again(start):
    world, (instance,) = await start()
    for n in range(10):
        await ask(world.url, "/api/chat", "hi", stream=bool(n % 2))
    assert instance.connections == 1


# --- clients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("question", "is_stream"), [("hang-midway", True), ("hang", True), ("hang", False)])
async def test_a_client_that_leaves_frees_its_slot_on_instance_and_in_count(start, question, is_stream):
    world, (instance,) = await start(drain_s=0.5)
    for path in ("/api/chat", "/v1/completions"):
        async with connected(world.url) as (reader, writer):
            writer.write(request_bytes(path, body_for(path, question, stream=is_stream)))
            await instance.until(active=1)
            if question == "hang-midway":
                await reader.readuntil(b"two")
        await instance.until(active=0)
        await world.until_idle()


async def test_a_stream_whose_client_left_is_read_to_its_end_and_its_slot_is_taken_until_then(start):
    """Cut in the middle, a real Ollama can lose the slot for good."""
    world, (instance,) = await start(slots=1)
    async with connected(world.url) as (reader, writer):
        writer.write(request_bytes("/api/chat", body_for("/api/chat", "wait-midway", stream=True)))
        await reader.readuntil(b"two")
    waiting = asyncio.create_task(ask(world.url, "/api/chat", "hi"))
    await until_queued(world.url, 1)
    assert instance.active == 1
    instance.gate.set()
    assert (await waiting).status == 200
    assert instance.whole == 1
    await world.until_idle()


@pytest.mark.parametrize("drain_s", [0, 0.3])
async def test_a_stream_whose_client_left_is_cut_at_its_bound(start, drain_s):
    world, (instance,) = await start(slots=1, drain_s=drain_s)
    async with connected(world.url) as (reader, writer):
        writer.write(request_bytes("/api/chat", body_for("/api/chat", "endless", stream=True)))
        await reader.readuntil(b"xxx")
    await instance.until(active=0)
    assert (await ask(world.url, "/api/chat", "hi")).status == 200
    await world.until_idle()


async def test_a_slot_is_counted_a_little_longer_than_its_client_stays(start):
    world, (instance,) = await start(slots=1)
    async with connected(world.url) as (_, writer):
        writer.write(request_bytes("/api/chat", body_for("/api/chat", "hang")))
        await instance.until(active=1)
        left_s = time.monotonic()
    await instance.until(active=0)
    # A real engine reads on in its prompt for a while: the next call waits for that, and is then answered.
    assert (await ask(world.url, "/api/chat", "hi")).status == 200
    assert time.monotonic() - left_s > 1  # two seconds, by Redis' clock


async def test_a_client_that_leaves_the_queue_leaves_no_ticket(start):
    world, (instance,) = await start(slots=1)
    first = asyncio.create_task(ask(world.url, "/api/chat", "wait for me", stream=False))
    await instance.until(active=1)
    async with connected(world.url) as (_, writer):
        writer.write(request_bytes("/api/chat", body_for("/api/chat", "hi")))
        await queued(world, 1)
    await queued(world, 0)
    instance.gate.set()
    assert (await first).status == 200
    await world.until_idle()
    assert instance.asked == ["wait for me"]


async def queued(world: Played, count: int) -> None:
    await until(lambda: pool_load(world.connection, world.pools[0].name), holds=lambda seen: seen.queued == count)


async def test_a_client_that_does_not_read_slows_its_instance_fills_no_memory_and_is_cut(start):
    world, (instance,) = await start(between_bytes_s=1.0)
    async with connected(world.url) as (reader, writer):
        writer.write(request_bytes("/api/chat", body_for("/api/chat", "endless")))
        await reader.readuntil(b"xxx")
        writer.transport.pause_reading()
        await instance.until(active=1)
        await instance.until(active=0)
        # What the sockets' buffers take, and little more: an endless stream was stopped in its source.
        assert instance.written < 64 * 2**20
    await world.until_idle()
    load = await pool_load(world.connection, world.pools[0].name)
    assert load.instances[0].failures == 0


async def test_a_client_that_pauses_and_reads_on_gets_everything(start):
    world, (instance,) = await start(between_bytes_s=20)
    async with connected(world.url) as (reader, writer):
        writer.write(request_bytes("/api/generate", body_for("/api/generate", "bulky")))
        await reader.readuntil(b"xxx")
        writer.transport.pause_reading()
        await instance.until_still()
        assert instance.active == 1
        writer.transport.resume_reading()
        lines = 0
        while b'"done":true' not in (line := await reader.readline()):
            lines += line.startswith(b"{")
    assert lines == BULKY_FRAMES - 1
    assert (await ask(world.url, "/api/chat", "hi")).text == TEXT


# --- slots and the queue ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
async def test_fifty_calls_at_once_never_exceed_the_slots_and_are_all_answered(start, workers):
    world, instances = await start(2, slots=3, workers=workers)
    replies = await asyncio.gather(*(ask(world.url, "/api/chat", f"hi {n}", stream=bool(n % 2)) for n in range(50)))
    assert {(each.status, each.text) for each in replies} == {(200, TEXT)}
    assert max(each.most for each in instances) <= 3
    assert sum(len(each.asked) for each in instances) == 50
    assert {each.headers["X-Instance"] for each in replies} == {"m-0", "m-1"}
    await world.until_idle()


async def test_calls_are_answered_in_the_order_they_came(start):
    world, (instance,) = await start(slots=1)
    calls = [asyncio.create_task(ask(world.url, "/api/chat", "wait first", stream=False))]
    await instance.until(active=1)
    for n in range(6):
        calls.append(asyncio.create_task(ask(world.url, "/api/chat", f"hi {n}", stream=False)))
        await queued(world, n + 1)
    instance.gate.set()
    await asyncio.gather(*calls)
    assert instance.asked == ["wait first", *(f"hi {n}" for n in range(6))]
    assert float((await calls[-1]).headers["Server-Timing"].split("queue;dur=")[1].split(",")[0]) > 0


async def test_a_full_queue_answers_503_with_retry_after_in_the_callers_dialect(start):
    world, (instance,) = await start(slots=1, queue_length=1)
    calls = [asyncio.create_task(ask(world.url, "/api/chat", "wait first", stream=False))]
    await instance.until(active=1)
    calls.append(asyncio.create_task(ask(world.url, "/api/chat", "hi", stream=False)))
    await queued(world, 1)
    for path in ("/api/chat", "/v1/chat/completions"):
        reply = await ask(world.url, path, "hi")
        assert reply.status == 503
        assert int(reply.headers["Retry-After"]) >= 1
        assert "full queue" in dialect_of_error(path, reply)
    instance.gate.set()
    assert [each.status for each in await asyncio.gather(*calls)] == [200, 200]


async def test_a_call_that_waits_too_long_is_answered_503_and_leaves_nothing(start):
    world, (instance,) = await start(slots=1, queue_wait_s=0.3)
    first = asyncio.create_task(ask(world.url, "/api/chat", "wait first", stream=False))
    await instance.until(active=1)
    for path in ("/api/chat", "/v1/chat/completions"):
        reply = await ask(world.url, path, "hi")
        assert (reply.status, "Retry-After" in reply.headers) == (503, True)
        assert "no slot" in dialect_of_error(path, reply)
    await queued(world, 0)
    instance.gate.set()
    assert (await first).status == 200
    await world.until_idle()


# --- Redis -----------------------------------------------------------------------------------------------------------


async def test_with_redis_gone_calls_go_on_within_the_share_and_are_counted_again_when_it_is_back(redis, start):
    world, (instance,) = await start(slots=2, redis=redis, workers=2)
    assert (await ask(world.url, "/api/chat", "hi")).status == 200
    redis.kill()
    replies = await asyncio.gather(*(ask(world.url, "/api/chat", f"hi {n}", stream=bool(n % 2)) for n in range(20)))
    assert {(each.status, each.text, each.headers["X-Cache"]) for each in replies} == {(200, TEXT, "off")}
    assert instance.most <= 2
    held = asyncio.create_task(ask(world.url, "/api/chat", "wait for redis", stream=False))
    await instance.until(active=1)
    redis.start()
    await world.connection.open(20)
    await until(world.in_flight, holds=lambda seen: sum(seen.values()) == 1)
    instance.gate.set()
    assert (await held).status == 200
    await world.until_idle()
    replies = await asyncio.gather(*(ask(world.url, "/api/chat", f"hi {n}") for n in range(10)))
    assert {each.status for each in replies} == {200}
    assert instance.most <= 2
    await world.until_idle()


async def test_calls_that_wait_alone_are_answered_in_turn_and_move_to_redis_when_it_is_back(redis, start):
    world, (instance,) = await start(slots=1, redis=redis)
    redis.kill()
    calls = [asyncio.create_task(ask(world.url, "/api/chat", "wait alone", stream=False))]
    await instance.until(active=1)
    calls += [asyncio.create_task(ask(world.url, "/api/chat", f"hi {n}", stream=False)) for n in range(5)]
    redis.start()
    await world.connection.open(20)
    await queued(world, 5)
    instance.gate.set()
    assert {(each.status, each.text) for each in await asyncio.gather(*calls)} == {(200, TEXT)}
    assert instance.most == 1
    await world.until_idle()


async def test_a_client_that_leaves_while_it_waits_alone_takes_no_slot(redis, start):
    world, (instance,) = await start(slots=1, redis=redis, queue_wait_s=20)
    redis.kill()
    first = asyncio.create_task(ask(world.url, "/api/chat", "wait alone", stream=False))
    await instance.until(active=1)
    async with connected(world.url) as (_, writer):
        writer.write(request_bytes("/api/chat", body_for("/api/chat", "left")))
        await writer.drain()
        await get(world.url, "/healthz")
    instance.gate.set()
    assert (await first).status == 200
    assert (await ask(world.url, "/api/chat", "hi")).status == 200
    assert "left" not in instance.asked


async def test_with_redis_gone_a_call_that_every_instance_failed_is_told_so_and_does_not_wait(redis, start):
    world, (bad, other) = await start(2, redis=redis)
    await world.publish([serving(world.pools[0], without=world.pools[0].instances[1].id)])
    await world.until_known()
    redis.kill()
    bad.does = "die"
    assert (await ask(world.url, "/api/chat", "hi")).status in (502, 503)
    assert not other.asked


async def test_a_redis_that_dies_under_calls_in_the_queue_loses_none(redis, start):
    world, (instance,) = await start(slots=1, redis=redis)
    calls = [asyncio.create_task(ask(world.url, "/api/chat", "wait first", stream=False))]
    await instance.until(active=1)
    calls += [asyncio.create_task(ask(world.url, "/api/chat", f"hi {n}", stream=False)) for n in range(4)]
    await queued(world, 4)
    redis.kill()
    redis.start()
    instance.gate.set()
    assert {each.status for each in await asyncio.gather(*calls)} == {200}
    assert instance.most == 1
    await world.connection.open(20)
    await world.until_idle()


# --- workers ---------------------------------------------------------------------------------------------------------


async def test_a_killed_workers_slots_are_given_back_by_its_successor(redis, start):
    world, (instance,) = await start(slots=2, redis=redis, lease_ttl_s=3600)
    async with connected(world.url) as (_, one), connected(world.url) as (_, two):
        for writer in (one, two):
            writer.write(request_bytes("/api/chat", body_for("/api/chat", "hang")))
        await instance.until(active=2)
        world.gateways[0].kill()
        world.gateways[0].wait()
    await instance.until(active=0)
    assert sum((await world.in_flight()).values()) == 2
    address = urlsplit(world.url).netloc
    world.gateways[0] = start_gateway(StatePaths(world.state), address, redis.url, 0, 1)
    try:
        await world.until_idle()
        await world.until_ready()
        assert (await ask(world.url, "/api/chat", "hi")).status == 200
    finally:
        world.gateways[0].kill()
        world.gateways[0].wait()


async def test_a_worker_asked_to_stop_finishes_what_it_has(start):
    world, (instance,) = await start()
    whole = asyncio.create_task(ask(world.url, "/api/chat", "wait for me", stream=False))
    stream = asyncio.create_task(ask(world.url, "/v1/chat/completions", "wait too", stream=True))
    await instance.until(active=2)
    world.gateways[0].send_signal(signal.SIGTERM)
    await refused(world.url)
    instance.gate.set()
    assert [(each.status, each.text, each.is_whole) for each in await asyncio.gather(whole, stream)] == [
        (200, TEXT, True)
    ] * 2
    assert await asyncio.to_thread(world.gateways[0].wait, 15) == 0
    await world.until_idle()


async def refused(url: str) -> None:
    """Wait until nobody listens any more."""

    async def is_refused() -> bool:
        try:
            async with connected(url):
                return False
        except (ConnectionRefusedError, ConnectionResetError):
            return True

    await until(is_refused)


async def test_two_workers_share_a_port_and_one_serves_on_when_the_other_is_killed(start):
    world, (instance,) = await start(slots=2, workers=2, lease_ttl_s=2)
    world.gateways[1].kill()
    world.gateways[1].wait()
    replies = await asyncio.gather(*(ask(world.url, "/api/chat", f"hi {n}") for n in range(20)))
    assert {(each.status, each.text) for each in replies} == {(200, TEXT)}
    assert instance.most <= 2
    await world.until_idle()
