"""The best plan of a small fleet by trying everything: what the solver is held against. Shares no code with it.

Exact for fleets without goals: every way to put copies on cards (and over the fewest cards of a kind that hold a model
which fits on none), reduced only by what cannot matter: the order of cards, and copies beyond the load.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import ceil

from orchestrator.core.model import Demand, NodeFacts
from orchestrator.core.placement.rooms import HEADROOM_BYTES
from orchestrator.core.sizing import demand_footprint, per_card_bytes, split_footprint

Counts = tuple[int, ...]


def best_score(demands: Sequence[Demand], nodes: Sequence[NodeFacts]) -> tuple[int, int, float]:
    """Pools with nothing, copies missing to minimums, calls unserved: the least there can be, in this order."""
    needs = [demand_footprint(each, on_gpu=True).total for each in demands]
    enough = [max(each.replicas_min, ceil((each.load or 0) / each.slots)) for each in demands]
    rooms = [[card.vram_free_bytes - HEADROOM_BYTES for card in node.accelerators] for node in nodes]
    largest = max((room for node in rooms for room in node), default=0)
    is_large = [need > largest for need in needs]
    states: set[Counts] = {(0,) * len(demands)}
    for node in rooms:
        here = {
            state
            for cards in _with_spans(demands, is_large, tuple(node), (0,) * len(demands))
            for state in _singles(cards, needs, is_large)
        }
        states = {
            tuple(min(a + b, most) for a, b, most in zip(one, other, enough, strict=True))
            for one in states
            for other in here
        }
    return min(_score(state, demands) for state in states)


def _score(counts: Counts, demands: Sequence[Demand]) -> tuple[int, int, float]:
    pairs = list(zip(counts, demands, strict=True))
    return (
        sum(not count and each.replicas_min > 0 for count, each in pairs),
        sum(max(0, each.replicas_min - count) for count, each in pairs),
        sum(max(0.0, (each.load or 0) - count * each.slots) for count, each in pairs),
    )


def _with_spans(
    demands: Sequence[Demand], is_large: Sequence[bool], rooms: Counts, counts: Counts
) -> Iterator[tuple[Counts, Counts]]:
    """The room left on a node's cards, and copies, for every choice of models that span its cards."""
    seen: set[tuple[Counts, Counts]] = set()
    todo = [(tuple(sorted(rooms)), counts)]
    while todo:
        now = todo.pop()
        if now in seen:
            continue
        seen.add(now)
        yield now
        left, have = now
        for at, each in enumerate(demands):
            if not is_large[at]:
                continue
            span = _fewest(each, sorted(rooms))
            if not span:
                continue
            need = _part(each, span)
            for cards in combinations(range(len(left)), span):
                if all(left[card] >= need for card in cards):
                    rest = tuple(sorted(r - need if i in cards else r for i, r in enumerate(left)))
                    todo.append((rest, tuple(h + (i == at) for i, h in enumerate(have))))


def _fewest(demand: Demand, rooms: Sequence[int]) -> int:
    able = (n for n in range(2, len(rooms) + 1) if sum(room >= _part(demand, n) for room in rooms) >= n)
    return next(able, 0)


def _part(demand: Demand, cards: int) -> int:
    return per_card_bytes(split_footprint(demand_footprint(demand, on_gpu=True), demand.shape.layers, cards), cards)


def _singles(cards: tuple[Counts, Counts], needs: Sequence[int], is_large: Sequence[bool]) -> set[Counts]:
    rooms, begun = cards
    states = {begun}
    for room in rooms:
        fills = set(_fills(room, needs, is_large))
        states = {tuple(a + b for a, b in zip(one, other, strict=True)) for one in states for other in fills}
    return states


def _fills(room: int, needs: Sequence[int], is_large: Sequence[bool]) -> Iterator[Counts]:
    """Every full card."""

    def walk(at: int, left: int, so_far: Counts) -> Iterator[Counts]:
        if at == len(needs):
            if all(is_large[i] or need > left for i, need in enumerate(needs)):
                yield so_far
            return
        for count in range(0 if is_large[at] else max(0, left) // needs[at], -1, -1):
            yield from walk(at + 1, left - count * needs[at], (*so_far, count))

    yield from walk(0, room, ())
