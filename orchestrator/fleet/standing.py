"""What of a deployment can stand where it was placed, and what takes the place of what cannot.

A card is gone, or others took so much of its memory that a model no longer loads. Only what is lost is placed anew;
what runs well is not touched for it. Pure: which cards are lost is seen elsewhere, and what is decided is kept there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.core.deployment import Deployment
from orchestrator.core.model import Accelerator, Demand, InstanceId, NodeFacts, Placement, PoolName
from orchestrator.core.placement import Effort, place
from orchestrator.fleet.apply import held_bytes


@dataclass(frozen=True, slots=True)
class Unfit:
    """Why an instance cannot be where it was placed. `is_hopeless`: not even to be tried."""

    why: str
    is_hopeless: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """What is wanted now. `moves`: what stands for instances of the deployment; `refused`: what nothing stands for."""

    placements: tuple[Placement, ...]
    moves: Mapping[InstanceId, Placement] = field(default_factory=dict)
    refused: tuple[tuple[PoolName, str], ...] = ()


def standing(
    deployment: Deployment,
    moves: Mapping[InstanceId, Placement],
    unfit: Mapping[InstanceId, Unfit],
    facts: Sequence[NodeFacts],
    limits: Mapping[PoolName, Demand],
    user: str,
) -> Standing:
    """`moves`: those made before. They stay until they are unfit themselves: what comes back finds its place taken.

    `limits`: what the settings say of where pools may go; `user`: whom instances run as.
    """
    kept, moved, lost = [], {}, []
    for placement in deployment.placements:
        stand_in = moves.get(placement.instance)
        if stand_in is not None and stand_in.instance not in unfit:
            kept.append(stand_in)
            moved[placement.instance] = stand_in
        elif placement.instance in unfit:
            lost.append(placement)
        else:
            kept.append(placement)
    refused: list[tuple[PoolName, str]] = []
    found = places_for(deployment, lost, kept, facts, limits, user) if lost else {}
    for placement in lost:
        what, stand_in = unfit[placement.instance], found.get(placement.instance)
        if stand_in is not None:
            moved[placement.instance] = replace(stand_in, why=f"in place of {placement.instance}: {what.why}")
            kept.append(moved[placement.instance])
            continue
        refused.append((placement.pool, f"{placement.instance}: {what.why}; no other card has room for it"))
        if not what.is_hopeless:
            kept.append(placement)
    return Standing(tuple(kept), moved, tuple(refused))


def places_for(
    deployment: Deployment,
    lost: Sequence[Placement],
    kept: Sequence[Placement],
    facts: Sequence[NodeFacts],
    limits: Mapping[PoolName, Demand],
    user: str,
) -> dict[InstanceId, Placement]:
    """A place for each of `lost` that has one while everything kept stays."""
    seen = {each.node for each in facts}
    there = [each for each in kept if each.node in seen]
    counts = Counter(each.pool for each in there)
    missing = Counter(each.pool for each in lost)
    pools = {each.pool: each for each in (*there, *lost)}
    demands = [_demand(deployment, one, limits.get(pool), counts[pool], missing[pool]) for pool, one in pools.items()]
    own = held_on_hosts(facts, there, user)
    plan = place(demands, facts, current=there, own_bytes=own, effort=Effort(time_limit_s=0))
    placed = {each.instance: each for each in plan.placements}
    if any(_where(placed.get(each.instance)) != _where(each) for each in there):
        return {}  # only by moving what runs: that is for people to decide
    names = {each.instance for each in (*kept, *deployment.placements)}
    new = [_named(each, names) for each in plan.placements if each.instance not in {one.instance for one in there}]
    found: dict[InstanceId, Placement] = {}
    for each in lost:
        fit = next((one for one in new if one.pool == each.pool), None)
        if fit is not None:
            new.remove(fit)
            found[each.instance] = fit
    return found


def _demand(deployment: Deployment, one: Placement, limit: Demand | None, kept: int, missing: int) -> Demand:
    """As many as there are, and as many more as are lost: what is more than there are may move nobody."""
    plain = limit or Demand(one.pool, deployment.shapes[one.pool], one.context, one.slots)
    return replace(
        plain,
        shape=deployment.shapes[one.pool],
        context=one.context,
        slots=one.slots,
        kv_type=deployment.kv_types.get(one.pool, plain.kv_type),
        replicas_min=kept,
        replicas_max=kept + missing,
        load=None,
        hosts_min=1,
    )


def _where(placement: Placement | None) -> tuple[object, ...] | None:
    return None if placement is None else (placement.node, placement.accelerators)


def _named(placement: Placement, names: set[InstanceId]) -> Placement:
    """With a name that no instance of the deployment has, nor one that stands for another."""
    stem = placement.instance.rpartition("-")[0]
    numbers = range(len(names) + 1)
    name = next(each for number in numbers if (each := InstanceId(f"{stem}-{number}")) not in names)
    names.add(name)
    return replace(placement, instance=name)


# --- memory on hosts -------------------------------------------------------------------------------------------------


def held_on_hosts(facts: Iterable[NodeFacts], current: Iterable[Placement], user: str) -> Mapping[str, int]:
    """What `current` instances hold of each accelerator, so that a plan may promise it to them again.

    What was promised to them, as far as it is not others' who use it; and what they lack to what they were promised:
    they stay in any case.
    """
    promised = held_bytes(current)
    held: dict[str, int] = {}
    for card in (each for node in facts for each in node.accelerators):
        ours = min(promised[card.uuid], card.vram_used_bytes - foreign_bytes(card, user))
        held[card.uuid] = max(ours, promised[card.uuid] - card.vram_free_bytes)
    return held


def foreign_bytes(card: Accelerator, user: str) -> int:
    """VRAM of processes that are certainly not ours, which run as `user`."""
    return sum(each.vram_bytes or 0 for each in card.processes if each.user and each.user != user)
