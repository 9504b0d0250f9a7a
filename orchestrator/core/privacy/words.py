"""Words and phrases that an operator lists: names of projects, of customers, of illnesses that no list of ours has.

One a line. Case and marks over letters do not matter; blanks and hyphens in a phrase stand for each other. `*` at the
end of a line: any ending, as Turkish has many. A line that begins with `#` is for people.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from orchestrator.core.letters import lower, without_marks
from orchestrator.core.privacy.spelling import plainly

LEAST_LETTERS: Final = 3
MOST_LETTERS: Final = 200
_WORD: Final = re.compile(r"[^\W_]+")


class WordsError(ValueError):
    """A line is no word; the text says which one and why."""


class Words:
    """A list, as a finder for `find`."""

    __slots__ = ("_by_first",)

    def __init__(self, lines: Iterable[str] = ()) -> None:
        """Raises WordsError."""
        endings: dict[str, set[str]] = {}
        for number, line in enumerate(lines, 1):
            if (told := line.strip()) and not told.startswith("#"):
                words = _words_of(told, number)
                ending = r"\w*" if told.endswith("*") else r"(?!\w)"
                endings.setdefault(words[0][:LEAST_LETTERS], set()).add(r"[\W_]{1,2}".join(words) + ending)
        self._by_first = {
            first: re.compile("|".join(sorted(several, key=len, reverse=True))) for first, several in endings.items()
        }

    def __bool__(self) -> bool:
        return bool(self._by_first)

    def __call__(self, text: str) -> Iterator[tuple[int, int]]:
        """Where they stand."""
        folded = fold(text)
        for word in _WORD.finditer(folded):
            listed = self._by_first.get(word[0][:LEAST_LETTERS])
            if listed is not None and (found := listed.match(folded, word.start())):
                yield found.span()


def _words_of(line: str, number: int) -> list[str]:
    words = _WORD.findall(fold(plainly(line)[0]))
    if sum(map(len, words)) < LEAST_LETTERS:
        raise WordsError(f"line {number}: has fewer than {LEAST_LETTERS} letters; name a longer word")
    if len(line) > MOST_LETTERS:
        raise WordsError(f"line {number}: has more than {MOST_LETTERS} letters; name a word or a phrase")
    return words


def fold(text: str) -> str:
    """`text` in small letters without marks, letter for letter."""
    folded = without_marks(lower(text, is_turkish=False))
    if len(folded) != len(text):  # a letter whose small form is several: rare, and not worth a map of places
        folded = "".join(small if len(small := each.lower()) == 1 else each for each in text)
    return folded
