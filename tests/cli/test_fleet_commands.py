"""Commands for a fleet where there is no fleet, no host that answers, or nothing deployed: one clear line each."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncssh
import pytest
from click.testing import CliRunner, Result

from orchestrator.app import deployments, settings_in_use
from orchestrator.app.paths import StatePaths
from orchestrator.cli.main import main
from orchestrator.core.deployment import Deployment
from orchestrator.core.model import Event, Moment
from orchestrator.fleet.chronicle import Chronicle
from orchestrator.nodes.host_keys import HostKeys
from orchestrator.nodes.state_lock import StateLock
from orchestrator.settings import ClusterSettings

Ctl = Callable[..., Result]


@pytest.fixture
def ctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ctl:
    monkeypatch.chdir(tmp_path)

    def run(command: str, *words: str) -> Result:
        return CliRunner().invoke(main, [command, "--state", str(tmp_path / "state"), *words])

    return run


@pytest.fixture
def deaf(tmp_path: Path) -> Iterator[None]:
    """A cluster.yaml with one host, whose key is known and where nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        key = asyncssh.generate_private_key("ssh-ed25519").convert_to_public()
        (tmp_path / "state").mkdir(mode=0o700)
        HostKeys(tmp_path / "state" / "known_hosts").pin("127.0.0.1", port, key)
        (tmp_path / "cluster.yaml").write_text(
            f"nodes: [{{name: gpu-1, address: '127.0.0.1:{port}'}}]\nmodels: {{'llama3.2:3b': {{}}}}\n"
        )
        yield


@pytest.mark.parametrize("command", ["deploy", "rollback", "destroy"])
def test_without_hosts_there_is_nothing_to_deploy_to(ctl: Ctl, command: str, tmp_path: Path):
    (tmp_path / "cluster.yaml").write_text("nodes: [{name: sim, simulate: RTX 4090}]\nmodels: {'llama3.2:3b': {}}\n")
    done = ctl(command, "--yes")
    assert done.exit_code == 3
    assert "no host to deploy to" in done.stderr
    assert "ollamactl nodes add" in done.stderr


@pytest.mark.usefixtures("deaf")
@pytest.mark.parametrize("command", ["plan", "deploy"])
def test_hosts_that_all_cannot_be_reached_are_named(ctl: Ctl, command: str, tmp_path: Path):
    done = ctl(command)
    assert done.exit_code == 1
    assert "no host can be reached:\ngpu-1: " in done.stderr
    assert deployments.current(StatePaths(tmp_path / "state")) is None


@pytest.mark.usefixtures("deaf")
@pytest.mark.parametrize("command", ["add", "restrict"])
def test_a_host_is_gone_to_without_the_secrets_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("W_KEY", raising=False)
    settings = tmp_path / "cluster.yaml"
    settings.write_text(f"{settings.read_text()}keys: [{{name: w, secret: 'env:W_KEY'}}]\n")
    done = CliRunner().invoke(main, ["nodes", command, "gpu-1", "--yes", "--state", str(tmp_path / "state")])
    assert done.exit_code == 1, done.output
    note, error = done.stderr.splitlines()
    assert note.startswith("note: the environment variable W_KEY is not set here")
    assert error.startswith("error: gpu-1: ")
    assert "cannot be reached" in error


def test_a_host_of_the_cluster_that_runs_is_restricted_without_a_file_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with StateLock(tmp_path / "state"):
        runs = {"nodes": [{"name": "gpu-1", "address": "127.0.0.1:1"}], "models": {"llama3.2:3b": {}}}
        settings_in_use.write(StatePaths(tmp_path / "state"), ClusterSettings.model_validate(runs))
        done = CliRunner().invoke(main, ["nodes", "restrict", "gpu-1", "--state", str(tmp_path / "state")])
    assert done.exit_code == 1
    assert "`ollamactl nodes add gpu-1` shows it" in done.stderr


@pytest.mark.usefixtures("deaf")
def test_there_is_nothing_to_roll_back_to_before_anything_was_good(ctl: Ctl, tmp_path: Path):
    paths = StatePaths(tmp_path / "state")
    for number in (1, 2):
        deployments.write(paths, Deployment(number, 0, "ops", ()))
    done = ctl("rollback", "--yes")
    assert done.exit_code == 1
    assert "nothing to go back to" in done.stderr


@pytest.mark.usefixtures("deaf")
def test_a_host_of_another_name_is_refused(ctl: Ctl):
    assert "--limit gpu-9: no host of that name" in ctl("destroy", "--yes", "--limit", "gpu-9").stderr
    done = ctl("exec", "gpu-9", "--", "true")
    assert done.exit_code == 3
    assert "no node of that name; there are gpu-1" in done.stderr


@pytest.mark.parametrize("words", [("drain", "gpu-1"), ("restart", "x"), ("logs", "x"), ("exec", "x", "--", "true")])
def test_without_a_cluster_that_is_said(ctl: Ctl, words: tuple[str, ...]):
    done = ctl(*words)
    assert done.exit_code in (1, 3)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: no cluster runs with --state") or "no cluster" in line or "has written a log" in line


def test_events_are_printed_the_oldest_first_for_people_and_for_programs(ctl: Ctl, tmp_path: Path):
    assert ctl("events").output == ""
    (tmp_path / "state").mkdir(mode=0o700)
    chronicle = Chronicle(StatePaths(tmp_path / "state").events)
    for number in (1, 2, 3):
        chronicle.record(
            Event(number * 1000, Moment.DEPLOYMENT_BEGAN, f"deployment {number} begins", deployment=number)
        )
    lines = ctl("events").stdout.splitlines()
    assert [line.rpartition("  ")[2] for line in lines] == [f"deployment {number} begins" for number in (1, 2, 3)]
    told = [json.loads(line) for line in ctl("events", "--json", "--last", "2").stdout.splitlines()]
    assert [each["deployment"] for each in told] == [2, 3]
    assert told[0]["kind"] == "deployment-began"
