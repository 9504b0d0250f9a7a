"""The cluster's own Redis is followed by the program on disk, on its data; by a program that cannot, not at all. Who
asked for it may be killed meanwhile."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.app.own_redis import NAME, keep_on, redis_unit, start_anew
from orchestrator.app.paths import StatePaths
from orchestrator.app.renewing import Renewing
from orchestrator.app.workers import Workers
from orchestrator.core.errors import HostError
from orchestrator.nodes.keeper import EventKind, Keeper, UnitEvent
from orchestrator.nodes.keeper_client import KeeperClient
from orchestrator.nodes.keeper_units import Request
from orchestrator.store import embedded
from orchestrator.store.connection import Connection
from tests.cluster.running import needs_redis
from tests.waiting import WITHIN_S, until

# What `ollamactl upgrade` does about Redis, alone.
COMMAND = """
import asyncio, sys
from pathlib import Path
from orchestrator.nodes.keeper_client import KeeperClient
asyncio.run(KeeperClient(Path(sys.argv[1])).exchange_redis())
"""
# Does not start, and has whoever comes next not start either, until somebody mends it.
SPOILS = """#!/bin/sh
cd "$(dirname "$0")/redis/appendonlydir"
mv appendonly.aof.manifest whole; echo nonsense > appendonly.aof.manifest
exit 1
"""

# Listens, takes a while for each command of its data, and ends at one that it does not know.
REFUSES = """#!/bin/sh
exec "{good}" "$@" --key-load-delay 500000 --rename-command SET ""
"""


class Supervisor:
    """What keeps Redis and exchanges it, as `up` does; and a place where the program on disk lies."""

    def __init__(self, root: Path) -> None:
        self.root, self.program, self.good = root, root / "server", embedded.find_server()
        self.client = KeeperClient(root / "keeper.sock")
        self.on: Callable[[str], None] = lambda step: None
        self.is_at_work = False
        self._renewing = Renewing("build", 0, lambda: None)
        verbs = {**self._renewing.verbs, "redis": self._asked}
        self.keeper = Keeper(root, self._saw, socket_path=root / "keeper.sock", verbs=verbs)
        nobody: Any = None
        self._renewing.began(Workers(self.keeper, nobody, StatePaths(root), 0, {}))

    async def _asked(self, request: Request) -> dict[str, Any]:
        self.is_at_work = True
        self.on("asked")
        try:
            return await self._renewing.verbs["redis"](request)
        finally:
            self.is_at_work = False

    def _saw(self, event: UnitEvent) -> None:
        self.on(event.kind)

    def install(self, content: bytes) -> None:
        """From one moment to the next, as package managers do."""
        fresh = self.program.with_suffix(".new")
        fresh.write_bytes(content)
        fresh.chmod(0o755)
        fresh.replace(self.program)

    @property
    def pid(self) -> int | None:
        return next((each.pid for each in self.keeper.status() if each.name == NAME), None)

    async def says(self, *words: str) -> object:
        connection = Connection(embedded.server_url(self.root), name="test")
        await connection.open(WITHIN_S)
        try:
            return await connection.command(*words)
        finally:
            await connection.close()


@asynccontextmanager
async def supervised(root: Path) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(root)
    await supervisor.keeper.open()
    try:
        yield supervisor
    finally:
        await supervisor.keeper.close()


@pytest.fixture
async def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Supervisor]:
    """Of a Redis that keeps something."""
    needs_redis()
    async with supervised(tmp_path) as supervisor:
        monkeypatch.setattr(embedded, "find_server", lambda: supervisor.program)
        shutil.copy(supervisor.good, supervisor.program)
        await supervisor.keeper.start(redis_unit(tmp_path))
        await supervisor.says("SET", "olm:test", "kept")
        yield supervisor


async def test_another_process_goes_on_with_its_data_each_time(supervisor: Supervisor) -> None:
    pids = {supervisor.pid}
    for _ in range(2):
        await supervisor.client.exchange_redis()
        pids.add(supervisor.pid)
        assert await supervisor.says("GET", "olm:test") == b"kept"
    assert len(pids) == 3


async def test_where_the_one_on_disk_does_not_start_the_one_before_goes_on(supervisor: Supervisor) -> None:
    kept = supervisor.root / "redis" / "server-before"
    good = supervisor.program.read_bytes()
    supervisor.install(Path("/bin/false").read_bytes())
    with pytest.raises(HostError, match=f"Redis goes on as {kept}, the one on disk did not start"):
        await supervisor.client.exchange_redis()
    assert await supervisor.says("GET", "olm:test") == b"kept"
    supervisor.install(good)
    await supervisor.client.exchange_redis()
    assert not kept.exists(), "nothing goes back to it any more"
    assert await supervisor.says("GET", "olm:test") == b"kept"


async def test_one_that_listens_and_ends_on_its_data_is_followed_by_the_one_before(supervisor: Supervisor) -> None:
    supervisor.install(REFUSES.format(good=supervisor.good).encode())
    with pytest.raises(HostError, match=r"Redis goes on as .* ended before it had read its data"):
        await supervisor.client.exchange_redis()
    assert await supervisor.says("GET", "olm:test") == b"kept"
    assert supervisor.keeper.unit(NAME) == redis_unit(supervisor.root, supervisor.root / "redis" / "server-before")


@pytest.mark.parametrize("leads", ["there", "elsewhere"])
async def test_one_whose_program_is_also_its_tools_goes_on_as_a_server(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, leads: str
) -> None:
    tools = supervisor.root / supervisor.good.name.replace("-server", "-check-rdb")
    supervisor.program.rename(tools)
    supervisor.program.symlink_to(tools)
    await supervisor.client.exchange_redis()
    if leads == "elsewhere":
        supervisor.program.unlink()
        supervisor.program.symlink_to("/bin/false")
    else:
        monkeypatch.setattr(embedded, "find_server", lambda: Path("/bin/false"))
    with pytest.raises(HostError, match="Redis goes on as"):
        await supervisor.client.exchange_redis()
    assert await supervisor.says("GET", "olm:test") == b"kept"


async def test_one_that_nobody_keeps_is_started(supervisor: Supervisor) -> None:
    await supervisor.keeper.stop(NAME)
    await supervisor.client.exchange_redis()
    assert await supervisor.says("GET", "olm:test") == b"kept"


async def test_where_none_is_on_disk_the_one_that_runs_runs_on_and_none_is_started(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> Path:
        raise HostError("no Redis server on this machine")

    monkeypatch.setattr(embedded, "find_server", none)
    before = supervisor.pid
    assert keep_on(supervisor.keeper, supervisor.root) == ""
    assert supervisor.pid == before is not None
    await supervisor.keeper.stop(NAME)
    assert keep_on(supervisor.keeper, supervisor.root) == "no Redis server on this machine"
    monkeypatch.setattr(embedded, "find_server", lambda: supervisor.program)
    assert keep_on(supervisor.keeper, supervisor.root) == ""
    assert await supervisor.says("GET", "olm:test") == b"kept"


async def test_where_it_is_not_tried_again_that_is_said(supervisor: Supervisor) -> None:
    supervisor.install(SPOILS.encode())
    ending: list[asyncio.Task[None]] = []

    def end(step: str) -> None:
        if step == EventKind.EXITED:
            ending.append(asyncio.create_task(supervisor.keeper.close()))

    supervisor.on = end
    with pytest.raises(HostError, match="Redis is not started again"):
        await start_anew(supervisor.keeper, supervisor.root)
    await asyncio.gather(*ending)


async def test_where_neither_starts_the_one_before_is_tried_until_it_does(supervisor: Supervisor) -> None:
    supervisor.install(SPOILS.encode())
    with pytest.raises(HostError, match="Redis is started again and again"):
        await supervisor.client.exchange_redis()
    folder = supervisor.root / "redis" / "appendonlydir"
    (folder / "whole").replace(folder / "appendonly.aof.manifest")
    assert await supervisor.says("GET", "olm:test") == b"kept"
    await until(lambda: {each.state for each in supervisor.keeper.status()} == {"running"}, "it is seen to serve")


WORKS = ("asked", EventKind.STOPPED, EventKind.STARTED, EventKind.READY)
FAILS = ("asked", EventKind.STOPPED, EventKind.STARTED, EventKind.EXITED, "started again", "ready again")


@pytest.mark.parametrize(
    ("is_good", "step"), [*((True, each) for each in WORKS), *((False, each) for each in FAILS)], ids=str
)
async def test_a_command_that_is_killed_at_any_step_leaves_a_redis_that_serves(
    supervisor: Supervisor, is_good: bool, step: str
) -> None:
    before, good = supervisor.pid, supervisor.program.read_bytes()
    supervisor.install(good if is_good else Path("/bin/false").read_bytes())
    seen: list[str] = []
    command = await asyncio.create_subprocess_exec(sys.executable, "-c", COMMAND, str(supervisor.root / "keeper.sock"))

    def look(now: str) -> None:
        name = f"{now} again" if now in seen or (now == EventKind.READY and not is_good) else now
        seen.append(name)
        if name == step:
            os.kill(command.pid, signal.SIGKILL)

    supervisor.on = look
    assert await command.wait() == -signal.SIGKILL
    last = WORKS[-1] if is_good else FAILS[-1]
    await until(lambda: last in seen, "the exchange goes on to its end")
    assert seen == [*(WORKS if is_good else FAILS)]
    assert supervisor.pid not in (None, before)
    assert await supervisor.says("GET", "olm:test") == b"kept"
    supervisor.install(good)
    await until(lambda: not supervisor.is_at_work, "the next command is not told to wait")
    await supervisor.client.exchange_redis()
    assert await supervisor.says("GET", "olm:test") == b"kept"
