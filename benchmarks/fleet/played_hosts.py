"""Hosts that are played: an SSH server in a process of its own, whose every connection is one host with two cards.

It answers what the controller asks before a look, and instead of running the probe that is sent it prints what the
probe of a busy host prints. Each line tells when it was written, and now and then of a change that was made at a random
moment since the line before: a host's clock is this machine's, so the controller can tell how late it saw it.

`python -m benchmarks.fleet.played_hosts HOST_KEY AUTHORIZED_KEYS` prints its port and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
import zlib
from typing import Any

import asyncssh

CHANGES_A_LINE = 0.02


class PlayedHost(asyncssh.SSHServer):
    """Lets everybody in who has the key."""


async def answer(process: asyncssh.SSHServerProcess[bytes]) -> None:
    try:
        if process.command == "id -u":
            process.stdout.write(b"0\n")
            process.exit(0)
        else:
            await look(process)
    except (asyncssh.BreakReceived, asyncssh.TerminalSizeChanged, BrokenPipeError, asyncssh.ConnectionLost):
        process.exit(1)


async def look(process: asyncssh.SSHServerProcess[bytes]) -> None:
    """Print lines until the input ends."""
    size = int(await process.stdin.readline())
    asked = json.loads(zlib.decompress(await process.stdin.readexactly(size)))
    ended = asyncio.ensure_future(process.stdin.read())
    dice = random.Random(asked["node"])
    interval_s = asked["interval_s"]
    facts = first_facts(asked["node"])
    while not ended.done():
        facts["problems"] = [f"written {time.monotonic_ns()}"]
        process.stdout.write(json.dumps(facts, separators=(",", ":")).encode() + b"\n")
        await asyncio.wait([ended], timeout=interval_s)
        facts = later_facts(asked["node"], dice)
        if dice.random() < CHANGES_A_LINE:
            made = time.monotonic_ns() - int(dice.random() * interval_s * 1e9)
            facts["driver_version"] = f"changed {made}"
    process.exit(0)


def first_facts(node: str) -> dict[str, Any]:
    return {
        **later_facts(node, random.Random(node)),
        "node": node,
        "hostname": node,
        "cpu_model": "AMD EPYC 7443P 24-Core Processor",
        "cpu_count": 48,
        "ram_total_bytes": 256 * 2**30,
        "disk_free_bytes": 1500 * 2**30,
        "driver_version": "550.54.15",
        "cuda_version": "12.4",
        "gpu_links": [{"uuids": [f"GPU-{node}-0", f"GPU-{node}-1"], "path": "same NUMA node", "nvlinks": 0}],
        "numa_nodes": [{"node": 0, "cpus": "0-47", "ram_total_bytes": 256 * 2**30}],
        "ollamas": [],
        "models": [{"name": f"model-{n}:8b", "digest": f"{n:064x}", "size_bytes": 5 * 2**30} for n in range(8)],
        "problems": [],
    }


def later_facts(node: str, dice: random.Random) -> dict[str, Any]:
    """What changes all the time on a host that serves: free memory, and each card's load, heat and power."""
    return {
        "ram_free_bytes": dice.randrange(100, 200) * 2**30,
        "accelerators": [
            {
                "uuid": f"GPU-{node}-{index}",
                "index": index,
                "name": "NVIDIA GeForce RTX 4090",
                "vram_total_bytes": 24564 * 2**20,
                "vram_free_bytes": 6000 * 2**20,
                "vram_used_bytes": 18200 * 2**20,
                "processes": [
                    {"pid": 4000 + n, "vram_bytes": 6000 * 2**20, "name": "ollama", "user": "ollama"} for n in range(3)
                ],
                "utilisation_percent": dice.randrange(101),
                "temperature_c": dice.randrange(40, 80),
                "power_w": dice.randrange(200, 450),
                "power_limit_w": 450,
                "mig": "unsupported",
                "ecc": "unsupported",
                "pci": f"0000:{index + 1:02x}:00.0",
                "numa_node": 0,
                "pcie_generation": 4,
                "pcie_width": 16,
            }
            for index in range(2)
        ],
    }


async def serve(host_key: str, authorized: str) -> None:
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=PlayedHost,
        server_host_keys=[host_key],
        authorized_client_keys=authorized,
        process_factory=answer,
        encoding=None,
        backlog=1000,
        login_timeout=60,
    )
    print(server.get_port(), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(*sys.argv[1:]))
