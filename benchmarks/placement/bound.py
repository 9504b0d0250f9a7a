"""The calls that no plan can serve more of: what the relaxed program says of a fleet, with every card as it is."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from math import floor

from orchestrator.core.model import Demand, NodeFacts, PlacementPlan, PoolName
from orchestrator.core.placement.rooms import HEADROOM_BYTES, RAM_HEADROOM_BYTES, Sizes, board_of
from orchestrator.core.placement.serving import Serving
from orchestrator.core.placement.solver import Solver
from orchestrator.core.placement.supply import supply_of


def bound_of(nodes: Sequence[NodeFacts], demands: Sequence[Demand], plan: PlacementPlan) -> float:
    """At most so many calls are served by any plan that misses no more of the minimums than `plan`.

    Without `plan` the solver would have to find out for itself which minimums there is room for, and on tight fleets
    may think that more must be missing than need be: more calls can then be served, and the bound says less.
    """
    serving = Serving(demands, nodes)
    board = board_of(nodes, HEADROOM_BYTES, RAM_HEADROOM_BYTES, {}, Sizes())
    # Every card as it is: plans count cards that differ little as alike, the bound must not.
    supply = supply_of(board, demands, serving, max_kinds=len(board.rooms))
    solver = Solver(supply, demands, serving)
    held: defaultdict[str, Counter[PoolName]] = defaultdict(Counter)
    for each in plan.placements:
        if len(each.accelerators) == 1:
            held[each.accelerators[0]][each.pool] += 1
    for kind, rooms in supply.cards.items():
        for contents in sorted({tuple(sorted(held[room.key].items())) for room in rooms}):
            solver.suggest(kind, dict(contents))
    answer = solver.solve(is_relaxed=True)
    assert answer is not None
    return answer.bound


def whole(bound: float) -> int:
    """Calls are whole where loads are, so that a bound of 116.9 is one of 116."""
    return floor(bound + 1e-6)
