"""The clusters that are compared: the owner's hybrid plan, the same cards with the 8B model alone, and two cards.

Each is `ollamactl up` with simulated cards: its gateway, Redis, cache, router and controller are the real ones.
"""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from orchestrator.core.capacity.carrying import Plan
from orchestrator.core.capacity.service import Pool
from orchestrator.core.cards import find_card
from orchestrator.core.catalogue import find

ROOT: Final = Path(__file__).resolve().parents[2]
SMALL, FULL = "llama3.2:3b-instruct-q4_K_M", "llama3.1:8b-instruct-q4_K_M"
CARD: Final = "RTX 4080"
READY_WITHIN_S: Final = 120.0
_END_WITHIN_S: Final = 60.0


class CannotMeasure(Exception):
    """A cluster does not start; the text says what it wrote."""


@dataclass(frozen=True, slots=True)
class Setup:
    """One of the compared. `asks`: the model that users name. `is_direct`: nginx over the instances, no gateway.

    `documents_usd`: what the owner's documents say it costs a month; None: they do not.
    """

    name: str
    plan: Plan
    asks: str
    is_direct: bool = False
    documents_usd: float | None = None

    @property
    def has_tiers(self) -> bool:
        return self.asks == "auto"


def _pool(model: str, cards: int, instances: int, slots: int) -> Pool:
    shape = find(model)
    assert shape is not None
    return Pool(model, shape, find_card(CARD), cards, instances, slots)


_SIX_FULL: Final = Plan("pure 8B", None, _pool(FULL, 6, 2, 4))
HYBRID: Final = Setup(
    "hybrid", Plan("hybrid", _pool(SMALL, 4, 3, 5), _pool(FULL, 2, 2, 4)), "auto", documents_usd=3800.0
)
PURE: Final = Setup("pure 8B", _SIX_FULL, FULL)
LEAST_CONN: Final = Setup("least_conn", _SIX_FULL, FULL, is_direct=True)
TWO_CARDS: Final = Setup("two cards", Plan("two cards", _pool(SMALL, 1, 1, 8), _pool(FULL, 1, 1, 4)), "auto")
SETUPS: Final = {each.name: each for each in (HYBRID, PURE, LEAST_CONN, TWO_CARDS)}


def settings_of(setup: Setup, front: int, folder: Path) -> dict[str, Any]:
    """The cluster's configuration: each tier on hosts of its own, one card a host."""
    pools = [(tier, pool) for tier, pool in (("small", setup.plan.small), ("full", setup.plan.full)) if pool]
    told: dict[str, Any] = {
        "nodes": [
            {"name": f"{tier}-{n}", "simulate": f"1x {pool.card.name}"}
            for tier, pool in pools
            for n in range(pool.cards)
        ],
        "models": {
            pool.model: {
                "slots": pool.slots,
                "context": pool.context,
                "replicas": pool.cards * pool.instances,
                "instances_per_gpu": pool.instances,
                "on_nodes": [f"{tier}-{n}" for n in range(pool.cards)],
            }
            for tier, pool in pools
        },
        "nginx": {
            "listen": [f"127.0.0.1:{front}"],
            "server_name": "127.0.0.1",
            "access_log": str(folder / "access.log"),
        },
    }
    if not setup.has_tiers:
        return {**told, "cache": {"enabled": False}}
    return {**told, "tiers": {tier: {"model": pool.model} for tier, pool in pools}, "routes": {"auto": {}}}


@contextmanager
def running(setup: Setup, folder: Path) -> Iterator[tuple[int, int]]:
    """The cluster up: where users ask, and the process id of `up`. All of it is gone at the end."""
    folder.mkdir()
    port, front = free_port(), free_port()
    config, ready, state = folder / "cluster.yaml", folder / "ready.json", folder / "state"
    config.write_text(yaml.safe_dump(settings_of(setup, front, folder)))
    arguments = ["up", "--state", state, "--config", config, "--listen", f"127.0.0.1:{port}", "--ready-file", ready]
    with (folder / "up.log").open("wb") as log, _process(_ollamactl(*arguments), log) as up:
        _until_ready(up, ready, folder / "up.log")
        if not setup.is_direct:
            yield port, up.pid
            return
        with _nginx(setup, folder, config, state, front):
            yield front, up.pid


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ollamactl(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "orchestrator.cli", *map(str, arguments)]


@contextmanager
def _process(command: list[str], log: Any) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=_environment())
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_END_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _environment() -> Mapping[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def _until_ready(up: subprocess.Popen[bytes], ready: Path, log: Path) -> None:
    deadline_s = time.monotonic() + READY_WITHIN_S
    while up.poll() is None and time.monotonic() < deadline_s:
        with suppress(OSError, ValueError):
            if json.loads(ready.read_text())["is_simulated"]:
                return
        time.sleep(0.05)
    raise CannotMeasure(f"the cluster does not start:\n{log.read_text()[-2000:]}")


@contextmanager
def _nginx(setup: Setup, folder: Path, config: Path, state: Path, front: int) -> Iterator[None]:
    """nginx with what `ollamactl nginx render --direct` writes: least_conn over the model's instances."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise CannotMeasure("nginx is not installed: apt-get install nginx-light")
    rendered = folder / "direct.conf"
    command = _ollamactl("nginx", "render", "--direct", "--state", state, "--model", setup.asks, "--config", config)
    subprocess.run([*command, "--output", str(rendered)], cwd=ROOT, check=True, env=_environment())
    temporary = " ".join(
        f"{each}_temp_path {folder}/{each};" for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = f"user {getpass.getuser()};" if os.getuid() == 0 else ""
    main = folder / "nginx.conf"
    main.write_text(
        f"{user} daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;\n"
        f"events {{ worker_connections 4096; }}\n"
        f"http {{ {temporary} include {rendered}; }}\n"
    )
    command = [program, "-e", str(folder / "error.log"), "-p", str(folder), "-c", str(main)]
    with (folder / "nginx.log").open("wb") as log, _process(command, log) as nginx:
        _until_listening(nginx, front, folder / "error.log")
        yield


def _until_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline_s = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline_s:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
            return
        time.sleep(0.02)
    raise CannotMeasure(f"nginx does not start:\n{log.read_text()[-2000:]}")
