"""A deployment whose pools follow their load: more instances where there is room, fewer where least is lost.

Pure. Only hosts that the deployment is on, and that have the model, get another one: what it needs is there. Nothing
that runs is moved for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from orchestrator.core.deployment import Deployment
from orchestrator.core.dialects.parse import canonical_model_name
from orchestrator.core.model import Demand, InstanceId, NodeFacts, NodeName, Placement, PoolName
from orchestrator.fleet.standing import places_for


def resized(
    deployment: Deployment,
    numbers: Mapping[PoolName, int],
    stands: Sequence[Placement],
    facts: Sequence[NodeFacts],
    limits: Mapping[PoolName, Demand],
    user: str,
) -> Deployment:
    """With as many instances of each pool as `numbers` say, within its range and as far as there is room.

    `stands`: what is wanted now, stand-ins of what was lost included; `limits`, `user`: as for `standing`.
    """
    for pool, number in sorted(numbers.items()):
        if pool not in deployment.ranges:
            continue
        have = [each for each in deployment.placements if each.pool == pool]
        missing = deployment.ranges[pool].clamp(number) - len(have)
        if missing < 0:
            gone = leaving(have, -missing, {each.node for each in facts})
            deployment = _without(deployment, gone)
            stands = [each for each in stands if each.instance not in gone]
        elif missing and have:
            able = _able(deployment, pool, facts)
            more = _more(have[0], missing)
            found = places_for(deployment, more, stands, able, limits, user) if able else {}
            new = tuple(replace(each, why=f"its pool's load asks for it: {each.why}") for each in found.values())
            deployment = replace(deployment, placements=(*deployment.placements, *new))
            stands = [*stands, *new]
    return deployment


def leaving(copies: Sequence[Placement], count: int, seen: Collection[NodeName]) -> frozenset[InstanceId]:
    """The copies that go, so that the others stay spread over hosts and cards; of hosts not `seen` none goes."""
    left = [each for each in copies if each.node in seen]
    gone: set[InstanceId] = set()
    while left and len(gone) < count:
        nodes = Counter(each.node for each in left)
        cards = Counter(key for each in left for key in each.accelerators)

        def crowd(each: Placement, nodes: Counter[NodeName] = nodes, cards: Counter[str] = cards) -> tuple[int, int]:
            return nodes[each.node], max((cards[key] for key in each.accelerators), default=0)

        most = max(map(crowd, left))
        last = [each for each in left if crowd(each) == most][-1]  # the one that came last
        left.remove(last)
        gone.add(last.instance)
    return frozenset(gone)


def _able(deployment: Deployment, pool: PoolName, facts: Sequence[NodeFacts]) -> list[NodeFacts]:
    """Hosts that have the base, as something of it is there, and the model's files."""
    based = {each.node for each in deployment.placements}
    return [each for each in facts if each.node in based and _has(each, pool)]


def _has(node: NodeFacts, pool: PoolName) -> bool:
    return any(canonical_model_name(each.name) == canonical_model_name(pool) for each in node.models)


def _more(one: Placement, count: int) -> list[Placement]:
    return [replace(one, instance=InstanceId(f"{one.instance}+{number}")) for number in range(count)]


def _without(deployment: Deployment, gone: Collection[InstanceId]) -> Deployment:
    left = tuple(each for each in deployment.placements if each.instance not in gone)
    return replace(deployment, placements=left)
