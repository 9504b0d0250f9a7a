"""Our gateway as a user starts it, `ollamactl gateway`: its workers, its Redis and its controller; everything on.

Keys, leases and queue in Redis, answer cache, router, limits, metrics. Its file names the six instances.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from benchmarks.gateway.contenders import Place, free_port
from benchmarks.gateway.jobs import KEY, Setup
from orchestrator.store.embedded import server_command
from orchestrator.whole_file import write_whole


def command(place: Place, *, workers: int = 1) -> Sequence[str]:
    config = place.folder / "cluster.yaml"
    _write(config, _settings(place.instances, place.setup))
    return _gateway(config, place.folder / "state", place.port, workers)


def two_gateways(place: Place) -> Sequence[str]:
    """As on two machines: each with a state folder and a worker of its own, both with one Redis, reached by TCP."""
    config, store_port = place.folder / "cluster.yaml", free_port()
    shared = {"redis": f"redis://127.0.0.1:{store_port}/0", "cache": {"secret": KEY * 2}}
    _write(config, _settings(place.instances, place.setup) | shared)
    ports = enumerate((place.port, *place.further_ports))
    gateways = [_gateway(config, place.folder / f"state-{number}", port, 1) for number, port in ports]
    commands = [_store(place.folder, store_port), *gateways]
    return [sys.executable, "-m", "benchmarks.gateway.together", *map(shlex.join, commands)]


def _write(config: Path, settings: dict[str, object]) -> None:
    """A key stands in it: no other user of this machine may read it."""
    write_whole(config, yaml.safe_dump(settings), mode=0o600)


def _gateway(config: Path, state: Path, port: int, workers: int) -> list[str]:
    program = [sys.executable, "-m", "orchestrator.cli", "gateway", "--config", str(config), "--state", str(state)]
    return [*program, "--listen", f"127.0.0.1:{port}", "--workers", str(workers)]


def _store(folder: Path, port: int) -> list[str]:
    """The server that a gateway would start for itself, but on TCP: the last `--port` is the one that counts."""
    return [*server_command(folder), "--port", str(port)]


def _settings(instances: Sequence[int], setup: Setup) -> dict[str, object]:
    """`loaded_models` is told where several models share an instance: one at a time, as on the scripted ones."""
    told: dict[str, object] = {"model": list(setup.models), "slots": setup.slots, "loaded_models": 1}
    first, last = setup.models[0], setup.models[-1]
    return {
        "instances": [{"url": f"http://127.0.0.1:{port}", **told} for port in instances],
        "tiers": {"small": {"model": first}, "full": {"model": last}},
        "routes": {"auto": {}},
        "keys": [{"name": "bench", "secret": KEY, "admin": True}],
    }
