"""A real engine in a small cluster, where this machine has one: killed under load, its answers stay its own words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.core.model import Engine
from tests.chaos import trial
from tests.chaos.__main__ import engine_line
from tests.chaos.faults_engine import EngineKilled
from tests.chaos.schedule import SHORT_SIZE
from tests.chaos.world import ENGINES, Plan, World, world_of
from tests.cluster.running import needs_real_engine, needs_redis, real_engine

PLAN = Plan(sides=1, instances=2, engines=ENGINES, sentinels=0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    needs_redis()
    needs_real_engine()
    with world_of(tmp_path_factory.mktemp("engine") / "world", PLAN) as made:
        yield made


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_real_engine_that_is_killed_is_followed_by_another_word_for_word(world: World) -> None:
    result = trial.run(world, EngineKilled(), "killed", SHORT_SIZE)
    assert result.breaches == ()
    assert result.engine == world.engine != ""
    assert result.engine_ends.get("whole", 0) > 0


def test_a_run_says_in_one_line_that_no_real_engine_is_there_and_leaves_its_faults_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OLM_CHAOS_ENGINE", "none")
    assert engine_line() == "no real engine: OLM_CHAOS_ENGINE=none"
    assert EngineKilled().lacks() == "OLM_CHAOS_ENGINE=none"


def test_an_ollama_that_has_not_the_small_model_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = tmp_path / "ollama"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "models"))
    monkeypatch.delenv("OLM_CHAOS_ENGINE", raising=False)
    found = real_engine()
    assert "ollama has no smollm2:135m" in found if isinstance(found, str) else found.kind is Engine.LLAMA_CPP
