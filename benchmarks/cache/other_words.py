"""How sure is an answer in other words where nobody curates questions, how often is there one, what does it cost?

    python -m benchmarks.cache.other_words

Data       benchmarks/cache/pairs.txt, both halves: what each pair's second question would be given if the first one's
           answer were kept.
Costs      CPU of a look-up among 2,000 questions of one family, and of reading one question: what a gateway that has
           just started pays for each it finds.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from benchmarks.cache.paraphrase import PRECISION, Pair, Score, halves
from orchestrator.core.paraphrase.asked import QUESTIONS_MAX, AskedQuestions, Question
from orchestrator.core.paraphrase.plain import judge, plain


def is_given(pair: Pair) -> bool:
    one, other = plain(pair.asked), plain(pair.curated)
    return one is not None and other is not None and judge(one, other).are_one


def score(pairs: list[Pair]) -> Score:
    counted = Counter((pair.is_same, is_given(pair)) for pair in pairs)
    return Score(counted[True, True], counted[False, True], counted[True, False])


def costs(pairs: list[Pair]) -> tuple[float, float, int]:
    """Microseconds of CPU to read a question and to look one up, and among how many."""
    texts = list(dict.fromkeys(text for pair in pairs for text in (pair.curated, pair.asked)))
    whole = [f"{text} {number}" for number in range(9) for text in texts]
    read_us = _each_us(plain, whole)
    known = AskedQuestions()
    read = [Question(str(place), "f", each) for place, text in enumerate(whole) if (each := plain(text)) is not None]
    for each in read[:QUESTIONS_MAX]:
        known.add(each)
    asked = [Question("asked", "f", each) for text in texts if (each := plain(text)) is not None]
    return read_us, _each_us(known.find, [*asked, *read[:QUESTIONS_MAX]]), len(known)


def _each_us(act: Callable[[Any], object], values: list[Any]) -> float:
    began_s = time.process_time()
    for each in values:
        act(each)
    return (time.process_time() - began_s) / len(values) * 1e6


def main() -> int:
    first, second = halves()
    told = {"first half": score(first), "kept back": score(second)}
    for name, each in told.items():
        print(
            f"{name:10} precision {each.precision:.3f}, recall {each.recall:.3f} "
            f"({each.right} right, {each.wrong} wrong, {each.missed} missed)"
        )
    read_us, find_us, among = costs([*first, *second])
    print(f"read {read_us:.0f} us a question, looked up {find_us:.0f} us among {among}")
    return 0 if all(each.precision >= PRECISION for each in told.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
