"""Rooms for instances, and what has been put into them: accelerators of each node, or a CPU node's RAM.

Knows what is free less the headroom, and which demands may share a room; which room a copy goes to is left to `greedy`
and `assignment`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final

from orchestrator.core.model import (
    Accelerator,
    Demand,
    Footprint,
    InstanceId,
    NodeFacts,
    NodeName,
    Placement,
    PoolName,
)
from orchestrator.core.placement.words import describe
from orchestrator.core.sizing import GIB, MIB, demand_footprint, per_card_bytes, split_footprint

# Left free on each accelerator beyond the estimate, which is within 3 % of the real figure: for a desktop, for another
# process that grows, and for what a driver's update takes.
HEADROOM_BYTES: Final = 512 * MIB
# Left free in a CPU node's memory: the system, the engine's own process, and the prompts it caches.
RAM_HEADROOM_BYTES: Final = 2 * GIB
NO_LIMIT: Final = 1 << 30

Preference = tuple[int, int, int, int]


@dataclass(slots=True)
class Room:
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
    rank: int = 0  # among the board's rooms: by node, and on it by index
    pools: list[PoolName] = field(default_factory=list)

    @property
    def left(self) -> int:
        return self.free - self.headroom


class Sizes:
    """Footprints of one plan's demands, each worked out once: the same few are asked for again and again."""

    def __init__(self) -> None:
        self._known: dict[tuple[PoolName, int, int, str, int], Footprint] = {}

    def on_cards(self, demand: Demand, cards: int = 1) -> Footprint:
        """On so many cards of one node together; 0: in a CPU node's RAM."""
        key = (demand.pool, demand.slots, demand.context, demand.kv_type, cards)
        found = self._known.get(key)
        if found is None:
            whole = demand_footprint(demand, on_gpu=cards > 0)
            found = split_footprint(whole, demand.shape.layers, cards) if cards > 1 else whole
            self._known[key] = found
        return found


@dataclass(slots=True)
class Board:
    """Rooms with placements on them, as a plan grows."""

    rooms: dict[str, Room]
    sizes: Sizes
    placed: list[Placement] = field(default_factory=list)
    counts: Counter[PoolName] = field(default_factory=Counter)
    node_copies: Counter[tuple[PoolName, NodeName]] = field(default_factory=Counter)
    names: set[InstanceId] = field(default_factory=set)
    orders: dict[PoolName, list[tuple[Preference, str]]] = field(default_factory=dict)  # kept by `greedy`
    frees: dict[InstanceId, tuple[int, ...]] = field(default_factory=dict)  # of each new copy's rooms, before it came
    numbers: dict[str, int] = field(default_factory=dict)  # by the rest of a name: below this all are taken

    def take(self, placement: Placement, rooms: Sequence[Room]) -> None:
        for room in rooms:
            room.free -= per_card_bytes(placement.footprint, len(rooms))
            room.places -= 1
            room.pools.append(placement.pool)
        self.placed.append(placement)
        self.counts[placement.pool] += 1
        self.node_copies[placement.pool, placement.node] += 1
        self.names.add(placement.instance)

    def put(self, demand: Demand, rooms: Sequence[Room]) -> Placement:
        """Place a new copy of `demand` on the cards `rooms`, or in the RAM of a node: whoever asks has seen it fit."""
        size = self.sizes.on_cards(demand, len(rooms) if rooms[0].card is not None else 0)
        placement = Placement(
            instance=self._name(demand.pool, rooms),
            pool=demand.pool,
            node=rooms[0].node,
            accelerators=tuple(room.key for room in rooms if room.card is not None),
            slots=demand.slots,
            context=demand.context,
            footprint=size,
            why="",  # said by `explained`, of the one board that becomes the plan
        )
        self.frees[placement.instance] = tuple(room.free for room in rooms)
        self.take(placement, rooms)
        return placement

    def explained(self) -> list[Placement]:
        """What is placed, with why each new copy went where it is."""
        return [self._explained(each) if each.instance in self.frees else each for each in self.placed]

    def _explained(self, placement: Placement) -> Placement:
        cards = [self.rooms[key].card for key in placement.accelerators] or [None]
        frees = self.frees[placement.instance]
        return replace(placement, why=describe(placement.footprint, list(zip(cards, frees, strict=True))))

    def hosts(self, pool: PoolName) -> int:
        return sum(1 for (name, _), count in self.node_copies.items() if name == pool and count)

    def _name(self, pool: PoolName, rooms: Sequence[Room]) -> InstanceId:
        """A name that says where and what, and that no other pool's coming or going changes."""
        first = rooms[0]
        if first.card is None:
            where = "cpu"
        elif first.card.parent_uuid is not None:
            where = f"gpu{first.index}-mig{self._mig_ordinal(first)}"
        elif len(rooms) == 1:
            where = f"gpu{first.index}"
        else:
            where = "gpus" + "-".join(str(index) for index in sorted(room.index for room in rooms))
        base = f"{first.node}-{where}-{_plain(pool)}"
        number = self.numbers.get(base, 0)
        while (name := InstanceId(f"{base}-{number}")) in self.names:
            number += 1
        self.numbers[base] = number + 1
        return name

    def _mig_ordinal(self, room: Room) -> int:
        """Which of its card's MIG devices this one is: several have the card's index."""
        assert room.card is not None
        parent = room.card.parent_uuid
        siblings = [
            each.key for each in self.rooms.values() if each.card is not None and each.card.parent_uuid == parent
        ]
        return siblings.index(room.key)


@lru_cache(maxsize=256)
def _plain(pool: PoolName) -> str:
    """A pool's name as part of an instance's."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in pool)


def board_of(
    nodes: Sequence[NodeFacts], headroom: int, ram_headroom: int, own: Mapping[str, int], sizes: Sizes
) -> Board:
    """The empty rooms of `nodes`, in the nodes' order by name."""
    ordered = sorted(nodes, key=lambda each: each.node)
    rooms = (room for node in ordered for room in _rooms_of(node, headroom, ram_headroom, own))
    board = Board({room.key: room for room in rooms}, sizes)
    for rank, room in enumerate(board.rooms.values()):
        room.rank = rank
    return board


def _rooms_of(node: NodeFacts, headroom: int, ram_headroom: int, own: Mapping[str, int]) -> Iterator[Room]:
    """The node's accelerators, or its RAM where it has none at all."""
    for card in sorted(usable_accelerators(node), key=lambda each: (each.index, each.uuid)):
        free = min(card.vram_total_bytes, card.vram_free_bytes + own.get(card.uuid, 0))
        yield Room(
            node.node,
            card.uuid,
            card.index,
            card,
            card.vram_total_bytes,
            free,
            headroom,
            NO_LIMIT,
            can_split=card.parent_uuid is None,  # CUDA gives a process one MIG device, never two
        )
    if not node.accelerators:
        free = min(node.ram_total_bytes, node.ram_free_bytes + own.get(node.node, 0))
        yield Room(node.node, node.node, 0, None, node.ram_total_bytes, free, ram_headroom, node.cpu_count, False)


def usable_accelerators(node: NodeFacts) -> tuple[Accelerator, ...]:
    """The node's accelerators that can hold an instance: a card cut into MIG devices can only through those."""
    parents = {each.parent_uuid for each in node.accelerators if each.parent_uuid is not None}
    return tuple(
        each
        for each in node.accelerators
        if each.parent_uuid is not None or (each.mig != "on" and each.uuid not in parents)
    )


class Neighbours:
    """Which demands may share an accelerator. What one says of another holds for both."""

    def __init__(self, demands: Iterable[Demand]) -> None:
        self._apart: set[tuple[PoolName, PoolName]] = set()
        for each in demands:
            for other in each.apart:
                self._apart |= {(each.pool, other), (other, each.pool)}

    def allow(self, demand: Demand, there: Sequence[PoolName], *, is_gpu: bool = True) -> bool:
        """Whether one more copy of `demand` may go where `there` are."""
        if not is_gpu:
            return True
        if demand.per_card is not None and there.count(demand.pool) >= demand.per_card:
            return False
        if any(pool not in there for pool in demand.beside):
            return False
        return not self._apart or not any((demand.pool, pool) in self._apart for pool in there)


def may_go_to(demand: Demand, node: NodeName) -> bool:
    return not demand.nodes or node in demand.nodes


def fits(room: Room, need: int) -> bool:
    return room.places > 0 and room.left >= need
