"""Quality against the share of questions that the dearer model gets, when the hardest go to it first.

APGR is the part of the gap between both models that is won back, averaged over all shares: 0.5 is a coin. CPT(x) is the
share of dear calls, in percent, that wins back x of the gap: less is better. Both as RouteLLM defines them (Ong et al.
2024, section 4), with the curve read at 11 points; equal scores count as in any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

STEPS = 10

Item = tuple[float, float, float]  # score, outcome of the cheap model, outcome of the dear one


@dataclass(frozen=True, slots=True)
class Measures:
    apgr: float
    cpt50: float  # percent
    cpt80: float


def curve(items: Sequence[Item]) -> list[float]:
    """Mean outcome at shares 0, 1/STEPS … 1 of dear calls, the hardest first."""
    by_score: dict[float, list[Item]] = {}
    for item in items:
        by_score.setdefault(item[0], []).append(item)
    knots = [(0.0, sum(weak for _, weak, _ in items) / len(items))]
    for key in sorted(by_score, reverse=True):
        share, mean = knots[-1]
        gained = sum(strong - weak for _, weak, strong in by_score[key])
        knots.append((share + len(by_score[key]) / len(items), mean + gained / len(items)))
    return [_at(knots, step / STEPS) for step in range(STEPS + 1)]


def measure(items: Sequence[Item]) -> Measures | None:
    """None where the dear model is not the better one: there is no gap to win back."""
    found = curve(items)
    gap = found[-1] - found[0]
    if gap <= 0:
        return None
    recovered = [(each - found[0]) / gap for each in found]
    apgr = sum(recovered[:-1] + recovered[1:]) / (2 * STEPS)
    return Measures(apgr, _share_for(recovered, 0.5), _share_for(recovered, 0.8))


def interval(
    items: Sequence[Item], resamples: Iterable[Sequence[int]], level: float = 0.95
) -> tuple[Measures, Measures] | None:
    """Where each measure lies in `level` of the resamples (places in `items`, drawn with replacement): from, to."""
    drawn = [made for places in resamples if (made := measure([items[place] for place in places])) is not None]
    if not drawn:
        return None
    cut = round(len(drawn) * (1 - level) / 2)

    def ends(values: Iterable[float]) -> tuple[float, float]:
        ranked = sorted(values)
        return ranked[min(cut, len(ranked) - 1)], ranked[-1 - min(cut, len(ranked) - 1)]

    apgr, cpt50, cpt80 = (ends(getattr(each, name) for each in drawn) for name in ("apgr", "cpt50", "cpt80"))
    return Measures(apgr[0], cpt50[0], cpt80[0]), Measures(apgr[1], cpt50[1], cpt80[1])


def mean_interval(outcomes: Sequence[float]) -> tuple[float, float, float]:
    """The mean of outcomes of 0 or 1, and its 95 % interval by Wilson (1927)."""
    count, z = len(outcomes), 1.959964
    mean = fmean(outcomes)
    middle = (mean + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * (mean * (1 - mean) / count + z * z / (4 * count * count)) ** 0.5
    return mean, max(0.0, middle - half), min(1.0, middle + half)


def _at(knots: list[tuple[float, float]], share: float) -> float:
    for (x0, y0), (x1, y1) in pairwise(knots):
        if share <= x1:
            return y0 + (y1 - y0) * (share - x0) / (x1 - x0)
    return knots[-1][1]


def _share_for(recovered: list[float], wanted: float) -> float:
    for step, (low, high) in enumerate(pairwise(recovered)):
        if high >= wanted:
            within = 0.0 if low >= wanted else (wanted - low) / (high - low)
            return 100 * (step + within) / STEPS
    return 100.0
