"""Traps that other gateways' projects fell into, as their users reported them: none of them here.

Those that are tested where the behaviour is at home are not repeated here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.model import Endpoint
from orchestrator.settings import ClusterSettings
from orchestrator.store.pools import pool_load
from tests.gateway.asking import Reply, ask, get
from tests.gateway.played import Played, played, pool_of
from tests.gateway.stand_in import StandIn, standing_in
from tests.waiting import until

Start = Callable[..., Awaitable[tuple[Played, list[StandIn]]]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a gateway before stand-ins that serve one pool, m."""
    async with AsyncExitStack() as stack:

        async def begin(count: int, *, slots: int = 1, **settings: Any) -> tuple[Played, list[StandIn]]:
            instances = await stack.enter_async_context(standing_in(count))
            details = {"tags": {"name": "m", "modified_at": "2026-01-01T00:00:00Z"}, "ps": {"name": "m"}}
            pool = pool_of("m", [each.port for each in instances], slots=slots, details=details)
            checked = ClusterSettings.model_validate({"models": {"m": {}}, **settings})
            return await stack.enter_async_context(played(tmp_path, checked, [pool])), instances

        yield begin


async def until_active(instances: list[StandIn], count: int) -> None:
    await until(lambda: sum(each.active for each in instances) == count)


async def test_a_call_of_every_endpoint_takes_a_slot_and_gives_it_back_however_it_ends(start):
    forms = [(endpoint, is_stream) for endpoint in Endpoint for is_stream in (False, True)]
    world, (instance,) = await start(1, slots=len(forms))

    def ask_all(text: str) -> list[asyncio.Task[Reply]]:
        return [asyncio.create_task(ask(world.url, path, text, stream=is_stream)) for path, is_stream in forms]

    for text, status in (("wait", 200), ("own-500", 502)):
        calls = ask_all(text)
        if text == "wait":
            await instance.until(active=len(forms))
            assert await world.in_flight() == {"m-0": len(forms)}
            instance.gate.set()
        assert {each.status for each in await asyncio.gather(*calls)} == {status}
        await world.until_idle()
    leaving = ask_all("hang")
    await instance.until(active=len(forms))
    for each in leaving:
        each.cancel()
    await world.until_idle()


async def test_an_answer_from_the_cache_takes_no_slot_and_waits_for_none(start):
    world, (instance,) = await start(1, cache={"models": "all"})
    assert (await ask(world.url, "/api/chat", "hi", stream=False)).cache == "miss"
    running = asyncio.create_task(ask(world.url, "/api/chat", "wait", stream=False))
    await instance.until(active=1)
    for is_stream in (True, False):
        assert (await ask(world.url, "/api/chat", "hi", stream=is_stream)).cache == "hit"
        assert await world.in_flight() == {"m-0": 1}
    instance.gate.set()
    await running
    await world.until_idle()


async def test_twenty_calls_at_once_spread_over_the_instances_as_their_slots_are(start):
    world, instances = await start(4, slots=5)
    calls = [asyncio.create_task(ask(world.url, "/api/chat", f"wait {n}", stream=False)) for n in range(20)]
    await until_active(instances, 20)
    assert [each.active for each in instances] == [5, 5, 5, 5]
    for each in instances:
        each.gate.set()
    assert {reply.status for reply in await asyncio.gather(*calls)} == {200}
    await world.until_idle()


async def test_an_instance_that_fails_at_once_does_not_look_idle(start):
    world, (bad, good) = await start(2, slots=2)
    bad.does = "own-500"
    for n in range(40):
        reply = await ask(world.url, "/api/chat", f"question {n}", stream=False)
        assert reply.status == 200
    assert len(good.asked) == 40
    assert len(bad.asked) <= 6  # three until it is out, and a try now and then


async def test_a_snapshot_published_while_calls_are_under_way_forgets_none_of_them(start):
    world, (instance,) = await start(1, slots=1)
    running = asyncio.create_task(ask(world.url, "/api/chat", "wait", stream=False))
    await instance.until(active=1)
    await world.publish([pool_of("m", [instance.port], slots=2)])
    assert await world.in_flight() == {"m-0": 1}
    both = [asyncio.create_task(ask(world.url, "/api/chat", f"wait {n}", stream=False)) for n in range(2)]
    await instance.until(active=2)
    assert await world.in_flight() == {"m-0": 2}
    instance.gate.set()
    assert {each.status for each in await asyncio.gather(running, *both)} == {200}
    assert instance.most == 2
    await world.until_idle()


async def test_a_call_that_fails_everywhere_is_asked_of_three_instances_and_no_more(start):
    world, instances = await start(5)
    for each in instances:
        each.does = "own-500"
    reply = await ask(world.url, "/api/chat", "hi", stream=False)
    assert (reply.status, sum(len(each.asked) for each in instances)) == (502, 3)
    assert all(len(each.asked) <= 1 for each in instances)
    await world.until_idle()


async def test_a_route_of_chat_models_embeds_nothing(start):
    tiers = {"small": {"model": "m"}, "full": {"model": "m"}}
    world, (instance,) = await start(1, tiers=tiers, routes={"auto": {}})
    for path in ("/api/embed", "/api/embeddings", "/v1/embeddings"):
        assert (await ask(world.url, path, "hi", model="auto")).status == 404
    assert not instance.asked


async def test_lists_ask_no_instance_so_one_that_hangs_or_is_gone_slows_none(start):
    world, (gone, silent) = await start(2)
    await gone.stop()
    silent.does = "hang"
    for path in ("/api/tags", "/api/ps", "/api/version", "/v1/models", "/v1/models/m"):
        assert (await get(world.url, path)).status == 200
    assert silent.connections == 0


async def test_an_instance_that_stayed_out_through_its_start_is_back_once_it_answers(start):
    world, (instance,) = await start(1)
    port = instance.port
    await instance.stop()
    first = asyncio.create_task(ask(world.url, "/api/chat", "hi", stream=False))
    await until(
        lambda: pool_load(world.connection, world.pools[0].name), holds=lambda seen: seen.instances[0].ejected_for_s
    )
    instance.port = port
    await instance.start()
    assert (await first).status == 200
    load = (await pool_load(world.connection, world.pools[0].name)).instances[0]
    assert load.ejected_for_s == 0
    assert (await ask(world.url, "/api/chat", "hi", stream=False)).status == 200
    await world.until_idle()
