"""Finding private matter in a text.

Structured kinds are proven where they carry a proof (IBAN, identity and card numbers have check digits), the others
are told by their form. What is found is a place in the text, never a copy of it.
"""

from __future__ import annotations

import re
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.core.privacy.health import health_terms
from orchestrator.core.privacy.keys import secrets
from orchestrator.core.privacy.numbers import cards, ibans, identities, phones
from orchestrator.core.privacy.spelling import plainly

Span = tuple[int, int]


class Kind(StrEnum):
    EMAIL = "e-mail"
    PHONE = "phone"
    IBAN = "iban"
    IDENTITY = "identity number"  # of Turkish citizens and residents
    CARD = "card number"
    SECRET = "secret"  # noqa: S105 (a word, not one)
    HEALTH = "health"
    WORD = "word"  # of a list of the operator's own


@dataclass(frozen=True, slots=True)
class Found:
    """Where something private stands: from `start` up to `end`, in characters of the text as it was given."""

    kind: Kind
    start: int
    end: int


# Bounded on both sides of the @, so that a text made of letters and dots costs no more than its length.
_EMAIL = re.compile(
    r"(?<![\w.+%-])(?!git@)[\w.+%-]{1,64}(?:@|\s?[\[({]\s?at\s?[\])}]\s?)"
    r"(?:[\w-]{1,63}(?:\.|\s?[\[({]\s?(?:dot|nokta)\s?[\])}]\s?)){1,5}[^\W\d_]{2,24}(?![\w-])",
    re.IGNORECASE,
)


def _emails(text: str) -> Iterator[Span]:
    if "@" in text or "at" in text:
        yield from (each.span() for each in _EMAIL.finditer(text))


# A span that one of these has taken is not looked at by those behind it: the digits of an IBAN are no card's.
Finder = Callable[[str], Iterable[Span]]
_FINDERS: tuple[tuple[Kind, Finder], ...] = (
    (Kind.SECRET, secrets),
    (Kind.EMAIL, _emails),
    (Kind.IBAN, ibans),
    (Kind.CARD, cards),
    (Kind.IDENTITY, identities),
    (Kind.PHONE, phones),
    (Kind.HEALTH, health_terms),
)


def find(text: str, words: Finder | None = None) -> tuple[Found, ...]:
    """Everything private that is recognised in `text`, in its order; no two overlap. `words`: of an own list."""
    plain, places = plainly(text)
    taken: list[tuple[int, int, Kind]] = []  # in their order
    for kind, finder in (*_FINDERS, *(((Kind.WORD, words),) if words is not None else ())):
        for span in finder(plain):
            if _is_free(span, taken):
                insort(taken, (*span, kind))
    if places is not None:
        taken = [(places[start], places[end - 1] + 1, kind) for start, end, kind in taken]
    return tuple(Found(kind, start, end) for start, end, kind in taken)


def _is_free(span: Span, taken: list[tuple[int, int, Kind]]) -> bool:
    """Whether it overlaps nothing: no two of `taken` do, so its neighbours say it."""
    at = bisect_left(taken, (span[0],))
    return (at == len(taken) or span[1] <= taken[at][0]) and (at == 0 or taken[at - 1][1] <= span[0])
