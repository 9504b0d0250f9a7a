"""The cluster as it is published: pools, their instances and what the operator is to know, put together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.core.model import ModelShape, NodeFacts, Pool, PoolName
from orchestrator.core.numbers import Followed
from orchestrator.fleet.tending import Tended


def pool_names(shapes: Iterable[str], tended: Iterable[Tended]) -> tuple[PoolName, ...]:
    """Those that are wanted, and after them those that still run."""
    named = [*shapes, *(each.made.placement.pool for each in tended)]
    return tuple(PoolName(each) for each in dict.fromkeys(named))


def pool_of(
    name: PoolName, tended: Iterable[Tended], shape: ModelShape | None, followed: Followed | None = None
) -> Pool:
    """A pool with its instances as they are now."""
    members: Sequence[Tended] = [each for each in tended if each.made.placement.pool == name]
    described: list[Mapping[str, Any]] = [each.details for each in members if each.details]
    is_embedding = shape.is_embedding if shape else any(each.made.is_embedding for each in members)
    context = members[0].made.placement.context if members else 0
    instances = tuple(each.instance for each in members)
    return Pool(name, context, is_embedding, instances, described[0] if described else {}, followed)


def problems_of(facts: Iterable[NodeFacts]) -> tuple[str, ...]:
    """What is sick on hosts, a sentence each."""
    return tuple(f"{each.node}: {problem}" for each in facts for problem in each.problems)
