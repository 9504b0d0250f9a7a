"""Seats of simulated instances on their card: distinct, and kept for as long as the instance is wanted."""

from __future__ import annotations

from pathlib import Path

from orchestrator.core.errors import HostError
from orchestrator.core.model import InstanceId, Placement, PlacementPlan
from orchestrator.nodes.simulator.config import SEATS_PER_CARD, ConfigError, load_config


def seat_for(placement: Placement, plan: PlacementPlan, sim_dir: Path) -> int:
    """The number of `placement`'s seat on its (first) card. Raises HostError where the card has none left.

    Seats that instances of the plan took earlier stand in their configurations: a running one is never moved.
    """
    if not placement.accelerators:
        return 0
    beside = [each.instance for each in plan.placements if each.accelerators[:1] == placement.accelerators[:1]]
    taken = _taken(beside, sim_dir, placement.accelerators[0])
    mine = taken.pop(placement.instance, None)
    if mine is not None and mine not in taken.values():
        return mine
    free = next((seat for seat in range(SEATS_PER_CARD) if seat not in taken.values()), None)
    if free is None:
        raise HostError(
            f"{placement.instance}: a simulated card has places for {SEATS_PER_CARD} instances, and all are taken; "
            "ask for fewer `replicas`, or simulate more cards"
        )
    return free


def _taken(instances: list[InstanceId], sim_dir: Path, card: str) -> dict[InstanceId, int]:
    taken: dict[InstanceId, int] = {}
    for each in instances:
        try:
            config = load_config(sim_dir / f"{each}.json")
        except ConfigError:
            continue  # it was never started here
        if config.seats_file == str(sim_dir / f"{card}.seats"):
            taken[each] = config.seat
    return taken
