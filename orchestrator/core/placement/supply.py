"""What there is to fill, as the solver sees it: cards that hold the same things are one kind, however many they are.

Sizes are whole MiB here: needs rounded up, room rounded down, so that nothing is promised that is not there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.core.cards import Card
from orchestrator.core.model import Demand, NodeName, PoolName
from orchestrator.core.placement.greedy import MAX_CARDS
from orchestrator.core.placement.rooms import Board, Room, may_go_to
from orchestrator.core.placement.serving import Serving
from orchestrator.core.sizing import MIB, per_card_bytes

# Each kind is a set of columns of the program to solve. Where there are more kinds, cards count as the smaller of two
# that differ little: something is left unused on the larger one.
MAX_KINDS: Final = 40
_COARSER_MIB: Final = (1, 64, 256, 1024, 4096)


@dataclass(frozen=True, slots=True)
class Kind:
    """Cards that hold the same things. `rack`: how many of them a node has together, where models span cards."""

    room_mib: int
    card: Card | None
    pools: tuple[PoolName, ...]  # that may go there
    rack: int


@dataclass(frozen=True, slots=True)
class Supply:
    """Cards by kind, in a fixed order; `spans`: on how many cards of a kind a model goes that fits on no single one."""

    cards: dict[Kind, tuple[Room, ...]]
    needs: dict[PoolName, int]
    spans: dict[tuple[Kind, PoolName], int]
    part_needs: dict[tuple[PoolName, int], int]

    def racks(self, kind: Kind) -> int:
        """How many nodes have a rack of this kind."""
        return len(self.cards[kind]) // kind.rack


def supply_of(board: Board, demands: Sequence[Demand], serving: Serving, *, max_kinds: int = MAX_KINDS) -> Supply:
    """The empty board's cards by kind."""
    rooms = [room for room in board.rooms.values() if room.card is not None]
    needs = {each.pool: mib_up(board.sizes.on_cards(each).total) for each in demands}
    large = [each for each in demands if all(mib_down(room.left) < needs[each.pool] for room in rooms)]
    parts = {
        (each.pool, count): mib_up(per_card_bytes(board.sizes.on_cards(each, count), count))
        for each in large
        for count in range(2, min(MAX_CARDS, each.shape.layers, _most_together(rooms)) + 1)
    }
    by_kind = _kinds(rooms, demands, serving, [*needs.values(), *parts.values()], bool(parts), max_kinds)
    spans: dict[tuple[Kind, PoolName], int] = {}
    for kind, cards in by_kind.items():
        for each in large:
            able = (n for n in range(2, kind.rack + 1) if parts.get((each.pool, n), kind.room_mib + 1) <= kind.room_mib)
            if each.pool in kind.pools and cards[0].can_split and (count := next(able, 0)):
                spans[kind, each.pool] = count
    return Supply(by_kind, needs, spans, parts)


def _kinds(
    rooms: Sequence[Room],
    demands: Sequence[Demand],
    serving: Serving,
    sizes: Sequence[int],
    has_spans: bool,
    max_kinds: int,
) -> dict[Kind, tuple[Room, ...]]:
    useful = _reachable(sizes, max((0, *(mib_down(room.left) for room in rooms))))  # others may use what was ours
    found: dict[Kind, tuple[Room, ...]] = {}
    for step in _COARSER_MIB:
        found = _kinds_at(rooms, demands, serving, useful, step, has_spans)
        if len(found) <= max_kinds:
            break
    return found


def _kinds_at(
    rooms: Sequence[Room], demands: Sequence[Demand], serving: Serving, useful: int, step: int, has_spans: bool
) -> dict[Kind, tuple[Room, ...]]:
    told: dict[str, tuple[int, Card | None, tuple[PoolName, ...], bool]] = {}
    allowed: dict[NodeName, tuple[PoolName, ...]] = {}
    for room in rooms:
        if room.node not in allowed:
            allowed[room.node] = tuple(each.pool for each in demands if may_go_to(each, room.node))
        left = mib_down(room.left) // step * step
        card = None if serving.is_plain else serving.card(room.key)
        told[room.key] = (_largest_in(useful, left), card, allowed[room.node], room.can_split)
    together = Counter((room.node, told[room.key]) for room in rooms)
    kinds: dict[Kind, list[Room]] = {}
    for room in rooms:
        size, card, pools, can_split = told[room.key]
        rack = together[room.node, told[room.key]] if has_spans and can_split else 1
        kinds.setdefault(Kind(size, card, pools, rack), []).append(room)
    return {kind: tuple(cards) for kind, cards in kinds.items()}


def _most_together(rooms: Sequence[Room]) -> int:
    return max(Counter(room.node for room in rooms if room.can_split).values(), default=0)


def _reachable(sizes: Sequence[int], most: int) -> int:
    """Every sum of `sizes` up to `most`, as bits: room between two of them is room for nothing."""
    mask = (1 << (most + 1)) - 1
    bits = 1
    for size in set(sizes):
        shift = size
        while 0 < shift <= most:
            bits |= (bits << shift) & mask
            shift *= 2
    return bits


def _largest_in(bits: int, most: int) -> int:
    return max(0, (bits & ((1 << (max(0, most) + 1)) - 1)).bit_length() - 1)


def mib_up(count: int) -> int:
    return -(-count // MIB)


def mib_down(count: int) -> int:
    return count // MIB
