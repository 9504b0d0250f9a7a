"""The controller: instances brought to what is asked for on every node, kept so, and published to the gateways.

It owns no process: the keeper of this machine and systemd on hosts start and restart them. It may be killed at any
moment; the next one finds the running instances by the marks in their processes, takes their states from what was last
published, and goes on. What a store, a host or an instance does wrong never ends it; without the keeper of this machine
it can do nothing, and ends.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from random import SystemRandom
from typing import Protocol

from orchestrator.core.errors import HostError, OrchestratorError, StoreError
from orchestrator.core.model import (
    Instance,
    InstanceId,
    InstanceState,
    ModelShape,
    NodeFacts,
    NodeName,
    Placement,
    PoolName,
    Snapshot,
)
from orchestrator.core.patience import Suspicion
from orchestrator.fleet.apply import Change, silenced
from orchestrator.fleet.curing import Suspicions, Ward
from orchestrator.fleet.fenced import FencedApi, Leading
from orchestrator.fleet.following import Following
from orchestrator.fleet.following_load import FollowingLoad, Loads, Told
from orchestrator.fleet.heeding import Heeding
from orchestrator.fleet.instances import DRAINED, Instances
from orchestrator.fleet.inventory import blind_spots
from orchestrator.fleet.keepers import Keepers
from orchestrator.fleet.made import Made
from orchestrator.fleet.means import Means
from orchestrator.fleet.model_sites import ModelSite, sites_by_node
from orchestrator.fleet.order import Order, World
from orchestrator.fleet.own import usable_bytes
from orchestrator.fleet.picture import pool_names, pool_of, problems_of
from orchestrator.fleet.ports import Ports
from orchestrator.fleet.progress import Progress
from orchestrator.fleet.publishing import HEARTBEAT_S, Publisher, Publishing
from orchestrator.fleet.stopping import has_drained, has_ended, has_finished
from orchestrator.fleet.tasks import raise_first, within
from orchestrator.fleet.wanted import Wanted

log = logging.getLogger(__name__)

# What could not be done is tried again: a pool without room, a driver that was sick, a Redis that was away.
TRY_AGAIN_S = 30.0


class StewardStore(Publishing, Suspicions, Loads, Leading, Protocol):
    """What the store is asked for here."""


class Steward:
    """One controller."""

    def __init__(self, keepers: Keepers, store: StewardStore, world: World) -> None:
        self._keepers, self._world = keepers, world
        self._api = FencedApi(store.check, world.contexts)
        self._ward = Ward(store, lambda: world.care().cures_an_hour, self._on_change, world.record)
        self._order = Order(None)
        self._instances = Instances(keepers, world.record, self._on_change, lambda: self._order.deployment)
        self._change: Change | None = None  # the way to what was ordered
        self._problem = ""  # why what is wanted is not, or not all, in force
        self._changed, self._stirred, self._replan = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._is_told = asyncio.Event()  # somebody said what should run, or nobody can
        self._publisher = Publisher(store, self._snapshot)
        self._following = Following(keepers, self._instances)
        self._progress = Progress(self._instances.tell, world.deployed)
        self._load = FollowingLoad(
            store,
            lambda: (each.instance for each in self._instances),
            lambda: self._publisher.has_settled,
            world.pace,
            Told(self._instances.tell, self.replan),
        )
        self._heeding = Heeding(
            world.wished,
            self._instances,
            keepers,
            self._publisher,
            self._api.rests,
            lambda: world.care().drain_s,
        )
        self._unloadable: frozenset[InstanceId] = frozenset()
        self._pulling: defaultdict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)

    # --- for app ---------------------------------------------------------------------------------------------------

    def replan(self) -> None:
        """Something else may be wanted: work it out anew. A change under way is given up for it."""
        self._replan.set()
        self._stirred.set()

    @property
    def placements(self) -> tuple[Placement, ...]:
        """Of what runs, or is being started or stopped."""
        return self._instances.placements

    async def models_known(self) -> None:
        """Wait until it is known what runs, and what is to."""
        await self._is_told.wait()

    def model_sites(self) -> Sequence[ModelSite]:
        """Every folder of models that instances use."""
        return sites_by_node((each.instance for each in self._instances), self._turn_of)

    def _turn_of(self, instance: Instance) -> asyncio.Lock:
        """Of who pulls on its node: the same as for instances that pull their own model."""
        site = self._world.site_of(instance.node)
        return self._pulling[site.host, site.models_dir]

    async def run(self, published: Snapshot | None) -> None:
        """Until cancelled. `published` is what an earlier controller published last. Raises HostError without a keeper.

        Raises OrchestratorError, too, where nothing runs and nothing can be planned: there is nothing to keep.
        """
        self._publisher.begin_after(published)
        self._progress.go_on_with(published.deployment if published is not None else 0)
        try:
            async with asyncio.TaskGroup() as group:
                self._instances.begin(group, self._means(), published)
                group.create_task(self._following.run(), name="steward follow keepers")
                await self._following.first_looks()
                self._instances.adopt_unseen()
                self._load.go_on_with(published, {each.pool for each in self.placements})
                for work in (self._publish_changes, self._reconcile_when_due, self._follow_progress):
                    group.create_task(work(), name=f"steward {work.__name__}")
                watch = self._ward.watch(lambda: self._instances.serving, self._suspected)
                group.create_task(watch, name="steward ward")
                group.create_task(self._heeding.run(), name="steward heeding")
                group.create_task(self._load.run(), name="steward load")
        except BaseExceptionGroup as several:
            raise_first(several)

    async def close(self) -> None:
        await self._api.close()

    def _means(self) -> Means:
        return Means(
            keepers=self._keepers,
            api=self._api,
            site_of=self._world.site_of,
            locate=self._world.locate,
            unit_of=self._world.unit_of,
            shape_of=self._shape_of,
            on_change=self._saw,
            ward=self._ward,
            is_idle=self._is_idle,
            ports=Ports(SystemRandom()),
            taken_ports=self._taken_ports,
            may_start=self._is_told,
            pulling=self._pulling,
        )

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
                if not len(self._instances) and not isinstance(why, StoreError) and not self._order.is_agreed:
                    raise
                self._say(str(why))
                again_s = HEARTBEAT_S if isinstance(why, StoreError) else TRY_AGAIN_S
            else:
                self._problem = ""
                again_s = TRY_AGAIN_S if self._refused else None
            self._is_told.set()
            self._changed.set()

    @property
    def _wanted(self) -> Wanted | None:
        return self._order.wanted

    @property
    def _refused(self) -> Mapping[PoolName, str]:
        return dict(self._wanted.plan.refused) if self._wanted is not None else {}

    async def _reconcile(self, *, may_stop: bool) -> None:
        """Learn what is wanted and make it so. Raises OrchestratorError; what runs then goes on as it was.

        Without `may_stop` the settings are the same: room may have come, and what lost some of it is left alone.
        """
        await self._publisher.publish()  # who does not lead changes nothing
        self._heeding.look()
        current = self.placements
        numbers = self._load.numbers
        order = await self._world.want(current, self._instances.cannot_load, numbers)
        wanted = order.wanted
        if wanted is None:
            self._order = order
            return
        facts = self._world.facts()
        if not order.is_agreed:
            self._check(wanted, facts, current)
        running = self._instances.running(order.unfit)
        loaded = [each.placement for each in running.values() if each.is_serving or each.is_leaving]
        usable = usable_bytes(facts, loaded)
        change = Change(wanted.plan.placements, wanted.terms, running, usable, self._world.care().at_once)
        if not may_stop and not order.is_agreed and change.steps(running).stop:
            return
        for pool, why in wanted.plan.refused:
            if self._refused.get(pool) != why:
                log.warning("%s: %s", pool, why)
        self._order, self._change = order, change
        self._load.take_up(order, numbers)
        if order.deployment:
            until_s = time.monotonic() + self._world.care().serve_s
            self._progress.take_up(order.deployment, is_done=order.is_done, until_s=until_s)
        await self._roll_out(change, order)

    def _check(self, wanted: Wanted, facts: Sequence[NodeFacts], current: Sequence[Placement]) -> None:
        """Raises HostError for a plan that nobody agreed to and that would cost what runs too much."""
        if blind := blind_spots(facts, current):
            raise HostError("\n".join(blind))
        refused = dict(wanted.plan.refused)
        if silent := silenced(wanted.plan.placements, wanted.shapes, self._instances.running()):
            reasons = "\n".join(f"{pool}: {refused.get(pool, 'no place')}" for pool in silent)
            raise HostError(f"the settings are not applied, all instances stay as they are:\n{reasons}")

    async def _roll_out(self, change: Change, order: Order) -> None:
        """Wave by wave, until all is as wanted or something newer is. Raises HostError where one cannot be stopped."""
        assert order.wanted is not None
        self._resume()
        try:
            async with asyncio.TaskGroup() as stops:
                while not self._replan.is_set():
                    self._stirred.clear()
                    wave = change.wave(self._instances.running(order.unfit), self._keepers.away)
                    for placement in wave.start:
                        self._start(placement, order.wanted)
                    for name in wave.stop:
                        self._instances.leaves(name, is_leaving=True)
                        stops.create_task(self._stop(name), name=f"stop {name}")
                    self._is_told.set()
                    self._changed.set()
                    if change.steps(self._instances.running(order.unfit)).is_empty:
                        return
                    self._problem = f"the change waits until these serve: {'; '.join(self._waits_for())}"
                    await within(None, self._stirred)
        except BaseExceptionGroup as several:
            raise_first(several)

    def _start(self, placement: Placement, wanted: Wanted) -> None:
        is_embedding = wanted.shapes[placement.pool].is_embedding
        self._instances.tend(Made(placement, 0, wanted.terms.get(placement.pool, ""), is_embedding))

    async def _stop(self, name: InstanceId) -> None:
        """Wait for what it is answering, up to a bound; then stop it, unless something newer is wanted."""
        tended = self._instances[name]
        began_s = time.monotonic()
        if not await has_drained(tended.instance, self._publisher, self._replan, lambda: self._world.care().drain_s):
            return
        with tended.paused():
            left_s = self._world.care().drain_s - (time.monotonic() - began_s)
            if tended.serves and not await has_finished(tended.instance, self._api.rests, self._replan, left_s):
                return
            await self._instances.leave_alone(name)
        if await has_ended(tended.made.unit, self._keepers.of(tended.instance.node), self._replan):
            self._ward.drop(name)
            self._instances.forget(name)

    def _resume(self) -> None:
        """Whatever an earlier change was draining serves again, until this one drains it anew."""
        for each in self._instances:
            self._instances.leaves(each.instance.id, is_leaving=False)

    def _waits_for(self) -> list[str]:
        """What is not as it should be, a sentence each."""
        late = [each.instance for each in self._instances if each.resting != DRAINED]
        return [f"{each.id} is {each.state}: {each.reason}" for each in late if each.state is not InstanceState.SERVING]

    async def _follow_progress(self) -> None:
        while True:
            if self._order.deployment:
                self._progress.look(self._left_to_do(), time.monotonic())
            await asyncio.sleep(HEARTBEAT_S)

    def _left_to_do(self) -> list[str]:
        """Empty once just what is wanted runs, and all of it serves."""
        if self._change is None:
            return ["it has not been taken up"]
        left = self._change.steps(self._instances.running(self._order.unfit))
        begun = [f"{each.instance} has not begun" for each in left.start if each.instance not in self._instances]
        ended = [f"{name} has not ended" for name in left.stop]
        return [*self._waits_for(), *begun, *ended, *self._refused.values()]

    def _say(self, problem: str) -> None:
        if problem != self._problem:
            log.error("%s", problem)
        self._problem = problem

    # --- seen of instances --------------------------------------------------------------------------------------------

    def _saw(self, instance: Instance) -> None:
        """An instance is otherwise than it was; where it turned out not to load, it may have to go elsewhere."""
        self._instances.saw(instance)
        unloadable = frozenset(self._instances.cannot_load)
        if not self._unloadable.issuperset(unloadable):
            self.replan()
        self._unloadable = unloadable

    def _on_change(self) -> None:
        self._changed.set()
        self._stirred.set()

    def _taken_ports(self, node: NodeName) -> Collection[int]:
        """Ports of servers there that are not ours."""
        servers = [one for each in self._world.facts() if each.node == node for one in each.ollamas]
        return {each.port for each in servers if each.port is not None and not each.is_ours}

    def _suspected(self, pool: PoolName, instance: InstanceId, why: Suspicion) -> None:
        self._instances[instance].is_suspected(why)

    async def _is_idle(self, instance: Instance) -> bool:
        try:
            return not (await self._publisher.in_flight(instance.pool)).get(instance.id, 0)
        except StoreError:
            return False

    # --- publish ------------------------------------------------------------------------------------------------------

    async def _publish_changes(self) -> None:
        await self._publisher.keep(self._changed, self._pool_names)

    def _snapshot(self, version: int) -> Snapshot:
        pools = tuple(
            pool_of(name, self._instances, self._shape_of(name), self._load.followed(name))
            for name in self._pool_names()
        )
        facts = self._world.facts()
        return Snapshot(
            version,
            time.time_ns() // 1_000_000,
            pools,
            facts,
            self._notes(facts),
            deployment=self._order.deployment,
            is_settled=self._is_settled(),
            unreachable=self._keepers.unreachable,
        )

    def _is_settled(self) -> bool:
        """Whether all that can be done now for the order was done."""
        running, away = self._instances.running(self._order.unfit), self._keepers.away
        return self._change is not None and self._change.steps(running, away).is_empty

    def _notes(self, facts: Sequence[NodeFacts]) -> tuple[str, ...]:
        """What the operator is to know."""
        told = (self._problem,) if self._problem else ()
        refused = tuple(f"{pool}: {why}" for pool, why in self._refused.items())
        short = tuple(each.shortfall for each in self._instances if each.shortfall)
        notes = self._world.notes() + self._order.notes + told + refused + self._load.notes
        return notes + tuple(self._keepers.unreachable.values()) + problems_of(facts) + short + self._ward.events

    def _pool_names(self) -> tuple[PoolName, ...]:
        return pool_names(self._wanted.shapes if self._wanted else (), self._instances)

    def _shape_of(self, pool: str) -> ModelShape | None:
        return self._wanted.shapes.get(pool) if self._wanted else None
