"""A world for the steward: a real keeper, a real Valkey, simulated instances as real processes; all of it ends here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil

from orchestrator.app.published import PublishedCluster
from orchestrator.core.cards import find_card, parse_cards
from orchestrator.core.model import (
    Engine,
    Event,
    InstanceId,
    InstanceState,
    NodeFacts,
    NodeName,
    Placement,
    PoolName,
    Snapshot,
)
from orchestrator.core.numbers import Followed
from orchestrator.core.placement.replicas import Pace
from orchestrator.core.wishes import Wishes
from orchestrator.fleet.engines import LocalEngine, simulator_unit
from orchestrator.fleet.heeding import Wished
from orchestrator.fleet.inventory import simulated_facts
from orchestrator.fleet.keepers import Keepers, LocalKeeping
from orchestrator.fleet.means import Site
from orchestrator.fleet.order import Care, Order
from orchestrator.fleet.order import World as Ways
from orchestrator.fleet.seats import seat_for
from orchestrator.fleet.steward import Steward
from orchestrator.fleet.wanted import Wanted, numbers_of, want
from orchestrator.nodes.keeper import Keeper
from orchestrator.nodes.keeper_units import Unit, UnitEvent
from orchestrator.nodes.simulator.config import config_for
from orchestrator.settings import ClusterSettings
from orchestrator.store import cluster, pools
from orchestrator.store.connection import Connection
from tests import waiting
from tests.store.playing import Server

TIMEOUT_S = 60.0
SMALL, FULL = "llama3.2:3b", "llama3.1:8b"
HERE = NodeFacts(
    node=NodeName("sim"),
    hostname="here",
    cpu_model="",
    cpu_count=8,
    ram_total_bytes=64 * 2**30,
    ram_free_bytes=60 * 2**30,
    disk_free_bytes=500 * 2**30,
)


def settings_of(**models: Mapping[str, Any]) -> ClusterSettings:
    """On two simulated cards; `small` and `full` are the two models."""
    names = {"small": SMALL, "full": FULL}
    nodes = [{"name": "sim", "simulate": "2x RTX 4090"}]
    named = {names.get(name, name): fields for name, fields in models.items()}
    return ClusterSettings.model_validate({"nodes": nodes, "models": named})


class Recorded(PublishedCluster):
    """The real store, and all that went into it."""

    def __init__(self, connection: Connection, holder: str) -> None:
        async def nothing_lost() -> bool:
            return False

        super().__init__(connection, holder, nothing_lost, is_simulated=True)
        self.snapshots: list[Snapshot] = []

    async def publish(self, snapshot: Snapshot) -> None:
        await super().publish(snapshot)
        self.snapshots.append(snapshot)


class Controller:
    """One steward at work; `kill` leaves everything as it is, as SIGKILL would."""

    def __init__(self, world: World, store: Recorded) -> None:
        self.world, self.store = world, store
        site = Site(is_simulated=world.facts is None)
        ways = Ways(
            want=world.order,
            unit_of=lambda placement, port: world.unit_of(placement, port),
            site_of=lambda node: site,
            facts=lambda: world.seen,
            care=lambda: Care(cures_an_hour=world.cures_an_hour, drain_s=world.drain_s),
            notes=lambda: ("SIMULATED",),
            record=world.happened.append,
            wished=Wished(lambda: world.wishes, world.restarted.append),
            pace=lambda: world.pace,
            locate=lambda node: world.locate(node),
        )
        self.steward = Steward(Keepers(world.client), store, ways)
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> Controller:
        published = await cluster.read(self.world.connection)
        self.task = asyncio.create_task(self.steward.run(published))
        return self

    async def kill(self) -> None:
        assert self.task is not None
        self.task.cancel()
        await asyncio.wait((self.task,))
        await self.steward.close()

    def slots(self, pool: str = SMALL) -> int:
        """What the last snapshot offers."""
        return offered_slots(self.store.snapshots[-1], pool) if self.store.snapshots else 0

    def reasons(self) -> str:
        last = self.store.snapshots[-1]
        return " | ".join(f"{each.state} {each.reason}" for pool in last.pools for each in pool.instances)


class World:
    def __init__(self, state: Path, server: Server) -> None:
        self.state, self.server = state, server
        self.events: list[UnitEvent] = []
        self.keeper = Keeper(state, self.events.append)
        self.client = LocalKeeping(state / "keeper.sock")
        self.connection = Connection(server.url, name="controller")
        self.settings = settings_of(small={"replicas": 2})
        self.facts: tuple[NodeFacts, ...] | None = None
        self.seen: tuple[NodeFacts, ...] = ()  # at the last look
        self.happened: list[Event] = []
        self.wishes = Wishes()
        self.restarted: list[str] = []
        self.wanted: Wanted | None = None
        self.pace = Pace()
        self.speed, self.is_pulled = 10_000.0, True
        self.cures_an_hour, self.drain_s = 4, 120.0
        self.ports: dict[str, int] = {}  # to be given instead of the chosen one, once each
        self.controllers: list[Controller] = []

    async def __aenter__(self) -> World:
        await self.keeper.open()
        await self.connection.open(20)
        return self

    async def __aexit__(self, *_: object) -> None:
        for each in self.controllers:
            await each.kill()
        pids = [each.pid for each in self.keeper.status() if each.pid]
        await self.keeper.close()
        await self.connection.close()
        assert not [pid for pid in pids if psutil.pid_exists(pid)]

    # --- what app hands to the steward -------------------------------------------------------------------------------

    async def order(
        self,
        current: Sequence[Placement],
        cannot_load: Mapping[InstanceId, str],
        followed: Mapping[PoolName, Followed],
    ) -> Order:
        wanted, self.seen = await self.want(current, followed)
        return Order(wanted)

    async def want(
        self, current: Sequence[Placement], followed: Mapping[PoolName, Followed] = MappingProxyType({})
    ) -> tuple[Wanted, tuple[NodeFacts, ...]]:
        facts = self.facts or self.played_facts()
        numbers = numbers_of(self.settings, followed, current)
        self.wanted = want(self.settings, facts, LocalEngine(Engine.OLLAMA), current, numbers=numbers)
        return self.wanted, facts

    def played_facts(self) -> tuple[NodeFacts, ...]:
        cards = parse_cards(self.settings.nodes[0].simulate or "")
        return (simulated_facts(NodeName("sim"), cards, HERE),)

    def unit_of(self, placement: Placement, port: int) -> Unit:
        assert self.wanted is not None
        uuids = placement.accelerators
        config = config_for(
            instance=placement.instance,
            host="127.0.0.1",
            port=self.ports.pop(placement.instance, port),
            card=find_card("RTX 4090"),
            card_id=uuids[0],
            model=placement.pool,
            shape=self.wanted.shapes[placement.pool],
            footprint=placement.footprint,
            slots=placement.slots,
            context=placement.context,
            sim_dir=self.state / "sim",
            seat=seat_for(placement, self.wanted.plan, self.state / "sim"),
            kv_type=self.settings.models[placement.pool].kv_cache,
            speed=self.speed,
            is_pulled=self.is_pulled,
        )
        return simulator_unit(placement, config)

    async def locate(self, node: NodeName) -> None:
        """All of them are this machine."""

    # --- for tests ---------------------------------------------------------------------------------------------------

    async def controller(self, holder: str = "this machine") -> Controller:
        found = Controller(self, Recorded(self.connection, holder))
        self.controllers.append(found)
        return await found.start()

    async def serving(self, slots: int, pool: str = SMALL) -> Controller:
        """A controller whose pool serves with so many slots."""
        found = await self.controller()
        await until(lambda: found.slots(pool) == slots, f"{slots} slots of {pool}", found)
        return found

    def pids(self) -> dict[str, int | None]:
        return {each.name.removeprefix("engine-"): each.pid for each in self.keeper.status()}

    async def offered(self, pool: str = SMALL) -> dict[InstanceId, int]:
        """What Redis grants."""
        load = await pools.pool_load(self.connection, PoolName(pool))
        return {each.instance: each.slots for each in load.instances if each.slots}


async def until(condition: Callable[[], Any], what: str, controller: Controller | None = None) -> None:
    """Wait for a condition, not for a while."""

    async def look() -> Any:
        if controller is not None and controller.task is not None and controller.task.done():
            await controller.task
        return condition()

    def why() -> str:
        said = controller.reasons() if controller is not None and controller.store.snapshots else ""
        return f"{what}; {said}"

    await waiting.until(look, why, within_s=TIMEOUT_S)


def offered_slots(snapshot: Snapshot, pool: str = SMALL) -> int:
    found = snapshot.pool(pool)
    return found.slots_serving if found is not None else 0


def never_silent(snapshots: Sequence[Snapshot], pool: str = SMALL) -> bool:
    """Whether the pool offered slots in every one of them."""
    return all(offered_slots(each, pool) > 0 for each in snapshots)


def states(controller: Controller, pool: str = SMALL) -> set[InstanceState]:
    found = controller.store.snapshots[-1].pool(pool)
    return {each.state for each in found.instances} if found is not None else set()


def kill(pid: int | None) -> None:
    assert pid is not None
    with suppress(psutil.NoSuchProcess):
        psutil.Process(pid).kill()
