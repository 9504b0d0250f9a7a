"""Commands that look at settings, where no file is named: those of the cluster that runs are meant, and no others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from orchestrator.app import settings_in_use
from orchestrator.app.paths import StatePaths
from orchestrator.cli.calibrate import FEWEST
from orchestrator.cli.main import main
from orchestrator.core.evaluation.questions import SetError
from orchestrator.fleet.inventory import Sight, look_at_all
from orchestrator.nodes.state_lock import StateLock
from orchestrator.settings import ClusterSettings

RUNS = {
    "nodes": [{"name": "sim", "simulate": "3x RTX 4090"}],
    "models": {"m:of-the-cluster": {}},
    "tiers": {"small": {"model": "m:of-the-cluster"}},
    "routes": {"auto": {"primary": "small"}},
}


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a cluster that runs, seen from a folder without a cluster.yaml."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "state"
    with StateLock(folder):
        settings_in_use.write(StatePaths(folder), ClusterSettings.model_validate(RUNS))
        yield folder


def ollamactl(*words: str) -> str:
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_question_is_explained_by_the_tiers_of_the_cluster_that_runs(state: Path) -> None:
    told = json.loads(ollamactl("route", "explain", "hello", "--json", "--state", str(state)))
    assert [each["tier"] for each in told["routes"]["auto"]["tiers"]] == ["small"]
    assert "m:of-the-cluster" in json.dumps(told)


def test_a_file_that_is_named_comes_before_the_cluster_that_runs(state: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(
        "models: {llama3.2:3b: }\ntiers: {other: {model: llama3.2:3b}}\nroutes: {auto: {primary: other}}\n"
    )
    told = json.loads(ollamactl("route", "explain", "hi", "--json", "--state", str(state), "--config", str(other)))
    assert [each["tier"] for each in told["routes"]["auto"]["tiers"]] == ["other"]


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("evaluate", ("eval", "run", "--targets", "small")),
        ("calibrate", ("route", "calibrate", "--tier", "small", "--set", "set.jsonl", "--out", "made.json")),
    ],
)
def test_a_tier_is_asked_for_by_its_model_of_the_cluster_that_runs(
    state: Path, monkeypatch: pytest.MonkeyPatch, module: str, command: tuple[str, ...]
) -> None:
    asked = []

    def target_of(name: str, settings: ClusterSettings) -> None:
        asked.append(settings.tiers[name].model)
        raise SetError("that was it")

    line = {"prompt": "1+1?", "scorer": "numeric", "answer": "2"}
    Path("set.jsonl").write_text("".join(f"{json.dumps({'id': str(each), **line})}\n" for each in range(FEWEST)))
    monkeypatch.setattr(f"orchestrator.cli.{module}.target_of", target_of)
    done = CliRunner().invoke(main, [*command, "--state", str(state)])
    assert "that was it" in done.output
    assert asked == ["m:of-the-cluster"]


def test_the_cards_shown_are_those_of_the_cluster_that_runs(state: Path) -> None:
    found = json.loads(ollamactl("gpus", "--json", "--state", str(state)))
    assert [(each["node"], len(each["accelerators"])) for each in found] == [("sim", 3)]
    assert ollamactl("gpus", "--state", str(state)).count("RTX 4090") == 3


def test_hosts_without_a_gpu_are_named_in_place_of_an_empty_table(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def without_cards(*asked: Any) -> tuple[Sight, ...]:
        (sight,) = await look_at_all(*asked)
        assert sight.facts is not None
        return (replace(sight, facts=replace(sight.facts, accelerators=())),)

    monkeypatch.setattr("orchestrator.cli.nodes.look_at_all", without_cards)
    assert ollamactl("gpus", "--state", str(state)) == "no GPU on sim: the CPU serves there\n"


def test_cards_are_shown_without_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("W_KEY", raising=False)
    path = tmp_path / "cluster.yaml"
    nodes = "nodes: [{name: sim, simulate: 3x RTX 4090}]"
    path.write_text(f"{nodes}\nmodels: {{llama3.2:3b: }}\nkeys: [{{name: w, secret: 'env:W_KEY'}}]\n")
    done = CliRunner().invoke(main, ["gpus", "--config", str(path)])
    assert done.exit_code == 0, done.output
    assert done.stdout.count("RTX 4090") == 3
    assert "the environment variable W_KEY is not set here" in done.stderr


def test_a_plan_needs_no_secret_and_says_which_one_a_start_will_want(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("W_KEY", raising=False)
    path = tmp_path / "cluster.yaml"
    path.write_text("models: {llama3.2:3b: {replicas: 3}}\nkeys: [{name: w, secret: 'env:W_KEY'}]\n")
    done = CliRunner().invoke(main, ["plan", "--json", "--simulate", "3x RTX 4090", "--config", str(path)])
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["plan"]["placements"]) == 3
    assert "the environment variable W_KEY is not set here" in done.stderr
