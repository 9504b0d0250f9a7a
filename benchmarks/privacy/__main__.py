"""How much of the private matter in a text is found, and how much is found that is none?

    python -m benchmarks.privacy [--misses] [--set FILE]

Question   By kind: of what is marked, how much is found (recall)? Of what is found, how much is marked (precision)?
           What does a look at a text cost?
Data       Turkish and English, written for this project. benchmarks/privacy/labelled.txt: the mistakes it showed have
           been mended since. benchmarks/privacy/held_back.txt: written afterwards, and nothing was mended by it; its
           writer knew the search, so texts of a deployment's own, marked in the same way (--set), say more.

Found is what overlaps a mark of its own kind. Cost is CPU time of one look at a usual question, and at 32 KiB of them.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.privacy import Found, Kind, find

LABELLED = Path(__file__).with_name("labelled.txt")
HELD_BACK = Path(__file__).with_name("held_back.txt")
STRUCTURED = (Kind.EMAIL, Kind.PHONE, Kind.IBAN, Kind.IDENTITY, Kind.CARD, Kind.SECRET)
LOOKS = 200
_MARK = re.compile(r"\{\{([^|{}]+)\|(.*?)\}\}")


@dataclass(frozen=True, slots=True)
class Labelled:
    text: str
    marks: tuple[Found, ...]


@dataclass(frozen=True, slots=True)
class Score:
    """Marks found and missed, and what was found without a mark, of one kind."""

    found: int
    missed: int
    wrong: int

    @property
    def recall(self) -> float:
        return self.found / max(1, self.found + self.missed)

    @property
    def precision(self) -> float:
        return self.found / max(1, self.found + self.wrong)


def labelled(path: Path = LABELLED) -> list[Labelled]:
    """Every text of the set, without its marks, and where they were."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [_read(line) for line in lines if line.strip() and not line.startswith("#")]


def _read(line: str) -> Labelled:
    text, marks, end = "", [], 0
    for each in _MARK.finditer(line):
        text += line[end : each.start()]
        marks.append(Found(Kind(each[1]), len(text), len(text) + len(each[2])))
        text += each[2]
        end = each.end()
    return Labelled(text + line[end:], tuple(marks))


def judged(texts: list[Labelled]) -> tuple[dict[Kind, Score], list[str]]:
    """The score of each kind, and a line for each mistake."""
    found, missed, wrong = Counter[Kind](), Counter[Kind](), Counter[Kind]()
    mistakes = []
    for each in texts:
        told = find(each.text)
        for mark in each.marks:
            is_found = any(_same(mark, one) for one in told)
            (found if is_found else missed)[mark.kind] += 1
            if not is_found:
                mistakes.append(f"missed {mark.kind}: {each.text}")
        for one in told:
            if not any(_same(mark, one) for mark in each.marks):
                wrong[one.kind] += 1
                mistakes.append(f"wrong {one.kind} ({each.text[one.start : one.end]}): {each.text}")
    return {kind: Score(found[kind], missed[kind], wrong[kind]) for kind in Kind if kind is not Kind.WORD}, mistakes


def _same(mark: Found, told: Found) -> bool:
    return mark.kind is told.kind and mark.start < told.end and told.start < mark.end


def _cost_us(text: str, looks: int) -> float:
    began_s = time.process_time()
    for _ in range(looks):
        find(text)
    return (time.process_time() - began_s) / looks * 1e6


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--misses", action="store_true", help="list every mistake")
    arguments.add_argument("--set", type=Path, action="append", help="file of marked texts; by default both of ours")
    wanted = arguments.parse_args()
    for path in wanted.set or (LABELLED, HELD_BACK):
        _show(path, has_misses=wanted.misses)
    texts = labelled()
    one = max((each.text for each in texts), key=len)
    many = "\n".join(each.text for each in texts)
    long = (many * 4)[: 2**15]
    print(f"a look at {len(one)} letters: {_cost_us(one, LOOKS):.0f} µs; at 32 KiB: {_cost_us(long, 5):.0f} µs")
    return 0


def _show(path: Path, *, has_misses: bool) -> None:
    texts = labelled(path)
    scores, mistakes = judged(texts)
    print(f"{path.name}: {len(texts)} texts\n{'kind':<16} {'marks':>5} {'recall':>7} {'precision':>9}")
    for kind, score in scores.items():
        print(f"{kind:<16} {score.found + score.missed:>5} {score.recall:>7.3f} {score.precision:>9.3f}")
    of_forms = [scores[each] for each in STRUCTURED]
    whole = Score(*(sum(getattr(each, name) for each in of_forms) for name in ("found", "missed", "wrong")))
    print(f"{'all but health':<16} {whole.found + whole.missed:>5} {whole.recall:>7.3f} {whole.precision:>9.3f}")
    if has_misses:
        print("\n".join(mistakes))
    print()


if __name__ == "__main__":
    sys.exit(main())
