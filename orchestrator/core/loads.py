"""How long a model takes to be brought into memory: as its loads took, and before there was one by its size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from orchestrator.core.model import InstanceState, Pool

# Before anything was loaded: a SATA disk's pace, behind a runner's start. Most read faster. For who is told when to
# come again too late is better than too soon, and the first load tells better.
DISK_BYTES_S: Final = 5e8
START_S: Final = 1.0
# The least that a load is taken for: what comes out of the page cache is there almost at once.
SHORTEST_S: Final = 0.1
# What has not come in time is expected to take yet so much of the time that it has taken.
OVERDUE: Final = 0.25
# On its way into memory, or brought there because calls wait.
_COMING: Final = frozenset({InstanceState.STARTING, InstanceState.LOADING, InstanceState.COLD})


def first_load_s(weights_bytes: int) -> float:
    """Of a model that was never loaded, where none was."""
    return START_S + max(weights_bytes, 0) / DISK_BYTES_S


def left_s(load_s: float, waited_s: float) -> float:
    """What is left of a load that should take `load_s` for who has waited so long for it."""
    return max(load_s - waited_s, OVERDUE * waited_s)


def loaded_in_s(pool: Pool, waited_s: float) -> float | None:
    """How long it takes yet until a model is in memory that is so nowhere; None: it is, or nobody can tell."""
    if pool.slots_serving:
        return None
    coming = [each.load_s for each in pool.instances if each.load_s and each.state in _COMING]
    return left_s(min(coming), waited_s) if coming else None


@dataclass(frozen=True, slots=True)
class Loads:
    """One server's loads: seconds by model, newer ones count half, and the bytes of weights that it read a second."""

    took_s: Mapping[str, float] = field(default_factory=dict)
    bytes_s: float | None = None

    def after(self, model: str, took_s: float, weights_bytes: int) -> Loads:
        """With one more load."""
        before = self.took_s.get(model, took_s)
        took = {**self.took_s, model: before + (took_s - before) / 2}
        if weights_bytes <= 0:
            return replace(self, took_s=took)
        pace = weights_bytes / max(took_s, SHORTEST_S)
        return Loads(took, pace if self.bytes_s is None else self.bytes_s + (pace - self.bytes_s) / 2)

    def expected_s(self, model: str, weights_bytes: int) -> float:
        """How long the model's next load takes; one that was never loaded at the pace of the others."""
        if model in self.took_s:
            return self.took_s[model]
        if self.bytes_s is None:
            return first_load_s(weights_bytes)
        return START_S + weights_bytes / self.bytes_s
