"""What runs now, put on a board again where it is still what is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from orchestrator.core.model import Demand, InstanceId, Placement, PoolName
from orchestrator.core.placement.greedy import most_of
from orchestrator.core.placement.rooms import Board, Neighbours, Room, Sizes, may_go_to
from orchestrator.core.sizing import per_card_bytes


def keep(board: Board, demands: Sequence[Demand], current: Sequence[Placement], most: Mapping[PoolName, int]) -> None:
    """Put what runs now on the board: at most `most` copies of each pool.

    The first copies on each card go before second ones, so that what must go leaves the others well spread.
    """
    by_pool = {each.pool: each for each in demands}
    neighbours = Neighbours(demands)
    # Those that stand only beside others come after these.
    ordered = sorted(current, key=lambda each: (_is_beside(by_pool, each), _number(each.instance), each.instance))
    for placement in ordered:
        demand = by_pool.get(placement.pool)
        if demand is None or board.counts[placement.pool] >= most_of(demand, most):
            continue
        kept = _still_asked_for(placement, demand, board.sizes)
        rooms = [board.rooms.get(key) for key in placement.accelerators or (placement.node,)]
        if kept is None or not all(_holds(room, kept, len(rooms), demand, neighbours) for room in rooms):
            continue
        board.take(kept, [room for room in rooms if room is not None])


def _is_beside(demands: Mapping[PoolName, Demand], placement: Placement) -> bool:
    demand = demands.get(placement.pool)
    return demand is not None and bool(demand.beside)


def _number(instance: InstanceId) -> int:
    digits = instance.rpartition("-")[2]
    return int(digits) if digits.isdecimal() else 0


def _still_asked_for(placement: Placement, demand: Demand, sizes: Sizes) -> Placement | None:
    """`placement` with today's footprint, or None where its context, slots or cache type are no longer the demand's.

    The cache's size may differ a little and the weights' at will: once a model is pulled, its header replaces the
    catalogue's figures, and that is no reason to restart it. Another cache type changes the cache by 40 % and more.
    Of an instance found running only the total may be known (its cache is 0 then): that may differ by 2 %.
    """
    size = sizes.on_cards(demand, len(placement.accelerators))
    if (placement.slots, placement.context) != (demand.slots, demand.context):
        return None
    if not may_go_to(demand, placement.node):
        return None
    was = placement.footprint
    changed = abs(was.kv_cache - size.kv_cache) * 10 if was.kv_cache else abs(was.total - size.total) * 50
    if changed > (size.kv_cache if was.kv_cache else size.total):
        return None
    return placement if placement.footprint == size else replace(placement, footprint=size)


def _holds(room: Room | None, placement: Placement, cards: int, demand: Demand, neighbours: Neighbours) -> bool:
    """Whether a running instance may stay: its memory is its own already, so the headroom does not drive it out."""
    if room is None or room.node != placement.node or (room.card is None) != (not placement.accelerators):
        return False
    if not neighbours.allow(demand, room.pools, is_gpu=room.card is not None):
        return False
    return room.places > 0 and room.free >= per_card_bytes(placement.footprint, cards)
