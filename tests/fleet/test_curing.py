"""Instances that answer nobody are seen to: played ones as processes of their own, jammed or hung as real ones are."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from orchestrator.core.model import Instance, InstanceState, Moment, PoolName
from orchestrator.core.patience import Suspicion
from orchestrator.fleet import curing, publishing, tending
from orchestrator.nodes.keeper_units import Unit
from orchestrator.nodes.simulator.config import load_config, write_config
from orchestrator.store.suspicion import suspect, suspected
from tests.fleet.given_world import GivenWorld, Played, given_world, model
from tests.fleet.world import SMALL, Controller, World, never_silent, settings_of, until
from tests.store.playing import Server

SEEN = Suspicion(9.0, 1.5, 2)
SERVING = InstanceState.SERVING
POOL = PoolName(SMALL)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is, with shorter waits."""
    for name, seconds in {
        "LOOK_EVERY_S": 0.05,
        "ANSWERS_WITHIN_S": 0.3,
        "ASK_AGAIN_S": 0.2,
        "SHORTEST_CURE_S": 1.0,
        "CURE_LOADS": 0,
    }.items():
        monkeypatch.setattr(curing, name, seconds)
    monkeypatch.setattr(tending, "PROBE_EVERY_S", 0.1)
    monkeypatch.setattr(publishing, "HEARTBEAT_S", 0.3)


async def leave_midway(url: str, name: str) -> None:
    """As a client whose leaving costs a real Ollama the slot (OLLAMA.md 1.2)."""
    body = {"model": name, "prompt": "go on", "options": {"num_predict": 3000}}
    async with aiohttp.ClientSession() as http, http.post(f"{url}/api/generate", json=body) as reply:
        await reply.content.readany()


async def is_answered(url: str, name: str, within_s: float = 0.3) -> bool:
    body = {"model": name, "prompt": "one", "stream": False, "options": {"num_predict": 1}}
    timeout = aiohttp.ClientTimeout(total=within_s)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as http, http.post(f"{url}/api/generate", json=body) as reply:
            return reply.status == 200
    except TimeoutError:
        return False


def notes(controller: Controller | GivenWorld, about: str) -> list[str]:
    """What was said of one instance, as `status` shows it."""
    last = controller.store.snapshots[-1]
    return [each.partition(about)[2] for each in last.notes if about in each]


# --- instances of our own --------------------------------------------------------------------------------------------


class Jamming:
    """A world whose instances lose their one slot to the first client that leaves midway."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = world
        world.settings = settings_of(small={"replicas": 2, "slots": 1})
        world.speed = 40.0  # an answer of 3,000 tokens is long enough to leave it midway
        plain = world.unit_of

        def unit_of(placement: Any, port: int) -> Unit:
            unit = plain(placement, port)
            path = next(Path(each) for each in unit.argv if each.endswith(".json"))
            write_config(path, replace(load_config(path), jam_after=1))
            return unit

        monkeypatch.setattr(world, "unit_of", unit_of)

    async def serving(self) -> tuple[Controller, Instance, Instance]:
        controller = await self.world.serving(2)
        pool = controller.store.snapshots[-1].pool(SMALL)
        assert pool is not None
        return controller, *pool.instances

    def pid(self, instance: Instance) -> int:
        pid = self.world.pids()[instance.id]
        assert pid is not None
        return pid

    async def suspect(self, *instances: Instance) -> None:
        for each in instances:
            suspect(self.world.connection, POOL, each.id, SEEN)
        there = {POOL: [each.id for each in instances]}
        assert set(await suspected(self.world.connection, there)) == {each.id for each in instances}


@pytest.fixture
def jamming(world: World, monkeypatch: pytest.MonkeyPatch) -> Jamming:
    return Jamming(world, monkeypatch)


def url_of(instance: Instance) -> str:
    return f"http://{instance.host}:{instance.port}"


def said(controller: Controller, instance: Instance, text: str) -> Callable[[], bool]:
    return lambda: any(text in each for each in notes(controller, instance.id))


async def test_a_jammed_instance_is_unloaded_and_loaded_and_serves_again(jamming: Jamming) -> None:
    controller, one, _ = await jamming.serving()
    pids, since = jamming.world.pids(), len(controller.store.snapshots)
    await leave_midway(url_of(one), SMALL)
    assert not await is_answered(url_of(one), SMALL)
    await jamming.suspect(one)
    await until(said(controller, one, "answers again"), "cured", controller)
    await until(lambda: controller.slots() == 2, "serves again", controller)
    assert await is_answered(url_of(one), SMALL, 10)
    assert jamming.world.pids() == pids
    told = notes(controller, one.id)
    assert "silent for 9.0 s to 2 calls" in told[0]
    assert "unloaded and loaded again" in told[1]
    assert never_silent(controller.store.snapshots[since:])
    assert await suspected(jamming.world.connection, {POOL: [one.id]}) == {}


async def test_one_that_unloading_does_not_bring_back_is_restarted(
    jamming: Jamming, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curing, "SHORTEST_CURE_S", 3.0)  # a process has to start within it
    controller, one, other = await jamming.serving()
    before = jamming.world.pids()
    os.kill(jamming.pid(one), signal.SIGUSR2)
    await jamming.suspect(one)
    await until(said(controller, one, "answers again"), "cured", controller)
    await until(lambda: controller.slots() == 2, "serves again", controller)
    told = " | ".join(notes(controller, one.id))
    assert "unload was not done within 3 s" in told
    assert "its process is restarted" in told
    after = jamming.world.pids()
    assert (after[one.id] != before[one.id], after[other.id]) == (True, before[other.id])


async def test_one_that_answers_when_it_is_asked_is_left_as_it_is(jamming: Jamming) -> None:
    controller, one, _ = await jamming.serving()
    pids = jamming.world.pids()
    await jamming.suspect(one)
    await until(said(controller, one, "is left as it is"), "asked", controller)
    await until(lambda: controller.slots() == 2, "serves again", controller)
    assert jamming.world.pids() == pids
    assert not any("unloaded" in each for each in notes(controller, one.id))


async def test_beyond_its_cures_an_instance_gets_no_calls_until_it_answers_by_itself(jamming: Jamming) -> None:
    jamming.world.cures_an_hour = 1
    controller, one, _ = await jamming.serving()
    pids = jamming.world.pids()
    os.kill(jamming.pid(one), signal.SIGUSR2)
    await jamming.suspect(one)
    await until(said(controller, one, "left alone, without calls"), "left alone", controller)
    assert controller.slots() == 1
    assert jamming.world.pids() == pids
    assert sum("unloaded and loaded" in each for each in notes(controller, one.id)) == 1
    os.kill(jamming.pid(one), signal.SIGUSR2)
    await until(lambda: controller.slots() == 2, "serves again", controller)


async def test_never_more_than_half_of_a_pool_is_seen_to_at_once(jamming: Jamming) -> None:
    jamming.world.cures_an_hour = 0
    controller, *both = await jamming.serving()
    for each in both:
        os.kill(jamming.pid(each), signal.SIGUSR2)
    await jamming.suspect(*both)
    await until(lambda: any(said(controller, each, "left alone")() for each in both), "one is out", controller)
    version = controller.store.snapshots[-1].version
    await until(lambda: controller.store.snapshots[-1].version > version + 1, "published again", controller)
    assert controller.slots() == 1
    assert sum(bool(notes(controller, each.id)) for each in both) == 1


# --- servers that somebody else runs ---------------------------------------------------------------------------------


@pytest.fixture
async def given(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    async with given_world(tmp_path, server, monkeypatch) as made:
        yield made


async def two_serving(world: GivenWorld, **changes: Any) -> tuple[Played, Played]:
    both = tuple(world.played(model("a", slots=1), **changes).start() for _ in range(2))
    for each in both:
        await each.ask("/api/generate", model="a")
    world.configure(*({"url": each.url} for each in both))
    await world.begin()
    await world.until(lambda: all(world.state("a", each) is SERVING for each in both), "both serve")
    return both[0], both[1]


async def test_a_jammed_model_on_a_server_that_is_given_is_unloaded_and_loaded(given: GivenWorld) -> None:
    one, other = await two_serving(given, jam_after=1, speed=200.0)
    await leave_midway(one.url, "a")
    suspect(given.connection, PoolName("a"), given.instance("a", one).id, SEEN)
    await given.until(lambda: any("answers again" in each for each in notes(given, f"{one.label}/a")), "cured")
    await given.until(lambda: given.state("a", one) is SERVING, "serves again")
    steps = [each.text for each in given.events if each.kind is Moment.SEEN_TO]
    assert all(each.startswith(f"{one.label}/a: ") for each in steps)
    assert ["It gets no calls" in steps[0], "unloaded" in steps[1], "answers again" in steps[2]] == [True] * 3
    assert await is_answered(one.url, "a", 10)
    assert given.state("a", other) is SERVING


async def test_a_server_that_is_given_and_hangs_is_only_kept_from_calls_and_told_of(given: GivenWorld) -> None:
    one, other = await two_serving(given)
    one.signal(signal.SIGUSR2)
    name = given.instance("a", one).id
    suspect(given.connection, PoolName("a"), name, SEEN)
    await given.until(lambda: any("not ours to restart" in each for each in notes(given, name)), "told")
    assert given.state("a", one) is InstanceState.DOWN
    assert "restart it where it runs" in given.instance("a", one).reason
    assert given.state("a", other) is SERVING
    one.signal(signal.SIGUSR2)  # its owner has seen to it
    await given.until(lambda: given.state("a", one) is SERVING, "serves again")
    assert (await asyncio.wait_for(given.call("a"), 10)).instance
