"""The controller: instances brought to what the settings ask for, kept so, and published to the gateways.

It owns no process: the keeper of this machine starts and restarts them. It may be killed at any moment; the next one
finds the running instances by their units and what was last published, and goes on.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from orchestrator.core.errors import InstanceError, OrchestratorError, StoreError
from orchestrator.core.model import (
    Engine,
    Instance,
    InstanceId,
    InstanceState,
    ModelShape,
    NodeFacts,
    Placement,
    Pool,
    PoolName,
    Snapshot,
)
from orchestrator.fleet.apply import steps
from orchestrator.fleet.describe import pool_details
from orchestrator.fleet.engines import UNIT_PREFIX
from orchestrator.fleet.own import placement_of
from orchestrator.fleet.tending import Tended
from orchestrator.fleet.wanted import Wanted
from orchestrator.nodes.engine_api import EngineApi
from orchestrator.nodes.keeper_client import KeeperClient
from orchestrator.nodes.keeper_units import EventKind, Unit, UnitEvent

log = logging.getLogger(__name__)

HEARTBEAT_S = 2.0
DRAIN_TIMEOUT_S = 120.0


class Publishing(Protocol):
    """The store, as the controller needs it."""

    async def publish(self, snapshot: Snapshot) -> None: ...
    async def sweep(self, pool: PoolName) -> Mapping[InstanceId, int]: ...


# From a placement and a port to the unit that runs it: what differs between engines, handed in by `app`.
UnitOf = Callable[[Placement, int], Unit]


class Steward:
    """One controller. `want` works out the placements wanted, `unit_of` how one is started."""

    def __init__(
        self,
        *,
        keeper: KeeperClient,
        store: Publishing,
        engine: Engine,
        is_simulated: bool,
        want: Callable[[Sequence[Placement]], Awaitable[tuple[Wanted, tuple[NodeFacts, ...]]]],
        unit_of: UnitOf,
        notes: tuple[str, ...],
    ) -> None:
        self._keeper, self._store = keeper, store
        self._engine, self._is_simulated = engine, is_simulated
        self._want, self._unit_of, self._notes = want, unit_of, notes
        self._api = EngineApi()
        self._tended: dict[str, tuple[Tended, asyncio.Task[None]]] = {}
        self._placements: dict[str, Placement] = {}
        self._wanted: Wanted | None = None
        self._facts: tuple[NodeFacts, ...] = ()
        self._details: dict[str, Mapping[str, Any]] = {}
        self._changed = asyncio.Event()
        self._replan = asyncio.Event()
        self._version = 0

    # --- for app ---------------------------------------------------------------------------------------------------

    def replan(self) -> None:
        """Settings changed: work out anew what should run."""
        self._replan.set()

    async def run(self, published: Snapshot | None) -> None:
        """Until cancelled. `published` is what an earlier controller published last."""
        self._version = published.version if published else 0
        async with asyncio.TaskGroup() as group:
            await self._adopt(published)
            await self._reconcile()
            group.create_task(self._follow_units())
            group.create_task(self._replan_when_told())
            group.create_task(self._publish_changes())

    async def close(self) -> None:
        for _, task in self._tended.values():
            task.cancel()
        await asyncio.gather(*(task for _, task in self._tended.values()), return_exceptions=True)
        await self._api.close()

    # --- reconcile --------------------------------------------------------------------------------------------------

    async def _adopt(self, published: Snapshot | None) -> None:
        """Take over the instances that run: published by an earlier controller, and a unit of the keeper's still."""
        units = {each.name for each in await self._keeper.list()}
        known = [each for pool in (published.pools if published else ()) for each in pool.instances]
        for instance in known:
            if UNIT_PREFIX + instance.id in units:
                # It may serve what it has; one probe confirms it before anything new is sent.
                self._placements[instance.id] = placement_of(instance)
                self._tend(replace(instance, state=InstanceState.STARTING, reason="found running; being probed"))
        stray = units - {UNIT_PREFIX + each for each in self._tended}
        for name in sorted(each for each in stray if each.startswith(UNIT_PREFIX)):
            log.warning("%s runs but was never published; stopping it", name)
            await self._keeper.stop(name)

    async def _reconcile(self) -> None:
        self._wanted, self._facts = await self._want(tuple(self._placements.values()))
        running = {name: tended.instance for name, (tended, _) in self._tended.items()}
        change = steps(self._wanted.plan.placements, running)
        self._placements = {each.instance: each for each in self._wanted.plan.placements}
        await asyncio.gather(*(self._stop(each) for each in change.stop))
        for placement in change.start:
            await self._start(placement)
        for pool, why in self._wanted.plan.refused:
            log.warning("%s: %s", pool, why)
        self._changed.set()

    async def _start(self, placement: Placement) -> None:
        port = _free_port()
        await self._keeper.start(self._unit_of(placement, port))
        self._tend(
            Instance(
                id=placement.instance,
                node=placement.node,
                pool=placement.pool,
                host="127.0.0.1",
                port=port,
                engine=self._engine,
                upstream_model=placement.pool,
                slots=placement.slots,
                context=placement.context,
                accelerators=placement.accelerators,
                is_simulated=self._is_simulated,
                vram_bytes=placement.footprint.total,
            )
        )

    def _tend(self, instance: Instance) -> None:
        shape = self._wanted.shapes.get(instance.pool) if self._wanted else None
        is_embedding = bool(shape and shape.is_embedding)
        tended = Tended(instance, self._api, is_embedding=is_embedding, on_change=lambda _: self._changed.set())
        self._tended[instance.id] = (tended, asyncio.create_task(tended.run()))

    async def _stop(self, instance: Instance) -> None:
        """Drain, then stop: what it is answering is finished first, up to a bound."""
        tended, task = self._tended[instance.id]
        tended.drain()
        await self._publish()
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT_S):
                while (await self._in_flight(instance)) > 0:  # noqa: ASYNC110 - Redis has no event for the last lease
                    await asyncio.sleep(0.2)
        except TimeoutError:
            log.warning("%s still answers after %g s; stopping it", instance.id, DRAIN_TIMEOUT_S)
        task.cancel()
        del self._tended[instance.id]
        await self._keeper.stop(UNIT_PREFIX + instance.id)

    async def _in_flight(self, instance: Instance) -> int:
        return (await self._store.sweep(instance.pool)).get(instance.id, 0)

    # --- follow, publish ----------------------------------------------------------------------------------------------

    async def _follow_units(self) -> None:
        async for event in self._keeper.events():
            self._on_unit(event)

    def _on_unit(self, event: UnitEvent) -> None:
        found = self._tended.get(event.unit.removeprefix(UNIT_PREFIX))
        if event.unit.startswith(UNIT_PREFIX) and found is not None and event.kind is EventKind.EXITED:
            found[0].process_restarted()

    async def _replan_when_told(self) -> None:
        while True:
            await self._replan.wait()
            self._replan.clear()
            try:
                await self._reconcile()
            except OrchestratorError as why:
                log.error("the new settings cannot be applied, the old ones stay: %s", why)

    async def _publish_changes(self) -> None:
        """Publish on each change, and every HEARTBEAT_S, so that an emptied Redis fills again by itself."""
        while True:
            self._changed.clear()
            try:
                await self._describe_pools()
                await self._publish()
                for pool in self._pool_names():
                    await self._store.sweep(PoolName(pool))
            except StoreError as why:
                log.warning("not published: %s", why)
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _describe_pools(self) -> None:
        for tended, _ in self._tended.values():
            instance = tended.instance
            if instance.state is InstanceState.SERVING and instance.pool not in self._details and self._wanted:
                shape = self._wanted.shapes.get(instance.pool)
                if shape is not None:
                    await self._describe(instance, shape)

    async def _describe(self, instance: Instance, shape: ModelShape) -> None:
        try:
            self._details[instance.pool] = await pool_details(self._api, instance, shape)
        except InstanceError as why:
            log.warning("%s is not described yet: %s", instance.pool, why)

    def _pool_names(self) -> tuple[str, ...]:
        named = [each.pool for each in self._placements.values()] + [t.instance.pool for t, _ in self._tended.values()]
        return tuple(dict.fromkeys(named))

    async def _publish(self) -> None:
        self._version += 1
        shapes = self._wanted.shapes if self._wanted else {}
        pools = []
        for name in dict.fromkeys([*shapes, *self._pool_names()]):
            instances = tuple(t.instance for t, _ in self._tended.values() if t.instance.pool == name)
            context = instances[0].context if instances else 0
            is_embedding = name in shapes and shapes[name].is_embedding
            pools.append(Pool(PoolName(name), context, is_embedding, instances, self._details.get(name, {})))
        refused = tuple(f"{pool}: {why}" for pool, why in self._wanted.plan.refused) if self._wanted else ()
        problems = tuple(f"{each.node}: {problem}" for each in self._facts for problem in each.problems)
        now_ms = time.time_ns() // 1_000_000
        notes = self._notes + refused + problems
        await self._store.publish(Snapshot(self._version, now_ms, tuple(pools), self._facts, notes))


def _free_port() -> int:
    """A loopback port that is free now; the instance that gets it binds it at once."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
