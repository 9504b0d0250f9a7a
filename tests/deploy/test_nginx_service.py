"""The shipped unit that keeps nginx in step: systemd takes it, it is closed as far as it can be."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from orchestrator.cli.commands.nginx import nginx

UNIT = Path(__file__).resolve().parents[2] / "deploy" / "ollamactl-nginx.service"
PROGRAM = "/opt/ollama-orchestrator/.venv/bin/ollamactl"
# Of 100; an unlimited service has 96. What is open has its reason in the unit.
EXPOSURE_AT_MOST = 30


def fields() -> list[tuple[str, str]]:
    lines = (line.partition("=") for line in UNIT.read_text().splitlines() if line and line[0] not in "#[")
    return [(name, value) for name, _, value in lines]


def value_of(field: str) -> str:
    return next(value for name, value in fields() if name == field)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The unit with a program that exists here: systemd looks whether there is one."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    target = tmp_path / UNIT.name
    assert UNIT.read_text().count(PROGRAM) == 1
    target.write_text(UNIT.read_text().replace(PROGRAM, sys.executable))
    return target


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False)


def test_systemd_finds_nothing_wrong_with_the_unit(installed):
    told = run("systemd-analyze", "verify", "--man=no", installed)
    assert (told.returncode, told.stdout + told.stderr) == (0, "")


def test_the_service_is_closed_but_for_what_it_needs(installed):
    told = run("systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_AT_MOST}", installed)
    assert told.returncode == 0, told.stdout.splitlines()[-1]


def test_what_an_installation_writes_and_asks_is_open():
    """nginx' folder, its pid (in /run) and its logs; ports below 1024; what the cluster's own user alone may read."""
    assert {"/etc/nginx/conf.d", "/run", "-/var/log/nginx"} <= set(value_of("ReadWritePaths").split())
    assert {"CAP_DAC_OVERRIDE", "CAP_NET_BIND_SERVICE"} <= set(value_of("CapabilityBoundingSet").split())
    assert "AF_UNIX" in value_of("RestrictAddressFamilies").split()


def test_an_installation_that_has_begun_is_not_cut_off():
    assert value_of("KillMode") == "mixed"
    assert int(value_of("TimeoutStopSec")) >= 3 * 30, "nginx -v, nginx -T and a reload may take 30 s each"


@pytest.mark.parametrize("follow", ["", "--direct --model llama3.2:3b"])
def test_its_command_is_one(follow):
    words = shlex.split(value_of("ExecStart").replace("$FOLLOW", follow))
    assert words[:3] == [PROGRAM, "nginx", "follow"]
    command = nginx.get_command(click.Context(nginx), words[2])
    assert command is not None
    asked = command.make_context("follow", words[3:]).params
    assert (asked["direct"], asked["model"]) == ((True, "llama3.2:3b") if follow else (False, None))
