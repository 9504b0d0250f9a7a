"""The shipped systemd unit: systemd takes it, it is closed as far as it can be, and its commands run a cluster."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.nodes.simulators import free_port
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "deploy" / "ollamactl.service"
PROGRAM = "/opt/ollama-orchestrator/.venv/bin/ollamactl"
# Of 100; an unlimited service has 96. What is open has its reason in the unit.
EXPOSURE_AT_MOST = 25
READY_WITHIN_S = 60


def text() -> str:
    return UNIT.read_text()


def service() -> dict[str, list[str]]:
    """The fields of [Service]; a field may stand more than once."""
    fields: dict[str, list[str]] = {}
    section = ""
    for line in text().splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and line and not line.startswith("#"):
            name, _, value = line.partition("=")
            fields.setdefault(name, []).append(value)
    return fields


@pytest.fixture
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("systemd-analyze is not installed")
    return found


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The unit with a program that exists here: systemd looks whether there is one."""
    target = tmp_path / "ollamactl.service"
    assert text().count(PROGRAM) == 1
    target.write_text(text().replace(PROGRAM, sys.executable))
    return target


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False)


def test_systemd_finds_nothing_wrong_with_the_unit(analyze, installed):
    told = run(analyze, "verify", "--man=no", installed)
    assert (told.returncode, told.stdout + told.stderr) == (0, "")


def test_the_service_is_closed_but_for_what_it_needs(analyze, installed):
    told = run(analyze, "security", "--offline=true", f"--threshold={EXPOSURE_AT_MOST}", installed)
    assert told.returncode == 0, told.stdout.splitlines()[-1]


def test_nothing_keeps_the_service_from_gpus():
    """Each of these gives the service a list of devices, and no GPU is on it."""
    assert service().keys().isdisjoint({"PrivateDevices", "ProtectClock", "DevicePolicy", "MemoryDenyWriteExecute"})


def test_the_services_user_is_one_that_sysusers_makes():
    program = shutil.which("systemd-sysusers")
    if program is None:
        pytest.skip("systemd-sysusers is not installed")
    told = run(program, "--dry-run", UNIT.with_name("ollamactl.sysusers"))
    assert told.returncode == 0, told.stderr
    assert f"'{service()['User'][0]}'" in told.stdout + told.stderr


def test_the_state_is_in_the_state_folder_that_systemd_makes():
    folder = service()["StateDirectory"][0].split()[0]
    assert f"--state %S/{folder} " in service()["ExecStart"][0]
    assert service()["StateDirectoryMode"] == ["0700"]


async def test_the_units_commands_start_reload_and_end_a_cluster(tmp_path):
    config, ready = tmp_path / "ollamactl" / "cluster.yaml", tmp_path / "ready.json"
    config.parent.mkdir()
    config.write_text(
        f'listen: 127.0.0.1:{free_port()}\nnodes: [{{name: sim, simulate: "1x RTX 4090"}}]\n'
        'models: {"llama3.2:3b": }\ngateway: {workers: 1}\n'
    )
    process = subprocess.Popen(
        [*_command("ExecStart", tmp_path, 0), "--ready-file", str(ready)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **_environment(tmp_path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        said = await asyncio.to_thread(_until, process.stdout, "Ctrl-C ends it")
        await until(ready.exists)  # it is written once all of that stands on the screen
        assert json.loads(ready.read_text())["pid"] == process.pid, said
        subprocess.run(_command("ExecReload", tmp_path, process.pid), check=True)
        assert "in force" in await asyncio.to_thread(_until, process.stdout, "the changed settings")
        process.send_signal(signal.SIGTERM)
        rest = await asyncio.to_thread(process.stdout.read)
        assert process.wait(READY_WITHIN_S) == 0, rest
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate()


async def test_a_wrong_configuration_is_not_tried_again_and_again(tmp_path):
    config = tmp_path / "ollamactl" / "cluster.yaml"
    config.parent.mkdir()
    config.write_text("modells: {}\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    told = subprocess.run(_command("ExecStart", tmp_path, 0), env=environment, capture_output=True, check=False)
    assert str(told.returncode) in service()["RestartPreventExitStatus"][0].split()


# --- helpers ----------------------------------------------------------------------------------------------------------


def _command(field: str, folder: Path, pid: int) -> list[str]:
    """A command of the unit as systemd would run it, with the system's folders below `folder`."""
    line = service()[field][0]
    for shown, put in (("%S/ollamactl", f"{folder}/state"), ("%E", str(folder)), ("$MAINPID", str(pid))):
        line = line.replace(shown, put)
    words = shlex.split(line)
    return [sys.executable, "-m", "orchestrator.cli", *words[1:]] if words[0] == PROGRAM else words


def _environment(folder: Path) -> dict[str, str]:
    words = shlex.split(service()["Environment"][0].replace("%S/ollamactl", f"{folder}/state"))
    return dict(each.split("=", 1) for each in words)


def _until(stream: object, words: str) -> str:
    """What a process says, up to the line with `words`."""
    said = ""
    for line in stream:  # type: ignore[attr-defined]
        said += line
        if words in line:
            return said
    raise AssertionError(said)
