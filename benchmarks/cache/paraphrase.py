"""How well does the guard tell a paraphrase of a curated question from one that only looks alike?

    python -m benchmarks.cache.paraphrase [--misses] [--kept-back]

Question   of questions that ask the same as a curated one, how many are found (recall)? Of those answered, how many
           rightly (precision)?
Data       benchmarks/cache/pairs.txt: Turkish and English, written for this project. Groups go to two halves in turn.
           The threshold is chosen on the first; the second says what it is worth.

Each pair is judged alone, as if the FAQ had this one entry with this one question: no neighbour helps to tell them
apart and no second wording helps to find it. `together`: one FAQ of all curated questions of the half. "Without the
guard" is likeness alone, at the best threshold that the first half offers. `--misses` lists what the first half gets
wrong, `--kept-back` the second, for whoever wants to look: what is changed after that is no longer measured by it.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.paraphrase.guard import Compared, compare
from orchestrator.core.paraphrase.index import LIKENESS_MIN, Paraphrases
from orchestrator.core.paraphrase.reading import read

PAIRS = Path(__file__).with_name("pairs.txt")
PRECISION, RECALL = 0.995, 0.7
THRESHOLDS = tuple(round(0.3 + 0.05 * step, 2) for step in range(15))


@dataclass(frozen=True, slots=True)
class Pair:
    curated: str
    asked: str
    language: str
    is_same: bool
    kind: str  # of the difference; "" where there is none


@dataclass(frozen=True, slots=True)
class Score:
    right: int  # the same, and answered
    wrong: int  # not the same, and answered
    missed: int  # the same, and not answered

    @property
    def precision(self) -> float:
        return self.right / (self.right + self.wrong) if self.right + self.wrong else 1.0

    @property
    def recall(self) -> float:
        return self.right / (self.right + self.missed) if self.right + self.missed else 0.0


def halves(path: Path = PAIRS) -> tuple[list[Pair], list[Pair]]:
    """The half to choose with, and the one that is kept back."""
    made: tuple[list[Pair], list[Pair]] = ([], [])
    group, curated, language = -1, "", ""
    for line in path.read_text(encoding="utf-8").splitlines():
        sign, _, text = line.partition(" ")
        if sign in ("tr", "en"):
            group, curated, language = group + 1, text, sign
        elif sign == "=":
            made[group % 2].append(Pair(curated, text, language, True, ""))
        elif sign == "!":
            kind, _, asked = text.removeprefix("[").partition("] ")
            made[group % 2].append(Pair(curated, asked, language, False, kind))
    return made


def judge(pair: Pair) -> Compared:
    return compare(read(pair.asked, pair.language, is_asked=True), read(pair.curated, pair.language), pair.language)


def is_answered(judged: Compared, threshold: float, *, is_guarded: bool = True) -> bool:
    return judged.likeness >= threshold and not (is_guarded and judged.objections)


def score(judged: Sequence[tuple[Pair, Compared]], threshold: float, *, is_guarded: bool = True) -> Score:
    answered = Counter((pair.is_same, is_answered(each, threshold, is_guarded=is_guarded)) for pair, each in judged)
    return Score(answered[True, True], answered[False, True], answered[True, False])


def chosen(judged: Sequence[tuple[Pair, Compared]], *, is_guarded: bool = True) -> float | None:
    """The threshold that answers most of a half, of those that are precise enough; the highest of equal ones."""
    fit = [(each, score(judged, each, is_guarded=is_guarded)) for each in THRESHOLDS]
    precise = [(told.recall, each) for each, told in fit if told.precision >= PRECISION and told.right]
    return max(precise)[1] if precise else None


def together(pairs: Iterable[Pair], threshold: float) -> Score:
    """All curated questions in one FAQ: an answer is right where the pair's own entry gives it."""
    pairs = list(pairs)
    counted: Counter[str] = Counter()
    for language in ("tr", "en"):
        of_it = [pair for pair in pairs if pair.language == language]
        curated = list(dict.fromkeys(pair.curated for pair in of_it))
        index = Paraphrases.of(enumerate(curated), language)
        rightly = {(pair.asked, pair.curated) for pair in of_it if pair.is_same}
        for pair in of_it:
            found = index.near(pair.asked, lambda entry: True)
            hits = [each for each in found if is_answered(each.compared, threshold)]
            entries = {each.entry for each in hits}
            answer = curated[hits[0].entry] if len(entries) == 1 else None
            if answer is None:
                counted["missed"] += pair.is_same
            elif (pair.asked, answer) in rightly or pair.asked == answer:
                counted["right"] += 1
            else:
                counted["wrong"] += 1
    return Score(counted["right"], counted["wrong"], counted["missed"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--misses", action="store_true")
    parser.add_argument("--kept-back", action="store_true")
    wanted = parser.parse_args()
    first, second = halves()
    seen, kept = ([(pair, judge(pair)) for pair in half] for half in (first, second))
    print(
        f"{len(first)} pairs to choose with, {len(second)} kept back; {sum(p.is_same for p in first + second)} the same"
    )
    print(f"{'threshold':10} {'precision':>9} {'recall':>7}    without the guard")
    for each in THRESHOLDS:
        told, bare = score(seen, each), score(seen, each, is_guarded=False)
        print(f"{each:<10} {told.precision:9.3f} {told.recall:7.3f}    {bare.precision:.3f} {bare.recall:7.3f}")
    best, unguarded = chosen(seen), chosen(seen, is_guarded=False)
    print(f"chosen {best}, in use {LIKENESS_MIN}; without the guard {unguarded or 'none is precise enough'}")
    told = _print("kept back", score(kept, LIKENESS_MIN))
    for language in ("tr", "en"):
        _print(f"  {language}", score([each for each in kept if each[0].language == language], LIKENESS_MIN))
    _print("together", together(second, LIKENESS_MIN))
    if wanted.misses or wanted.kept_back:
        _explain(kept if wanted.kept_back else seen)
    return 0 if told.precision >= PRECISION and told.recall >= RECALL else 1


def _print(name: str, told: Score) -> Score:
    print(
        f"{name:10} precision {told.precision:.3f}, recall {told.recall:.3f} "
        f"({told.right} right, {told.wrong} wrong, {told.missed} missed)"
    )
    return told


def _explain(judged: Sequence[tuple[Pair, Compared]]) -> None:
    for pair, each in judged:
        if is_answered(each, LIKENESS_MIN) != pair.is_same:
            print(f"{'missed' if pair.is_same else 'WRONG'} {each.likeness:.2f} {pair.curated!r} / {pair.asked!r}")
            print(f"       {'; '.join(each.objections) or 'not alike enough'}")


if __name__ == "__main__":
    sys.exit(main())
