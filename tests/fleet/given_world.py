"""A world for servers that somebody else runs: a real Valkey, played servers as real processes, one controller.

Callers are leases: who holds one has a slot, and whoever looks at the servers sees what is in their memory.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from orchestrator.core.model import (
    Event,
    Footprint,
    Given,
    Instance,
    InstanceState,
    LeaseId,
    ModelShape,
    Pool,
    PoolName,
    Snapshot,
)
from orchestrator.fleet import watching
from orchestrator.fleet.given import GivenFleet
from orchestrator.nodes.simulator.config import SimulatedModel, SimulatorConfig, write_config
from orchestrator.settings import ClusterSettings
from orchestrator.store import cluster
from orchestrator.store.admission import AdmitRequest, Leased, Outcome, Queued
from orchestrator.store.connection import Connection
from orchestrator.store.leases import Leases
from tests.fleet.world import Recorded
from tests.nodes.simulators import free_port, started
from tests.store.playing import Server
from tests.waiting import until

WITHIN_S = 30.0
SHAPE = ModelShape("llama", 8_030_261_248, 32, 32, 8, 128, 4096, 128_256, 131_072, 4_912_898_304, "Q4_K_M")
FOOTPRINT = Footprint(4_912_898_304, 536_870_912, 300_000_000, 513_024, 500_000_000)


def model(name: str, **changes: Any) -> SimulatedModel:
    given = {"slots": 2, "capabilities": ("completion",), "digest": f"digest of {name}", "file_bytes": 10**9}
    return SimulatedModel(name, SHAPE, FOOTPRINT, 4096, **{**given, **changes})


class Played:
    """One server as its owner has it: it is started, killed and told things, and nobody asks us."""

    def __init__(self, folder: Path, *models: SimulatedModel, **changes: Any) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.label = f"127.0.0.1:{self.port}"
        self._path = folder / f"{self.port}.json"
        self._changes = {"speed": 100.0, "max_loaded_models": 3, **changes}
        self._process: subprocess.Popen[bytes] | None = None
        self.has(*models)

    def has(self, *models: SimulatedModel, **changes: Any) -> None:
        """What it has, and is, from its next start on."""
        self._changes |= changes
        config = SimulatorConfig("played", "127.0.0.1", self.port, models, card="RTX 4090", **self._changes)
        write_config(self._path, config)

    def start(self) -> Played:
        self._process = started(self._path)
        assert self._process.stdout is not None
        assert b"simulated" in self._process.stdout.readline()
        return self

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    async def ask(self, path: str, **body: Any) -> Any:
        async with (
            aiohttp.ClientSession() as http,
            http.request("POST" if body else "GET", self.url + path, json=body or None) as reply,
        ):
            return await reply.json(content_type=None)

    async def in_memory(self) -> set[str]:
        return {each["model"] for each in (await self.ask("/api/ps"))["models"]}


class GivenWorld:
    def __init__(self, folder: Path, connection: Connection, leases: Leases, stack: ExitStack) -> None:
        self.folder, self.connection, self.leases, self._stack = folder, connection, leases, stack
        self.settings = ClusterSettings()
        self.store = Recorded(connection, "here")
        self.events: list[Event] = []
        self.fleet: GivenFleet | None = None
        self._task: asyncio.Task[None] | None = None

    def played(self, *models: SimulatedModel, **changes: Any) -> Played:
        """A server that is not started yet."""
        made = Played(self.folder, *models, **changes)
        self._stack.callback(made.kill)
        return made

    # --- the controller ----------------------------------------------------------------------------------------------

    def configure(self, *instances: dict[str, Any], **more: Any) -> None:
        """Settings as a file would have them; a running controller is told."""
        self.settings = ClusterSettings.model_validate({"instances": instances, **more})
        if self.fleet is not None:
            self.fleet.replan()

    async def begin(self) -> None:
        """A controller, and when it returns the servers were looked at."""
        self.fleet = GivenFleet(store=self.store, settings=lambda: self.settings, record=self.events.append)
        self._task = asyncio.create_task(self.fleet.run(await cluster.read(self.connection)))
        await self.until(
            lambda: self.last.given and all(each.state is not InstanceState.STARTING for each in self.last.given),
            "all were looked at",
        )

    async def end(self) -> None:
        """As SIGKILL would."""
        if self._task is not None and self.fleet is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            await self.fleet.close()
            self._task = self.fleet = None

    @property
    def last(self) -> Snapshot:
        return self.store.snapshots[-1] if self.store.snapshots else Snapshot(0, 0, ())

    def pool(self, name: str) -> Pool:
        found = self.last.pool(name)
        assert found is not None, [each.name for each in self.last.pools]
        return found

    def instance(self, pool: str, played: Played) -> Instance:
        return next(each for each in self.pool(pool).instances if each.port == played.port)

    def given(self, played: Played) -> Given:
        return next(each for each in self.last.given if each.url == played.url)

    def state(self, pool: str, played: Played) -> InstanceState | None:
        found = self.last.pool(pool)
        states = [each.state for each in found.instances if each.port == played.port] if found is not None else []
        return states[0] if states else None

    async def until(self, condition: Callable[[], Any], what: str) -> None:
        async def look() -> Any:
            if self._task is not None and self._task.done():
                await self._task
            return condition()

        await until(look, lambda: f"{what}; {self.last}", within_s=WITHIN_S)

    # --- callers -----------------------------------------------------------------------------------------------------

    async def ask(self, pool: str, name: str) -> Leased | Queued:
        admitted = await self.leases.admit(AdmitRequest(PoolName(pool), LeaseId(name)))
        assert isinstance(admitted, Leased | Queued), admitted
        return admitted

    async def slot(self, pool: str, name: str) -> Leased:
        """A slot, waited for as a call would."""
        if isinstance(admitted := await self.ask(pool, name), Leased):
            return admitted
        granted = await self.leases.wait(PoolName(pool), LeaseId(name), WITHIN_S)
        assert granted is not None, f"{pool} was not granted; {self.last}"
        return granted

    async def give_back(self, pool: str, name: str) -> None:
        await self.leases.settle(PoolName(pool), LeaseId(name), Outcome.OK)

    async def leave(self, pool: str, name: str) -> None:
        """Nobody waits there any more."""
        await self.leases.cancel(PoolName(pool), LeaseId(name))

    async def call(self, pool: str, name: str = "call") -> Leased:
        """A slot, and at once its return."""
        leased = await self.slot(pool, name)
        await self.give_back(pool, name)
        return leased


@asynccontextmanager
async def given_world(folder: Path, server: Server, monkeypatch: Any) -> AsyncIterator[GivenWorld]:
    """Looks are frequent here, so that tests are quick."""
    for name, seconds in {
        "LOOK_EVERY_S": 0.1,
        "LIST_EVERY_S": 0.1,
        "FIRST_RETRY_S": 0.05,
        "LONGEST_RETRY_S": 0.2,
    }.items():
        monkeypatch.setattr(watching, name, seconds)
    connection = Connection(server.url, name="test")
    await connection.open(20)
    leases = Leases(connection, "gw0.test", 30.0)
    await leases.start()
    with ExitStack() as stack:
        world = GivenWorld(folder, connection, leases, stack)
        try:
            yield world
        finally:
            await world.end()
            await leases.close()
            await connection.close()
