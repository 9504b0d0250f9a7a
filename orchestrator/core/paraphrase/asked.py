"""Questions that were asked and whose answers are kept: which of them means what another one asks.

Each belongs to a family: calls that are one but for their question. Questions of two families are never compared. The
answers themselves are elsewhere, under the same digests; whether one is still there is for others to look.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from orchestrator.core.paraphrase.plain import Judged, Plain, judge

QUESTIONS_MAX: Final = 2000
_COMPARED: Final = 8  # of those with the same words, the newest


class Question(NamedTuple):
    """A question that was asked. `digest`: its answer's key."""

    digest: str
    family: str
    read: Plain


class Match(NamedTuple):
    """The question whose answer may be given."""

    digest: str
    likeness: float


class AskedQuestions:
    """The newest questions of one route and those who share its answers."""

    def __init__(self, most: int = QUESTIONS_MAX) -> None:
        self._most = most
        self._known: dict[str, Question] = {}  # the oldest first
        self._barred: dict[str, None] = {}
        self._alike: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, digest: str) -> bool:
        return digest in self._known

    def add(self, question: Question) -> None:
        """The newest one; the oldest makes room for it."""
        self.drop(question.digest)
        self._known[question.digest] = question
        self._alike.setdefault(_place(question.family, question.read), []).append(question.digest)
        if len(self._known) > self._most:
            self.drop(next(iter(self._known)))

    def drop(self, digest: str) -> None:
        """Its answer is gone. Twice is harmless."""
        question = self._known.pop(digest, None)
        if question is None:
            return
        place = _place(question.family, question.read)
        alike = self._alike[place]
        alike.remove(digest)
        if not alike:
            del self._alike[place]

    def bar(self, digest: str) -> None:
        """It was taken for another one, or another for it, wrongly: it is compared with none any more."""
        self.drop(digest)
        self._barred.pop(digest, None)
        self._barred[digest] = None
        if len(self._barred) > self._most:
            del self._barred[next(iter(self._barred))]

    def find(self, asked: Question) -> Match | None:
        """The likest question that means what is asked; None too where two mean that and not the same."""
        if asked.digest in self._barred:
            return None
        found = [
            (judged.likeness, each)
            for each, judged in self._judged(asked)
            if judged.are_one and each.digest not in self._barred
        ]
        if not found:
            return None
        likeness, best = max(found, key=lambda each: each[0])
        if not all(judge(best.read, each.read).are_one for _, each in found):
            return None
        return Match(best.digest, likeness)

    def _judged(self, asked: Question) -> Iterator[tuple[Question, Judged]]:
        for digest in self._alike.get(_place(asked.family, asked.read), [])[: -_COMPARED - 1 : -1]:
            if digest != asked.digest:
                question = self._known[digest]
                yield question, judge(asked.read, question.read)

    def nearest(self, asked: Question, most: int = 3) -> list[tuple[Question, Judged]]:
        """Those likest to what is asked, of all of its family: for people who look."""
        of_family = (each for each in self._known.values() if each.family == asked.family)
        judged = [(each, judge(asked.read, each.read)) for each in of_family if each.digest != asked.digest]
        return sorted(judged, key=lambda each: (not each[1].are_one, -each[1].likeness))[:most]


def _place(family: str, read: Plain) -> tuple[str, str, tuple[str, ...]]:
    return family, read.language, read.keys
