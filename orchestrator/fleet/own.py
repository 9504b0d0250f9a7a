"""What our own instances hold already: memory that a new plan may promise again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import psutil

from orchestrator.core.model import Footprint, Instance, NodeFacts, Placement


def own_bytes(facts: Iterable[NodeFacts], leaders: Iterable[int]) -> Mapping[str, int]:
    """Bytes held by the processes of `leaders` and their children: by accelerator UUID, and by CPU node for its RAM.

    A simulated accelerator's free memory is what it would be without us: nothing is added back there.
    """
    family = {pid for leader in leaders for pid in _family(leader)}
    held: Counter[str] = Counter()
    for node in facts:
        for card in node.accelerators:
            held[card.uuid] += sum(each.vram_bytes or 0 for each in card.processes if each.pid in family)
        if not node.accelerators:
            held[node.node] += sum(_resident(pid) for pid in family)
    return held


def placement_of(instance: Instance) -> Placement:
    """A running instance as the placement it once was; the parts of its footprint are not known any more."""
    return Placement(
        instance=instance.id,
        pool=instance.pool,
        node=instance.node,
        accelerators=instance.accelerators,
        slots=instance.slots,
        context=instance.context,
        footprint=Footprint(instance.vram_bytes, 0, 0, 0, 0),
        why="runs here already",
    )


def _family(leader: int) -> list[int]:
    try:
        process = psutil.Process(leader)
        return [leader, *(child.pid for child in process.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
