"""A controller as `up` runs it, over hosts as `deploy` leaves them, with an Ollama stand-in; and what it publishes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

from orchestrator.app import deployments, settings_in_use
from orchestrator.app.paths import StatePaths
from orchestrator.core.deployment import Deployment
from orchestrator.core.model import (
    Engine,
    Event,
    Instance,
    InstanceId,
    InstanceState,
    Moment,
    Snapshot,
)
from orchestrator.fleet import chronicle
from orchestrator.fleet.engines import LocalEngine
from orchestrator.fleet.inventory import look_at_all
from orchestrator.fleet.wanted import want
from orchestrator.nodes.hoststeps import Owner, claim
from orchestrator.nodes.keeper import Keeper
from orchestrator.nodes.keeper_client import KeeperClient
from orchestrator.nodes.keeper_units import Unit
from orchestrator.nodes.ssh import connected
from orchestrator.settings import ClusterSettings
from orchestrator.store.cluster import Watch, watch
from orchestrator.store.connection import Connection
from tests.hosts.instances import MODELS, PROGRAM, furnished
from tests.hosts.machines import STAND_IN, Machine, Network
from tests.hosts.reaching import address, known, reach
from tests.store.playing import Server

SMALL = "llama3.2:3b"
TIMEOUT_S = 180.0
OWNER = "/var/lib/ollamactl-host"


class Fleet:
    """One place: its state folder, keeper and Redis, the hosts it deploys to, and all that its controller published."""

    def __init__(self, net: Network, state: Path, server: Server) -> None:
        self.net, self.paths, self._server = net, StatePaths(state), server
        self._keeper = Keeper(state, lambda event: None)
        self._client = KeeperClient(state / "keeper.sock")
        self._connection = Connection(server.url, name="test")
        self._watch: Watch | None = None
        self.published: list[Snapshot] = []
        self._stirred = asyncio.Event()
        self.keys = known(state, *net.machines.values())
        self.settings = self._settings({})

    async def __aenter__(self) -> Self:
        await self._keeper.open()
        await self._connection.open(20)
        self._watch = await watch(self._connection, self._saw)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._watch is not None
        await self._watch.close()
        await self._keeper.close()
        await self._connection.close()

    def _saw(self, snapshot: Snapshot) -> None:
        self.published.append(snapshot)
        self._stirred.set()

    # --- told ---------------------------------------------------------------------------------------------------------

    def _settings(self, models: dict[str, Any]) -> ClusterSettings:
        nodes = [
            {"name": each.name, "address": each.address, "user": "ops", "key": str(self.net.key), "models_dir": MODELS}
            for each in self.net.machines.values()
        ]
        ssh = {"look_s": 0.5, "connect_s": 5}
        deploy = {"drain_s": 10, "at_once": 0.5}
        return ClusterSettings.model_validate({"nodes": nodes, "ssh": ssh, "models": models, "deploy": deploy})

    async def begin(self, **models: Any) -> None:
        """Settings in use, and a controller under a keeper, as `up` has them."""
        self._use({SMALL: models.pop("small", {"replicas": 2})})
        argv = (sys.executable, "-m", "orchestrator.app.controller", "--state", str(self.paths.root))
        await self._client.start(Unit("controller", argv, env={"OLM_REDIS": self._server.url, "HOME": "/nonexistent"}))

    def _use(self, models: dict[str, Any]) -> None:
        self.settings = self._settings(models)
        settings_in_use.write(self.paths, self.settings)

    async def deploy(self, models: dict[str, Any] | None = None) -> Deployment:
        """What `ollamactl deploy` leaves: hosts claimed, the next deployment written, the controller told."""
        if models is not None:
            self._use(models)
        before = deployments.current(self.paths)
        sights = await look_at_all(self.settings.hosts, self.paths.root, reach(self.keys))
        facts = [each.facts for each in sights if each.facts is not None]
        current = before.placements if before is not None else ()
        wanted = want(self.settings, facts, LocalEngine(Engine.OLLAMA), current)
        assert not wanted.plan.refused
        kv_types = {name: model.kv_cache for name, model in self.settings.models.items()}
        placements = wanted.plan.placements
        return await self._write(Deployment(0, 0, "", placements, wanted.shapes, wanted.terms, kv_types))

    async def redeploy(self, **changes: Any) -> Deployment:
        """The same placements with these fields changed in each."""
        before = deployments.current(self.paths)
        assert before is not None
        return await self._write(
            replace(before, placements=tuple(replace(each, **changes) for each in before.placements))
        )

    async def _write(self, wanted: Deployment) -> Deployment:
        before = deployments.current(self.paths)
        number = before.number + 1 if before is not None else 1
        made = replace(wanted, number=number, made_at_unix_ms=time.time_ns() // 10**6, made_by="a test", is_good=False)
        for machine in self.net.machines.values():
            if machine.process is not None:
                async with connected(address(self.net, machine), self.keys) as host:
                    await claim(host, Owner(settings_in_use.place(self.paths), number, "a test"))
        deployments.write(self.paths, made)
        if (pid := self.controller_pid()) is not None:
            os.kill(pid, signal.SIGHUP)
        return made

    async def taken_over(self, machine: Machine, by: str) -> None:
        """As `deploy --take-over` from another place leaves a host."""
        async with connected(address(self.net, machine), self.keys) as host:
            await claim(host, Owner(by, 1, "somebody else"), take_over=True)

    def controller_pid(self) -> int | None:
        return next((each.pid for each in self._keeper.status() if each.name == "controller"), None)

    # --- seen ---------------------------------------------------------------------------------------------------------

    @property
    def now(self) -> Snapshot | None:
        return self.published[-1] if self.published else None

    @property
    def instances(self) -> tuple[Instance, ...]:
        return tuple(each for pool in (self.now.pools if self.now else ()) for each in pool.instances)

    def one(self, name: str) -> Instance | None:
        return next((each for each in self.instances if each.id == name), None)

    def serve(self, count: int, deployment: int) -> bool:
        """Whether just so many instances are there, and all of them serve for that deployment."""
        states = [each.state for each in self.instances]
        is_taken_up = self.now is not None and self.now.deployment == deployment and self.now.is_settled
        return is_taken_up and states == [InstanceState.SERVING] * count

    def events(self) -> tuple[Event, ...]:
        return chronicle.read(self.paths.events)

    def told(self, kind: Moment) -> list[Event]:
        return [each for each in self.events() if each.kind is kind]

    def times_served(self, instance: InstanceId) -> int:
        """How often it began to serve: one that was down for a moment only has done so once more."""
        return sum(each.instance == instance for each in self.told(Moment.SERVING))

    def log(self) -> str:
        file = self.paths.logs / "controller.log"
        return file.read_text()[-4000:] if file.exists() else ""

    async def until(self, holds: Callable[[], Any], what: str) -> None:
        """Wait until what is published, or told, is so."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while not holds():
            now = [f"{each.id} {each.state} {each.reason}" for each in self.instances]
            notes = self.now.notes if self.now is not None else ()
            assert time.monotonic() < deadline_s, f"never: {what}; {now} {notes}\n{self.log()}"
            self._stirred.clear()
            try:
                async with asyncio.timeout(0.1):  # events and processes stir nothing here
                    await self._stirred.wait()
            except TimeoutError:
                continue


F = TypeVar("F", bound=Fleet)


@asynccontextmanager
async def fleet_of(
    net: Network, state: Path, server: Server, machines: Iterable[Machine], kind: type[F] = Fleet
) -> AsyncIterator[F]:
    """A place with hosts whose base is made; instances and base are gone at the end."""
    with ExitStack() as stack:
        for each in machines:
            stack.callback(each.run, "rm", "-rf", OWNER)
            stack.enter_context(furnished(each))
            program = each.files / PROGRAM[1:]
            program.write_bytes(STAND_IN.read_bytes())
            each.stand_in(card="RTX 4090", speed=300.0, pull_bytes_s=1e9)
        async with kind(net, state, server) as fleet:
            yield fleet


def pid_of(machine: Machine, instance: InstanceId) -> int:
    """The main process of an instance's unit, as the host has it."""
    unit = f"ollama@{instance}.service"
    return int(machine.run("systemctl", "show", "--value", "-p", "MainPID", unit))
