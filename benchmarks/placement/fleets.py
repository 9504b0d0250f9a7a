"""Random fleets and wishes: cards as they are sold, foreign processes on some, models of the catalogue with loads."""

from __future__ import annotations

import random
from dataclasses import replace

from orchestrator.core.cards import find_card
from orchestrator.core.catalogue import find
from orchestrator.core.model import Accelerator, Demand, NodeFacts, NodeName, PoolName, UsualCall
from orchestrator.core.placement.rooms import Sizes

GIB = 2**30
CARDS = ("RTX 3060", "RTX 3090", "RTX 4080", "RTX 4090", "A100-40GB", "A100-80GB", "L40S")
MODELS = (
    "llama3.2:1b", "llama3.2:3b", "llama3.1:8b", "llama3.1:70b", "qwen2.5:7b", "qwen2.5:14b", "qwen2.5:32b",
    "qwen3:4b", "qwen3:8b", "qwen3:14b", "gemma3:1b", "gemma3:4b", "gemma3:12b", "gemma2:9b", "mistral:7b",
    "phi4:14b", "gpt-oss:20b", "deepseek-r1:8b", "deepseek-r1:32b", "nomic-embed-text",
)  # fmt: skip
RESERVED = 400 * 2**20


def demand_of(model: str, **terms: object) -> Demand:
    shape = find(model)
    assert shape is not None, model
    usual = {"context": 4096, "slots": 2, "replicas_min": 1, "replicas_max": None}
    return Demand(PoolName(model), shape, **{**usual, **terms})  # type: ignore[arg-type]


def node_of(name: str, cards: list[tuple[str, int]]) -> NodeFacts:
    """`cards`: names, and bytes that others hold of each."""
    accelerators = []
    for index, (card_name, foreign) in enumerate(cards):
        total = find_card(card_name).vram_bytes
        used = min(total, RESERVED + foreign)
        accelerators.append(Accelerator(f"GPU-{name}-{index}", index, card_name, total, total - used, used))
    return NodeFacts(NodeName(name), name, "a CPU", 32, 128 * GIB, 120 * GIB, 0, tuple(accelerators))


def random_fleet(rng: random.Random, gpus: int, *, foreign: float = 0.1) -> list[NodeFacts]:
    """Nodes of 1 to 8 cards of one kind; on a part of the cards other processes hold up to 6 GiB."""
    nodes: list[NodeFacts] = []
    left = gpus
    while left:
        count = min(left, rng.choice((1, 2, 2, 4, 8)))
        card = rng.choice(CARDS)
        held = [int(rng.uniform(0, 6) * GIB) if rng.random() < foreign else 0 for _ in range(count)]
        nodes.append(node_of(f"n{len(nodes):03d}", [(card, each) for each in held]))
        left -= count
    return nodes


def random_demands(
    rng: random.Random, nodes: list[NodeFacts], models: int, *, goal: bool = False, pressure: float = 1.1
) -> list[Demand]:
    """`models` pools that together would take `pressure` times the fleet's memory."""
    free = sum(each.vram_free_bytes for node in nodes for each in node.accelerators)
    weights = [rng.lognormvariate(0, 0.7) for _ in range(models)]
    demands, sizes = [], Sizes()
    for model, weight in zip(rng.sample(MODELS, models), weights, strict=True):
        slots = 1 if "embed" in model else rng.choice((1, 2, 4, 8))
        usual = UsualCall(answer_s=rng.choice((5.0, 10.0, 20.0))) if goal else None
        each = demand_of(model, slots=slots, context=rng.choice((2048, 4096, 8192)), usual=usual)
        copies = pressure * free * weight / sum(weights) / sizes.on_cards(each).total
        demands.append(replace(each, load=float(max(1, round(copies * slots)))))
    return demands
