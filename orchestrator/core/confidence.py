"""How likely an answer is right, from its tokens' log probabilities.

A statistic of them, and a curve from it to the share of answers with that statistic that were right. Which statistic
tells right from wrong best, and the curve that ships, were measured (benchmarks/escalation); a deployment may have a
curve of its own. Knows nothing of what is done with a confidence.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Any, Final, NamedTuple

Statistic = Callable[[Sequence[float]], float]


def mean(logprobs: Sequence[float]) -> float:
    return sum(logprobs) / len(logprobs)


def lowest_five(logprobs: Sequence[float]) -> float:
    """The mean of the five least likely tokens, or of all there are: where an answer went wrong, it was unsure."""
    return mean(sorted(logprobs)[:5])


def total(logprobs: Sequence[float]) -> float:
    """How likely the whole answer is; the longer, the less."""
    return sum(logprobs)


STATISTICS: Final[Mapping[str, Statistic]] = {"lowest_five": lowest_five, "mean": mean, "total": total}


class Point(NamedTuple):
    """On a curve: answers with this statistic are right as often as that."""

    statistic: float
    right: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """A statistic and its curves: over whole answers, and over the first `early_tokens` of them."""

    statistic: str
    whole: tuple[Point, ...]
    early: tuple[Point, ...]
    early_tokens: int

    def confidence(self, logprobs: Sequence[float]) -> float | None:
        """Of a whole answer; None where nothing is known of its tokens."""
        return _read(self.whole, self.statistic, logprobs)

    def early_confidence(self, logprobs: Sequence[float]) -> float | None:
        """Of an answer's beginning."""
        return _read(self.early, self.statistic, logprobs)


def _read(curve: Sequence[Point], statistic: str, logprobs: Sequence[float]) -> float | None:
    return on_curve(curve, STATISTICS[statistic](logprobs)) if logprobs else None


def on_curve(curve: Sequence[Point], statistic: float) -> float:
    """The curve's value there: a straight line between its points, level beyond them."""
    at = bisect_right(curve, statistic, key=lambda point: point.statistic)
    if at == 0:
        return curve[0].right
    if at == len(curve):
        return curve[-1].right
    before, after = curve[at - 1], curve[at]
    part = (statistic - before.statistic) / (after.statistic - before.statistic)
    return before.right + part * (after.right - before.right)


# --- made from answers ------------------------------------------------------------------------------------------------


def curve_of(statistics: Sequence[float], right: Sequence[bool], blocks: int = 12) -> tuple[Point, ...]:
    """The rising curve through answers whose outcome is known: means of blocks, those that fall put together.

    Blocks of the same number of answers, then pool-adjacent-violators (isotonic regression). Each block's share counts
    one right and one wrong answer more than it has: no curve says 0 or 1.
    """
    ordered = sorted(zip(statistics, right, strict=True))
    if not ordered:
        raise ValueError("no answers to make a curve of")
    count = max(1, min(blocks, len(ordered) // 10))
    bounds = [round(n * len(ordered) / count) for n in range(count + 1)]
    pooled: list[_Block] = []
    for start, end in pairwise(bounds):
        part = ordered[start:end]
        pooled.append(_Block(sum(each[0] for each in part), sum(each[1] for each in part), len(part)))
        while len(pooled) > 1 and not pooled[-1].is_above(pooled[-2]):
            last = pooled.pop()
            pooled[-1] = pooled[-1].with_(last)
    return tuple(Point(each.statistic, each.share) for each in pooled)


class _Block(NamedTuple):
    statistics: float
    right: int
    answers: int

    @property
    def statistic(self) -> float:
        return round(self.statistics / self.answers, 4)

    @property
    def share(self) -> float:
        return round((self.right + 1) / (self.answers + 2), 4)

    def is_above(self, other: _Block) -> bool:
        """More of its answers are right, and their statistic is higher: of the same one there may be many."""
        return self.share > other.share and self.statistic > other.statistic

    def with_(self, other: _Block) -> _Block:
        return _Block(self.statistics + other.statistics, self.right + other.right, self.answers + other.answers)


def calibrate(
    answers: Sequence[Sequence[float]], right: Sequence[bool], statistic: str, early_tokens: int
) -> Calibration:
    """Curves from answers' log probabilities, and whether each was right. Answers without tokens are left out."""
    value = STATISTICS[statistic]
    known = [(each, is_right) for each, is_right in zip(answers, right, strict=True) if each]
    outcomes = [is_right for _, is_right in known]
    return Calibration(
        statistic,
        curve_of([value(each) for each, _ in known], outcomes),
        curve_of([value(each[:early_tokens]) for each, _ in known], outcomes),
        early_tokens,
    )


# --- as it lies in a file ---------------------------------------------------------------------------------------------


@cache
def shipped() -> Calibration:
    """The calibration that comes with the package: `data/confidence.json`, made by `benchmarks.escalation`."""
    return read(json.loads((files("orchestrator") / "data" / "confidence.json").read_text(encoding="utf-8")))


def read(told: Mapping[str, Any]) -> Calibration:
    """A calibration from a file's content. Raises ValueError where it is none, naming the field."""
    if told.get("statistic") not in STATISTICS:
        raise ValueError(f"statistic: one of {', '.join(STATISTICS)} is wanted, not {told.get('statistic')!r}")
    early_tokens = told.get("early_tokens")
    if not isinstance(early_tokens, int) or early_tokens < 1:
        raise ValueError(f"early_tokens: a number of tokens is wanted, not {early_tokens!r}")
    return Calibration(told["statistic"], _curve(told, "whole"), _curve(told, "early"), early_tokens)


def _curve(told: Mapping[str, Any], name: str) -> tuple[Point, ...]:
    try:
        curve = tuple(Point(float(at), float(right)) for at, right in told[name])
    except (KeyError, TypeError, ValueError) as why:
        raise ValueError(f"{name}: pairs of a statistic and a share are wanted") from why
    rising = all(one[0] < two[0] and one[1] <= two[1] for one, two in pairwise(curve))
    if not curve or not rising or not all(0 <= point.right <= 1 for point in curve):
        raise ValueError(f"{name}: must rise, and its shares be between 0 and 1")
    return curve


def told(calibration: Calibration, **more: Any) -> dict[str, Any]:
    """As a file holds it; `more` says how it was made."""
    curves = {"whole": calibration.whole, "early": calibration.early}
    of = {"statistic": calibration.statistic, "early_tokens": calibration.early_tokens}
    return {**more, **of, **{name: [list(point) for point in curve] for name, curve in curves.items()}}
