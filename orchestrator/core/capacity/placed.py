"""A plan's cards as the product would fill them: its own placement is asked, and what it says is what is simulated.

A plan counts instances by their bytes; placement also leaves headroom and knows what may share a card. Where it puts
fewer, that is told: the plan promises what the product would not start.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.capacity.carrying import Plan
from orchestrator.core.capacity.service import Pool
from orchestrator.core.model import (
    Accelerator,
    Demand,
    Engine,
    Instance,
    InstanceState,
    NodeFacts,
    NodeName,
    PlacementPlan,
    PoolName,
)
from orchestrator.core.model import Pool as ServingPool
from orchestrator.core.placement import Effort, place

# Each tier has cards of its own, so there is nothing to be solved: if the greedy plan lacks some of it, so does any.
_EFFORT = Effort(time_limit_s=0.0)


@dataclass(frozen=True, slots=True)
class PlacedTier:
    """A tier's pool as gateways would see it."""

    tier: str
    pool: Pool
    serving: ServingPool

    @property
    def slots(self) -> int:
        return self.serving.slots_serving


@dataclass(frozen=True, slots=True)
class Placed:
    """Every tier of a plan placed; `refused`: sentences of placement for what it would not start."""

    tiers: tuple[PlacedTier, ...]
    refused: tuple[str, ...] = ()


def placed(plan: Plan) -> Placed:
    """The instances of `plan`, one card a host, each tier on hosts of its own, put there by the product's placement."""
    pools = [(tier, pool) for tier, pool in (("small", plan.small), ("full", plan.full)) if pool is not None]
    nodes = [_host(tier, index, pool) for tier, pool in pools for index in range(pool.cards)]
    demands = [_demand(tier, pool, nodes) for tier, pool in pools]
    found = place(demands, nodes, effort=_EFFORT) if demands else PlacementPlan(())
    tiers = tuple(_tier(tier, pool, found) for tier, pool in pools)
    return Placed(tiers, tuple(f"{pool}: {why}" for pool, why in found.refused))


def _host(tier: str, index: int, pool: Pool) -> NodeFacts:
    name = f"{tier}-{index}"
    vram = pool.card.vram_bytes
    card = Accelerator(name, 0, pool.card.name, vram, vram, 0, is_simulated=True)
    plenty = 2**40
    return NodeFacts(NodeName(name), name, "", 64, plenty, plenty, plenty, (card,), is_simulated=True)


def _demand(tier: str, pool: Pool, nodes: list[NodeFacts]) -> Demand:
    wanted = pool.cards * pool.instances
    return Demand(
        PoolName(tier),
        pool.shape,
        pool.context,
        pool.slots,
        pool.kv_type,
        replicas_min=wanted,
        replicas_max=wanted,
        per_card=pool.instances,
        nodes=tuple(each.node for each in nodes if each.node.rpartition("-")[0] == tier),
    )


def _tier(tier: str, pool: Pool, found: PlacementPlan) -> PlacedTier:
    # In the order in which the queue's script has them, which is that of its turns.
    mine = sorted((each for each in found.placements if each.pool == tier), key=lambda each: each.instance)
    instances = tuple(
        Instance(
            each.instance,
            each.node,
            each.pool,
            "",
            0,
            Engine.OLLAMA,
            pool.model,
            each.slots,
            each.context,
            each.accelerators,
            InstanceState.SERVING,
            is_simulated=True,
        )
        for each in mine
    )
    return PlacedTier(tier, pool, ServingPool(PoolName(tier), pool.context, False, instances))
