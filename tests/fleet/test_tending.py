"""What one instance goes through when its engine does not do as it is told: each state says why, and is left again."""

from __future__ import annotations

import json
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.model import InstanceState, Placement, Snapshot
from orchestrator.fleet import tending
from orchestrator.fleet.made import UNIT_PREFIX
from orchestrator.nodes.keeper_units import Unit
from orchestrator.nodes.names import Names
from orchestrator.nodes.simulator.config import load_config, write_config
from tests.fleet.world import Controller, World, kill, settings_of, until

PLAYED = Path(__file__).with_name("bad_ollama.py")


class Played:
    """A world whose one instance is a played Ollama with these faults."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.calls = world.state / "calls"
        world.settings = settings_of(small={})

    async def begin(self, **faults: Any) -> Controller:
        plain = ("dies", "question")
        named = {name if name in plain else f"/api/{name}": fault for name, fault in faults.items()}

        def unit_of(placement: Placement, port: int) -> Unit:
            argv = (sys.executable, str(PLAYED), str(port), json.dumps(named), str(self.calls))
            return Unit(UNIT_PREFIX + placement.instance, argv)

        self.world.unit_of = unit_of  # type: ignore[method-assign]
        return await self.world.controller()

    async def says(self, text: str, **faults: Any) -> Controller:
        controller = await self.begin(**faults)
        await until(lambda: controller.store.snapshots and text in controller.reasons(), text, controller)
        assert controller.slots() == 0
        return controller

    def asked(self, path: str) -> int:
        return self.calls.read_text().splitlines().count(path) if self.calls.exists() else 0


@pytest.fixture
def played(world: World) -> Played:
    return Played(world)


async def test_an_error_line_of_a_pull_is_the_reason(played: Played) -> None:
    line = '{"status": "pulling manifest"}\n{"error": "pull model manifest: file does not exist"}\n'
    missing = [404, {"error": "model 'llama3.2:3b' not found"}]
    await played.says(
        "down pull of llama3.2:3b: pull model manifest: file does not exist", show=missing, pull=[200, line]
    )


async def test_a_pull_that_ends_early_is_not_taken_for_a_whole_one(played: Played) -> None:
    missing = [404, {"error": "not found"}]
    await played.says(
        "ended early, after: pulling manifest", show=missing, pull=[200, '{"status": "pulling manifest"}\n']
    )


async def test_a_load_that_fails_is_the_reason_and_is_tried_again_with_growing_pauses(played: Played) -> None:
    error = {"error": "llama runner process has terminated: cudaMalloc failed: out of memory"}
    controller = await played.says("down load answered 500: llama runner process has", generate=[500, error, 3])
    await until(lambda: controller.slots() == 2, "the fourth load is well", controller)
    assert played.asked("/api/generate") == 4
    assert played.asked("question") == 1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ([500, {"error": "CUDA error: an illegal memory access was encountered"}], "answered 500: CUDA error"),
        ([200, {"done": True, "done_reason": "stop", "response": ""}], "answered without a token"),
        ([200, "<html>"], "what is no JSON"),
        ([503, {"error": "server busy"}], "found no place in its line, others call it: server busy"),
    ],
)
async def test_an_instance_that_does_not_answer_its_first_question_is_never_offered(
    played: Played, fault: list[Any], reason: str
) -> None:
    controller = await played.says(reason, question=fault)
    assert not {each for snapshot in controller.store.snapshots for each in offered(snapshot)}
    assert controller.reasons().startswith(("down", "loading", "starting"))
    assert await played.world.offered() == {}


async def test_a_first_question_that_fails_once_is_asked_again_and_nothing_is_started_anew(played: Played) -> None:
    controller = await played.begin(question=[500, {"error": "CUDA error"}, 1])
    await until(lambda: controller.slots() == 2, "serves", controller)
    assert played.asked("question") == 2
    assert played.asked("/api/generate") == 1
    reasons = [one.reason for each in controller.store.snapshots for pool in each.pools for one in pool.instances]
    assert "answers a first question" in reasons


async def test_a_process_that_answers_wrongly_twice_is_started_anew(world: World) -> None:
    world.settings = settings_of(small={})
    plain, began = world.unit_of, []

    def unit_of(placement: Placement, port: int) -> Unit:
        unit = plain(placement, port)
        path = next(Path(each) for each in unit.argv if each.endswith(".json"))
        whole = load_config(path)
        write_config(path, replace(whole, answers_nothing=True))
        began.append((path, whole))
        return unit

    world.unit_of = unit_of  # type: ignore[method-assign]
    controller = await world.controller()
    await until(lambda: "answered without a token" in said(controller), "it is asked", controller)
    first = world.pids()
    write_config(*began[0])  # what it plays from its next start on
    await until(lambda: controller.slots() == 2, "serves", controller)
    assert len(began) == 1, "by its keeper"
    assert world.pids() != first
    assert "its process is started anew" in said(controller)


async def test_an_embedding_instance_is_asked_for_a_vector_before_it_is_offered(world: World) -> None:
    world.settings = settings_of(**{"nomic-embed-text": {"embedding": True}})
    plain = world.unit_of

    def unit_of(placement: Placement, port: int) -> Unit:
        unit = plain(placement, port)
        path = next(Path(each) for each in unit.argv if each.endswith(".json"))
        write_config(path, replace(load_config(path), answers_nothing=True))
        return unit

    world.unit_of = unit_of  # type: ignore[method-assign]
    controller = await world.controller()
    await until(lambda: "answered without a vector" in said(controller), "it is asked", controller)
    assert controller.slots("nomic-embed-text") == 0
    world.unit_of = plain  # type: ignore[method-assign]
    other = settings_of(**{"nomic-embed-text": {"embedding": True, "context": 1024}})
    world.settings = other
    controller.steward.replan()
    await until(lambda: controller.slots("nomic-embed-text") > 0, "serves", controller)


async def test_what_served_and_is_in_memory_is_not_asked_again_by_the_next_controller(played: Played) -> None:
    first = await played.begin()
    await until(lambda: first.slots() == 2, "serves", first)
    await first.kill()
    second = await played.world.controller()
    await until(lambda: len(second.store.snapshots) > 3, "published by the next one", second)
    assert second.slots() == 2
    assert played.asked("question") == 1


async def test_an_instance_whose_host_nobody_finds_says_so_and_starts_once_it_is_found(world: World) -> None:
    known: dict[str, str] = {}

    async def told(name: str) -> str:
        if name not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return known[name]

    world.locate = lambda node: Names(told).find(node, "big")  # type: ignore[method-assign,assignment]
    world.settings = settings_of(small={})
    controller = await world.controller()
    await until(lambda: "finds no host of the name 'big'" in said(controller), "said", controller)
    assert world.pids() == {}
    known["big"] = "127.0.0.1"
    await until(lambda: controller.slots() == 2, "serves", controller)


async def test_a_model_removed_while_it_ran_is_pulled_again(played: Played) -> None:
    controller = await played.begin(show=[404, {"error": "not found"}, 2])
    await until(lambda: controller.slots() == 2, "serves", controller)
    assert played.asked("/api/pull") == 1


@pytest.mark.parametrize("fault", [[200, {"remote_host": "https://ollama.com:443", "remote_model": "big"}]])
async def test_a_model_that_ollama_would_send_elsewhere_is_never_offered(played: Played, fault: list[Any]) -> None:
    await played.says("served by https://ollama.com:443, not by this machine", show=fault)
    assert played.asked("/api/generate") == played.asked("/api/pull") == 0


async def test_a_process_that_ends_before_it_answers_says_its_last_words(played: Played) -> None:
    await played.says("Error: unknown flag", dies="unknown flag")
    assert played.asked("/api/version") == 0


async def test_answers_that_make_no_sense_end_nothing(played: Played) -> None:
    controller = await played.says("what is no JSON", show=[200, "<html>", 2])
    await until(lambda: controller.slots() == 2, "serves after all", controller)


async def test_an_instance_that_lost_its_model_loads_it_again_by_the_clusters_own_request(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tending, "PROBE_EVERY_S", 0.05)
    controller = await played.begin(ps=[200, {"models": []}, 4])
    await until(lambda: controller.slots() == 2, "serves", controller)
    await until(lambda: played.asked("/api/generate") >= 2, "loaded again", controller)
    states = [one.state for each in controller.store.snapshots for pool in each.pools for one in pool.instances]
    assert InstanceState.LOADING in states


async def test_an_instance_that_loads_its_model_again_answers_again_before_it_is_offered(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tending, "PROBE_EVERY_S", 0.05)
    controller = await played.begin()
    await until(lambda: controller.slots() == 2, "serves", controller)
    kill(next(iter(played.world.pids().values())))
    await until(lambda: played.asked("question") == 2, "asked again", controller)
    await until(lambda: controller.slots() == 2, "serves again", controller)


async def test_an_instance_that_stops_answering_is_taken_out_and_is_back_without_a_restart(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tending, "PROBE_EVERY_S", 0.05)
    controller = await played.begin()
    await until(lambda: controller.slots() == 2, "serves", controller)
    pids, sick = played.world.pids(), played.calls.with_name("sick")
    sick.touch()
    await until(lambda: controller.slots() == 0, "taken out", controller)
    assert "503: sick" in controller.reasons()
    sick.unlink()
    await until(lambda: controller.slots() == 2, "back", controller)
    assert played.world.pids() == pids
    assert played.asked("question") == 1, "what is still in memory has answered"


def said(controller: Controller) -> str:
    """Every reason that was published."""
    snapshots = controller.store.snapshots
    return " | ".join(one.reason for each in snapshots for pool in each.pools for one in pool.instances)


def offered(snapshot: Snapshot) -> list[str]:
    return [one.id for pool in snapshot.pools for one in pool.instances if one.state is InstanceState.SERVING]
