"""What stands between callers and instances: nothing, nginx, HAProxy, a plain proxy, and whatever a file names.

Each is started for a scenario's setup and ended after it. Where a contender can be told what an operator would tell it
(how many calls an instance takes at once, to ask another instance after a failure), it is.
"""

from __future__ import annotations

import asyncio
import ctypes
import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import aiohttp

from benchmarks.gateway import machine
from benchmarks.gateway.jobs import KEY, Setup

ROOT = Path(__file__).resolve().parents[2]
READY_WITHIN_S = 120.0
_END_WITHIN_S = 15.0
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


PARTS = WORKER, STORE, REST = "worker", "Redis", "the rest"


class CannotMeasure(Exception):
    """A contender does not start, or the rig broke; the text says which and why."""


class NotInstalled(Exception):
    """This machine does not have the contender; the text says how it would."""


@dataclass(frozen=True, slots=True)
class Contender:
    """Where it is asked, and the process whose tree is its cost; none for callers that ask instances themselves."""

    name: str
    ports: tuple[int, ...]
    root: int | None = None
    prefix: str = ""
    dialect: str = "ollama"

    def cpu_s(self) -> dict[str, float]:
        """User and system time so far of its processes, by what each is."""
        return self._summed(machine.cpu_s)

    def pss_mib(self) -> dict[str, float]:
        """Their memory."""
        return self._summed(machine.pss_mib)

    def _summed(self, cost: Callable[[int], float]) -> dict[str, float]:
        used = dict.fromkeys(PARTS, 0.0)
        for pid in self._processes():
            used[_part(pid)] += cost(pid)
        return used

    def _processes(self) -> list[int]:
        return list(machine.tree(self.root)) if self.root is not None else []


@dataclass(frozen=True, slots=True)
class Place:
    """Where a contender is started: a folder of its own, its port, the instances', and what they can do."""

    folder: Path
    port: int
    instances: tuple[int, ...]
    setup: Setup
    further_ports: tuple[int, ...] = ()  # of what listens more than once


@dataclass(frozen=True, slots=True)
class Kind:
    """How a contender is started."""

    command: Callable[[Place], Sequence[str]]
    prefix: str = ""
    dialect: str = "ollama"
    port: int = 0  # 0: any that is free
    doors: int = 1  # ports that it listens on
    environment: tuple[tuple[str, str], ...] = ()


def nginx(place: Place, *, workers: int = 1) -> Sequence[str]:
    """Least connections, kept-alive connections, no buffering, no log, another instance after a failure."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise NotInstalled("apt-get install nginx-light")
    folder = place.folder
    user = f"user {getpass.getuser()};" if os.getuid() == 0 else ""
    servers = " ".join(f"server 127.0.0.1:{each} max_fails=3 fail_timeout=2s;" for each in place.instances)
    temporary = " ".join(f"{each}_temp_path {folder}/{each};" for each in ("client_body", "proxy"))
    config = folder / "nginx.conf"
    config.write_text(
        f"{user} daemon off; worker_processes {workers}; pid {folder}/pid; error_log {folder}/error.log;\n"
        "events { worker_connections 16384; }\n"
        f"http {{ access_log off; {temporary} keepalive_requests 10000000; client_body_buffer_size 1m;\n"
        f"  upstream instances {{ least_conn; {servers} keepalive 512; keepalive_requests 10000000; }}\n"
        f"  server {{ listen 127.0.0.1:{place.port} backlog=4096; location / {{ proxy_pass http://instances;\n"
        '    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; proxy_read_timeout 10m;\n'
        "    proxy_next_upstream error timeout http_500 non_idempotent; } } }\n"
    )
    return [program, "-e", str(folder / "error.log"), "-p", str(folder), "-c", str(config)]


def haproxy(place: Place, *, has_queue: bool = False) -> Sequence[str]:
    """One thread, leastconn, health checks, retries elsewhere; with `has_queue`, slots and a queue of its own."""
    program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if program is None:
        raise NotInstalled("apt-get install haproxy")
    most = f" maxconn {place.setup.slots}" if has_queue else ""
    servers = "".join(f"  server i{each} 127.0.0.1:{each} check inter 1s{most}\n" for each in place.instances)
    config = place.folder / "haproxy.cfg"
    config.write_text(
        "global\n  nbthread 1\n  maxconn 8000\n"
        "defaults\n  mode http\n  timeout connect 2s\n  timeout client 10m\n  timeout server 10m\n  timeout queue 1m\n"
        "  retries 3\n  option redispatch 1\n  retry-on conn-failure empty-response 500\n  http-reuse always\n"
        "  option http-no-delay\n"
        f"frontend callers\n  bind 127.0.0.1:{place.port} backlog 4096\n  default_backend instances\n"
        f"backend instances\n  balance leastconn\n  option httpchk GET /api/version\n{servers}"
    )
    return [program, "-f", str(config), "-db"]


def haproxy_with_queue(place: Place) -> Sequence[str]:
    return haproxy(place, has_queue=True)


def plain(place: Place) -> Sequence[str]:
    return [sys.executable, "-m", "benchmarks.gateway.plain", str(place.port), *map(str, place.instances)]


def from_file(path: Path) -> dict[str, Kind]:
    """Further contenders, a line each: `NAME PORT PREFIX COMMAND…`, `#` begins a remark; README.md says more."""
    kinds: dict[str, Kind] = {}
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as why:
        raise SystemExit(f"{path} cannot be read: {why}") from why
    for number, line in enumerate(lines, 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as why:
            raise SystemExit(f"{path}:{number}: {why}: {line}") from why
        if not words:
            continue
        if len(words) < 4 or not words[2].startswith("/"):
            raise SystemExit(f"{path}:{number}: not `NAME PORT PREFIX COMMAND…` (PREFIX `/` for none): {line}")
        if not words[1].isdecimal() or not 0 < int(words[1]) < 65_536:
            raise SystemExit(f"{path}:{number}: {words[1]} is no port: {line}")
        name, port, prefix, command = words[0], int(words[1]), words[2].rstrip("/"), words[3:]
        kinds[name] = Kind(lambda place, command=command: command, prefix=prefix, port=port)  # type: ignore[misc]
    return kinds


async def start(name: str, kind: Kind, place: Place, stack: ExitStack, cores: set[int]) -> Contender:
    """The contender, answering; `stack` ends it. What it says goes to a log in its folder."""
    command = kind.command(place)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **dict(kind.environment)}
    log = place.folder / "log"
    if kind.port and is_taken(kind.port):
        raise CannotMeasure(f"{name} cannot listen on port {kind.port}: something else does")
    with log.open("wb") as told:
        try:
            process = subprocess.Popen(
                command, env=environment, cwd=ROOT, stdout=told, stderr=told, stdin=subprocess.DEVNULL,
                start_new_session=True, preexec_fn=lambda: _begin(cores),
            )  # fmt: skip
        except OSError as why:
            raise CannotMeasure(f"{name} cannot be started: {why}") from why
    stack.callback(_end, process)
    contender = Contender(name, (place.port, *place.further_ports), process.pid, kind.prefix, kind.dialect)
    try:
        await _until_it_answers(contender, place.setup, process)
    except (TimeoutError, RuntimeError) as why:
        raise CannotMeasure(f"{name} does not answer ({why}); it said:\n{log.read_text()[-3000:]}") from why
    return contender


async def _until_it_answers(contender: Contender, setup: Setup, process: subprocess.Popen[bytes]) -> None:
    """Wait until a call for every model is answered 200: instances and models are then known to it."""
    path = "/api/chat" if contender.dialect == "ollama" else "/v1/chat/completions"
    urls = [f"http://127.0.0.1:{port}{contender.prefix}{path}" for port in contender.ports]
    headers = {"Authorization": f"Bearer {KEY}"}
    seen = "nothing listens"
    async with aiohttp.ClientSession() as http:
        for url, model in product(urls, setup.models):
            asked = {"model": model, "stream": False, "messages": [{"role": "user", "content": "[[1 0 0 0]] ready?"}]}
            deadline = asyncio.get_running_loop().time() + READY_WITHIN_S
            while True:
                if process.poll() is not None:
                    raise RuntimeError(f"it ended with {process.returncode}")
                if asyncio.get_running_loop().time() > deadline:
                    raise TimeoutError(seen)
                try:
                    async with http.post(url, json=asked, headers=headers) as reply:
                        if reply.status == 200:
                            break
                        seen = f"{reply.status}: {(await reply.text())[:300]}"
                except aiohttp.ClientError as why:
                    seen = str(why)
                await asyncio.sleep(0.1)


def _part(pid: int) -> str:
    """What a process of ours is; those of others are all `REST`."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    if b"redis" in command.lower() or b"valkey" in command.lower():
        return STORE
    return WORKER if b"orchestrator.app.gateway" in command else REST


def _begin(cores: set[int]) -> None:
    """In the child, before its program: its cores, and its end should this process be killed."""
    os.sched_setaffinity(0, cores)
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it, and what it started if it leaves that behind."""
    started = list(machine.tree(process.pid)) if process.poll() is None else []
    process.terminate()
    try:
        process.wait(_END_WITHIN_S)
    except subprocess.TimeoutExpired:
        for pid in started:
            _kill(pid)
        process.wait()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        return  # ended by itself meanwhile


def is_taken(port: int) -> bool:
    """Whether something listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
