"""The controller: instances brought to what the settings ask for, kept so, and published to the gateways.

It owns no process: the keeper of this machine starts and restarts them. It may be killed at any moment; the next one
finds the running instances by the marks in their processes, takes their states from what was last published, and goes
on. What a store or an instance does wrong never ends it; without the keeper it can do nothing, and ends.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from orchestrator.core.errors import HostError, OrchestratorError, StoreError
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
from orchestrator.core.patience import Suspicion
from orchestrator.fleet.adoption import adopt
from orchestrator.fleet.apply import Change, Running, silenced
from orchestrator.fleet.curing import Suspicions, Ward
from orchestrator.fleet.inventory import blind_spots
from orchestrator.fleet.made import UNIT_PREFIX, Made, found
from orchestrator.fleet.own import usable_bytes
from orchestrator.fleet.publishing import HEARTBEAT_S, Publisher, Publishing
from orchestrator.fleet.tasks import raise_first, within
from orchestrator.fleet.tending import Means, Tended, UnitOf
from orchestrator.fleet.wanted import Wanted
from orchestrator.nodes.engine_api import EngineApi
from orchestrator.nodes.keeper_client import KeeperClient
from orchestrator.nodes.keeper_units import EventKind, UnitEvent

log = logging.getLogger(__name__)

DRAIN_TIMEOUT_S = 120.0
DRAIN_LOOK_EVERY_S = 0.2
# What could not be done is tried again: a pool without room, a driver that was sick, a Redis that was away.
TRY_AGAIN_S = 30.0


class StewardStore(Publishing, Suspicions, Protocol):
    """What the store is asked for here."""


Want = Callable[[Sequence[Placement]], Awaitable[tuple[Wanted, tuple[NodeFacts, ...]]]]


class Steward:
    """One controller. `want` works out the placements wanted, `unit_of` how one is started."""

    def __init__(
        self,
        *,
        keeper: KeeperClient,
        store: StewardStore,
        engine: Engine,
        is_simulated: bool,
        want: Want,
        unit_of: UnitOf,
        notes: tuple[str, ...],
        cures_an_hour: Callable[[], int],
    ) -> None:
        self._keeper, self._want, self._notes = keeper, want, notes
        self._api = EngineApi()
        self._ward = Ward(store, cures_an_hour, self._on_change)
        self._means = Means(
            keeper=keeper,
            api=self._api,
            engine=engine,
            is_simulated=is_simulated,
            unit_of=unit_of,
            shape_of=self._shape_of,
            on_change=self._on_change,
            ward=self._ward,
            is_idle=self._is_idle,
        )
        self._tended: dict[str, Tended] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._wanted: Wanted | None = None
        self._facts: tuple[NodeFacts, ...] = ()
        self._problem = ""  # why what is wanted is not, or not all, in force
        self._changed, self._stirred, self._replan = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._publisher = Publisher(store, self._snapshot)
        self._odd: set[tuple[str, int | None]] = set()

    # --- for app ---------------------------------------------------------------------------------------------------

    def replan(self) -> None:
        """Settings changed: work out anew what should run. A change under way is given up for it."""
        self._replan.set()
        self._stirred.set()

    async def run(self, published: Snapshot | None) -> None:
        """Until cancelled. `published` is what an earlier controller published last. Raises HostError without a keeper.

        Raises OrchestratorError, too, where nothing runs and nothing can be planned: there is nothing to keep.
        """
        self._publisher.begin_after(published)
        try:
            async with asyncio.TaskGroup() as self._group:
                await self._adopt(published)
                for work in (self._follow_units, self._look_at_units, self._publish_changes, self._reconcile_when_due):
                    self._group.create_task(work(), name=f"steward {work.__name__}")
                self._group.create_task(self._ward.watch(self._serving, self._suspected), name="steward ward")
        except BaseExceptionGroup as several:
            raise_first(several)

    async def close(self) -> None:
        await self._api.close()

    # --- what runs already -----------------------------------------------------------------------------------------

    async def _adopt(self, published: Snapshot | None) -> None:
        """Take over the instances that run, as they were published: a restarted controller is nothing a caller sees."""
        units = await self._keeper.list()
        pids = {each.name: each.pid for each in units if each.pid is not None and each.name.startswith(UNIT_PREFIX)}
        adopted, strays = adopt(units, await asyncio.to_thread(found, pids), published)
        for each in adopted:
            self._tend(each.made, each.pid, each.before).details = each.details
        for name in strays:
            log.warning("%s runs, and nobody knows what it is; stopping it", name)
            await self._keeper.stop(name)

    # --- reconcile --------------------------------------------------------------------------------------------------

    async def _reconcile_when_due(self) -> None:
        self._replan.set()
        again_s: float | None = None
        while True:
            await within(again_s, self._replan)
            may_stop = self._replan.is_set() or bool(self._problem)
            self._replan.clear()
            try:
                await self._reconcile(may_stop=may_stop)
            except OrchestratorError as why:
                if not self._tended and not isinstance(why, StoreError):
                    raise
                self._say(str(why))
                again_s = HEARTBEAT_S if isinstance(why, StoreError) else TRY_AGAIN_S
            else:
                self._problem = ""
                again_s = TRY_AGAIN_S if self._refused else None
            self._changed.set()

    @property
    def _refused(self) -> Mapping[PoolName, str]:
        return dict(self._wanted.plan.refused) if self._wanted is not None else {}

    async def _reconcile(self, *, may_stop: bool) -> None:
        """Plan anew and make it so. Raises OrchestratorError; what runs then goes on as it was.

        Without `may_stop` the settings are the same: room may have come, and what lost some of it is left alone.
        """
        await self._publisher.publish()  # who does not lead changes nothing
        current = tuple(each.made.placement for each in self._tended.values())
        wanted, self._facts = await self._want(current)
        if blind := blind_spots(self._facts, current):
            raise HostError("\n".join(blind))
        refused = dict(wanted.plan.refused)
        silent = silenced(wanted.plan.placements, wanted.shapes, self._running())
        if silent:
            reasons = "\n".join(f"{pool}: {refused.get(pool, 'no place')}" for pool in silent)
            raise HostError(f"the settings are not applied, all instances stay as they are:\n{reasons}")
        running = self._running()
        loaded = [each.placement for each in running.values() if each.is_serving or each.is_leaving]
        change = Change(wanted.plan.placements, wanted.terms, running, usable_bytes(self._facts, loaded))
        if not may_stop and change.steps(self._running()).stop:
            return
        for pool, why in refused.items():
            if self._refused.get(pool) != why:
                log.warning("%s: %s", pool, why)
        self._wanted = wanted
        await self._roll_out(change, wanted)

    async def _roll_out(self, change: Change, wanted: Wanted) -> None:
        """Wave by wave, until all is as wanted or something newer is. Raises HostError where one cannot be stopped."""
        self._resume()
        try:
            async with asyncio.TaskGroup() as stops:
                while not self._replan.is_set():
                    self._stirred.clear()
                    wave = change.wave(self._running())
                    for placement in wave.start:
                        self._start(placement, wanted)
                    for name in wave.stop:
                        self._tended[name].is_draining = True
                        stops.create_task(self._stop(name), name=f"stop {name}")
                    self._changed.set()
                    if change.steps(self._running()).is_empty:
                        return
                    self._say_what_is_waited_for()
                    await within(None, self._stirred)
        except BaseExceptionGroup as several:
            raise_first(several)

    def _running(self) -> dict[str, Running]:
        return {
            name: Running(
                each.made.placement, each.made.terms, each.instance.state is InstanceState.SERVING, each.is_draining
            )
            for name, each in self._tended.items()
        }

    def _start(self, placement: Placement, wanted: Wanted) -> None:
        is_embedding = wanted.shapes[placement.pool].is_embedding
        self._tend(Made(placement, 0, wanted.terms.get(placement.pool, ""), is_embedding))

    def _tend(self, made: Made, pid: int | None = None, before: Instance | None = None) -> Tended:
        assert self._group is not None
        name = made.placement.instance
        tended = Tended(made, self._means, pid=pid, before=before)
        if made.port:
            self._means.ports.add(made.port)
        self._tended[name] = tended
        self._tasks[name] = self._group.create_task(tended.run(), name=f"tend {name}")
        return tended

    async def _stop(self, name: InstanceId) -> None:
        """Wait for what it is answering, up to a bound; then stop it, unless something newer is wanted."""
        tended = self._tended[name]
        if not await self._has_drained(tended.instance):
            return
        task = self._tasks[name]
        task.cancel()
        await asyncio.wait((task,))
        await self._keeper.stop(UNIT_PREFIX + name)
        tended.forget_port()
        self._ward.drop(name)
        del self._tended[name], self._tasks[name]
        self._on_change()

    async def _has_drained(self, instance: Instance) -> bool:
        """Wait until nothing is in flight there, once gateways were told; False: something newer is wanted.

        While the store is away gateways send on what they know: nothing may be stopped before they can be told.
        """
        told_s: float | None = None
        while not self._replan.is_set():
            try:
                if told_s is None:
                    await self._publisher.publish()
                    told_s = time.monotonic()
                in_flight = (await self._publisher.in_flight(instance.pool)).get(instance.id, 0)
                if not in_flight and self._publisher.has_settled:
                    return True
            except StoreError:
                told_s = None
            if told_s is not None and time.monotonic() - told_s > DRAIN_TIMEOUT_S:
                log.warning("%s still answers after %g s; stopping it", instance.id, DRAIN_TIMEOUT_S)
                return True
            await within(DRAIN_LOOK_EVERY_S, self._replan)  # Redis has no event for the last lease
        return False

    def _resume(self) -> None:
        """Whatever an earlier change was draining serves again, until this one drains it anew."""
        for name, tended in list(self._tended.items()):
            tended.is_draining = False
            if self._tasks[name].done():  # its stop failed half-way
                self._tend(tended.made)

    def _say_what_is_waited_for(self) -> None:
        late = [each.instance for each in self._tended.values()]
        told = [f"{each.id} is {each.state}: {each.reason}" for each in late if each.state is not InstanceState.SERVING]
        self._problem = f"the change waits until these serve: {'; '.join(told)}"

    def _say(self, problem: str) -> None:
        if problem != self._problem:
            log.error("%s", problem)
        self._problem = problem

    # --- follow the keeper ------------------------------------------------------------------------------------------

    async def _follow_units(self) -> None:
        async for event in self._keeper.events():
            self._on_unit(event)

    def _on_unit(self, event: UnitEvent) -> None:
        tended = self._tended.get(event.unit.removeprefix(UNIT_PREFIX))
        if tended is None or not event.unit.startswith(UNIT_PREFIX):
            return
        if event.kind is EventKind.STARTED:
            tended.process_is(event.pid)
        elif event.kind is EventKind.EXITED:
            # Who ends by itself says why last; who is killed was in the middle of something.
            said = event.lines[-1:] if event.exit is not None and event.exit.code else ()
            tended.process_is(None, ": ".join((str(event.exit), *said)))

    async def _look_at_units(self) -> None:
        """Events can be missed, before the first is heard above all: what two looks in a row show is so."""
        while True:
            units = {each.name: each for each in await self._keeper.list()}
            odd: set[tuple[str, int | None]] = set()
            for name, tended in self._tended.items():
                unit = units.get(UNIT_PREFIX + name)
                if not tended.has_unit or (unit is not None and unit.pid == tended.pid):
                    continue
                look = (name, unit.pid if unit is not None else None)
                odd.add(look)
                if look not in self._odd:
                    continue
                if unit is None:
                    tended.unit_is_gone()
                else:
                    tended.process_is(unit.pid)
            self._odd = odd
            await asyncio.sleep(HEARTBEAT_S)

    # --- who answers nobody ------------------------------------------------------------------------------------------

    def _serving(self) -> Mapping[PoolName, Sequence[InstanceId]]:
        found: dict[PoolName, list[InstanceId]] = {}
        for tended in self._tended.values():
            if tended.instance.state is InstanceState.SERVING:
                found.setdefault(tended.instance.pool, []).append(tended.instance.id)
        return found

    def _suspected(self, pool: PoolName, instance: InstanceId, why: Suspicion) -> None:
        self._tended[instance].is_suspected(why)

    async def _is_idle(self, instance: Instance) -> bool:
        try:
            return not (await self._publisher.in_flight(instance.pool)).get(instance.id, 0)
        except StoreError:
            return False

    # --- publish ------------------------------------------------------------------------------------------------------

    def _on_change(self) -> None:
        self._changed.set()
        self._stirred.set()

    async def _publish_changes(self) -> None:
        await self._publisher.keep(self._changed, self._pool_names)

    def _snapshot(self, version: int) -> Snapshot:
        pools = tuple(self._pool(name) for name in self._pool_names())
        refused = tuple(f"{pool}: {why}" for pool, why in self._refused.items())
        problems = tuple(f"{each.node}: {problem}" for each in self._facts for problem in each.problems)
        told = (self._problem,) if self._problem else ()
        notes = self._notes + told + refused + problems + self._ward.events
        return Snapshot(version, time.time_ns() // 1_000_000, pools, self._facts, notes)

    def _pool_names(self) -> tuple[PoolName, ...]:
        """Those of the settings, and before and after them those that still run."""
        named = [
            *(self._wanted.shapes if self._wanted else ()),
            *(t.made.placement.pool for t in self._tended.values()),
        ]
        return tuple(PoolName(each) for each in dict.fromkeys(named))

    def _pool(self, name: PoolName) -> Pool:
        members = [each for each in self._tended.values() if each.made.placement.pool == name]
        described: list[Mapping[str, Any]] = [each.details for each in members if each.details]
        shape = self._shape_of(name)
        is_embedding = shape.is_embedding if shape else any(each.made.is_embedding for each in members)
        context = members[0].made.placement.context if members else 0
        return Pool(
            name, context, is_embedding, tuple(each.instance for each in members), described[0] if described else {}
        )

    def _shape_of(self, pool: str) -> ModelShape | None:
        return self._wanted.shapes.get(pool) if self._wanted else None
