"""The controller process, built from the settings in use: `python -m orchestrator.app.controller`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

import click

from orchestrator import telemetry
from orchestrator.app import settings_in_use
from orchestrator.app.loop import run, until
from orchestrator.app.measuring import Measuring
from orchestrator.app.own_fleet import OwnFleet
from orchestrator.app.packing import keep_packed
from orchestrator.app.paths import StatePaths
from orchestrator.app.published import PublishedCluster
from orchestrator.app.replaying import Replaying
from orchestrator.core.errors import OrchestratorError
from orchestrator.fleet.given import GivenFleet
from orchestrator.fleet.tasks import raise_first
from orchestrator.nodes.keeper_client import KeeperClient
from orchestrator.store import cluster
from orchestrator.store.connection import Connection

log = logging.getLogger(__name__)


@click.command()
@click.option("--state", type=click.Path(path_type=Path), required=True)
def main(state: Path) -> None:
    """Keep the fleet until SIGTERM; SIGHUP reads the settings in use again, and what is deployed."""
    telemetry.log_to_stderr("controller")
    try:
        sys.exit(run(Controller(StatePaths(state)).run))
    except OrchestratorError as why:
        log.error("%s", why)
        sys.exit(1)


class Controller:
    """One process: the settings, the store, and who keeps the fleet."""

    def __init__(self, paths: StatePaths) -> None:
        self._paths = paths
        self._settings = settings_in_use.read(paths)
        self._connection = Connection(os.environ["OLM_REDIS"], name="controller")
        self._keeper = KeeperClient(paths.keeper_socket)
        # The keeper runs one controller of this place at a time: a killed one's successor leads on at once.
        holder = settings_in_use.place(paths)
        is_simulated = any(node.simulate for node in self._settings.nodes)
        self._store = PublishedCluster(self._connection, holder, self._may_have_lost, is_simulated=is_simulated)

    async def run(self, stop: asyncio.Event) -> int:
        """Bring the fleet to what is asked for and keep it, until `stop`."""
        await self._connection.open(wait_s=30.0)
        telemetry.UP.set(1)
        fleet = self._fleet()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload, fleet)
        try:
            await until(stop, self._keep(fleet))
        finally:
            await fleet.close()
            await self._store.resign()
            await self._connection.close()
        return 0

    async def _keep(self, fleet: OwnFleet | GivenFleet) -> None:
        published = await cluster.read(self._connection)
        settings, leads = (lambda: self._settings), (lambda: self._store.leads)
        measuring = Measuring(self._connection, settings, leads)
        replaying = Replaying(self._paths, self._connection, settings, leads)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fleet.run(published), name="fleet")
                group.create_task(measuring.run(), name="measuring")
                group.create_task(replaying.run(), name="replaying")
                group.create_task(keep_packed(self._paths), name="keep the request log packed")
        except BaseExceptionGroup as several:
            raise_first(several)

    def _fleet(self) -> OwnFleet | GivenFleet:
        """Who keeps instances of our own, or who watches those of others."""
        if self._settings.instances:
            return GivenFleet(store=self._store, settings=lambda: self._settings)
        return OwnFleet(self._paths, self._store, lambda: self._settings)

    def _reload(self, fleet: OwnFleet | GivenFleet) -> None:
        try:
            self._settings = settings_in_use.read(self._paths)
        except OrchestratorError as why:
            log.error("settings not taken over: %s", why)
            return
        fleet.replan()

    async def _may_have_lost(self) -> bool:
        """Whether gateways may hold leases that this Redis does not know: one of them is older than it."""
        since = {each.name: each.since_unix_ms for each in await self._keeper.list()}
        gateways = [at for name, at in since.items() if name.startswith("gateway-")]
        return "redis" not in since or any(at < since["redis"] for at in gateways)


if __name__ == "__main__":
    main()
