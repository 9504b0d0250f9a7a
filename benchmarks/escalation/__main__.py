"""Which statistic of an answer's log probabilities tells right from wrong, and how well a curve from it holds.

`python -m benchmarks.escalation`: the tables of RESULTS.md from the answers that `collect` wrote, in seconds; with
`--write` the calibration that ships.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.escalation.collect import ANSWERS
from orchestrator.core.confidence import (
    STATISTICS,
    Calibration,
    calibrate,
    lowest_five,
    mean,
    told,
    total,
)
from orchestrator.core.held_out import Judged
from orchestrator.core.held_out import calibration_error as ece

SHIPPED = Path(__file__).resolve().parents[2] / "orchestrator/data/confidence.json"
EARLY_TOKENS = 24
FOLDS, REPEATS, DRAWS = 5, 4, 500
ASKED_FOR = (0.5, 0.7, 0.85, 0.95)
SEED = 11


class Answered(NamedTuple):
    kind: str
    right: bool
    logprobs: tuple[float, ...]
    margins: tuple[float, ...]  # between the token that was taken and the next best one


def _margin_mean(answer: Answered) -> float:
    return mean(answer.margins)


def _margin_lowest(answer: Answered) -> float:
    return min(answer.margins)


def _lowest(of: int) -> Callable[[Sequence[float]], float]:
    return lambda logprobs: mean(sorted(logprobs)[:of])


def _lowest_fifth(answer: Answered) -> float:
    return mean(sorted(answer.logprobs)[: max(1, math.ceil(len(answer.logprobs) / 5))])


def _root_sum(answer: Answered) -> float:
    return total(answer.logprobs) / math.sqrt(len(answer.logprobs))


def _unsure_share(answer: Answered) -> float:
    return -sum(each < math.log(0.5) for each in answer.logprobs) / len(answer.logprobs)


def _tenth(answer: Answered) -> float:
    return sorted(answer.logprobs)[len(answer.logprobs) // 10]


def _of(statistic: Callable[[Sequence[float]], float], tokens: int | None = None) -> Callable[[Answered], float]:
    return lambda answer: statistic(answer.logprobs[:tokens])


CANDIDATES: Mapping[str, Callable[[Answered], float]] = {
    "mean": _of(mean),
    "mean of the first 4": _of(mean, 4),
    "mean of the first 8": _of(mean, 8),
    "mean of the first 24": _of(mean, EARLY_TOKENS),
    "the lowest": _of(min),
    "mean of the three lowest": _of(_lowest(3)),
    "mean of the five lowest": _of(lowest_five),
    "of the first 24, the five lowest": _of(lowest_five, EARLY_TOKENS),
    "mean of the eight lowest": _of(_lowest(8)),
    "mean of the lowest fifth": _lowest_fifth,
    "lowest tenth": _tenth,
    "sum over the root of the length": _root_sum,
    "sum of the first 24": _of(total, EARLY_TOKENS),
    "sum (the answer's probability)": _of(total),
    "the first token": lambda answer: answer.logprobs[0],
    "share below 50 %": _unsure_share,
    "mean margin to the next best": _margin_mean,
    "lowest margin to the next best": _margin_lowest,
    "fewer tokens": lambda answer: -len(answer.logprobs),
}


def read(path: Path) -> list[Answered]:
    with gzip.open(path, "rt") as file:
        rows = [json.loads(line) for line in file]
    return [_answered(row) for row in rows if row["tokens"]]


def _answered(row: Mapping[str, Any]) -> Answered:
    logprobs = tuple(one for one, _ in row["tokens"])
    return Answered(row["kind"], row["right"], logprobs, tuple(one - two for one, two in row["tokens"]))


def auc(values: Sequence[float], right: Sequence[bool]) -> float:
    """How often a right answer has the higher value than a wrong one; .5 is chance."""
    ordered = sorted(zip(values, right, strict=True))
    ranks, at = 0.0, 0
    while at < len(ordered):
        end = at
        while end < len(ordered) and ordered[end][0] == ordered[at][0]:
            end += 1
        ranks += sum(is_right for _, is_right in ordered[at:end]) * (at + 1 + end) / 2
        at = end
    n = sum(right)
    others = len(ordered) - n
    return (ranks - n * (n + 1) / 2) / (n * others) if n and others else math.nan


def platt(values: Sequence[float], right: Sequence[bool]) -> Callable[[float], float]:
    """A logistic curve, fitted by Newton's method to Platt's smoothed outcomes."""
    n = sum(right)
    high, low = (n + 1) / (n + 2), 1 / (len(right) - n + 2)
    a, b = 0.0, math.log(n + 1) - math.log(len(right) - n + 1)
    for _ in range(50):
        shares = [_logistic(a * each + b) for each in values]
        gaps = [(high if is_right else low) - share for is_right, share in zip(right, shares, strict=True)]
        weights = [max(share * (1 - share), 1e-9) for share in shares]
        aa = sum(w * x * x for w, x in zip(weights, values, strict=True)) + 1e-6
        ab = sum(w * x for w, x in zip(weights, values, strict=True))
        bb = sum(weights) + 1e-6
        ga, gb = sum(gap * x for gap, x in zip(gaps, values, strict=True)), sum(gaps)
        det = aa * bb - ab * ab
        da, db = (bb * ga - ab * gb) / det, (aa * gb - ab * ga) / det
        a, b = a + da, b + db
        if abs(da) + abs(db) < 1e-9:
            break
    return lambda value: _logistic(a * value + b)


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-max(-40.0, min(40.0, x))))


Fit = Callable[[Sequence[Answered]], Callable[[Answered], float]]


def isotonic_fit(statistic: str, *, is_early: bool) -> Fit:
    def fit(answers: Sequence[Answered]) -> Callable[[Answered], float]:
        made = _calibrated(answers, statistic)
        return lambda each: _confidence(made, each, is_early=is_early)

    return fit


def platt_fit(statistic: str, *, is_early: bool) -> Fit:
    tokens = EARLY_TOKENS if is_early else None

    def fit(answers: Sequence[Answered]) -> Callable[[Answered], float]:
        value = STATISTICS[statistic]
        curve = platt([value(each.logprobs[:tokens]) for each in answers], [each.right for each in answers])
        return lambda each: curve(value(each.logprobs[:tokens]))

    return fit


def _calibrated(answers: Sequence[Answered], statistic: str) -> Calibration:
    outcomes = [each.right for each in answers]
    return calibrate([each.logprobs for each in answers], outcomes, statistic, EARLY_TOKENS)


def _confidence(made: Calibration, answer: Answered, *, is_early: bool) -> float:
    of = made.early_confidence(answer.logprobs[:EARLY_TOKENS]) if is_early else made.confidence(answer.logprobs)
    assert of is not None, "answers without tokens were left out"
    return of


def held_out(answers: Sequence[Answered], fit: Fit, rng: random.Random) -> list[Judged]:
    """Each answer's confidence by a curve made of other answers, in REPEATS draws of FOLDS folds."""
    found: list[Judged] = []
    for _ in range(REPEATS):
        order = list(range(len(answers)))
        rng.shuffle(order)
        for fold in range(FOLDS):
            curve = fit([answers[at] for n, at in enumerate(order) if n % FOLDS != fold])
            found += [Judged(curve(answers[at]), answers[at].right) for n, at in enumerate(order) if n % FOLDS == fold]
    return found


def interval(draw: Callable[[random.Random], float], rng: random.Random, draws: int = DRAWS) -> tuple[float, float]:
    """The 95 % interval of what a draw with replacement gives."""
    drawn = sorted(value for _ in range(draws) if not math.isnan(value := draw(rng)))
    return drawn[round(0.025 * (len(drawn) - 1))], drawn[round(0.975 * (len(drawn) - 1))]


def _auc_line(name: str, answers: Sequence[Answered], rng: random.Random) -> tuple[float, str]:
    of = CANDIDATES[name]
    pairs = [(of(each), each.right) for each in answers]

    def draw(rng: random.Random) -> float:
        drawn = rng.choices(pairs, k=len(pairs))
        return auc([one for one, _ in drawn], [two for _, two in drawn])

    found = auc([one for one, _ in pairs], [two for _, two in pairs])
    low, high = interval(draw, rng)
    return found, f"| {name} | {found:.3f} | {low:.3f}–{high:.3f} | {within_kinds(answers, of):.3f} |"


def within_kinds(answers: Sequence[Answered], of: Callable[[Answered], float]) -> float:
    """The AUC over pairs of one kind of question: what is left once kinds do not differ in length and difficulty."""
    won = pairs = 0.0
    for kind in {each.kind for each in answers}:
        right = [of(each) for each in answers if each.kind == kind and each.right]
        wrong = [of(each) for each in answers if each.kind == kind and not each.right]
        won += sum((one > two) + (one == two) / 2 for one in right for two in wrong)
        pairs += len(right) * len(wrong)
    return won / pairs


def tables(answers: Sequence[Answered], rng: random.Random) -> Iterator[str]:
    right = sum(each.right for each in answers)
    yield f"{len(answers)} answers, {right} right ({right / len(answers):.0%}).\n"
    yield "| kind | answers | right | mean tokens |\n|---|---|---|---|"
    for kind in dict.fromkeys(each.kind for each in answers):
        of = [each for each in answers if each.kind == kind]
        tokens = sum(len(each.logprobs) for each in of) / len(of)
        yield f"| {kind} | {len(of)} | {sum(each.right for each in of) / len(of):.0%} | {tokens:.0f} |"
    yield "\n| statistic | AUC | 95 % | within kinds |\n|---|---|---|---|"
    for _, line in sorted((_auc_line(name, answers, rng) for name in CANDIDATES), reverse=True):
        yield line
    yield "\n| statistic | curve | judged | ECE | 95 % |\n|---|---|---|---|---|"
    for statistic in STATISTICS:
        for curve, make in (("isotonic", isotonic_fit), ("Platt", platt_fit)):
            for judged, is_early in (("whole", False), ("early", True)):
                found = held_out(answers, make(statistic, is_early=is_early), rng)
                yield f"| {statistic} | {curve} | {judged} | {_ece_text(found, rng)} |"


def _ece_text(found: Sequence[Judged], rng: random.Random) -> str:
    def draw(rng: random.Random) -> float:
        drawn = rng.choices(found, k=len(found) // REPEATS)
        return ece(drawn)

    low, high = interval(draw, rng, 200)
    return f"{ece(found):.3f} | {low:.3f}–{high:.3f}"


def thresholds(answers: Sequence[Answered], statistic: str, rng: random.Random) -> Iterator[str]:
    """What `confidence_below` would do: how many answers it sends on, and how many of the others are right."""
    yield "| judged | confidence_below | escalated | right among the kept | 95 % | wrong ones caught |"
    yield "|---|---|---|---|---|---|"
    for judged, is_early in (("whole", False), ("early", True)):
        found = held_out(answers, isotonic_fit(statistic, is_early=is_early), rng)
        wrong = sum(not right for _, right in found)
        for below in ASKED_FOR:
            kept = [right for confidence, right in found if confidence >= below]
            caught = sum(not right for confidence, right in found if confidence < below) / wrong
            share = 1 - len(kept) / len(found)
            told_right = f"{sum(kept) / len(kept):.1%} | {_wilson(sum(kept), len(kept))}" if kept else "none kept | –"
            yield f"| {judged} | {below} | {share:.0%} | {told_right} | {caught:.0%} |"


def _wilson(right: int, of: int) -> str:
    """Of as many answers as there were, not as often as they were drawn."""
    n, p, z = of / REPEATS, right / of, 1.96
    middle, half = (p + z * z / (2 * n)), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return f"{(middle - half) / (1 + z * z / n):.0%}–{(middle + half) / (1 + z * z / n):.0%}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.escalation", description=__doc__)
    parser.add_argument("--answers", type=Path, default=ANSWERS)
    parser.add_argument("--statistic", choices=tuple(STATISTICS), default="lowest_five")
    parser.add_argument("--of", type=Path, help="answers of another model, judged by the curve of these")
    parser.add_argument("--write", action="store_true", help=f"write {SHIPPED.name}")
    wish = parser.parse_args()
    rng, answers = random.Random(SEED), read(wish.answers)
    for line in (*tables(answers, rng), "", *thresholds(answers, wish.statistic, rng)):
        print(line)
    made = _calibrated(answers, wish.statistic)
    if wish.of:
        others = read(wish.of)
        for judged, is_early in (("whole", False), ("early", True)):
            found = [Judged(_confidence(made, each, is_early=is_early), each.right) for each in others]
            print(f"\nanother model's answers, {judged}: ECE {_ece_text(found * REPEATS, rng)}")
            found_auc = auc([one for one, _ in found], [two for _, two in found])
            print(f"AUC {found_auc:.3f}, {sum(right for _, right in found)} of {len(found)} right")
    if wish.write:
        how = f"{len(answers)} answers of SmolLM2-135M-Instruct Q4_1 at temperature 0; benchmarks/escalation/RESULTS.md"
        SHIPPED.write_text(json.dumps(told(made, made_of=how), indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
