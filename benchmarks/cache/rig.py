"""What the cache's benchmark runs on: one gateway worker, its Redis, and an instance that answers at once."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.gateway.contenders import ROOT, free_port
from benchmarks.gateway.machine import cpu_s
from orchestrator.app import settings_in_use
from orchestrator.app.paths import StatePaths
from orchestrator.core.model import Engine, Instance, InstanceId, InstanceState, NodeName, Pool, PoolName, Snapshot
from orchestrator.settings import ClusterSettings
from orchestrator.store import cluster
from orchestrator.store.connection import Connection
from orchestrator.store.embedded import server_command, server_url

SLOTS: Final = 64
SMALL, FULL = "llama3.2:3b", "llama3.1:8b"
TENANTS: Final = ("a", "b", "c", "d")
_ANSWER: Final = {
    "model": "m",
    "created_at": "2026-11-21T12:00:00.5Z",
    "message": {"role": "assistant", "content": "Forty-two words would be a usual answer; these are fewer."},
    "done": True,
    "done_reason": "stop",
    "total_duration": 5,
    "prompt_eval_count": 30,
    "eval_count": 12,
}


@dataclass(frozen=True, slots=True)
class Told:
    """What a caller sees of its answer."""

    status: int
    cache: str  # the word, and how: `faq words`, `hit`, `miss`
    tier: str
    faq: str  # the entry's place
    took_s: float


@dataclass(slots=True)
class Rig:
    """A gateway that serves, and what it costs."""

    port: int
    gateway: int
    redis: int
    connection: Connection

    def cpu_s(self) -> tuple[float, float]:
        """Of the worker and of Redis, so far."""
        return cpu_s(self.gateway), cpu_s(self.redis)

    async def scripts_run(self) -> int:
        """Scripts that Redis has run so far: each is a round trip, or rides on another's."""
        told = await self.connection.command("INFO", "commandstats")
        lines = dict(line.split(":", 1) for line in told.decode().splitlines() if ":" in line)
        return int(lines.get("cmdstat_evalsha", "calls=0,").split("calls=")[1].split(",")[0])


class Caller:
    """One kept connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def to(cls, port: int) -> Caller:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, body: Mapping[str, Any], tenant: str = "a", **headers: str) -> Told:
        raw = json.dumps(body).encode()
        more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        head = f"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {tenant * 16}\r\n{more}"
        began_s = time.perf_counter()
        self._writer.write(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
        await self._reader.readexactly(int(fields["Content-Length"]))
        took_s = time.perf_counter() - began_s
        word, faq = fields["X-Cache"].partition(";")[0], fields.get("X-FAQ", "")
        how = faq.partition("match=")[2].partition(";")[0]
        return Told(
            int(lines[0].split()[1]), f"{word} {how}".strip(), fields.get("X-Tier", ""), faq.partition(";")[0], took_s
        )

    def close(self) -> None:
        self._writer.close()


async def each_of(rig: Rig, callers: int, calls: list[Any], ask: Callable[[Caller, Any], Awaitable[None]]) -> None:
    """Ask all calls, so many at once, on a connection each."""
    waiting = iter(calls)

    async def go_on() -> None:
        caller = await Caller.to(rig.port)
        for call in waiting:
            await ask(caller, call)
        caller.close()

    await asyncio.gather(*(go_on() for _ in range(callers)))


@asynccontextmanager
async def rigged(folder: Path, *, route: str = "all", **cache: Any) -> AsyncIterator[Rig]:
    """Everything up, with these settings of the cache, and of the route's part in it; all of it is gone at the end."""
    talks: set[asyncio.Task[None]] = set()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.add(asyncio.ensure_future(_answer(reader, writer)))

    with ExitStack() as stack:
        instance = await asyncio.start_server(begin, "127.0.0.1", 0)
        stack.callback(instance.close)
        redis = subprocess.Popen(server_command(folder / "redis"), stdout=subprocess.DEVNULL)
        stack.callback(_end, redis)
        url = server_url(folder / "redis")
        connection = Connection(url, name="benchmark")
        await connection.open(20)
        port, paths = free_port(), StatePaths(folder / "state")
        paths.root.mkdir(mode=0o700)
        settings_in_use.write(paths, _settings(url, route, cache))
        await _publish(connection, instance.sockets[0].getsockname()[1])
        gateway = _started(paths, port, url)
        stack.callback(_end, gateway)
        await _until_ready(port, gateway)
        try:
            yield Rig(port, gateway.pid, redis.pid, connection)
        finally:
            await connection.close()
    await asyncio.wait(talks)  # the gateway is gone: each comes to its end


def _settings(url: str, route: str, cache: Mapping[str, Any]) -> ClusterSettings:
    return ClusterSettings.model_validate(
        {
            "redis": url,
            "models": {SMALL: {}, FULL: {}},
            "tiers": {"small": {"model": SMALL}, "full": {"model": FULL}},
            "routes": {"auto": {"cache": route}},
            "keys": [{"name": name, "secret": name * 16} for name in TENANTS],
            "cache": cache,
        }
    )


async def _publish(connection: Connection, port: int) -> None:
    leadership = await cluster.lead(connection, "benchmark", 3600)
    assert leadership is not None
    pools = tuple(_pool(name, port) for name in (SMALL, FULL))
    assert await cluster.publish(connection, leadership, Snapshot(1, time.time_ns() // 1_000_000, pools), grace_s=0)


def _pool(name: str, port: int) -> Pool:
    instance = Instance(
        id=InstanceId(f"{name}-0"),
        node=NodeName("here"),
        pool=PoolName(name),
        host="127.0.0.1",
        port=port,
        engine=Engine.OLLAMA,
        upstream_model=name,
        slots=SLOTS,
        context=8192,
        state=InstanceState.SERVING,
    )
    return Pool(PoolName(name), 8192, False, (instance,))


def _started(paths: StatePaths, port: int, url: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "orchestrator.app.gateway", "--state", str(paths.root)]
    command += ["--listen", f"127.0.0.1:{port}", "--index", "0", "--workers", "1"]
    environment = {**os.environ, "OLM_REDIS": url, "PYTHONPATH": str(ROOT)}
    with (paths.root / "gateway.log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)


async def _until_ready(port: int, gateway: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while gateway.poll() is None and time.monotonic() < deadline:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
            continue
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        status = await reader.readline()
        writer.close()
        if b" 200 " in status:
            return
        await asyncio.sleep(0.05)
    raise RuntimeError("the gateway does not serve")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An instance without a model: the same answer to everything, at once."""
    body = json.dumps(_ANSWER).encode()
    reply = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            fields = (line.partition(b":") for line in head.lower().split(b"\r\n"))
            await reader.readexactly(next(int(value) for name, _, value in fields if name == b"content-length"))
            writer.write(reply)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
