"""The controller process, built from the settings in use: `python -m orchestrator.app.controller`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import click

from orchestrator import telemetry
from orchestrator.app import settings_in_use
from orchestrator.app.counts import set_gauges
from orchestrator.app.loop import run, until
from orchestrator.app.paths import StatePaths
from orchestrator.core.cards import find_card
from orchestrator.core.errors import HostError, OrchestratorError, StoreError
from orchestrator.core.model import Engine, InstanceId, NodeFacts, Placement, PoolName, Snapshot
from orchestrator.core.patience import Suspicion
from orchestrator.core.residency import Pressure
from orchestrator.fleet.engines import LocalEngine, find_engine, llama_cpp_unit, ollama_unit, simulator_unit
from orchestrator.fleet.given import GivenFleet
from orchestrator.fleet.inventory import take_inventory
from orchestrator.fleet.own import own_bytes
from orchestrator.fleet.seats import seat_for
from orchestrator.fleet.steward import Steward
from orchestrator.fleet.wanted import Wanted, want, weights_file
from orchestrator.nodes.keeper_client import KeeperClient
from orchestrator.nodes.keeper_units import Unit
from orchestrator.nodes.simulator.config import config_for
from orchestrator.nodes.weights import ollama_models_dir
from orchestrator.settings import ClusterSettings
from orchestrator.store import cluster, demand, pools, suspicion
from orchestrator.store.connection import Connection

log = logging.getLogger(__name__)

LEADER_TTL_S = 10.0
# A Redis that may have lost leases grants none for so long: gateways renew theirs first.
GRACE_S = 2.0


@click.command()
@click.option("--state", type=click.Path(path_type=Path), required=True)
def main(state: Path) -> None:
    """Keep the fleet until SIGTERM; SIGHUP reads the settings in use again."""
    telemetry.log_to_stderr("controller")
    try:
        sys.exit(run(Controller(StatePaths(state)).run))
    except OrchestratorError as why:
        log.error("%s", why)
        sys.exit(1)


class Controller:
    """Everything of the controller, built once."""

    def __init__(self, paths: StatePaths) -> None:
        self._paths = paths
        self._settings = settings_in_use.read(paths)
        self._connection = Connection(os.environ["OLM_REDIS"], name="controller")
        self._keeper = KeeperClient(paths.keeper_socket)
        # The keeper runs one controller of this place at a time: a killed one's successor leads on at once.
        holder = settings_in_use.place(paths)
        self._store = PublishedCluster(self._connection, holder, self._may_have_lost, is_simulated=self._is_simulated)
        self._engine = self._find_engine()
        self._wanted: Wanted | None = None
        self._facts: tuple[NodeFacts, ...] = ()

    async def run(self, stop: asyncio.Event) -> int:
        """Bring the fleet to what the settings ask for and keep it, until `stop`."""
        await self._connection.open(wait_s=30.0)
        telemetry.UP.set(1)
        fleet = self._fleet()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload, fleet)
        try:
            await until(stop, fleet.run(await cluster.read(self._connection)))
        finally:
            await fleet.close()
            await self._store.resign()
            await self._connection.close()
        return 0

    def _fleet(self) -> Steward | GivenFleet:
        """Who keeps instances of our own, or who watches those of others."""
        if self._settings.instances:
            return GivenFleet(store=self._store, settings=lambda: self._settings)
        return Steward(
            keeper=self._keeper,
            store=self._store,
            engine=self._engine.kind,
            is_simulated=self._is_simulated,
            want=self._want,
            unit_of=self._unit_of,
            notes=self._notes,
            cures_an_hour=lambda: self._settings.limits.cures_an_hour,
        )

    def _find_engine(self) -> LocalEngine:
        is_needless = self._is_simulated or bool(self._settings.instances)
        return LocalEngine(Engine.OLLAMA) if is_needless else find_engine(self._settings.engine)

    def _reload(self, fleet: Steward | GivenFleet) -> None:
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

    @property
    def _is_simulated(self) -> bool:
        return any(node.simulate for node in self._settings.nodes)

    # --- what differs between engines ---------------------------------------------------------------------------------

    async def _want(self, current: Sequence[Placement]) -> tuple[Wanted, tuple[NodeFacts, ...]]:
        settings: ClusterSettings = self._settings
        self._facts = await take_inventory(settings.nodes, ollama_models_dir())
        leaders = [each.pid for each in await self._keeper.list() if each.pid and each.name.startswith("engine-")]
        own = await asyncio.to_thread(own_bytes, self._facts, leaders, current)
        self._wanted = await asyncio.to_thread(want, settings, self._facts, self._engine, current, own)
        return self._wanted, self._facts

    def _unit_of(self, placement: Placement, port: int) -> Unit:
        model = self._settings.models[placement.pool]
        assert self._wanted is not None
        shape = self._wanted.shapes[placement.pool]
        if self._is_simulated:
            return simulator_unit(placement, self._simulator_config(placement, port))
        if self._engine.kind is Engine.OLLAMA:
            return ollama_unit(placement, self._engine, port, model.kv_cache)
        weights = weights_file(placement.pool, model, self._engine, is_simulated=False)
        if weights is None:
            raise HostError(f"models.{placement.pool}: no weights: name a GGUF file with `gguf:`, or `make install`")
        return llama_cpp_unit(placement, weights, port, is_embedding=shape.is_embedding)

    def _simulator_config(self, placement: Placement, port: int) -> Path:
        assert self._wanted is not None
        cards = {card.uuid: card for node in self._facts for card in node.accelerators}
        uuids = placement.accelerators
        return config_for(
            instance=placement.instance,
            host="127.0.0.1",
            port=port,
            card=find_card(cards[uuids[0]].name) if uuids else None,
            card_id=uuids[0] if uuids else "",
            model=placement.pool,
            shape=self._wanted.shapes[placement.pool],
            footprint=placement.footprint,
            slots=placement.slots,
            context=placement.context,
            sim_dir=self._paths.simulator,
            seat=seat_for(placement, self._wanted.plan, self._paths.simulator),
            kv_type=self._settings.models[placement.pool].kv_cache,
        )

    @property
    def _notes(self) -> tuple[str, ...]:
        if self._is_simulated:
            return ("SIMULATED: no engine answers here; times are those of the cards named, texts are played",)
        if self._engine.kind is Engine.LLAMA_CPP:
            return (
                "engine: llama.cpp on the CPU with SmolLM2-135M, a small brain: expect wrong answers; "
                "put `ollama` on PATH (ollama.com) and start again to have real models in its place",
            )
        return ()


class PublishedCluster:
    """The store as the steward needs it: publish as the leader, sweep, and say the load as metrics."""

    def __init__(
        self,
        connection: Connection,
        holder: str,
        may_have_lost: Callable[[], Awaitable[bool]],
        *,
        is_simulated: bool,
    ) -> None:
        self._connection, self._may_have_lost, self._is_simulated = connection, may_have_lost, is_simulated
        self._holder = holder
        self._grace_s: float | None = None
        connection.on_up(self._forget_grace)
        self._leadership: cluster.Leadership | None = None

    async def publish(self, snapshot: Snapshot) -> None:
        """Publish as the leader. Raises StoreError, also while another controller leads."""
        self._leadership = await cluster.lead(self._connection, self._holder, LEADER_TTL_S)
        if self._leadership is None:
            raise StoreError("another controller leads")
        if self._grace_s is None:
            self._grace_s = GRACE_S if await self._may_have_lost() else 0.0
        if not await cluster.publish(self._connection, self._leadership, snapshot, grace_s=self._grace_s):
            raise StoreError("another controller leads")

    def _forget_grace(self) -> None:
        """Redis is there again: it may be another one than before, or have lost what it had."""
        self._grace_s = None

    async def sweep(self, pool: PoolName) -> dict[InstanceId, int]:
        """End what is past its time; answer the calls in flight by instance."""
        await pools.sweep(self._connection, pool)
        load = await pools.pool_load(self._connection, pool)
        set_gauges((load,), self._is_simulated)
        return {each.instance: each.in_flight for each in load.instances}

    async def queued(self, pools: Sequence[PoolName]) -> dict[PoolName, int]:
        """Calls that wait, by pool."""
        return await demand.queued(self._connection, pools)

    async def pressure(self, instances: Mapping[PoolName, Sequence[InstanceId]]) -> dict[PoolName, Pressure]:
        """How pools are asked for."""
        return await demand.pressure(self._connection, instances)

    async def suspected(self, instances: Mapping[PoolName, Sequence[InstanceId]]) -> dict[InstanceId, Suspicion]:
        """Instances that gateways say answer nobody."""
        return await suspicion.suspected(self._connection, instances)

    async def acquit(self, pool: PoolName, instance: InstanceId) -> None:
        """It was seen to."""
        await suspicion.acquit(self._connection, pool, instance)

    async def resign(self) -> None:
        if self._leadership is not None and self._connection.is_up:
            await cluster.resign(self._connection, self._leadership)


if __name__ == "__main__":
    main()
