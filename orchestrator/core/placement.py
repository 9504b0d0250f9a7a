"""Where instances go: which accelerators hold which pool's copies, within the memory that is measured free.

Knows rooms and footprints; measuring is left to `nodes`, sizes to `sizing`, making it so to `fleet`. Pure: the same
demands, nodes and current placements give the same plan. Three promises: on no accelerator, and in no node's RAM, do
new placements go beyond what is free less the headroom; every pool has its minimum before any pool has more, or a
sentence that says why not; what already runs stays where it is, if that costs no pool its minimum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from orchestrator.core.model import (
    Accelerator,
    Demand,
    Footprint,
    InstanceId,
    NodeFacts,
    NodeName,
    Placement,
    PlacementPlan,
    PoolName,
)
from orchestrator.core.placement_words import describe, explain_refusal
from orchestrator.core.sizing import GIB, MIB, demand_footprint, per_card_bytes, split_footprint

# Left free on each accelerator beyond the estimate, which is within 3 % of the real figure: for a desktop, for another
# process that grows, and for what a driver's update takes.
HEADROOM_BYTES: Final = 512 * MIB
# Left free in a CPU node's memory: the system, the engine's own process, and the prompts it caches.
RAM_HEADROOM_BYTES: Final = 2 * GIB
_MAX_CARDS: Final = 16  # that one instance is split over
_NO_LIMIT: Final = 1 << 30


@dataclass(slots=True)
class _Room:
    """Memory of one accelerator, or of a CPU node's RAM, and what has been promised of it."""

    node: NodeName
    key: str  # the accelerator's UUID, or the node's name
    index: int
    card: Accelerator | None
    total: int
    free: int  # measured, with what our own instances hold added back
    headroom: int
    places: int  # instances that may still come: on a CPU one for each core
    can_split: bool
    pools: list[PoolName] = field(default_factory=list)

    @property
    def left(self) -> int:
        return self.free - self.headroom


@dataclass(slots=True)
class _Board:
    """Rooms with placements on them, as a plan grows."""

    rooms: dict[str, _Room]
    placed: list[Placement] = field(default_factory=list)

    def count(self, pool: PoolName) -> int:
        return sum(1 for each in self.placed if each.pool == pool)

    def take(self, placement: Placement, rooms: Sequence[_Room]) -> None:
        for room in rooms:
            room.free -= per_card_bytes(placement.footprint, len(rooms))
            room.places -= 1
            room.pools.append(placement.pool)
        self.placed.append(placement)


def place(
    demands: Sequence[Demand],
    nodes: Sequence[NodeFacts],
    *,
    headroom_bytes: int = HEADROOM_BYTES,
    ram_headroom_bytes: int = RAM_HEADROOM_BYTES,
    current: Sequence[Placement] = (),
    own_bytes: Mapping[str, int] | None = None,
) -> PlacementPlan:
    """The instances that `demands` get on `nodes`, and why each pool that got too few did.

    `current`: what runs now; it stays where it fits its demand, even into the headroom, since it holds its memory
    already. `own_bytes`: what our own running instances hold, by accelerator UUID, or by node name for a CPU node's
    RAM: it is free to be promised again.
    """
    own = own_bytes or {}
    by_name = sorted(nodes, key=lambda each: each.node)

    def board(headroom: int, ram_headroom: int) -> _Board:
        rooms = (room for node in by_name for room in _rooms_of(node, headroom, ram_headroom, own))
        return _Board({room.key: room for room in rooms})

    wanted = sorted(demands, key=lambda each: each.pool)
    fresh = _best_fresh(wanted, lambda: board(headroom_bytes, ram_headroom_bytes))
    chosen = fresh
    if current:
        roomy = _best_fresh(wanted, lambda: board(0, 0))
        minimum = Counter({each.pool: each.replicas_min for each in wanted})
        for keep in (_counts(fresh) | _counts(roomy) | minimum, minimum):
            kept = board(headroom_bytes, ram_headroom_bytes)
            _keep(kept, wanted, current, keep)
            _fill(_serve_minimum(kept, wanted, _largest_first), wanted, _counts(fresh))
            if _score(kept, wanted) <= _score(fresh, wanted):
                chosen = kept
                break
    return _plan(chosen, wanted, board(headroom_bytes, ram_headroom_bytes))


def usable_accelerators(node: NodeFacts) -> tuple[Accelerator, ...]:
    """The node's accelerators that can hold an instance: a card cut into MIG devices can only through those."""
    parents = {each.parent_uuid for each in node.accelerators if each.parent_uuid is not None}
    return tuple(
        each
        for each in node.accelerators
        if each.parent_uuid is not None or (each.mig != "on" and each.uuid not in parents)
    )


# --- rooms -----------------------------------------------------------------------------------------------------------


def _rooms_of(node: NodeFacts, headroom: int, ram_headroom: int, own: Mapping[str, int]) -> Iterable[_Room]:
    """The node's accelerators, or its RAM where it has none at all."""
    for card in sorted(usable_accelerators(node), key=lambda each: (each.index, each.uuid)):
        free = min(card.vram_total_bytes, card.vram_free_bytes + own.get(card.uuid, 0))
        # CUDA gives a process one MIG device, never two.
        yield _Room(
            node.node,
            card.uuid,
            card.index,
            card,
            card.vram_total_bytes,
            free,
            headroom,
            _NO_LIMIT,
            card.parent_uuid is None,
        )
    if not node.accelerators:
        free = min(node.ram_total_bytes, node.ram_free_bytes + own.get(node.node, 0))
        yield _Room(node.node, node.node, 0, None, node.ram_total_bytes, free, ram_headroom, node.cpu_count, False)


def _split(demand: Demand, cards: int) -> Footprint:
    return split_footprint(demand_footprint(demand, on_gpu=True), demand.shape.layers, cards)


def _fits(room: _Room, need: int) -> bool:
    return room.places > 0 and room.left >= need


def _find_rooms(board: _Board, demand: Demand, is_extra: bool) -> tuple[list[_Room], Footprint] | None:
    """Where the next copy goes: one card; several of one node where no card has room; a node without GPUs.

    A copy beyond the minimum (`is_extra`) is split only where no card is large enough for the model, and goes to a CPU
    only in a cluster without GPUs: it would take calls that the copies before it answer several times as fast.
    """
    on_gpu = demand_footprint(demand, on_gpu=True)
    node_copies = Counter(each.node for each in board.placed if each.pool == demand.pool)

    def preference(room: _Room) -> tuple[int, int, int, str, int, str]:
        # A card without this pool, then a node with few copies of it: two copies on one card share its bandwidth.
        return (room.pools.count(demand.pool), node_copies[room.node], -room.left, room.node, room.index, room.key)

    cards = [room for room in board.rooms.values() if room.card is not None]
    whole = [room for room in cards if _fits(room, on_gpu.total)]
    if whole:
        return [min(whole, key=preference)], on_gpu
    is_large = all(room.total - room.headroom < on_gpu.total for room in cards)
    parted = _find_split(cards, demand, preference) if is_large or not is_extra else []
    if parted:
        return parted, _split(demand, len(parted))
    if is_extra and cards:
        return None
    on_cpu = demand_footprint(demand, on_gpu=False)
    hosts = [room for room in board.rooms.values() if room.card is None and _fits(room, on_cpu.total)]
    return ([min(hosts, key=preference)], on_cpu) if hosts else None


def _find_split(
    cards: Iterable[_Room], demand: Demand, preference: Callable[[_Room], tuple[int, int, int, str, int, str]]
) -> list[_Room]:
    """The fewest cards of one node that hold an instance together, those with the most room; empty if none do."""
    by_node: dict[NodeName, list[_Room]] = {}
    for room in sorted((each for each in cards if each.can_split), key=lambda each: (-each.left, each.index, each.key)):
        by_node.setdefault(room.node, []).append(room)
    most = min(_MAX_CARDS, demand.shape.layers, max(map(len, by_node.values()), default=0))
    for count in range(2, most + 1):
        need = per_card_bytes(_split(demand, count), count)
        able = [rooms[:count] for rooms in by_node.values() if len(rooms) >= count and _fits(rooms[count - 1], need)]
        if able:
            return min(able, key=lambda rooms: preference(rooms[-1]))
    return []


# --- growing a plan --------------------------------------------------------------------------------------------------


def _add(board: _Board, demand: Demand, *, is_extra: bool) -> bool:
    """Place one more copy of `demand`, if there is room."""
    found = _find_rooms(board, demand, is_extra)
    if found is None:
        return False
    rooms, size = found
    placement = Placement(
        instance=_name(board, demand.pool, rooms),
        pool=demand.pool,
        node=rooms[0].node,
        accelerators=tuple(room.key for room in rooms if room.card is not None),
        slots=demand.slots,
        context=demand.context,
        footprint=size,
        why=describe(size, [(room.card, room.free) for room in rooms]),
    )
    board.take(placement, rooms)
    return True


def _name(board: _Board, pool: PoolName, rooms: Sequence[_Room]) -> InstanceId:
    """A name that says where and what, and that no other pool's coming or going changes."""
    first = rooms[0]
    if first.card is None:
        where = "cpu"
    elif first.card.parent_uuid is not None:
        where = f"gpu{first.index}-mig{_mig_ordinal(board, first)}"
    elif len(rooms) == 1:
        where = f"gpu{first.index}"
    else:
        where = "gpus" + "-".join(str(index) for index in sorted(room.index for room in rooms))
    plain = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in pool)
    base = f"{first.node}-{where}-{plain}"
    used = {each.instance for each in board.placed}
    return InstanceId(next(name for number in range(len(used) + 1) if (name := f"{base}-{number}") not in used))


def _mig_ordinal(board: _Board, room: _Room) -> int:
    """Which of its card's MIG devices this one is: several have the card's index."""
    assert room.card is not None
    parent = room.card.parent_uuid
    siblings = [each.key for each in board.rooms.values() if each.card is not None and each.card.parent_uuid == parent]
    return siblings.index(room.key)


def _largest_first(demands: Sequence[Demand]) -> list[Demand]:
    """One entry for each copy that pools must have, a pool's copies together, those of the largest first."""
    ordered = sorted(demands, key=lambda each: (-demand_footprint(each, on_gpu=True).total, each.pool))
    return [each for each in ordered for _ in range(each.replicas_min)]


def _in_turns(demands: Sequence[Demand]) -> list[Demand]:
    """The same copies, every pool's first before any pool's second."""
    nth: Counter[PoolName] = Counter()
    turns: list[tuple[int, Demand]] = []
    for each in _largest_first(demands):
        turns.append((nth[each.pool], each))
        nth[each.pool] += 1
    return [each for _, each in sorted(turns, key=lambda turn: turn[0])]


def _best_fresh(demands: Sequence[Demand], board: Callable[[], _Board]) -> _Board:
    """A plan from nothing: largest pools first, or in turns where that leaves fewer pools with too little."""
    orders = (_largest_first, _in_turns)
    boards = [_serve_minimum(board(), demands, order) for order in orders]
    best = min(boards, key=lambda each: _score(each, demands))
    return _fill(best, demands)


def _score(board: _Board, demands: Sequence[Demand]) -> tuple[int, int]:
    """How bad a plan is: pools with nothing at all, then copies that are missing to minimums."""
    counts = _counts(board)
    silent = sum(1 for each in demands if each.replicas_min and not counts[each.pool])
    return silent, sum(max(0, each.replicas_min - counts[each.pool]) for each in demands)


def _counts(board: _Board) -> Counter[PoolName]:
    return Counter(each.pool for each in board.placed)


def _serve_minimum(
    board: _Board, demands: Sequence[Demand], order: Callable[[Sequence[Demand]], list[Demand]]
) -> _Board:
    have = _counts(board)
    full: set[PoolName] = set()
    for demand in order(demands):
        if have[demand.pool] > 0:
            have[demand.pool] -= 1  # a copy that was kept stands for this one
        elif demand.pool not in full and not _add(board, demand, is_extra=False):
            full.add(demand.pool)
    return board


def _fill(board: _Board, demands: Sequence[Demand], up_to: Mapping[PoolName, int] | None = None) -> _Board:
    """Share the room left over: the pool whose extra copies hold least, for its `share`, gets the next one.

    `up_to`: the most copies a pool may come to, where a plan from nothing has settled it.
    """
    given: dict[PoolName, float] = {each.pool: 0.0 for each in demands}
    open_pools = {
        each.pool: each for each in demands if each.replicas_max is None or each.replicas_max > each.replicas_min
    }
    counts = _counts(board)
    for demand in open_pools.values():
        given[demand.pool] = max(0, counts[demand.pool] - demand.replicas_min) * _weight(demand)
    while open_pools:
        pool = min(open_pools, key=lambda name: (given[name] + _weight(open_pools[name]), name))
        demand = open_pools[pool]
        most = min(_most(demand), up_to.get(pool, 0) if up_to is not None else _most(demand))
        if board.count(pool) >= most or not _add(board, demand, is_extra=True):
            del open_pools[pool]
            continue
        given[pool] += _weight(demand)
    return board


def _most(demand: Demand) -> int:
    return _NO_LIMIT if demand.replicas_max is None else demand.replicas_max


def _weight(demand: Demand) -> float:
    return demand_footprint(demand, on_gpu=True).total / demand.share


# --- what runs now ---------------------------------------------------------------------------------------------------


def _keep(board: _Board, demands: Sequence[Demand], current: Sequence[Placement], most: Mapping[PoolName, int]) -> None:
    """Put what runs now on the board, where it is still what is asked for: at most `most` copies of each pool.

    The first copies on each card go before second ones, so that what must go leaves the others well spread.
    """
    by_pool = {each.pool: each for each in demands}
    for placement in sorted(current, key=lambda each: (_number(each.instance), each.instance)):
        demand = by_pool.get(placement.pool)
        if demand is None or board.count(placement.pool) >= min(most.get(placement.pool, 0), _most(demand)):
            continue
        kept = _still_asked_for(placement, demand)
        rooms = [board.rooms.get(key) for key in placement.accelerators or (placement.node,)]
        if kept is None or not all(_holds(room, kept, len(rooms)) for room in rooms):
            continue
        board.take(kept, [room for room in rooms if room is not None])


def _number(instance: InstanceId) -> int:
    digits = instance.rpartition("-")[2]
    return int(digits) if digits.isdecimal() else 0


def _still_asked_for(placement: Placement, demand: Demand) -> Placement | None:
    """`placement` with today's footprint, or None where its context, slots or cache type are no longer the demand's.

    The cache's size may differ a little and the weights' at will: once a model is pulled, its header replaces the
    catalogue's figures, and that is no reason to restart it. Another cache type changes the cache by 40 % and more.
    Of an instance found running only the total may be known (its cache is 0 then): that may differ by 2 %.
    """
    on_gpu = bool(placement.accelerators)
    size = _split(demand, len(placement.accelerators)) if on_gpu else demand_footprint(demand, on_gpu=False)
    if (placement.slots, placement.context) != (demand.slots, demand.context):
        return None
    was = placement.footprint
    changed = abs(was.kv_cache - size.kv_cache) * 10 if was.kv_cache else abs(was.total - size.total) * 50
    if changed > (size.kv_cache if was.kv_cache else size.total):
        return None
    return placement if placement.footprint == size else replace(placement, footprint=size)


def _holds(room: _Room | None, placement: Placement, cards: int) -> bool:
    """Whether a running instance may stay: its memory is its own already, so the headroom does not drive it out."""
    if room is None or room.node != placement.node or (room.card is None) != (not placement.accelerators):
        return False
    return room.places > 0 and room.free >= per_card_bytes(placement.footprint, cards)


# --- the answer ------------------------------------------------------------------------------------------------------


def _plan(board: _Board, demands: Sequence[Demand], empty: _Board) -> PlacementPlan:
    counts = _counts(board)
    refused = []
    for demand in demands:
        if counts[demand.pool] >= demand.replicas_min:
            continue
        best = max((r for r in board.rooms.values() if r.places > 0), key=lambda each: each.left, default=None)
        largest = max((room.left for room in empty.rooms.values()), default=0)
        room = None if best is None else (best.node, best.card, best.left)
        refused.append((demand.pool, explain_refusal(demand, counts[demand.pool], room, largest)))
    placements = sorted(board.placed, key=lambda each: (each.pool, each.node, each.instance))
    return PlacementPlan(tuple(placements), tuple(refused))
