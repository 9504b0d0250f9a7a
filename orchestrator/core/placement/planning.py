"""The whole plan: what runs kept where it can be, the rest placed greedily, and solved where that falls short."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.core.model import Demand, NodeFacts, Placement, PlacementPlan, PoolName
from orchestrator.core.placement.assignment import Contents, Target, assign
from orchestrator.core.placement.greedy import MAX_CARDS, Greedy, most_of
from orchestrator.core.placement.kept import keep
from orchestrator.core.placement.rooms import HEADROOM_BYTES, RAM_HEADROOM_BYTES, Board, Sizes, board_of
from orchestrator.core.placement.serving import Serving
from orchestrator.core.placement.supply import supply_of
from orchestrator.core.placement.words import explain_hosts, explain_refusal, explain_unserved
from orchestrator.core.sizing import per_card_bytes

# Calls served more, of the whole load, for which running instances are moved: a model's load takes seconds to minutes,
# and until it is done the calls that the moved instance served find fewer slots.
REARRANGED_FOR: Final = 0.02


@dataclass(frozen=True, slots=True)
class Effort:
    """`time_limit_s`: the longest that the solver may take, each of its two or three times; 0: no solver.

    Without `moves_for_load` an instance that could serve more calls comes only where what runs leaves room for it.
    """

    time_limit_s: float = 10.0
    moves_for_load: bool = True


def place(
    demands: Sequence[Demand],
    nodes: Sequence[NodeFacts],
    *,
    headroom_bytes: int = HEADROOM_BYTES,
    ram_headroom_bytes: int = RAM_HEADROOM_BYTES,
    current: Sequence[Placement] = (),
    own_bytes: Mapping[str, int] | None = None,
    effort: Effort | None = None,
) -> PlacementPlan:
    """The instances that `demands` get on `nodes`, and why each pool that got too few did.

    `current`: what runs now; it stays where it fits its demand, even into the headroom, since it holds its memory
    already. `own_bytes`: what our own running instances hold, by accelerator UUID, or by node name for a CPU node's
    RAM: it is free to be promised again.
    """
    work = _Work(demands, nodes, headroom_bytes, ram_headroom_bytes, own_bytes or {}, effort or Effort())
    return work.plan(work.chosen(current))


class _Work:
    """One plan on its way."""

    def __init__(
        self,
        demands: Sequence[Demand],
        nodes: Sequence[NodeFacts],
        headroom: int,
        ram_headroom: int,
        own: Mapping[str, int],
        effort: Effort,
    ) -> None:
        self._nodes, self._own, self._effort = nodes, own, effort
        self._headroom, self._ram_headroom = headroom, ram_headroom
        self._sizes = Sizes()
        self._serving = Serving(demands, nodes)
        self._greedy = Greedy(demands, self._serving)
        self._demands = self._greedy.demands
        self._targets: list[Target] = []

    def _board(self) -> Board:
        return board_of(self._nodes, self._headroom, self._ram_headroom, self._own, self._sizes)

    def _roomy(self) -> Board:
        return board_of(self._nodes, 0, 0, self._own, self._sizes)

    # --- which plan --------------------------------------------------------------------------------------------------

    def chosen(self, current: Sequence[Placement]) -> Board:
        """The plan that serves most; of those that serve alike, the one that moves least."""
        fresh = self._greedy.fresh(self._board)
        if current and not self._effort.moves_for_load and (still := self._still(fresh, current)) is not None:
            return still
        if self._is_worth_solving(fresh):
            solved = self._solved(fresh)
            if solved is not None and self._greedy.score(solved) < self._greedy.score(fresh):
                fresh = solved
        if not current:
            return fresh
        roomy = self._greedy.fresh(self._roomy)
        minimum = Counter({each.pool: each.replicas_min for each in self._demands})
        kept = self._kept(current, fresh.counts | roomy.counts | minimum, fresh)
        if self._is_as_good(kept, fresh):
            return kept
        fewer = self._kept(current, minimum, fresh)
        able = [each for each in (fewer, self._moved_least(fresh, current)) if self._is_as_good(each, fresh)]
        return min(able or [fresh], key=lambda each: _started(each, current))

    def _kept(self, current: Sequence[Placement], most: Mapping[PoolName, int], fresh: Board) -> Board:
        """What runs, up to `most` copies of each pool, and what is missing to as many as `fresh` has."""
        board = self._board()
        keep(board, self._demands, current, most)
        return self._greedy.complete(board, fresh.counts)

    def _still(self, fresh: Board, current: Sequence[Placement]) -> Board | None:
        """What runs where it is, and of pools of known load as many more as there is room for; None: a pool would pay
        for that with its minimum. What only fills room that is left over makes way."""
        minimum = Counter({each.pool: each.replicas_min for each in self._demands})
        loaded = Counter({each.pool: most_of(each) for each in self._demands if each.load is not None})
        roomy = self._greedy.fresh(self._roomy)
        boards = []
        for most in (fresh.counts | roomy.counts | minimum | loaded, minimum | loaded):
            board = self._board()
            keep(board, self._demands, current, most)
            boards.append(self._greedy.complete(board, fresh.counts | loaded))
        best = min(boards, key=lambda each: (self._greedy.score(each), _started(each, current)))
        return best if self._greedy.score(best)[:2] <= self._greedy.score(fresh)[:2] else None

    def _is_as_good(self, kept: Board, fresh: Board) -> bool:
        """No pool pays for what stays with its minimum, and hardly a call with its slot."""
        *least, unserved = self._greedy.score(kept)
        *best, possible = self._greedy.score(fresh)
        load = sum(each.load or 0.0 for each in self._demands)
        return least < best or (least == best and unserved <= possible + REARRANGED_FOR * load)

    def _is_worth_solving(self, board: Board) -> bool:
        """A greedy plan that serves everything cannot be bettered; nor can one short only of what fits nowhere."""
        if not self._effort.time_limit_s or not any(room.card is not None for room in board.rooms.values()):
            return False
        unserved = self._greedy.unserved(board)
        short = [
            each
            for each in self._demands
            if board.counts[each.pool] < each.replicas_min or unserved.get(each.pool, 0.0) > 0
        ]
        if not short:
            return False
        empty = self._board()
        return any(self._goes_somewhere(each, empty) for each in short)

    def _goes_somewhere(self, demand: Demand, empty: Board) -> bool:
        """Whether a card, or cards of one node, would hold it with nothing else there."""
        by_node: defaultdict[str, list[int]] = defaultdict(list)
        for room in empty.rooms.values():
            if room.card is not None:
                by_node[room.node].append(room.left)
        for lefts in by_node.values():
            lefts.sort(reverse=True)
            for count in range(1, min(len(lefts), MAX_CARDS, demand.shape.layers) + 1):
                if lefts[count - 1] >= per_card_bytes(self._sizes.on_cards(demand, count), count):
                    return True
        return False

    # --- solved ------------------------------------------------------------------------------------------------------

    def _solved(self, fresh: Board) -> Board | None:
        """The patterns that the solver chose, on cards, and what else there is room for; None: none in time."""
        from orchestrator.core.placement.solver import Solver

        supply = supply_of(self._board(), self._demands, self._serving)
        holds = _on_one_card(fresh)
        solver = Solver(supply, self._demands, self._serving, time_limit_s=self._effort.time_limit_s)
        for kind, rooms in supply.cards.items():
            for contents in sorted({holds.get(room.key, ()) for room in rooms}):
                solver.suggest(kind, dict(contents))
        answer = solver.solve()
        if answer is None:
            return None
        targets = {kind: Target(rooms) for kind, rooms in supply.cards.items()}
        rests: defaultdict[object, list[Contents]] = defaultdict(list)
        for kind, under, pattern, count in answer.remainders:
            rests[kind, under] += [pattern.pools] * count
        for kind, pattern, count in answer.chosen:
            if pattern.spread == 1:
                targets[kind].singles[pattern.pools] += count
                continue
            left = rests[kind, pattern]
            for _ in range(count):
                mine = tuple(left.pop() if left else () for _ in range(pattern.spread))
                targets[kind].groups.append((pattern.pools, mine))
        board = assign(self._board(), targets.values(), self._demands, ())
        return self._greedy.complete(board)

    def _moved_least(self, target: Board, current: Sequence[Placement]) -> Board:
        """`target`, with its cards' contents exchanged among cards that can hold the same, so that the most stays."""
        supply = supply_of(self._board(), self._demands, self._serving)
        holds = _on_one_card(target)
        targets = []
        for rooms in supply.cards.values():
            here = {room.key for room in rooms}
            each = Target(rooms)
            spanned: set[str] = set()
            for placement in target.placed:
                if len(placement.accelerators) > 1 and here.issuperset(placement.accelerators):
                    if spanned.intersection(placement.accelerators):
                        return target  # several models share their cards: too intricate to be exchanged
                    spanned.update(placement.accelerators)
                    mine = tuple(holds.get(key, ()) for key in placement.accelerators)
                    each.groups.append((((placement.pool, 1),), mine))
                elif here.intersection(placement.accelerators) and len(placement.accelerators) > 1:
                    return target
            each.singles = Counter(holds.get(room.key, ()) for room in rooms if room.key not in spanned)
            targets.append(each)
        moved = self._greedy.complete(assign(self._board(), targets, self._demands, current), target.counts)
        return moved if self._greedy.score(moved) <= self._greedy.score(target) else target

    # --- the answer --------------------------------------------------------------------------------------------------

    def plan(self, board: Board) -> PlacementPlan:
        empty = self._board()
        largest = max((room.left for room in empty.rooms.values()), default=0)
        refused: list[tuple[PoolName, str]] = []
        notes: list[tuple[PoolName, str]] = []
        unserved = self._greedy.unserved(board)
        for demand in self._demands:
            count = board.counts[demand.pool]
            if count < demand.replicas_min:
                best = max((r for r in board.rooms.values() if r.places > 0), key=lambda each: each.left, default=None)
                room = None if best is None else (best.node, best.card, best.left)
                refused.append((demand.pool, explain_refusal(demand, count, room, largest)))
            elif missing := unserved.get(demand.pool, 0.0):
                notes.append((demand.pool, explain_unserved(demand, count, missing)))
            if count and (hosts := board.hosts(demand.pool)) < demand.hosts_min:
                notes.append((demand.pool, explain_hosts(demand, hosts)))
        placements = sorted(board.explained(), key=lambda each: (each.pool, each.node, each.instance))
        return PlacementPlan(tuple(placements), tuple(refused), tuple(notes))


def _started(board: Board, current: Sequence[Placement]) -> int:
    """Instances that do not run yet where they should."""
    running = {(each.instance, each.accelerators) for each in current}
    return sum((each.instance, each.accelerators) not in running for each in board.placed)


def _on_one_card(board: Board) -> dict[str, Contents]:
    """Copies that lie on one card alone, by card; a card without any is not in it."""
    found: defaultdict[str, Counter[PoolName]] = defaultdict(Counter)
    for each in board.placed:
        if len(each.accelerators) == 1:
            found[each.accelerators[0]][each.pool] += 1
    return {key: tuple(sorted(counts.items())) for key, counts in found.items()}
