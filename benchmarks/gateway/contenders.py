"""What stands between callers and instances: nothing, nginx, or a gateway with its Valkey; and what it costs."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from orchestrator.settings import ClusterSettings
from orchestrator.store.embedded import find_server
from tests.gateway.played import played, pool_of
from tests.nodes.simulators import ROOT, free_port
from tests.store.playing import Server

MODEL = "bench:latest"
SLOTS_PER_INSTANCE = 64
# The contender alone on the first core; callers, instances and whatever else runs on the others.
CORE_OF_CONTENDER = 0


@dataclass(frozen=True, slots=True)
class Contender:
    """`roots` are the processes whose trees are its cost, by name; none for callers that ask instances themselves."""

    name: str
    ports: tuple[int, ...]
    roots: dict[str, int]

    def cpu_s(self, root: str | None = None) -> float:
        """User and system time of all its processes so far, or of one root's tree."""
        return sum(used.user + used.system for each in self._processes(root) if (used := each.cpu_times()))

    def memory_mib(self) -> float:
        """What its processes have of memory, shared pages by share (PSS)."""
        return sum(each.memory_full_info().pss for each in self._processes()) / 2**20

    def pin(self) -> None:
        for each in self._processes():
            each.cpu_affinity([CORE_OF_CONTENDER])

    def _processes(self, root: str | None = None) -> list[psutil.Process]:
        roots = [psutil.Process(pid) for name, pid in self.roots.items() if root in (None, name)]
        return [each for root in roots for each in (root, *root.children(recursive=True))]


@contextmanager
def instances(count: int) -> Iterator[tuple[int, ...]]:
    ports = tuple(free_port() for _ in range(count))
    command = [sys.executable, "-m", "benchmarks.gateway.instance", *map(str, ports)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield ports
    finally:
        process.terminate()
        process.wait()


@contextmanager
def nginx(folder: Path, ports: tuple[int, ...]) -> Iterator[Contender]:
    """nginx as a plain balancer: one worker, least_conn, kept-alive connections, no buffering, no log."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise SystemExit("nginx is not installed: apt-get install nginx-light")
    port = free_port()
    servers = " ".join(f"server 127.0.0.1:{each} max_fails=0;" for each in ports)
    user = f"user {getpass.getuser()}; " if os.getuid() == 0 else ""
    temporary = " ".join(f"{each}_temp_path {folder}/{each};" for each in ("client_body", "proxy"))
    main = folder / "nginx.conf"
    main.write_text(
        f"{user}daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;\n"
        "events { worker_connections 4096; }\n"
        f"http {{ access_log off; {temporary} keepalive_requests 10000000;\n"
        f"  upstream instances {{ least_conn; {servers} keepalive 512; keepalive_requests 10000000; }}\n"
        f"  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://instances; proxy_http_version 1.1;\n"
        '    proxy_set_header Connection ""; proxy_buffering off; } } }\n'
    )
    process = subprocess.Popen([program, "-e", str(folder / "error.log"), "-p", str(folder), "-c", str(main)])
    try:
        yield Contender("nginx", (port,), {"nginx": process.pid})
    finally:
        process.terminate()
        process.wait()


@asynccontextmanager
async def gateway(folder: Path, ports: tuple[int, ...]) -> AsyncIterator[Contender]:
    """One gateway worker with everything on: leases, queue, answer cache, router, metrics; and the Valkey it asks."""
    settings = ClusterSettings.model_validate(
        {
            "models": {MODEL: {"slots": SLOTS_PER_INSTANCE}},
            "tiers": {"small": {"model": MODEL}, "full": {"model": MODEL}},
            "routes": {"auto": {}},
        }
    )
    (folder / "store").mkdir()
    (folder / "metrics").mkdir()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder / "metrics")  # for the worker: metrics as `up` has them
    server = Server(find_server(), folder / "store")
    before = set(psutil.Process().children())
    server.start()
    (valkey,) = set(psutil.Process().children()) - before
    try:
        pool = pool_of(MODEL, ports, slots=SLOTS_PER_INSTANCE)
        async with played(folder, settings, [pool], redis=server) as world:
            port = int(world.url.rpartition(":")[2])
            yield Contender("gateway", (port,), {"worker": world.gateways[0].pid, "valkey": valkey.pid})
    finally:
        server.kill()
