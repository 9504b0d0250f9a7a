"""What our own instances hold already: memory that a new plan may promise again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import psutil

from orchestrator.core.model import Accelerator, Footprint, Instance, NodeFacts, Placement
from orchestrator.core.placement import HEADROOM_BYTES, RAM_HEADROOM_BYTES
from orchestrator.fleet.apply import held_bytes


def own_bytes(
    facts: Iterable[NodeFacts], leaders: Iterable[int], current: Sequence[Placement] = ()
) -> Mapping[str, int]:
    """Bytes held by the processes of `leaders` and their children: by accelerator UUID, and by CPU node for its RAM.

    Where a driver does not say what processes hold (in containers, on MIG devices), it is what the `current`
    placements were promised, and never more than is in use. A simulated accelerator's free memory is what it would be
    without us: nothing is added back there.
    """
    family = {pid for leader in leaders for pid in _family(leader)}
    promised = held_bytes(current)
    held: Counter[str] = Counter()
    for node in facts:
        for card in node.accelerators:
            held[card.uuid] += _on_card(card, family, promised[card.uuid])
        if not node.accelerators and not node.is_simulated:
            held[node.node] += sum(_resident(pid) for pid in family)
    return held


def usable_bytes(facts: Iterable[NodeFacts], loaded: Iterable[Placement]) -> Mapping[str, int]:
    """What each room has for our instances: what was measured free, less the headroom, and what `loaded` ones hold."""
    held = held_bytes(loaded)
    usable: dict[str, int] = {}
    for node in facts:
        for card in node.accelerators:
            ours = 0 if card.is_simulated else held[card.uuid]
            usable[card.uuid] = min(card.vram_total_bytes, card.vram_free_bytes + ours) - HEADROOM_BYTES
        if not node.accelerators:
            usable[node.node] = node.ram_free_bytes - RAM_HEADROOM_BYTES  # mapped weights count as free already
    return usable


def _on_card(card: Accelerator, family: set[int], promised: int) -> int:
    if card.is_simulated or not family:
        return 0
    ours = [each for each in card.processes if each.pid in family]
    told = sum(each.vram_bytes or 0 for each in ours)
    # Seen from within a container, processes have other numbers or none, and a driver may list them without a size.
    is_silent = any(each.vram_bytes is None for each in ours) or (not ours and not _tells_of_processes(card))
    others = sum(each.vram_bytes or 0 for each in card.processes if each.pid not in family)
    return max(told, min(promised, card.vram_used_bytes - others)) if is_silent else told


def _tells_of_processes(card: Accelerator) -> bool:
    return bool(card.processes) and all(each.vram_bytes is not None for each in card.processes)


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
    """What would be free without it. Mapped files (weights) are left out: their pages count as free already."""
    try:
        memory = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0
    return int(memory.rss - getattr(memory, "shared", 0))
