"""What the trained weights are to be expected to reach on the half of the routing data that is kept back.

Question   the two halves differ by chance in how often either model is right, and APGR and CPT depend on that: what do
           figures found on this half mean for the other?
Data       this half, ../shared/routing-eval/dev.jsonl.gz beside the repository, or --data; of the other half only what
           the data's README tells: how often either model is right, and the APGR of an oracle
Command    python benchmarks/routing/other_half.py [--rounds 300]
Needs      scikit-learn, as train.py

From these three the counts of the four outcomes follow (either model right, both, none). Halves are cut by a hash of
the question, so that questions of one outcome are alike in both. Scores of questions left out of training are drawn
with those counts: `here` is this half as it is, `there` the mean of the draws and where 95 % of them lie. A draw draws
twice, once for the chance in this half and once for that in the other. `judge` knows exactly which weak answers are
wrong, and no more: no score after the answer can be far better without knowing what the strong model gets wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from evaluate import DATA, load, measures
from train import KINDS, Set, cross_validate, judged, numbers_of

# Questions, share the weak and the strong model have right, APGR of the oracle: the data's README, "Reference points".
OTHER = {"mmlu": (7045, 0.6786, 0.8112, 1.215), "gsm8k": (652, 0.6457, 0.8589, 1.153)}
# Weak and strong model right: the order of counts.
OUTCOMES = ((0, 1), (1, 0), (1, 1), (0, 0))


def counts(questions: int, weak: float, strong: float, oracle: float) -> tuple[int, ...]:
    """Questions of each outcome, so that an oracle has that APGR."""
    of_weak = round(questions * weak)
    gained = round(questions * strong) - of_weak

    def split(only_strong: int) -> tuple[int, ...]:
        only_weak = only_strong - gained
        return only_strong, only_weak, of_weak - only_weak, questions - of_weak - only_strong

    def off(of_each: tuple[int, ...]) -> float:
        items = [(float(right - left), float(left), float(right)) for left, right in np.repeat(OUTCOMES, of_each, 0)]
        return abs(measures(items)["APGR"] - oracle)

    return min(filter(lambda each: min(each) >= 0, map(split, range(gained, questions - of_weak + 1))), key=off)


def draws(one: Set, scores: np.ndarray, wanted: tuple[int, ...], rounds: int) -> Iterator[dict[str, float]]:
    """The measures of halves of the other's outcomes, drawn from this one's questions."""
    rng = np.random.default_rng(0)
    weak = 1.0 - one.wrong
    strong = weak + one.gap
    of_outcome = [np.flatnonzero((weak == left) & (strong == right)) for left, right in OUTCOMES]
    for _ in range(rounds):
        places = [rng.choice(rng.choice(each, len(each)), size) for each, size in zip(of_outcome, wanted, strict=True)]
        chosen = np.concatenate(places)
        yield measures([(float(scores[place]), float(weak[place]), float(strong[place])) for place in chosen])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rounds", type=int, default=300)
    asked = parser.parse_args()
    rows = load(asked.data)
    sets = [numbers_of(name, [row for row in rows if row["benchmark"] == name]) for name in KINDS]
    told = cross_validate(sets, seed=0, key="passage") | {"gsm8k judge": sets[1].wrong}
    for name, scores in told.items():
        one = next(each for each in sets if each.name == name.split()[0])
        if name.endswith("answered") and one.answer is None:
            continue
        here = judged(one, scores)
        drawn = list(draws(one, scores, counts(*OTHER[one.name]), asked.rounds))
        for measure in here:
            values = np.array([each[measure] for each in drawn])
            low, high = np.percentile(values, [2.5, 97.5])
            there = f"there {values.mean():6.3f}  {low:6.3f} to {high:6.3f}"
            print(f"{name:15} {measure:6} here {here[measure]:6.3f}  {there}")


if __name__ == "__main__":
    main()
