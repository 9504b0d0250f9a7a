"""A real Ollama, where there is one on PATH with a small model pulled: brought up, killed, back, adopted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.core.model import InstanceState, Placement
from orchestrator.fleet.engines import find_engine, ollama_unit
from orchestrator.nodes.keeper_units import Unit
from orchestrator.nodes.weights import ollama_models_dir, pulled_weights
from tests.fleet.world import HERE, World, kill, never_silent, offered_slots, settings_of, until

pytestmark = pytest.mark.ollama
MODEL = "smollm2:135m"


@pytest.fixture
def real(world: World) -> World:
    assert pulled_weights(ollama_models_dir(), MODEL) is not None, f"`ollama pull {MODEL}` first"

    def unit_of(placement: Placement, port: int) -> Unit:
        return ollama_unit(placement, find_engine("ollama"), port, "f16")

    world.settings = settings_of(**{MODEL: {"context": 1024}})
    world.facts = (replace(HERE, accelerators=()),)
    world.unit_of = unit_of  # type: ignore[method-assign]
    return world


async def test_a_real_ollama_is_brought_up_comes_back_and_is_adopted(real: World) -> None:
    first = await real.serving(2, MODEL)
    pool = first.store.snapshots[-1].pool(MODEL)
    assert pool is not None
    assert pool.details["ps"]["context_length"] == 1024
    assert not pool.instances[0].is_simulated
    seen = len(first.store.snapshots)
    kill(next(iter(real.pids().values())))
    await until(lambda: any(not offered_slots(each, MODEL) for each in first.store.snapshots[seen:]), "taken out")
    await until(lambda: first.slots(MODEL) == 2, "back", first)
    after = [one.state for each in first.store.snapshots[seen:] for pool in each.pools for one in pool.instances]
    assert InstanceState.LOADING in after
    pids = real.pids()
    await first.kill()
    second = await real.controller()
    await until(lambda: len(second.store.snapshots) > 2, "published by the next one", second)
    assert never_silent(second.store.snapshots, MODEL)
    assert real.pids() == pids
