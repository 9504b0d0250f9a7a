"""A fleet of our own instances, put together: this machine's, and those on the hosts of the settings.

It knows what differs between engines and between this machine and hosts: how an instance is started, where it listens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from orchestrator.app import settings_in_use, wishes
from orchestrator.app.cards import CardGauges
from orchestrator.app.deployed import Deployed
from orchestrator.app.hosts import Hosts
from orchestrator.app.paths import StatePaths
from orchestrator.app.speaking_tls import contexts_of
from orchestrator.core.cards import find_card
from orchestrator.core.chores import Chore, ChoreKind
from orchestrator.core.dialects.parse import canonical_model_name
from orchestrator.core.errors import HostError
from orchestrator.core.model import Engine, InstanceId, NodeFacts, NodeName, Placement, PoolName, Snapshot
from orchestrator.core.numbers import Followed
from orchestrator.core.placement.replicas import pace_of
from orchestrator.fleet.chronicle import Chronicle
from orchestrator.fleet.engines import LocalEngine, find_engine, llama_cpp_unit, ollama_host_unit, ollama_unit
from orchestrator.fleet.engines import simulator_unit as played_unit
from orchestrator.fleet.heeding import Wished
from orchestrator.fleet.inventory import Sight, take_inventory
from orchestrator.fleet.keepers import Keepers, LocalKeeping
from orchestrator.fleet.made import OVER_TLS
from orchestrator.fleet.means import Site
from orchestrator.fleet.model_sites import ModelSite, kept_by
from orchestrator.fleet.order import Care, Order, World
from orchestrator.fleet.own import own_bytes
from orchestrator.fleet.seats import seat_for
from orchestrator.fleet.sightings import Sightings
from orchestrator.fleet.steward import Steward, StewardStore
from orchestrator.fleet.tasks import raise_first
from orchestrator.fleet.wanted import Wanted, engine_of, numbers_of, want, weights_file
from orchestrator.nodes.host_keys import HostKeys
from orchestrator.nodes.keeper_units import Unit
from orchestrator.nodes.names import Names
from orchestrator.nodes.simulator.config import config_for
from orchestrator.nodes.weights import ollama_models_dir
from orchestrator.settings import ClusterSettings, NodeSettings
from orchestrator.settings.syntax import ssh_host_and_port


class OwnFleet:
    """`settings`: those in use now. To be built while a loop runs."""

    def __init__(self, paths: StatePaths, store: StewardStore, settings: Callable[[], ClusterSettings]) -> None:
        self._paths, self._settings = paths, settings
        self._is_simulated = any(node.simulate for node in settings().nodes)
        self._engine = LocalEngine(Engine.OLLAMA) if self._is_simulated else _engine(settings())
        self._wanted: Wanted | None = None
        self._facts: tuple[NodeFacts, ...] = ()  # of nodes that are this machine
        record = Chronicle(paths.events).record
        self._deployed = Deployed(paths, settings, record)
        self._here = LocalKeeping(paths.keeper_socket)
        place = settings_in_use.owner(paths)
        self._names = Names()
        self._hosts = Hosts(HostKeys(paths.known_hosts), place, lambda: self._deployed.number, self._saw, store)
        self._keepers = Keepers(self._here, self._hosts.take(settings()))
        world = World(
            want=self._want,
            unit_of=self._unit_of,
            site_of=self._site_of,
            locate=self._locate,
            facts=lambda: (*self._facts, *self._sightings.facts),
            care=self._care,
            notes=lambda: self._notes,
            record=record,
            deployed=self._deployed.serves,
            wished=Wished(lambda: wishes.read(paths), lambda name: wishes.restarted(paths, name)),
            pace=lambda: pace_of(self._settings().demand.quiet_s),
            contexts=contexts_of(paths, settings),
        )
        self._steward = Steward(self._keepers, store, world)
        self._sightings = Sightings(
            record=record,
            on_change=self._steward.replan,
            placements=lambda: (*self._steward.placements, *self._deployed.placements),
            user=lambda: settings().deploy.user,
        )
        self._cards = CardGauges(self._looked_at, self._seen, ollama_models_dir())

    async def run(self, published: Snapshot | None) -> None:
        """Until cancelled. Raises OrchestratorError where nothing can go on."""
        await self._names.find_all((NodeName(each.name), _host_of(each)) for each in self._settings().hosts)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._hosts.watch(), name="watch hosts")
                group.create_task(self._sightings.watch(), name="sightings")
                group.create_task(self._cards.run(), name="cards as metrics")
                group.create_task(self._steward.run(published), name="steward")
        except BaseExceptionGroup as several:
            raise_first(several)

    def replan(self) -> None:
        """The settings changed, or what is deployed."""
        in_use = {each.node for each in self._steward.placements}
        self._keepers.set_hosts(self._hosts.take(self._settings()), in_use)
        self._steward.replan()

    async def close(self) -> None:
        await self._steward.close()

    # --- models on its disks ------------------------------------------------------------------------------------------

    async def models_known(self) -> None:
        """Wait until it is known what runs, and what is to."""
        await self._steward.models_known()

    def model_sites(self) -> Sequence[ModelSite]:
        """Every folder of models that instances use."""
        return self._steward.model_sites()

    def why_kept(self, model: str) -> str:
        """Why a model must stay what it is; empty: it may be deleted or replaced."""
        if why := kept_by(self._settings(), model):
            return why
        runs = canonical_model_name(model) in {canonical_model_name(each.pool) for each in self._steward.placements}
        return f"model '{model}' is deployed: `ollamactl deploy` without it first" if runs else ""

    async def models_changed(self, chore: Chore) -> str:
        """What is on the disks is not served for that: the settings say what is."""
        model = str(chore.body.get("model", ""))
        if chore.kind is ChoreKind.PUSH or kept_by(self._settings(), model):
            return ""
        return f"{model} is on every node; to have it served, name it under `models` in cluster.yaml"

    # --- what should run ----------------------------------------------------------------------------------------------

    async def _want(
        self,
        current: Sequence[Placement],
        cannot_load: Mapping[InstanceId, str],
        followed: Mapping[PoolName, Followed],
    ) -> Order:
        settings = self._settings()
        self._facts = await take_inventory(settings.nodes, ollama_models_dir())
        if settings.hosts:
            self._engine = engine_of(settings)  # this machine may have become one of the nodes
            facts = (*self._facts, *self._sightings.facts)
            order = self._deployed.order(facts, self._sightings, cannot_load, followed)
            self._wanted = order.wanted
            return order
        leaders = [each.pid for each in await self._here.list() if each.pid and each.name.startswith("engine-")]
        own = await asyncio.to_thread(own_bytes, self._facts, leaders, current)
        numbers = numbers_of(settings, followed, current)
        work = partial(want, settings, self._facts, self._engine, current, own, numbers=numbers)
        self._wanted = await asyncio.to_thread(work)
        return Order(self._wanted)

    def _looked_at(self) -> tuple[NodeSettings, ...]:
        """Nodes that are this machine as it is."""
        return tuple(each for each in self._settings().nodes if each.simulate is None)

    def _seen(self) -> tuple[NodeFacts, ...]:
        """Hosts as they are seen now, and what is played, which is as it was."""
        return (*self._sightings.facts, *(each for each in self._facts if each.is_simulated))

    def _saw(self, sight: Sight) -> None:
        self._sightings.saw(sight)

    def _care(self) -> Care:
        settings = self._settings()
        deploy = settings.deploy
        return Care(settings.limits.cures_an_hour, deploy.at_once, deploy.drain_s, deploy.serve_s)

    # --- how an instance is started -----------------------------------------------------------------------------------

    def _host(self, node: NodeName) -> NodeSettings | None:
        """The host behind a node; None: it is this machine, or was a host before the settings changed."""
        return next((each for each in self._settings().hosts if each.name == node), None)

    def _site_of(self, node: NodeName) -> Site:
        settings, host = self._settings(), self._host(node)
        if host is None:
            models_dir = str(ollama_models_dir())
            return Site(engine=self._engine.kind, is_simulated=self._is_simulated, models_dir=models_dir)
        address = self._names.known(_host_of(host))
        return Site(address, models_dir=host.models_dir, is_remote=True, ports=settings.deploy.ports)

    async def _locate(self, node: NodeName) -> None:
        if host := self._host(node):
            await self._names.find(node, _host_of(host))

    def _unit_of(self, placement: Placement, port: int) -> Unit:
        settings = self._settings()
        if host := self._host(placement.node):
            address = self._site_of(placement.node).host
            kv_type = self._deployed.kv_type(placement.pool)
            return ollama_host_unit(
                placement,
                host=address,
                port=port,
                kv_type=kv_type,
                models_dir=host.models_dir,
                is_over_tls=OVER_TLS in self._deployed.terms(placement.pool).split(),
            )
        model = settings.models[placement.pool]
        kv_type = self._deployed.kv_type(placement.pool) if settings.hosts else model.kv_cache
        assert self._wanted is not None
        shape = self._wanted.shapes[placement.pool]
        if self._is_simulated:
            return played_unit(placement, self._simulator_config(placement, port))
        if self._engine.kind is Engine.OLLAMA:
            return ollama_unit(placement, self._engine, port, kv_type)
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
            kv_type=self._settings().models[placement.pool].kv_cache,
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


def _host_of(node: NodeSettings) -> str:
    host, _ = ssh_host_and_port(node.address)
    return host


def _engine(settings: ClusterSettings) -> LocalEngine:
    return engine_of(settings) if settings.hosts else find_engine(settings.engine)
