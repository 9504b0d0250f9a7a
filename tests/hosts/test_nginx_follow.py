"""The shipped unit that keeps nginx in step, under a real systemd: what it may not do keeps it from nothing it does."""

from __future__ import annotations

import shutil
import sysconfig
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.core.model import InstanceState, Pool, Snapshot
from orchestrator.store import cluster
from orchestrator.store.connection import Connection
from orchestrator.store.embedded import find_server
from tests.gateway.played import pool_of
from tests.hosts.machines import Machine
from tests.nginx.following import state
from tests.nginx.playing import ROOT, nginx_program
from tests.waiting import until

MODEL = "llama3.2:3b"
UNIT = ROOT / "deploy" / "ollamactl-nginx.service"
STATE, FILE = "var/lib/ollamactl", "etc/nginx/conf.d/ollama-cluster.conf"
UNITS = ("ollamactl-nginx", "nginx", "test-redis")


@pytest.fixture
async def installed(gpu_1: Machine) -> AsyncIterator[Machine]:
    """nginx, a Redis in the state of a cluster that another user owns, and the unit; none of it is left."""
    nginx_program()
    files = gpu_1.files
    _write(files / "opt/ollama-orchestrator/.venv/bin/ollamactl", _program(), mode=0o755)
    _write(files / "etc/systemd/system/ollamactl-nginx.service", UNIT.read_text())
    _write(files / "etc/ollamactl/nginx", f"FOLLOW=--direct --model {MODEL}\n")
    _write(files / "etc/ollamactl/cluster.yaml", f'models: {{"{MODEL}": }}\nnginx: {{listen: ["127.0.0.1:80"]}}\n')
    gpu_1.run("install", "-d", "-m", "0700", "-o", "nobody", f"/{STATE}")
    server = [
        _as_seen_there(find_server()),
        "--port",
        "0",
        "--unixsocket",
        f"/{STATE}/redis.sock",
        "--unixsocketperm",
        "700",
    ]
    gpu_1.run("systemd-run", "--quiet", "--unit=test-redis", "--uid=nobody", *server, "--dir", f"/{STATE}")
    gpu_1.run("systemctl", "daemon-reload")
    gpu_1.run("systemctl", "start", "nginx")
    try:
        yield gpu_1
    finally:
        gpu_1.run("systemctl", "stop", *UNITS, check=False)
        for each in ("opt/ollama-orchestrator", STATE):
            shutil.rmtree(files / each)
        for each in ("etc/systemd/system/ollamactl-nginx.service", "etc/ollamactl/nginx", "etc/ollamactl/cluster.yaml"):
            (files / each).unlink()
        for each in (FILE, f"{FILE}.before", f"{FILE}.unread"):
            (files / each).unlink(missing_ok=True)
        (files / "etc/ollamactl").rmdir()
        gpu_1.run("systemctl", "daemon-reload")


async def test_the_service_installs_reloads_and_ends_with_what_its_unit_leaves_it(installed):
    connection = Connection(f"unix://{installed.files / STATE}/redis.sock", name="test")
    await connection.open(20)
    try:
        await _publish(connection, 1, pool_of(MODEL, [9001]))
        installed.run("systemctl", "start", "ollamactl-nginx")
        await _until_reloaded(installed, "127.0.0.1:9001")
        await _publish(connection, 2, state(pool_of(MODEL, [9001, 9002]), 0, InstanceState.DRAINING))
        await _until_reloaded(installed, "127.0.0.1:9002")
    finally:
        await connection.close()
    assert "server 127.0.0.1:9002 " in (installed.files / FILE).read_text()
    installed.run("systemctl", "stop", "ollamactl-nginx")
    shown = installed.run("systemctl", "show", "ollamactl-nginx", "--property=Result,ExecMainStatus,NRestarts")
    assert set(shown.split()) == {"Result=success", "ExecMainStatus=0", "NRestarts=0"}


# --- helpers ----------------------------------------------------------------------------------------------------------


def _program() -> str:
    """`ollamactl` from what every host sees of this checkout."""
    return (
        "#!/bin/sh\n"
        "export LD_LIBRARY_PATH=/opt/stand-in/python/lib PYTHONPATH=/opt/stand-in/code:/opt/stand-in/packages\n"
        'exec /opt/stand-in/interpreter -m orchestrator.cli "$@"\n'
    )


def _as_seen_there(program: Path) -> str:
    """Where a host has a program that came with a package; the system's own it has where they are."""
    packages = sysconfig.get_path("purelib")
    return str(program).replace(packages, "/opt/stand-in/packages", 1)


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


async def _publish(connection: Connection, version: int, *pools: Pool) -> None:
    leadership = await cluster.lead(connection, "test", 600)
    assert leadership is not None
    assert await cluster.publish(connection, leadership, Snapshot(version, time.time_ns() // 1_000_000, pools))


async def _until_reloaded(machine: Machine, servers: str) -> None:
    def journal() -> str:
        return machine.run("journalctl", "--no-pager", "--unit=ollamactl-nginx", check=False)

    await until(lambda: f"nginx reloaded ({servers})" in journal(), journal)
