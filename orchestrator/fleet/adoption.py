"""Which instances run already, what they are and how they stand, as a restarted controller finds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.core.model import Instance, InstanceState, NodeName, Pool, Snapshot
from orchestrator.fleet.made import UNIT_PREFIX, Made
from orchestrator.fleet.own import placement_of
from orchestrator.nodes.keeper_units import UnitState, UnitStatus


@dataclass(frozen=True, slots=True)
class Adopted:
    """An instance found running. `before`: how it stands; None where nobody ever published it as it is."""

    made: Made
    pid: int | None
    before: Instance | None
    details: Mapping[str, Any]


def adopt(
    units: Iterable[UnitStatus], made: Mapping[str, Made], published: Snapshot | None
) -> tuple[tuple[Adopted, ...], tuple[str, ...]]:
    """The instances among the keeper's `units`, and the units that nobody knows.

    `made`: what running processes say they are. What was published last speaks for the others, and for the states:
    one that served then and has the same process still serves, so that no pool falls silent meanwhile.
    """
    pools: dict[str, Pool] = {pool.name: pool for pool in (published.pools if published else ())}
    before = {UNIT_PREFIX + each.id: each for pool in pools.values() for each in pool.instances}
    at_unix_ms = published.published_at_unix_ms if published is not None else 0
    adopted, strays = [], []
    for unit in units:
        if not unit.name.startswith(UNIT_PREFIX):
            continue
        was = before.get(unit.name)
        known = made.get(unit.name) or (_as_published(was, pools[was.pool]) if was is not None else None)
        if known is None:
            strays.append(unit.name)
            continue
        pool = pools.get(known.placement.pool)
        stands = _state_now(was, unit, at_unix_ms) if was is not None and was.port == known.port else None
        adopted.append(Adopted(known, unit.pid, stands, pool.details if pool is not None else {}))
    return tuple(adopted), tuple(strays)


def unseen(published: Snapshot | None, node: NodeName) -> tuple[Adopted, ...]:
    """The instances of a host that cannot be asked now, as they were published: gateways may well reach them."""
    pools = published.pools if published is not None else ()
    return tuple(
        Adopted(_as_published(each, pool), None, _state_unseen(each), pool.details)
        for pool in pools
        for each in pool.instances
        if each.node == node and not each.is_given
    )


def _state_unseen(was: Instance) -> Instance:
    if was.state is InstanceState.SERVING:
        return was
    return replace(was, state=InstanceState.STARTING, reason="its host cannot be asked; being probed")


def _as_published(instance: Instance, pool: Pool) -> Made:
    """How an instance was made whose process, between two lives, cannot be asked."""
    return Made(placement_of(instance), instance.port, "", pool.is_embedding)


def _state_now(was: Instance, unit: UnitStatus, published_at_unix_ms: int) -> Instance:
    is_same = unit.state is UnitState.RUNNING and unit.since_unix_ms <= published_at_unix_ms
    if was.state is InstanceState.SERVING and is_same:
        return was
    return replace(was, state=InstanceState.STARTING, reason="found running; being probed")
