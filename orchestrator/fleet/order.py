"""What the controller is told and handed: what should run, how carefully it is changed, and its ways to the world."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.core.model import Event, InstanceId, NodeFacts, NodeName, Placement, PoolName
from orchestrator.core.numbers import Followed
from orchestrator.core.placement.replicas import Pace
from orchestrator.fleet.heeding import Wished
from orchestrator.fleet.means import Locate, Site, UnitOf
from orchestrator.fleet.wanted import Wanted
from orchestrator.nodes.tls import Contexts

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Order:
    """What should run. `wanted` None: nobody said yet, and all stays as it is. `deployment`: its number; 0: none.

    `is_agreed`: somebody saw what it changes and said yes. `is_done`: everything of it has served before. `unfit`:
    instances that are of no use where they are. `due`: by pool, the instances of a deployment, lost ones counted.
    """

    wanted: Wanted | None
    deployment: int = 0
    is_agreed: bool = False
    is_done: bool = False
    unfit: Collection[InstanceId] = ()
    due: Mapping[PoolName, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Care:
    """How carefully things are changed; docs/configuration.md has the reasons."""

    cures_an_hour: int = 4
    at_once: float = 0.0
    drain_s: float = 120.0
    serve_s: float = 1800.0


# From what runs now, what does not load where it is, and the numbers of pools that follow their load, to what should
# run. Raises OrchestratorError.
Want = Callable[[Sequence[Placement], Mapping[InstanceId, str], Mapping[PoolName, Followed]], Awaitable[Order]]


async def _known(node: NodeName) -> None:
    """Where every node is, is known."""


@dataclass(frozen=True, slots=True)
class World:
    """What `app` hands in: how instances are started and where, what is seen, and who is told."""

    want: Want
    unit_of: UnitOf
    site_of: Callable[[NodeName], Site]
    facts: Callable[[], tuple[NodeFacts, ...]]
    care: Callable[[], Care]
    notes: Callable[[], tuple[str, ...]] = tuple
    record: Callable[[Event], None] = lambda event: log.info("%s", event.text)
    deployed: Callable[[int], None] = lambda number: None  # everything of it serves
    wished: Wished = field(default_factory=Wished)
    pace: Callable[[], Pace] = Pace  # of numbers that follow their load
    locate: Locate = _known
    contexts: Contexts | None = None  # what instances behind TLS are asked with
