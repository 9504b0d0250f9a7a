"""What instances are tended with: their node's part of it, and what all of them share."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field

from orchestrator.core.loads import first_load_s
from orchestrator.core.model import Engine, Instance, ModelShape, NodeName, Placement
from orchestrator.fleet.curing import Ward
from orchestrator.fleet.keepers import Keepers
from orchestrator.fleet.made import Made
from orchestrator.fleet.ports import Ports
from orchestrator.nodes.engine_api import EngineApi
from orchestrator.nodes.keeper_units import Unit

# From a placement and a port to the unit that runs it: what differs between engines, handed in by `app`. Raises
# OrchestratorError, and LookupError for a pool that the settings no longer have.
UnitOf = Callable[[Placement, int], Unit]


# Has `site_of` know where a node is now. Raises HostError where nobody does.
Locate = Callable[[NodeName], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Site:
    """What instances of one node have in common. `ports` None: any that is free on this machine."""

    host: str = "127.0.0.1"  # where they listen and are called
    engine: Engine = Engine.OLLAMA
    is_simulated: bool = False
    models_dir: str = ""
    is_remote: bool = False  # reached over SSH
    ports: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Means:
    """What all instances of one controller are tended with."""

    keepers: Keepers
    api: EngineApi
    site_of: Callable[[NodeName], Site]
    locate: Locate
    unit_of: UnitOf
    shape_of: Callable[[str], ModelShape | None]
    on_change: Callable[[Instance], None]
    ward: Ward
    is_idle: Callable[[Instance], Awaitable[bool]]
    ports: Ports
    taken_ports: Callable[[NodeName], Collection[int]]  # by others, as far as the node tells
    may_start: asyncio.Event  # it is known what is wanted: what was found without a process may be none of it
    # Instances share one folder of models on a machine.
    pulling: defaultdict[tuple[str, str], asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))


def instance_of(made: Made, site: Site) -> Instance:
    """An instance of which nothing was seen yet."""
    placement = made.placement
    return Instance(
        id=placement.instance,
        node=placement.node,
        pool=placement.pool,
        host=site.host,
        port=made.port,
        engine=site.engine,
        upstream_model=placement.pool,
        slots=placement.slots,
        context=placement.context,
        accelerators=placement.accelerators,
        is_simulated=site.is_simulated,
        vram_bytes=placement.footprint.total,
        kv_bytes=placement.footprint.kv_cache,
        load_s=round(first_load_s(placement.footprint.weights), 1),
        tls_name=placement.node if site.is_remote and made.is_over_tls else "",
    )
