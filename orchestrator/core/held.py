"""Nodes that a plan leaves as they are: nobody can see them now, or only others were asked for.

What runs there stays, and counts towards what is wanted; nothing is moved away from a host because it is silent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from orchestrator.core.model import Demand, Placement


def demands_elsewhere(demands: Iterable[Demand], kept: Sequence[Placement]) -> tuple[Demand, ...]:
    """What is still to be placed, once the `kept` instances are counted; a pool that has all it wants is left out."""
    left = (_elsewhere(each, [placement for placement in kept if placement.pool == each.pool]) for each in demands)
    return tuple(each for each in left if each is not None)


def _elsewhere(demand: Demand, kept: Sequence[Placement]) -> Demand | None:
    if not kept:
        return demand
    most = None if demand.replicas_max is None else max(0, demand.replicas_max - len(kept))
    load = None if demand.load is None else max(0.0, demand.load - sum(each.slots for each in kept))
    if most == 0 or load == 0:
        return None
    return replace(
        demand,
        replicas_min=max(0, demand.replicas_min - len(kept)),
        replicas_max=most,
        load=load,
        hosts_min=max(1, demand.hosts_min - len({each.node for each in kept})),
    )
