"""A plan grown copy by copy: each goes where it disturbs least. Good, quick, and all that most clusters need.

It is the whole plan where it leaves nothing to be wished for, what `solver` has to beat where it does, and what is
left where there is no solver or no time.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from orchestrator.core.model import Demand, NodeName, PoolName
from orchestrator.core.placement.rooms import NO_LIMIT, Board, Neighbours, Preference, Room, fits, may_go_to
from orchestrator.core.placement.serving import Serving
from orchestrator.core.sizing import per_card_bytes

MAX_CARDS: Final = 16  # that one instance is split over
# Calls that may stay unserved: a rounding error is no reason for another instance.
_NOTHING: Final = 1e-6


class Greedy:
    """Grows boards for one set of demands, in the order of their pools' names."""

    def __init__(self, demands: Sequence[Demand], serving: Serving) -> None:
        self.demands = sorted(demands, key=lambda each: each.pool)
        self.serving = serving
        self._neighbours = Neighbours(self.demands)

    # --- one copy ----------------------------------------------------------------------------------------------------

    def add(self, board: Board, demand: Demand, *, is_extra: bool) -> bool:
        """Place one more copy of `demand`, if there is room."""
        rooms = self._find_rooms(board, demand, is_extra)
        if not rooms:
            return False
        board.put(demand, rooms)
        return True

    def _find_rooms(self, board: Board, demand: Demand, is_extra: bool) -> list[Room]:
        """Where the next copy goes: one card; several of one node where no card has room; a node without GPUs.

        A copy beyond the minimum (`is_extra`) is split only where no card is large enough for the model, and goes to a
        CPU only in a cluster without GPUs: it would take calls that those before it answer several times as fast.
        """
        size = board.sizes.on_cards(demand).total
        if whole := self._best_card(board, demand, size):
            return [whole]
        cards = [room for room in board.rooms.values() if room.card is not None and may_go_to(demand, room.node)]
        is_large = all(room.total - room.headroom < size for room in cards)
        parted = self._find_split(board, cards, demand) if is_large or not is_extra else []
        if parted or (is_extra and any(room.card is not None for room in board.rooms.values())):
            return parted
        on_cpu = board.sizes.on_cards(demand, 0).total
        hosts = [each for each in board.rooms.values() if each.card is None and may_go_to(demand, each.node)]
        able = [each for each in hosts if fits(each, on_cpu)]
        return [min(able, key=lambda room: _preference(board, demand, room))] if able else []

    def _best_card(self, board: Board, demand: Demand, size: int) -> Room | None:
        """The card with room that comes first by `_preference`.

        What is placed makes every room worse for the copies to come, never better: so a room's place in the order is
        looked at anew only when it comes first, and one without room never again. Cards that are allowed only beside
        another pool can become better: these are not left out for good.
        """
        if demand.pool not in board.orders:
            cards = (each for each in board.rooms.values() if each.card is not None and may_go_to(demand, each.node))
            board.orders[demand.pool] = [(_preference(board, demand, room), room.key) for room in cards]
            heapq.heapify(board.orders[demand.pool])
        order = board.orders[demand.pool]
        put_back: list[tuple[Preference, str]] = []
        found: Room | None = None
        while order and found is None:
            before, key = order[0]
            room = board.rooms[key]
            if not fits(room, size):
                heapq.heappop(order)
                continue
            now = _preference(board, demand, room)
            if now != before:
                heapq.heapreplace(order, (now, key))
            elif not self._neighbours.allow(demand, room.pools):
                entry = heapq.heappop(order)
                if demand.beside:
                    put_back.append(entry)
            else:
                found = room
        for entry in put_back:
            heapq.heappush(order, entry)
        return found

    def _find_split(self, board: Board, cards: Iterable[Room], demand: Demand) -> list[Room]:
        """The fewest cards of one node that hold an instance together, those with the most room; empty if none do."""
        by_node: dict[NodeName, list[Room]] = {}
        able = (each for each in cards if each.can_split and self._neighbours.allow(demand, each.pools))
        for room in sorted(able, key=lambda each: (-each.left, each.index, each.key)):
            by_node.setdefault(room.node, []).append(room)
        most = min(MAX_CARDS, demand.shape.layers, max(map(len, by_node.values()), default=0))
        for count in range(2, most + 1):
            need = per_card_bytes(board.sizes.on_cards(demand, count), count)
            found = [
                rooms[:count] for rooms in by_node.values() if len(rooms) >= count and fits(rooms[count - 1], need)
            ]
            if found:
                return min(found, key=lambda rooms: _preference(board, demand, rooms[-1]))
        return []

    # --- a whole plan ------------------------------------------------------------------------------------------------

    def fresh(self, board: Callable[[], Board]) -> Board:
        """A plan from nothing: largest pools first, or in turns where that leaves fewer pools with too little."""
        boards = [self.serve_minimum(board(), self._largest_first(board()))]
        if self.score(boards[0])[:2] != (0, 0):
            boards.append(self.serve_minimum(board(), self._in_turns(board())))
        return self.fill(min(boards, key=self.score))

    def complete(self, board: Board, up_to: Mapping[PoolName, int] | None = None) -> Board:
        """What is missing to minimums, then what there is room for."""
        return self.fill(self.serve_minimum(board, self._largest_first(board)), up_to)

    def score(self, board: Board) -> tuple[int, int, float]:
        """How bad a plan is: pools with nothing at all, copies missing to minimums, calls without a slot in time."""
        counts = board.counts
        silent = sum(1 for each in self.demands if each.replicas_min and not counts[each.pool])
        missing = sum(max(0, each.replicas_min - counts[each.pool]) for each in self.demands)
        return silent, missing, round(sum(self.unserved(board).values()), 6)

    def unserved(self, board: Board) -> dict[PoolName, float]:
        """Calls at the busiest time that no copy serves within the goal, by pool; pools of unknown load are not in."""
        loaded = [each for each in self.demands if each.load is not None]
        served = self.serving.served(board) if loaded else {}
        return {each.pool: max(0.0, (each.load or 0.0) - served.get(each.pool, 0)) for each in loaded}

    def serve_minimum(self, board: Board, order: Sequence[Demand]) -> Board:
        have = Counter(board.counts)
        full: set[PoolName] = set()
        for demand in order:
            if have[demand.pool] > 0:
                have[demand.pool] -= 1  # a copy that was kept stands for this one
            elif demand.pool not in full and not self.add(board, demand, is_extra=False):
                full.add(demand.pool)
        return board

    def fill(self, board: Board, up_to: Mapping[PoolName, int] | None = None) -> Board:
        """Copies beyond the minimum: first where calls would find no slot, then by `share` into the room left over.

        `up_to`: the most copies a pool may come to, where a plan from nothing has settled it.
        """
        self._serve_load(board, up_to)
        self._fill_shares(board, up_to)
        return board

    def _serve_load(self, board: Board, up_to: Mapping[PoolName, int] | None) -> None:
        """The pool with the largest part of its load unserved gets the next copy, as long as one serves more."""
        missing = self.unserved(board)
        waiting = {each.pool: each for each in self.demands if missing.get(each.pool, 0) > _NOTHING}
        ranks = {pool: -rank for rank, pool in enumerate(sorted(waiting))}
        turns = [(-missing[pool] / (each.load or 1.0), ranks[pool], pool) for pool, each in waiting.items()]
        heapq.heapify(turns)
        while turns:
            turn, _, pool = turns[0]
            demand = waiting.get(pool)
            if demand is None or turn != -missing[pool] / (demand.load or 1.0):
                heapq.heappop(turns)  # of before something changed
                continue
            rooms = self._find_rooms(board, demand, True) if board.counts[pool] < most_of(demand, up_to) else []
            change = self.serving.change(board, demand, [room.key for room in rooms])
            if not rooms or sum(change.values()) <= 0:
                del waiting[pool]
                continue
            board.put(demand, rooms)
            for each, served in change.items():
                missing[each] = missing.get(each, 0.0) - served
                if each in waiting:
                    heapq.heappush(turns, (-missing[each] / (waiting[each].load or 1.0), ranks[each], each))
            if missing[pool] <= _NOTHING:
                del waiting[pool]

    def _fill_shares(self, board: Board, up_to: Mapping[PoolName, int] | None) -> None:
        """Share the room left over: the pool whose extra copies hold least, for its `share`, gets the next one."""
        open_pools = {
            each.pool: each
            for each in self.demands
            if each.load is None and (each.replicas_max is None or each.replicas_max > each.replicas_min)
        }
        weight = {name: board.sizes.on_cards(each).total / each.share for name, each in open_pools.items()}
        given = {
            name: max(0, board.counts[name] - each.replicas_min) * weight[name] for name, each in open_pools.items()
        }
        while open_pools:
            pool = min(open_pools, key=lambda name: (given[name] + weight[name], name))
            demand = open_pools[pool]
            if board.counts[pool] >= most_of(demand, up_to) or not self.add(board, demand, is_extra=True):
                del open_pools[pool]
                continue
            given[pool] += weight[pool]

    # --- orders ------------------------------------------------------------------------------------------------------

    def _largest_first(self, board: Board) -> list[Demand]:
        """One entry for each copy that pools must have, a pool's copies together, those of the largest first.

        A pool that goes only beside others comes after all that do not.
        """
        ordered = sorted(
            self.demands, key=lambda each: (bool(each.beside), -board.sizes.on_cards(each).total, each.pool)
        )
        return [each for each in ordered for _ in range(each.replicas_min)]

    def _in_turns(self, board: Board) -> list[Demand]:
        """The same copies, every pool's first before any pool's second."""
        nth: Counter[PoolName] = Counter()
        turns: list[tuple[int, Demand]] = []
        for each in self._largest_first(board):
            turns.append((nth[each.pool], each))
            nth[each.pool] += 1
        return [each for _, each in sorted(turns, key=lambda turn: turn[0])]


def most_of(demand: Demand, up_to: Mapping[PoolName, int] | None = None) -> int:
    """The most copies of it."""
    most = NO_LIMIT if demand.replicas_max is None else demand.replicas_max
    return most if up_to is None else min(most, up_to.get(demand.pool, 0))


def _preference(board: Board, demand: Demand, room: Room) -> Preference:
    """A card without this pool, then a node with few copies of it: two copies on one card share its bandwidth."""
    copies = board.node_copies[demand.pool, room.node]
    return (room.pools.count(demand.pool), copies, room.headroom - room.free, room.rank)
