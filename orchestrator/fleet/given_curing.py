"""A model on a server that somebody else runs, as the ward sees to it: asked, unloaded, loaded, never restarted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from orchestrator.core.errors import InstanceError, StoreError
from orchestrator.core.model import Engine, Instance, InstanceId, PoolName
from orchestrator.core.patience import Cure, Means
from orchestrator.core.residency import Move, Pressure
from orchestrator.fleet.place import Place
from orchestrator.nodes.given_api import GivenApi

UNLOADED_WITHIN_S, LOOK_EVERY_S = 30.0, 0.1


class Counting(Protocol):
    """Raises StoreError."""

    async def pressure(self, instances: Mapping[PoolName, Sequence[InstanceId]]) -> Mapping[PoolName, Pressure]: ...


class GivenPatient:
    """One model of one server. While it is seen to, it gets no calls: its place says why."""

    def __init__(
        self, pool: PoolName, place: Place, *, api: GivenApi, counting: Counting, on_change: Callable[[], None]
    ) -> None:
        self._place, self._api, self._counting, self._on_change = place, api, counting, on_change
        self.pool, self.instance = pool, place.watched.server.instance(pool).id
        self.load_s = place.loads.took_s.get(pool, 0.0)
        self.means = Means(unloads=self._at().engine is Engine.OLLAMA and self._is_seen_in_memory, restarts=False)

    def says(self, reason: str) -> None:
        self._place.silent[self.pool] = reason
        self._on_change()

    def is_back(self) -> None:
        """It may be called again."""
        self._place.silent.pop(self.pool, None)
        self._on_change()

    async def is_idle(self) -> bool:
        if self._place.move is not None:  # what is loaded there is in the way of an answer
            return False
        try:
            pressure = await self._counting.pressure({self.pool: [self.instance]})
        except StoreError:
            return False
        return not pressure[self.pool].in_flight.get(self.instance, 0)

    async def answers(self, within_s: float) -> bool:
        sight = self._place.watched.sight
        if not sight.is_up or (sight.running is not None and self.pool not in sight.resident):
            raise InstanceError(self.instance, "is no longer in memory there")
        return await self._api.answers(self._at(), within_s, is_embedding=self._is_embedding)

    async def cure(self, cure: Cure) -> None:
        assert cure is Cure.UNLOAD, "its process is somebody else's"
        if self._place.move is not None:
            raise InstanceError(self.instance, "another model is being loaded there")
        self._place.move = Move(self._place.watched.server.url, self.pool)
        try:
            await self._api.unload(self._at())
            await self._until_unloaded()
            await self._api.load_as_it_is(self._at(), is_embedding=self._is_embedding)
            await self._place.watched.look()
        finally:
            self._place.move = None

    async def _until_unloaded(self) -> None:
        until_s = time.monotonic() + UNLOADED_WITHIN_S
        while self.pool in (await self._place.watched.look()).resident:
            if time.monotonic() > until_s:
                raise InstanceError(self.instance, f"is still in memory {UNLOADED_WITHIN_S:g} s after it was to go")
            await asyncio.sleep(LOOK_EVERY_S)

    @property
    def _is_seen_in_memory(self) -> bool:
        return self._place.watched.sight.running is not None

    @property
    def _is_embedding(self) -> bool:
        model = self._place.watched.sight.models.get(self.pool)
        return model is not None and bool(model.is_embedding)

    def _at(self) -> Instance:
        watched = self._place.watched
        model = watched.sight.models.get(self.pool)
        return watched.server.instance(self.pool, model.listed.name if model is not None else "", watched.sight.engine)
