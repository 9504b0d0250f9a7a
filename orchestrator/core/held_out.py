"""How well a calibration holds for answers that it was not made of. Pure: how answers are shuffled is its caller's."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from orchestrator.core.confidence import calibrate

FOLDS = 5
BINS = 10


class Judged(NamedTuple):
    """One answer: how sure one was of it, and whether it was right."""

    confidence: float
    is_right: bool


def judged_apart(
    answers: Sequence[Sequence[float]], right: Sequence[bool], statistic: str, order: Sequence[int]
) -> list[Judged]:
    """Each answer's confidence by a curve made of four fifths of the others; `order`: their places, shuffled."""
    found: list[Judged] = []
    for fold in range(FOLDS):
        there = [at for n, at in enumerate(order) if n % FOLDS != fold]
        made = calibrate([answers[at] for at in there], [right[at] for at in there], statistic, early_tokens=1)
        for n, at in enumerate(order):
            if n % FOLDS == fold and (confidence := made.confidence(answers[at])) is not None:
                found.append(Judged(confidence, right[at]))
    return found


def calibration_error(judged: Sequence[Judged]) -> float:
    """The mean distance of confidence and share right (ECE), in bins of the same size."""
    ordered = sorted(judged)
    bounds = [round(n * len(ordered) / BINS) for n in range(BINS + 1)]
    parts = [ordered[start:end] for start, end in pairwise(bounds) if end > start]
    return sum(abs(sum(each.confidence - each.is_right for each in part)) for part in parts) / len(ordered)
