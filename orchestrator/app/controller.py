"""The controller process, built from the settings in use: `python -m orchestrator.app.controller`."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import click

from orchestrator import logs, telemetry
from orchestrator.app import audit, settings_in_use
from orchestrator.app.certificates import Certificates
from orchestrator.app.crewing import member_of
from orchestrator.app.held_up import NAME as HELD_UP
from orchestrator.app.held_up import HeldUp
from orchestrator.app.loop import on_reload, run, until
from orchestrator.app.measuring import Measuring
from orchestrator.app.mirroring import Mirror, chores_key, secret_of
from orchestrator.app.own_fleet import OwnFleet
from orchestrator.app.packing import keep_packed
from orchestrator.app.paths import StatePaths
from orchestrator.app.published import PublishedCluster
from orchestrator.app.replaying import Replaying
from orchestrator.app.speaking_tls import contexts_of, silent_hosts
from orchestrator.core.chores import Chore, ChoreKind
from orchestrator.core.errors import HostError, OrchestratorError, StoreError
from orchestrator.fleet.chronicle import Chronicle
from orchestrator.fleet.given import GivenFleet
from orchestrator.fleet.managing import Managing
from orchestrator.fleet.tasks import raise_first
from orchestrator.nodes.keeper_client import KeeperClient
from orchestrator.settings import ClusterSettings
from orchestrator.store.chores import Chores
from orchestrator.store.cluster import set_progress
from orchestrator.store.connection import Connection
from orchestrator.store.members import BEAT_S, Met, leaving, meet, who_is_there

log = logging.getLogger(__name__)

# After one that may not lead has let another one try.
AGAIN_S = 5.0


@click.command()
@click.option("--state", type=click.Path(path_type=Path), required=True)
def main(state: Path) -> None:
    """Keep the fleet until SIGTERM; SIGHUP reads the settings in use again, and what is deployed."""
    logs.log_to_stderr("controller")
    try:
        sys.exit(run(Controller(StatePaths(state)).run))
    except OrchestratorError as why:
        log.error("%s", why)
        sys.exit(1)


class Controller:
    """One process: the settings, the store, and who keeps the fleet while this controller leads."""

    def __init__(self, paths: StatePaths) -> None:
        self._paths = paths
        self._settings = settings_in_use.read(paths)
        self._connection = Connection(os.environ["OLM_REDIS"], name="controller")
        self._keeper = KeeperClient(paths.keeper_socket)
        # The keeper runs one controller of this place at a time: a killed one's successor leads on at once.
        holder = settings_in_use.place(paths)
        self._is_alone = self._settings.redis == "embedded"
        is_simulated = any(node.simulate for node in self._settings.nodes)
        self._store = PublishedCluster(
            self._connection, holder, self._may_have_lost, is_simulated=is_simulated, is_alone=self._is_alone
        )
        self._chores = Chores(self._connection, chores_key(paths, self._settings))  # it remembers what was done
        self._running: OwnFleet | GivenFleet | None = None  # while this controller leads
        self._mirror = self._mirror_of(self._settings)
        held_up = HeldUp(partial(set_progress, self._connection, HELD_UP), self._store.lead.check)
        self._certificates = Certificates(
            paths,
            lambda: self._settings,
            lambda: self._store.lead.leads,
            self._store.lead,
            self._met,
            held_up,
            lambda: silent_hosts(self._store.last) if self._store.last is not None else frozenset(),
        )

    async def run(self, stop: asyncio.Event) -> int:
        """Until `stop`: stand by, and while this controller leads bring the fleet to what is asked for and keep it."""
        on_reload(self._reload)
        await self._connection.open(wait_s=30.0)
        await self._chores.start()
        telemetry.UP.set(1)
        try:
            await until(stop, self._work())
        finally:
            await self._store.lead.resign()
            if not self._is_alone and self._connection.is_up:
                await leaving(self._connection, "controller", settings_in_use.place(self._paths))
            await self._connection.close()
        return 0

    async def _work(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(keep_packed(self._paths), name="keep the request log packed")
                group.create_task(self._take_turns(), name="lead or stand by")
                group.create_task(self._certificates.run(), name="keep certificates")
                if not self._is_alone:
                    group.create_task(self._say_so(), name="say that it is there")
                if self._mirror is not None:
                    group.create_task(self._mirror.run(lambda: self._store.lead.leads), name="same on all machines")
        except BaseExceptionGroup as several:
            raise_first(several)

    async def _take_turns(self) -> None:
        while True:
            await self._store.lead.stand_by()
            try:
                if self._mirror is not None:
                    await self._mirror.take_over()
            except HostError as why:
                log.error("does not lead: %s", why)
                await self._store.lead.resign()
                await asyncio.sleep(AGAIN_S)
            else:
                await self._lead()

    def _mirror_of(self, settings: ClusterSettings) -> Mirror | None:
        """What instances on hosts need so that another machine can go on; nobody reaches a Redis of our own."""
        if self._is_alone or not settings.hosts:
            return None
        return Mirror(self._paths, self._connection, secret_of(self._paths, settings), self._replan)

    async def _lead(self) -> None:
        """Keep the fleet until another controller leads. Raises OrchestratorError where nothing can be kept."""
        self._running = fleet = self._fleet()
        self._certificates.stir()
        leading = asyncio.create_task(self._store.lead.keep(), name="go on leading")
        try:
            await until(self._store.lead.over, self._keep(fleet))
        finally:
            self._running = None
            leading.cancel()
            await asyncio.wait((leading,))
            await fleet.close()

    async def _say_so(self) -> None:
        """To whoever asks which machines share this Redis."""
        while True:
            own = member_of(self._paths, self._settings, 0)
            problem = self._mirror.problem if self._mirror is not None else ""
            own = replace(own, problem=problem, papers=self._certificates.papers)
            try:
                await meet(self._connection, "controller", own)
            except StoreError as why:
                log.debug("not said that this controller is there: %s", why)
            await asyncio.sleep(BEAT_S)

    async def _met(self) -> tuple[Met, ...]:
        """Who else works with this Redis. Raises StoreError."""
        if self._is_alone:
            return ()
        own = settings_in_use.place(self._paths)
        return tuple(each for each in await who_is_there(self._connection) if each.member.place != own)

    async def _keep(self, fleet: OwnFleet | GivenFleet) -> None:
        published = await self._store.read()
        settings, leads = (lambda: self._settings), (lambda: self._store.lead.leads)
        measuring = Measuring(self._connection, settings, leads)
        replaying = Replaying(self._paths, self._connection, settings, leads)
        contexts = contexts_of(self._paths, lambda: self._settings)
        managing = Managing(self._chores, self._store.lead, fleet, self._audited, contexts, count=_count_change)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fleet.run(published), name="fleet")
                group.create_task(measuring.run(), name="measuring")
                group.create_task(replaying.run(), name="replaying")
                group.create_task(managing.run(), name="changes of models")
        except BaseExceptionGroup as several:
            raise_first(several)

    def _audited(self, chore: Chore) -> None:
        audit.record(self._paths.audit, chore.who, "controller", chore.kind, chore.what)

    def _fleet(self) -> OwnFleet | GivenFleet:
        """Who keeps instances of our own, or who watches those of others."""
        if self._settings.instances:
            contexts = contexts_of(self._paths, lambda: self._settings)
            return GivenFleet(
                store=self._store,
                settings=lambda: self._settings,
                record=Chronicle(self._paths.events).record,
                contexts=contexts,
            )
        return OwnFleet(self._paths, self._store, lambda: self._settings)

    def _reload(self) -> None:
        try:
            self._settings = settings_in_use.read(self._paths)
        except OrchestratorError as why:
            log.error("settings not taken over: %s", why)
            return
        if self._mirror is not None:
            self._mirror.stir()
        self._replan()

    def _replan(self) -> None:
        self._certificates.stir()
        if self._running is not None:
            self._running.replan()

    async def _may_have_lost(self) -> bool:
        """Whether gateways may hold leases that this Redis does not know: one of them is older than it."""
        try:
            since = {each.name: each.since_unix_ms for each in await self._keeper.list()}
        except HostError as why:
            log.warning("whether Redis is older than the gateways is not known: %s", why)
            return True
        gateways = [at for name, at in since.items() if name.startswith("gateway-")]
        return "redis" not in since or any(at < since["redis"] for at in gateways)


def _count_change(kind: ChoreKind, outcome: str) -> None:
    telemetry.MODEL_CHANGES.labels(kind, outcome).inc()


if __name__ == "__main__":
    main()
