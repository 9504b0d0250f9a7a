"""Several instances of a model on one card, or one with more slots: what each way would serve, as predictions.

Each instance holds the weights again and reads them again at every step, so slots in one instance nearly always serve
more. What remains for several instances: one that falls takes fewer calls with it, and a slot's context stays as asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from orchestrator.core.cards import Card
from orchestrator.core.model import Demand
from orchestrator.core.placement.serving import Prediction, predict
from orchestrator.core.sizing import GIB, demand_footprint, slots_that_fit

_MOST_SLOTS: Final = 64
_MOST_INSTANCES: Final = 64


@dataclass(frozen=True, slots=True)
class Way:
    """`instances` of `slots` slots on one card, all at work. `users`: calls at once within the goal, if any."""

    instances: int
    slots: int
    bytes_held: int
    users: int
    answer_s: float
    tokens_s: float  # of all together
    tokens_s_each: float


def ways(demand: Demand, card: Card, room_bytes: int) -> tuple[Way, ...]:
    """As the settings ask for it; one instance with as many slots in all; one with as many as there is room for."""
    size = demand_footprint(demand, on_gpu=True).total
    most = min(room_bytes // size, demand.per_card or _MOST_INSTANCES)
    found = [_way(demand, card, most)] if most else []
    if not demand.shape.is_embedding:
        largest = slots_that_fit(replace(demand, slots=_MOST_SLOTS), room_bytes)
        together = min(most * demand.slots, largest)
        found += [_way(replace(demand, slots=slots), card, 1) for slots in sorted({together, largest} - {0})]
    unique = {(each.instances, each.slots): each for each in found}
    return tuple(unique.values())


def explain(demand: Demand, card: Card, room_bytes: int) -> tuple[str, ...]:
    """One line for each way, and one that says which serves more and why."""
    found = ways(demand, card, room_bytes)
    if not found:
        return (f"{demand.pool} on {card.name}: one instance does not fit on one card",)
    goal_s = demand.usual.answer_s if demand.usual is not None else None
    head = f"{demand.pool} on {card.name}, {room_bytes / GIB:.1f} GiB, predicted with every slot at work:"
    return (head, *(f"  {_told(each, goal_s)}" for each in found), f"  {_verdict(found, goal_s)}")


def best(found: Sequence[Way]) -> Way:
    """The way that serves most calls at once, then the one that writes most."""
    return max(found, key=lambda each: (each.users, each.tokens_s))


def _way(demand: Demand, card: Card, instances: int) -> Way:
    others = (instances - 1) * demand.slots
    full = predict(demand, card, demand.slots, others)
    goal_s = demand.usual.answer_s if demand.usual is not None else None
    return Way(
        instances=instances,
        slots=demand.slots,
        bytes_held=demand_footprint(demand, on_gpu=True).total * instances,
        users=instances * (demand.slots if goal_s is None else _within(demand, card, others, goal_s)),
        answer_s=full.answer_s,
        tokens_s=full.tokens_s * instances,
        tokens_s_each=full.tokens_s_each,
    )


def _within(demand: Demand, card: Card, others: int, goal_s: float) -> int:
    answers: list[Prediction] = [predict(demand, card, count, others) for count in range(demand.slots, 0, -1)]
    return next((each.users for each in answers if each.answer_s <= goal_s), 0)


def _told(way: Way, goal_s: float | None) -> str:
    within = f" within {goal_s:g} s" if goal_s is not None else " at once"
    return (
        f"{way.instances} x {way.slots} slots, {way.bytes_held / GIB:.1f} GiB: {way.users} users{within}, "
        f"{way.tokens_s:.0f} tokens/s together, {way.tokens_s_each:.0f} each, {way.answer_s:.1f} s an answer"
    )


def _verdict(found: Sequence[Way], goal_s: float | None) -> str:
    chosen, asked = best(found), found[0]
    if chosen == asked or (chosen.users, chosen.tokens_s) == (asked.users, asked.tokens_s):
        return "nothing serves more than what is asked for"
    more = f"{chosen.users - asked.users} more users" if chosen.users > asked.users else "as many users, faster"
    why = "the weights are held and read once" if asked.instances > chosen.instances else "the card has room for them"
    goal = " within the goal" if goal_s is not None else ""
    return f"slots: {chosen.slots} with instances_per_gpu: {chosen.instances} would serve {more}{goal}: {why}"
