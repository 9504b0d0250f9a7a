"""`ollamactl nodes`, `gpus` and `nodes add`, as a user calls them."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import asyncssh
import pytest
from click.testing import CliRunner

from orchestrator.cli.main import main
from orchestrator.nodes.host_keys import fingerprint
from orchestrator.settings import load
from tests.waiting import WITHIN_S


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def ctl(tmp_path, monkeypatch):
    """Runs the command in a folder of its own, with a state folder of its own and nobody at the keyboard."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def run(*words: str) -> Done:
        group, options = (words[:2], words[2:]) if words[:2] == ("nodes", "add") else (words[:1], words[1:])
        done = CliRunner().invoke(main, [*group, "--state", str(tmp_path / "state"), *options])
        return Done(done.exit_code, done.stdout, done.stderr)

    return run


ROOT = Path(__file__).parents[2]


def shown_by(machine) -> str:
    return fingerprint(asyncssh.import_public_key(machine.host_key))


def adding(net, machine, *more: str) -> tuple[str, ...]:
    return ("nodes", "add", machine.name, "--host", machine.address, "--user", "ops", "--key", str(net.key), *more)


def test_hosts_are_added_by_their_fingerprint_and_seen_as_table_and_json(hosts, gpu_1, gpu_2, ctl, tmp_path):
    added = ctl(*adding(hosts, gpu_1, "--fingerprint", shown_by(gpu_1)))
    assert added.returncode == 0, added.stderr
    assert "gpu-1 was added to cluster.yaml" in added.stdout
    added = ctl(*adding(hosts, gpu_2, "--yes"))
    assert added.returncode == 0, added.stderr
    assert shown_by(gpu_2) in added.stdout
    assert [each.name for each in load(tmp_path / "cluster.yaml").nodes] == ["gpu-1", "gpu-2"]

    nodes = ctl("nodes")
    assert nodes.returncode == 0, nodes.stderr
    assert "2x NVIDIA GeForce RTX 4090" in nodes.stdout
    gpus = ctl("gpus")
    assert gpus.returncode == 0, gpus.stderr
    assert all(uuid in gpus.stdout for uuid in ("GPU-4090-a", "GPU-4090-b", "MIG-3g-a", "MIG-3g-b"))
    told = json.loads(ctl("nodes", "--json").stdout)
    assert [each["node"] for each in told] == ["gpu-1", "gpu-2"]
    assert told[0]["gpu_links"] == [{"uuids": ["GPU-4090-a", "GPU-4090-b"], "path": "same NUMA node", "nvlinks": 0}]


def test_one_hosts_failure_is_one_line_and_the_others_are_shown(hosts, gpu_1, gpu_2, ctl, tmp_path):
    for machine in (gpu_1, gpu_2):
        assert ctl(*adding(hosts, machine, "--yes")).returncode == 0
    gpu_2.power_off()
    seen = ctl("nodes")
    assert seen.returncode == 1
    assert "2x NVIDIA GeForce RTX 4090" in seen.stdout
    (line,) = seen.stderr.splitlines()
    assert line.startswith("error: gpu-2: ops@")
    told = json.loads(ctl("gpus", "--json").stdout)
    assert (told[0]["node"], set(told[1])) == ("gpu-1", {"node", "error"})


def test_nobody_at_the_keyboard_trusts_no_key(hosts, gpu_1, ctl, tmp_path):
    refused = ctl(*adding(hosts, gpu_1))
    assert refused.returncode == 1
    assert f"--fingerprint {shown_by(gpu_1)}" in refused.stderr
    assert not (tmp_path / "cluster.yaml").exists()
    assert not (tmp_path / "state").exists()


def test_another_fingerprint_than_the_one_asked_for_is_refused(hosts, gpu_1, gpu_2, ctl, tmp_path):
    refused = ctl(*adding(hosts, gpu_1, "--fingerprint", shown_by(gpu_2)))
    assert refused.returncode == 1
    assert f"is {shown_by(gpu_1)}, not {shown_by(gpu_2)}" in refused.stderr
    assert not (tmp_path / "state").exists()


def test_yes_never_takes_a_key_that_changed_and_its_fingerprint_does(hosts, gpu_1, ctl, tmp_path):
    assert ctl(*adding(hosts, gpu_1, "--yes")).returncode == 0
    known = tmp_path / "state" / "known_hosts"
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key("openssh").decode().split()[:2]
    known.write_text(f"{gpu_1.address} {' '.join(other)}\n")
    refused = ctl("nodes", "add", "gpu-1", "--yes")
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert f"`ollamactl nodes add gpu-1 --fingerprint {shown_by(gpu_1)}`" in line
    pinned = ctl("nodes", "add", "gpu-1", "--fingerprint", shown_by(gpu_1))
    assert pinned.returncode == 0, pinned.stderr
    assert "nothing was changed" in pinned.stdout
    assert ctl("nodes").returncode == 0


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("as guest", "no host can be worked on with sudo:\ngpu-1: no sudo without a password for guest: "),
        ("strange key", "no host can be logged in to:\ngpu-1: ops@"),
        ("other host", "no host can be trusted by its host key:\ngpu-1: the host key of "),
        ("powered off", "no host can be reached:\ngpu-1: "),
    ],
)
def test_a_plan_says_what_keeps_it_from_every_host(hosts, gpu_1, ctl, tmp_path, how, told):
    assert ctl(*adding(hosts, gpu_1, "--yes")).returncode == 0
    settings, known = tmp_path / "cluster.yaml", tmp_path / "state" / "known_hosts"
    match how:
        case "as guest":
            settings.write_text(settings.read_text().replace("user: ops", "user: guest"))
        case "strange key":
            settings.write_text(settings.read_text().replace(str(hosts.key), str(hosts.strange_key)))
        case "other host":
            other = asyncssh.generate_private_key("ssh-ed25519").export_public_key("openssh").decode().split()[:2]
            known.write_text(f"{gpu_1.address} {' '.join(other)}\n")
        case "powered off":
            gpu_1.power_off()
            settings.write_text(f"{settings.read_text()}ssh: {{connect_s: 2}}\n")
    refused = ctl("plan")
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: {told}")


@pytest.mark.parametrize(
    ("user", "told"), [("guest", "no sudo without a password for guest"), ("nobody", "not accept key")]
)
def test_a_host_that_fails_a_check_is_not_added(hosts, gpu_1, ctl, tmp_path, user, told):
    refused = ctl("nodes", "add", "gpu-1", "--host", gpu_1.address, "--user", user, "--key", str(hosts.key), "--yes")
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert told in line
    assert not (tmp_path / "cluster.yaml").exists()


@pytest.mark.parametrize(("said", "is_added"), [("n", False), ("y", True)])
def test_somebody_at_the_keyboard_is_shown_the_fingerprint_and_asked(hosts, gpu_1, tmp_path, said, is_added):
    here, there = pty.openpty()
    command = [sys.executable, "-m", "orchestrator.cli", *adding(hosts, gpu_1), "--state", str(tmp_path / "state")]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdin=there, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        assert shown_by(gpu_1) in run.stdout.readline()
        os.write(here, f"{said}\n".encode())
        run.communicate(timeout=WITHIN_S)
    os.close(here)
    os.close(there)
    assert run.returncode == (0 if is_added else 1)
    assert (tmp_path / "cluster.yaml").exists() is is_added
    assert (tmp_path / "state" / "known_hosts").exists() is is_added
