"""Our gateway as a user starts it, `ollamactl gateway`: one worker, its Redis and its controller; everything on.

Keys, leases and queue in Redis, answer cache, router, limits, metrics. Its file names the six instances.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import yaml

from benchmarks.gateway.contenders import Place
from benchmarks.gateway.jobs import KEY, Setup


def command(place: Place) -> Sequence[str]:
    config = place.folder / "cluster.yaml"
    config.write_text(yaml.safe_dump(_settings(place.instances, place.setup)))
    program = [sys.executable, "-m", "orchestrator.cli", "gateway", "--config", str(config)]
    return [*program, "--state", str(place.folder / "state"), "--listen", f"127.0.0.1:{place.port}", "--workers", "1"]


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
