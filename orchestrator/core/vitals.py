"""Rates and quantiles of what a cluster counted, from counters and histograms of two moments.

As Prometheus' `rate` and `histogram_quantile` read them; the page's program does the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

# By metric: labels and value of each sample; of a histogram `le` is a label.
Vitals = Mapping[str, Sequence[tuple[Mapping[str, str], float]]]


@dataclass(frozen=True, slots=True)
class Window:
    """What was counted `seconds` ago, and by now."""

    before: Vitals
    now: Vitals
    seconds: float

    def lately(self, metric: str, **having: str) -> float:
        """What a counter has grown by. A process that is new begins at nothing: never less than that."""
        return max(0.0, total(self.now, metric, **having) - total(self.before, metric, **having))

    def rate(self, metric: str, **having: str) -> float:
        """A second."""
        return self.lately(metric, **having) / self.seconds if self.seconds > 0 else 0.0

    def quantiles(self, metric: str, parts: Sequence[float], **having: str) -> tuple[float | None, ...]:
        """Of the window, or of all time where nothing came in it; None where nothing ever did."""
        now, before = _buckets(self.now, metric, having), _buckets(self.before, metric, having)
        steps = sorted((edge, count - before.get(edge, 0.0)) for edge, count in now.items())
        if not steps or steps[-1][1] <= 0:
            steps = sorted(now.items())
        return tuple(_quantile(steps, part) for part in parts)


def total(vitals: Vitals, metric: str, **having: str) -> float:
    """The sum of a metric's samples that have these labels."""
    return sum(value for labels, value in vitals.get(metric, ()) if _has(labels, having))


def _buckets(vitals: Vitals, metric: str, having: Mapping[str, str]) -> dict[float, float]:
    found: dict[float, float] = {}
    for labels, value in vitals.get(metric, ()):
        if _has(labels, having):
            edge = inf if labels["le"] == "+Inf" else float(labels["le"])
            found[edge] = found.get(edge, 0.0) + value
    return found


def _has(labels: Mapping[str, str], having: Mapping[str, str]) -> bool:
    return all(labels.get(name) == value for name, value in having.items())


def _quantile(steps: Sequence[tuple[float, float]], part: float) -> float | None:
    """Of cumulative buckets; within one, values are taken as evenly spread."""
    if not steps or steps[-1][1] <= 0:
        return None
    wanted, low, under = part * steps[-1][1], 0.0, 0.0
    for edge, count in steps:
        if count >= wanted:
            return low if edge == inf else low + (edge - low) * (wanted - under) / max(count - under, 1e-9)
        low, under = edge, count
    return low
