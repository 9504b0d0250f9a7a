"""One look at this host: everything `NodeFacts` asks, as JSON's values. And looks again and again, a line each.

As another host's program it ends with its standard input, which ends with the connection.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
import zlib
from pathlib import Path
from typing import Any

from orchestrator.nodes.onhost import host, ollamas
from orchestrator.nodes.onhost.gpus import GpuReader


class Look:
    """Looks at this host. `root` is where `proc` and `sys` are looked for."""

    def __init__(
        self,
        node: str,
        models_dir: Path,
        gpus: GpuReader,
        root: Path = Path("/"),
        models: ollamas.Models | None = None,
    ) -> None:
        self._node = node
        self._models_dir = models_dir
        self._gpus = gpus
        self._root = root
        self._models = models or ollamas.Models(models_dir)

    def facts(self) -> dict[str, Any]:
        """What there is now; what is sick is a sentence in `problems`."""
        root = self._root
        gpus = self._gpus.read()
        for card in gpus["accelerators"]:
            for process in card["processes"]:
                process.update(ollamas.owner(root, process["pid"]))
        disk_free_bytes, disk_problems = host.disk_free(self._models_dir)
        models, model_problems = self._models.present()
        total, available = host.ram(root)
        return {
            **gpus,
            "node": self._node,
            "hostname": socket.gethostname(),
            "cpu_model": host.cpu_model(root),
            "cpu_count": host.cpu_count(root),
            "ram_total_bytes": total,
            "ram_free_bytes": available,
            "disk_free_bytes": disk_free_bytes,
            "numa_nodes": host.numa_nodes(root),
            "ollamas": ollamas.servers(root),
            "models": [{key: each[key] for key in ("name", "digest", "size_bytes")} for each in models],
            "problems": [*gpus["problems"], *disk_problems, *model_problems],
        }


def changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What of `after` is not as it was. Keys are never taken away."""
    return {key: value for key, value in after.items() if key not in before or before[key] != value}


def stream(look: Look, interval_s: float, most: int | None) -> None:
    """Print what changed since the last line, one line an interval, `most` lines at most, until the input ends."""
    told: dict[str, Any] = {}
    due = time.monotonic()
    while True:
        seen = look.facts()
        sys.stdout.write(json.dumps(changes(told, seen), separators=(",", ":")) + "\n")
        sys.stdout.flush()
        told = seen
        most = None if most is None else most - 1
        due = max(due + interval_s, time.monotonic())  # a look that took longer than the interval is not caught up on
        if most == 0 or _input_ended(due - time.monotonic()):
            return


def _input_ended(wait_s: float) -> bool:
    ready = select.select([sys.stdin.buffer], [], [], max(0.0, wait_s))[0]
    return bool(ready) and not os.read(sys.stdin.fileno(), 65536)


def main(bundle: dict[str, Any]) -> None:
    """As `remote` starts it on another host: `bundle` is what was sent."""
    packed = zlib.compress(json.dumps({**bundle, "main": bundle["reader"]}).encode())
    command = [sys.executable, "-I", "-c", bundle["boot"]]
    reader = GpuReader(command, b"%d\n" % len(packed) + packed, wait_s=bundle["nvml_wait_s"])
    look(bundle, reader, ollamas.Models(Path(bundle["models_dir"])))


def look(asked: dict[str, Any], reader: GpuReader, models: ollamas.Models) -> None:
    """Print what `asked` asks for, until nobody listens any more."""
    try:
        seen = Look(asked["node"], Path(asked["models_dir"]), reader, models=models)
        stream(seen, asked["interval_s"], asked["most"])
    except BrokenPipeError:  # nobody listens any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        reader.close()
