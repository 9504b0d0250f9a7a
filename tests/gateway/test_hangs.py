"""Instances that fall silent, behind a real gateway: their calls go elsewhere, and nobody's who is only slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from orchestrator.core.model import InstanceId, PoolName
from orchestrator.core.patience import ENOUGH, Suspicion
from orchestrator.settings import ClusterSettings
from orchestrator.store.suspicion import suspected
from tests.gateway.asking import Reply, ask, get
from tests.gateway.played import Played, played, pool_of
from tests.gateway.stand_in import WORDS, StandIn, standing_in
from tests.waiting import WITHIN_S, until

TEXT = "".join(WORDS)
HANG_S = 0.3
POOL = PoolName("m")
Start = Callable[..., Awaitable[tuple[Played, list[StandIn]]]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a gateway before stand-ins that serve one pool, and lets it see what is usual there."""
    async with AsyncExitStack() as stack:

        async def begin(count: int, *, slots: int = 4, **limits: float) -> tuple[Played, list[StandIn]]:
            instances = await stack.enter_async_context(standing_in(count))
            pool = pool_of("m", [each.port for each in instances], slots=slots)
            settings = ClusterSettings.model_validate({"models": {"m": {}}, "limits": {"hang_s": HANG_S, **limits}})
            world = await stack.enter_async_context(played(tmp_path, settings, [pool]))
            for is_stream in (True, False):
                for _ in range(ENOUGH):
                    assert (await chat(world, "usual", stream=is_stream)).status == 200
            return world, instances

        yield begin


async def chat(world: Played, text: str, *, stream: bool = False) -> Reply:
    return await ask(world.url, "/api/chat", text, stream=stream)


async def suspicions(world: Played) -> dict[InstanceId, Suspicion]:
    return await suspected(world.connection, {POOL: [each.id for each in world.pools[0].instances]})


async def given_up(world: Played) -> float:
    """How many calls were taken from an instance, as the metric has it."""
    lines = (await get(world.url, "/metrics")).body.decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("olm_given_up_total{"))


async def answers_for(world: Played, seconds: float) -> None:
    """Have calls answered, one after the other, for so long."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + seconds
    while loop.time() < until_s:
        assert (await chat(world, "meanwhile")).status == 200


@pytest.mark.parametrize("is_stream", [True, False])
async def test_while_an_instance_hangs_24_clients_are_all_answered(start, is_stream):
    world, instances = await start(6)
    silent = instances[0]
    silent.does = "hang"
    ends = asyncio.Event()

    async def client() -> list[Reply]:
        replies = []
        while not ends.is_set():
            replies.append(await chat(world, "hi", stream=is_stream))
        return replies

    clients = [asyncio.create_task(client()) for _ in range(24)]
    await until(lambda: suspicions(world), holds=lambda seen: seen and not silent.active)
    ends.set()
    replies = [each for several in await asyncio.gather(*clients) for each in several]
    assert {(each.status, each.text, each.is_whole) for each in replies} == {(200, TEXT, True)}
    assert list(await suspicions(world)) == ["m-0"]
    assert await given_up(world) >= 4
    await world.until_idle()


async def test_instances_that_are_all_silent_keep_their_calls_and_answer_them(start):
    world, instances = await start(2)
    for each in instances:
        each.does = "wait"
    asked = [asyncio.create_task(chat(world, "hi")) for _ in range(8)]
    for each in instances:
        await each.until(4)
    assert not (await asyncio.wait(asked, timeout=5 * HANG_S))[0]
    for each in instances:
        each.gate.set()
    assert {each.status for each in await asyncio.gather(*asked)} == {200}
    assert await suspicions(world) == {}
    assert sum(each.asked.count("hi") for each in instances) == 8


async def test_a_long_prompt_that_is_read_for_long_is_waited_for(start):
    world, instances = await start(2)
    long = "wait " + "word " * 1000
    reading = asyncio.create_task(chat(world, long, stream=True))
    slow = await until(lambda: [each for each in instances if each.active])
    await answers_for(world, 6 * HANG_S)
    assert not reading.done()
    slow[0].gate.set()
    assert (await reading).status == 200
    assert sum(each.asked.count(long) for each in instances) == 1
    assert await suspicions(world) == {}


async def test_a_call_is_not_given_up_where_it_has_nowhere_else_to_go(start):
    world, (one, other) = await start(2)
    asked = asyncio.create_task(chat(world, "wait", stream=True))
    async with asyncio.timeout(WITHIN_S):
        while "wait" not in one.asked or "wait" not in other.asked:
            await answers_for(world, HANG_S)
    await answers_for(world, 4 * HANG_S)
    assert not asked.done()
    one.gate.set()
    other.gate.set()
    assert (await asked).status == 200
    assert await given_up(world) == 1
    assert one.asked.count("wait") == other.asked.count("wait") == 1


async def test_a_call_that_is_slow_by_itself_is_left_on_an_instance_that_answers_others(start):
    world, instances = await start(2)
    slow = asyncio.create_task(chat(world, "wait", stream=True))
    await until(lambda: any(each.active for each in instances))
    await asyncio.gather(*(answers_for(world, 5 * HANG_S) for _ in range(6)))
    assert not slow.done()
    for each in instances:
        each.gate.set()
    assert (await slow).status == 200
    assert await given_up(world) == 0
    assert await suspicions(world) == {}


async def test_where_it_is_switched_off_silence_is_waited_for(start):
    world, instances = await start(2, hang_s=0)
    asked = asyncio.create_task(chat(world, "wait", stream=True))
    await answers_for(world, 6 * HANG_S)
    assert not asked.done()
    for each in instances:
        each.gate.set()
    assert (await asked).status == 200
    assert await given_up(world) == 0
