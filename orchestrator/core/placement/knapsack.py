"""The fullest-valued card of every size at once: a bounded knapsack over whole MiB, by numpy.

Where a copy is worth the same on every card, one table answers for all kinds of cards: what is worth most in any room
up to the largest. numpy comes with HiGHS, and is imported with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.core.model import PoolName


class Knapsack:
    """`items`: MiB, worth and the most copies of each pool. `grain`: MiB that are told apart; 1 is exact."""

    def __init__(self, items: Mapping[PoolName, tuple[int, float, int]], largest_mib: int, grain: int = 1) -> None:
        import numpy

        self._grain = grain
        largest_mib //= grain
        wanted = sorted((pool, item) for pool, item in items.items() if item[1] > 0)
        self._items = [(pool, -(-need // grain), worth, most) for pool, (need, worth, most) in wanted]
        self._tables: list[Any] = [numpy.zeros(largest_mib + 1)]
        for _, need, worth, most in self._items:
            table = self._tables[-1].copy()
            for count in _portions(min(most, largest_mib // need)):
                table[count * need :] = numpy.maximum(
                    table[count * need :], table[: len(table) - count * need] + count * worth
                )
            self._tables.append(table)

    def best(self, room_mib: int) -> tuple[dict[PoolName, int], float]:
        """Copies of each pool, and what they are worth."""
        counts: dict[PoolName, int] = {}
        left = room_mib // self._grain
        total = float(self._tables[-1][left])
        for at in range(len(self._items) - 1, -1, -1):
            pool, need, worth, most = self._items[at]
            before = self._tables[at]
            if before[left] == self._tables[at + 1][left]:
                continue  # no copy of it is needed for what this room is worth
            able = range(min(most, left // need) + 1)
            count = max(able, key=lambda n: (float(before[left - n * need]) + n * worth, -n))
            if count:
                counts[pool] = count
                left -= count * need
        return counts, total


def _portions(most: int) -> Sequence[int]:
    """Portions of which some make up every number up to `most`: each is taken or left once."""
    found, left, size = [], most, 1
    while left > 0:
        found.append(min(size, left))
        left -= found[-1]
        size *= 2
    return found
