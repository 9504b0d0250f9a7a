"""The template of instances on hosts: systemd takes it, it is closed as far as it can be, and there is one of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.nodes.systemd_text import render_template

SHOWN = Path(__file__).resolve().parents[2] / "deploy" / "ollama@.service"
PROGRAM = "/opt/ollamactl/ollama/current/bin/ollama"
# Of 100; an unlimited service has 96. What is open has its reason in the template.
EXPOSURE_AT_MOST = 25


def fields() -> dict[str, str]:
    lines = (line.partition("=") for line in render_template().splitlines() if line and line[0] not in "#[")
    return {name: value for name, _, value in lines}


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The template with a program that exists here: systemd looks whether there is one."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    target = tmp_path / "ollama@.service"
    target.write_text(render_template().replace(PROGRAM, sys.executable))
    return target


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False)


def test_the_template_that_is_shown_is_the_one_that_is_deployed():
    assert SHOWN.read_text() == render_template(), "python -m orchestrator.nodes.systemd_text >'deploy/ollama@.service'"


def test_systemd_finds_nothing_wrong_with_the_template(installed):
    told = run("systemd-analyze", "verify", "--man=no", installed)
    assert (told.returncode, told.stdout + told.stderr) == (0, "")


def test_an_instance_is_closed_but_for_what_it_needs(installed):
    told = run("systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_AT_MOST}", installed)
    assert told.returncode == 0, told.stdout.splitlines()[-1]


def test_nothing_keeps_an_instance_from_gpus():
    """Each of these hides devices or the driver's files in /proc, or forbids the code that CUDA writes."""
    closed = {"PrivateDevices", "ProtectClock", "DevicePolicy", "DeviceAllow", "MemoryDenyWriteExecute", "ProcSubset"}
    assert fields().keys().isdisjoint(closed)


def test_a_killed_server_leaves_no_runner_and_every_instance_comes_back():
    assert fields()["KillMode"] == "mixed"
    assert fields()["Restart"] == "always"
    assert fields()["StartLimitIntervalSec"] == "0"
    assert int(fields()["TimeoutStopSec"]) > 0
