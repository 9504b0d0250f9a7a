"""What the operator is told of a placement: one sentence for each instance, and one for each that could not be placed.

Knows how to say numbers and which smaller demand would fit; what is decided is `placement`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

from orchestrator.core.model import Accelerator, Demand, Footprint, NodeName
from orchestrator.core.sizing import GIB, MIB, demand_footprint, per_card_bytes, slots_that_fit

_SHORTEST_CONTEXT: Final = 1024  # tokens; a suggestion below this helps nobody


def describe(size: Footprint, rooms: Sequence[tuple[Accelerator | None, int]]) -> str:
    """Why an instance goes into `rooms`, each an accelerator (None: a CPU node's RAM) and what is free there."""
    need = per_card_bytes(size, len(rooms))
    places = ", ".join(f"{_gib(need)} of {_gib(free)} GiB free {_where(card)}" for card, free in rooms)
    split = f"split over {len(rooms)} cards, as no single card has room: " if len(rooms) > 1 else ""
    return f"{split}{places}; {parts(size)}"


@lru_cache(maxsize=256)
def parts(size: Footprint) -> str:
    """A footprint's parts, in GiB."""
    text = f"weights {_gib(size.weights)} + KV {_gib(size.kv_cache)} + compute {_gib(size.compute + size.output)}"
    return f"{text} + CUDA {_gib(size.runtime)} GiB" if size.runtime else f"{text} GiB"


def explain_refusal(
    demand: Demand, placed: int, room: tuple[NodeName, Accelerator | None, int] | None, largest_bytes: int
) -> str:
    """Why a pool has fewer copies than its minimum, by how much, and what would help.

    `room`: where most is left after all placements, less the headroom; `largest_bytes`: the most there was before any.
    """
    head = f"{placed} of {demand.replicas_min} placed"
    if room is None:
        return f"{head}: no node has a GPU, or memory and a core, to spare; add a node, or ask for fewer instances"
    node, card, left = room
    on_gpu = card is not None
    size = demand_footprint(demand, on_gpu=on_gpu)
    most = f"{_gib(max(0, left))} GiB, {_where(card)} of node {node}"
    asked = f"{demand.slots} x {demand.context} tokens, {demand.kv_type} cache"
    need = f"one with {asked} needs {_gib(size.total)} GiB ({parts(size)})"
    short = size.total - left
    if short <= 0:
        return f"{head}: {need}; {most} would hold it, but no place is left there"
    way_out = _way_out(demand, room, largest_bytes)
    return f"{head}: {need}; the most room left is {most}: {-(-short // MIB):,} MiB short. {way_out}"


def explain_unserved(demand: Demand, placed: int, missing: float) -> str:
    """Why a pool does not serve the load it was told of, though it has its minimum."""
    goal_s = demand.usual.answer_s if demand.usual is not None else None
    within = f" within {goal_s:g} s" if goal_s is not None else ""
    served = (demand.load or 0.0) - missing
    ways = "more or faster cards" if goal_s is not None else "more cards, more slots"
    if demand.replicas_max is not None and placed >= demand.replicas_max:
        ways = f"more than {demand.replicas_max} instances"
    elif demand.per_card is not None:
        ways += f", more than {demand.per_card} instances on a card"
    return f"{served:g} of {demand.load:g} calls at once are served{within}; for the others it needs {ways}"


def explain_hosts(demand: Demand, hosts: int) -> str:
    """Why the loss of a node costs a pool more than it should."""
    plural = "s" if hosts > 1 else ""
    return f"on {hosts} host{plural} where {demand.hosts_min} were asked for: no room on another; free some, or add one"


def _way_out(demand: Demand, room: tuple[NodeName, Accelerator | None, int], largest_bytes: int) -> str:
    _, card, left = room
    on_gpu = card is not None
    ways = list(_smaller(demand, left, on_gpu=on_gpu))
    size = demand_footprint(demand, on_gpu=on_gpu)
    if size.total <= largest_bytes:
        ways.append("fewer instances of the other pools")
    if ways:
        return f"It fits with {', or '.join(ways)}"
    thing = "a GPU" if on_gpu else "a node"
    return f"A smaller model or quantisation is needed, or {thing} with {_gib(size.total)} GiB free"


def _smaller(demand: Demand, left: int, *, on_gpu: bool) -> Iterator[str]:
    """Each change of one thing that makes `demand` fit, or else all of them together."""

    def fits(other: Demand) -> bool:
        return demand_footprint(other, on_gpu=on_gpu).total <= left

    found = False
    slots = slots_that_fit(demand, left, on_gpu=on_gpu)
    if slots:
        found = True
        yield f"{slots} slot{'s' if slots > 1 else ''}"
    for context in _shorter(demand.context):
        if fits(replace(demand, context=context)):
            found = True
            yield f"a context of {context}"
            break
    for kv_type in ("q8_0", "q4_0"):
        if demand.kv_type == "f16" and fits(replace(demand, kv_type=kv_type)):
            found = True
            yield f"a {kv_type} cache"
            break
    least = replace(demand, slots=1, context=min(demand.context, _SHORTEST_CONTEXT), kv_type="q8_0")
    if not found and fits(least):
        yield f"1 slot, a context of {least.context} and a q8_0 cache together"


def _shorter(context: int) -> Iterator[int]:
    while context // 2 >= _SHORTEST_CONTEXT:
        context //= 2
        yield context


def _where(card: Accelerator | None) -> str:
    if card is None:
        return "in RAM"
    simulated = ", simulated" if card.is_simulated else ""
    return f"on {card.name} #{card.index} ({card.uuid[:8]}{simulated})"


def _gib(count: int) -> str:
    return f"{count / GIB:.1f}"
