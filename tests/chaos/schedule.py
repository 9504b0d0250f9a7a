"""Which faults, in which order, by a seed: the same seed is the same schedule."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from tests.chaos.faults import Fault, all_faults
from tests.chaos.trial import Size
from tests.chaos.world import Plan

# What runs with every test: small, and of each kind one that is over soon.
SHORT_PLAN = Plan(instances=4)
SHORT_SIZE = Size(clients=8, before=8, during=20, after=8)
SHORT: tuple[tuple[str, ...], ...] = (
    ("Instance killed at any moment", "Instance closes connections midway", "Instance answers 500 to everything"),
    ("Gateway worker killed", "Controller killed"),
    ("Redis failed over by its Sentinels", "Redis restarted empty"),
)


def drawn(seed: str, kinds: Sequence[Sequence[str]] = SHORT) -> list[Fault]:
    """One fault of each kind, in a drawn order."""
    rng, by_name = random.Random(seed), {each.name: each for each in all_faults()}
    chosen = [by_name[rng.choice(names)] for names in kinds]
    rng.shuffle(chosen)
    return chosen


def shuffled(seed: str, faults: Iterable[Fault]) -> list[Fault]:
    """All of them, in a drawn order."""
    given = list(faults)
    random.Random(seed).shuffle(given)
    return given
