"""The controller where servers are somebody else's: watched, published to the gateways, loaded as calls ask for it.

Nothing is started or stopped, and models are changed only for who asks for that (`managing`). It may be killed at any
moment: the next one looks at the servers anew, and until it has, what was published last stands.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from orchestrator.core.chores import Chore
from orchestrator.core.errors import OrchestratorError
from orchestrator.core.model import Engine, Event, InstanceId, InstanceState, Pool, PoolName, Snapshot
from orchestrator.core.patience import Suspicion
from orchestrator.fleet.curing import Suspicions, Ward
from orchestrator.fleet.fenced import FencedGivenApi, Leading
from orchestrator.fleet.given_curing import GivenPatient
from orchestrator.fleet.loading import Asking, Loader
from orchestrator.fleet.model_sites import ModelSite, kept_by
from orchestrator.fleet.offering import given_of, notes_of, pools_of
from orchestrator.fleet.place import Place
from orchestrator.fleet.publishing import Publisher, Publishing
from orchestrator.fleet.servers import Server, servers_of
from orchestrator.fleet.tasks import raise_first
from orchestrator.fleet.watching import Watched
from orchestrator.nodes.tls import Contexts
from orchestrator.settings import ClusterSettings

log = logging.getLogger(__name__)

# A server that does not even refuse a connection takes three seconds of it; the others shall not wait much longer.
FIRST_LOOKS_WITHIN_S = 5.0


class GivenStore(Publishing, Asking, Suspicions, Leading, Protocol):
    """What the store is asked for here."""


class GivenFleet:
    """One controller of servers that run already. `settings` answers those in force."""

    def __init__(
        self,
        *,
        store: GivenStore,
        settings: Callable[[], ClusterSettings],
        record: Callable[[Event], None],
        contexts: Contexts | None = None,
    ) -> None:
        """`record` keeps what happened to servers; `contexts`: what those behind https are asked with."""
        self._settings, self._store, self._record = settings, store, record
        self._api = FencedGivenApi(store.check, contexts)
        self._places: dict[str, Place] = {}  # by URL
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._changed, self._replan, self._were_seen = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._publisher = Publisher(store, self._snapshot)
        self._ward = Ward(store, lambda: settings().limits.cures_an_hour, self._on_change, record)
        self._loader = Loader(
            self._places,
            api=self._api,
            asking=store,
            publisher=self._publisher,
            settings=settings,
            on_change=self._on_change,
        )

    # --- for app -----------------------------------------------------------------------------------------------------

    def replan(self) -> None:
        """Settings changed."""
        self._replan.set()

    async def run(self, published: Snapshot | None) -> None:
        """Until cancelled. `published` is what an earlier controller published last."""
        self._publisher.begin_after(published)
        try:
            async with asyncio.TaskGroup() as self._group:
                self._follow(servers_of(self._settings().instances))
                self._group.create_task(self._follow_settings(), name="given: settings")
                await self._until_all_were_looked_at()
                self._were_seen.set()
                self._group.create_task(self._publisher.keep(self._changed, self._pool_names), name="given: publish")
                self._group.create_task(self._loader.run(), name="given: load")
                self._group.create_task(self._ward.watch(self._serving, self._suspected), name="given: ward")
        except BaseExceptionGroup as several:
            raise_first(several)

    async def close(self) -> None:
        await self._api.close()

    # --- its models --------------------------------------------------------------------------------------------------

    async def models_known(self) -> None:
        """Wait until the servers were looked at."""
        await self._were_seen.wait()

    def model_sites(self) -> Sequence[ModelSite]:
        """Every server but llama.cpp's. Whether two of them share a folder nobody can say."""
        watches = [each.watched for each in self._places.values()]
        return [_site(each) for each in watches if each.sight.engine is not Engine.LLAMA_CPP]

    def why_kept(self, model: str) -> str:
        """Why a model must stay what it is; empty: it may be deleted or replaced."""
        return kept_by(self._settings(), model)

    async def models_changed(self, _: Chore) -> str:
        """See and publish what there is now, so that who was told of it can call it."""
        looks = (each.watched.list_anew() for each in self._places.values() if each.watched.sight.is_up)
        await asyncio.gather(*looks, return_exceptions=True)  # a look that failed is made again by itself
        await self._publisher.publish()
        return ""

    # --- which servers there are -------------------------------------------------------------------------------------

    async def _follow_settings(self) -> None:
        while True:
            await self._replan.wait()
            self._replan.clear()
            self._follow(servers_of(self._settings().instances))
            self._on_change()

    def _follow(self, servers: Iterable[Server]) -> None:
        """Watch these and no others. What is under way on one that is gone is answered to its end."""
        assert self._group is not None
        wanted = {each.url: each for each in servers}
        for url in [each for each in self._places if each not in wanted]:
            self._watches.pop(url).cancel()
            log.info("%s is no longer watched", self._places.pop(url).watched.name)
        for url, server in wanted.items():
            if url in self._places:
                self._places[url].watched.is_now(server)
                continue
            watched = Watched(server, self._api, self._on_change, self._record)
            self._places[url] = Place(watched)
            self._watches[url] = self._group.create_task(watched.run(), name=f"watch {server.name}")

    async def _until_all_were_looked_at(self) -> None:
        """Before that a gateway would refuse calls for models that are there."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LOOKS_WITHIN_S):
                while any(each.watched.sight.state is InstanceState.STARTING for each in self._places.values()):
                    self._changed.clear()
                    await self._changed.wait()

    def _on_change(self) -> None:
        self._changed.set()
        self._loader.stir()

    # --- who answers nobody ------------------------------------------------------------------------------------------

    def _serving(self) -> Mapping[PoolName, Sequence[InstanceId]]:
        serving = InstanceState.SERVING
        return {each.name: [one.id for one in each.instances if one.state is serving] for each in self._pools()}

    def _suspected(self, pool: PoolName, instance: InstanceId, why: Suspicion) -> None:
        assert self._group is not None
        self._group.create_task(self._see_to(pool, instance, why), name=f"given: see to {instance}")

    async def _see_to(self, pool: PoolName, instance: InstanceId, why: Suspicion) -> None:
        place = next((p for p in self._places.values() if p.watched.server.instance(pool).id == instance), None)
        if place is None:  # the settings name it no more
            self._ward.drop(instance)
            return
        patient = GivenPatient(pool, place, api=self._api, counting=self._store, on_change=self._on_change)
        try:
            await self._ward.see_to(patient, why)
        except OrchestratorError as fault:
            log.info("%s: seen to no longer: %s", instance, fault)
        finally:
            patient.is_back()

    # --- what is published -------------------------------------------------------------------------------------------

    def _pools(self) -> tuple[Pool, ...]:
        return pools_of([each.standing for each in self._places.values()], self._settings())

    def _pool_names(self) -> tuple[PoolName, ...]:
        return tuple(each.name for each in self._pools())

    def _snapshot(self, version: int) -> Snapshot:
        standings = [each.standing for each in self._places.values()]
        return Snapshot(
            version,
            time.time_ns() // 1_000_000,
            self._pools(),
            notes=(*notes_of(standings, self._settings()), *self._ward.events),
            given=tuple(map(given_of, standings)),
        )


def _site(watched: Watched) -> ModelSite:
    sight = watched.sight
    if not sight.is_up:
        return ModelSite(watched.name, None, sight.reason or "it was not seen yet")
    return ModelSite(watched.name, watched.server.instance(engine=sight.engine))
