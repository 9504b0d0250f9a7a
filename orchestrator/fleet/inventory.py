"""What the nodes of the settings have: probed here, or played where the settings say `simulate`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path

from orchestrator.core.cards import Card, parse_cards
from orchestrator.core.model import Accelerator, NodeFacts, NodeName, Placement
from orchestrator.nodes.probe import probe
from orchestrator.settings import NodeSettings

# What a driver with nothing running keeps of a card for itself; a 4090 under Linux shows about 0.4 GiB used.
SIMULATED_RESERVED_BYTES = 400 * 2**20


async def take_inventory(nodes: tuple[NodeSettings, ...], models_dir: Path) -> tuple[NodeFacts, ...]:
    """Facts of every node. A sick driver is a sentence in `problems`, never an error here."""
    return tuple([await _facts(node, models_dir) for node in nodes])


async def _facts(node: NodeSettings, models_dir: Path) -> NodeFacts:
    name = NodeName(node.name)
    here = await asyncio.to_thread(probe, name, models_dir)
    return here if node.simulate is None else simulated_facts(name, parse_cards(node.simulate), here)


def blind_spots(facts: Sequence[NodeFacts], current: Iterable[Placement]) -> tuple[str, ...]:
    """Nodes whose inventory is not to be planned by, a sentence each: a sick driver hides GPUs that instances use.

    A driver that complains of something may have lost sight of cards that work on; to move what runs there would cost
    every model load and help nobody. A card that is gone from a healthy driver's list is gone.
    """
    by_node = {each.node: each for each in facts}
    seen = {card.uuid for node in facts for card in node.accelerators}
    blind: dict[str, str] = {}
    for placement in current:
        node = by_node.get(placement.node)
        hidden = [uuid for uuid in placement.accelerators if uuid not in seen]
        if node is not None and node.problems and hidden:
            told = f"{node.node}: GPUs that instances use are not shown ({', '.join(node.problems)}); nothing is moved"
            blind[node.node] = told
    return tuple(blind.values())


def simulated_facts(name: NodeName, cards: tuple[Card, ...], here: NodeFacts) -> NodeFacts:
    """A host with `cards` in it; memory and disk are this machine's, which is what runs the simulation."""
    accelerators = tuple(
        Accelerator(
            uuid=f"SIM-{name}-{index}",
            index=index,
            name=card.name,
            vram_total_bytes=card.vram_bytes,
            vram_used_bytes=SIMULATED_RESERVED_BYTES,
            vram_free_bytes=card.vram_bytes - SIMULATED_RESERVED_BYTES,
            is_simulated=True,
        )
        for index, card in enumerate(cards)
    )
    return NodeFacts(
        node=name,
        hostname=here.hostname,
        cpu_model=here.cpu_model,
        cpu_count=here.cpu_count,
        ram_total_bytes=here.ram_total_bytes,
        ram_free_bytes=here.ram_free_bytes,
        disk_free_bytes=here.disk_free_bytes,
        accelerators=accelerators,
        is_simulated=True,
    )
