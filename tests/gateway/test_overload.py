"""What keeps trouble small: retries within a budget, an instance's own word heeded, nothing begun too late."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.model import InstanceId, PoolName
from orchestrator.core.patience import ENOUGH, Suspicion
from orchestrator.core.retrying import FEW
from orchestrator.settings import ClusterSettings
from orchestrator.store.pools import pool_load
from orchestrator.store.suspicion import suspected
from tests.gateway.asking import ask, body_for, connected, get, request_bytes, until_queued
from tests.gateway.played import Played, played, pool_of
from tests.gateway.stand_in import WORDS, StandIn, standing_in
from tests.waiting import until

TEXT = "".join(WORDS)
POOL = PoolName("m")
Start = Callable[..., Awaitable[tuple[Played, list[StandIn]]]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a gateway before stand-ins that serve one pool, m."""
    async with AsyncExitStack() as stack:

        async def begin(
            count: int = 1, *, slots: int = 2, capabilities: tuple[str, ...] = ("completion",), **limits: Any
        ) -> tuple[Played, list[StandIn]]:
            instances = await stack.enter_async_context(standing_in(count))
            details = {"show": {"template": "{{ .Prompt }}", "capabilities": list(capabilities)}}
            pool = pool_of("m", [each.port for each in instances], slots=slots, details=details)
            settings = ClusterSettings.model_validate({"models": {"m": {}}, "limits": limits})
            world = await stack.enter_async_context(played(tmp_path, settings, [pool]))
            return world, instances

        yield begin


async def counted(world: Played, metric: str) -> float:
    lines = (await get(world.url, "/metrics")).body.decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{metric}_total{{"))


# --- retries ---------------------------------------------------------------------------------------------------------


async def test_where_every_instance_answers_errors_retries_end_and_are_no_storm(start):
    world, instances = await start(4, slots=64)
    for each in instances:
        each.does = "own-500"
    calls = 60
    began_s = time.monotonic()
    replies = await asyncio.gather(*(ask(world.url, "/api/chat", f"hi {n}", stream=False) for n in range(calls)))
    lasted_s = time.monotonic() - began_s
    assert {each.status for each in replies} <= {502, 503}
    asked = sum(len(each.asked) for each in instances)
    # Each call once, a few and a fifth of all once more, and one a second; without a budget it is three times as many.
    assert asked <= calls + FEW + 0.2 * calls + lasted_s
    assert await counted(world, "olm_retries_spared") > 0
    await world.until_idle()


async def test_an_instance_lost_with_all_its_calls_costs_none_of_them_though_they_are_many(start):
    world, (lost, other) = await start(2, slots=40)
    lost.does = "wait"
    calls = [asyncio.create_task(ask(world.url, "/api/chat", f"hi {n}", stream=False)) for n in range(40)]
    await until(lambda: lost.active >= 3 * FEW / 2)
    await lost.stop()
    assert {(each.status, each.text) for each in await asyncio.gather(*calls)} == {(200, TEXT)}
    assert len(other.asked) == 40


async def test_a_busy_instance_is_left_alone_for_as_long_as_it_says(start):
    world, instances = await start(2, queue_wait_s=1)  # for the first call: both tell it that they are busy
    for each in instances:
        each.does = "once-busy-for-600"
    for _ in range(6):
        reply = await ask(world.url, "/api/chat", "hi", stream=False)
        assert (reply.status, reply.text) == (200, TEXT)
    load = await pool_load(world.connection, world.pools[0].name)
    assert sorted(each.ejected_for_s > 60 for each in load.instances) == [False, True]
    assert sum(len(each.asked) for each in instances) <= 6 + 2


# --- deadlines -------------------------------------------------------------------------------------------------------


async def test_a_call_past_its_deadline_is_not_begun_and_leaves_the_queue_when_it_is(start):
    world, (instance,) = await start(slots=1)
    first = asyncio.create_task(ask(world.url, "/api/chat", "wait for me", stream=False))
    await instance.until(active=1)
    late = await ask(world.url, "/api/chat", "hi", stream=False, headers={"X-Deadline": "0.3"})
    assert (late.status, "Retry-After" in late.headers) == (503, True)
    await until_queued(world.url, 0)
    over = await ask(world.url, "/v1/chat/completions", "hi", headers={"X-Deadline": "0"})
    assert (over.status, "deadline" in over.json()["error"]["message"]) == (504, True)
    wrong = await ask(world.url, "/api/chat", "hi", headers={"X-Deadline": "soon"})
    assert wrong.status == 400
    instance.gate.set()
    assert (await first).status == 200
    assert instance.asked == ["wait for me"]
    assert (await ask(world.url, "/api/chat", "hi", headers={"X-Deadline": "60"})).status == 200


async def test_a_call_that_failed_somewhere_is_not_begun_elsewhere_past_its_deadline(start):
    world, instances = await start(2, first_byte_s=1.6)
    for each in instances:
        each.does = "hang"
    reply = await ask(world.url, "/api/chat", "hi", stream=False, headers={"X-Deadline": "1.5"})
    assert reply.status == 504
    assert sum(len(each.asked) for each in instances) == 1
    await world.until_idle()


# --- images ----------------------------------------------------------------------------------------------------------


PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
URL = f"data:image/png;base64,{PNG}"
SEEN: dict[str, dict[str, Any]] = {
    "/api/chat": {"messages": [{"role": "user", "content": "what is it?", "images": [PNG]}]},
    "/api/generate": {"prompt": "what is it?", "images": [PNG]},
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": URL}}]}]
    },
    "/v1/messages": {
        "max_tokens": 9,
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                    {"type": "text", "text": "?"},
                ],
            }
        ],
    },
}


async def test_an_image_for_a_model_that_cannot_see_is_refused_in_the_callers_dialect_and_nobody_is_asked(start):
    world, (instance,) = await start()
    for path, body in SEEN.items():
        reply = await ask(world.url, path, "?", **body)
        error = reply.json()["error"]
        text = error["message"] if path.startswith("/v1") else error
        assert (reply.status, "does not support images" in text) == (400, True), path
    assert instance.asked == []
    plain = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    assert (await ask(world.url, "/v1/chat/completions", "?", messages=plain)).status == 200


async def test_an_image_for_a_model_that_can_see_is_passed_on(start):
    world, (instance,) = await start(capabilities=("completion", "vision"))
    for path, body in SEEN.items():
        assert (await ask(world.url, path, "?", **body)).status == 200
    assert len(instance.asked) == len(SEEN)


# --- the only instance -----------------------------------------------------------------------------------------------


async def test_the_only_instance_of_a_pool_is_suspected_when_it_falls_silent_and_keeps_its_calls(start):
    world, (instance,) = await start(1, hang_s=0.3)
    for _ in range(ENOUGH):
        assert (await ask(world.url, "/api/chat", "usual", stream=True)).status == 200
    async with connected(world.url) as (_, writer):
        writer.write(request_bytes("/api/chat", body_for("/api/chat", "wait", stream=True)))
        await instance.until(active=1)
        found = await until(lambda: suspicions(world))
        assert (list(found), found[InstanceId("m-0")].is_lone, instance.active) == (["m-0"], True, 1)


async def suspicions(world: Played) -> dict[InstanceId, Suspicion]:
    return await suspected(world.connection, {POOL: [each.id for each in world.pools[0].instances]})
