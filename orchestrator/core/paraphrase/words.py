"""How the tables of words are read, and what meanings have in common: kinds of questions, units, opposites.

The tables themselves are `turkish` and `english`. Letters in them are as a keyboard without Turkish ones has them. Two
words stand on one line only where no curated answer would differ between them: "araç" and "otomobil" do not. Which
difference forbids an answer is `guard`'s to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

# What a meaning begins with, where it is not the name of a thing:
FRAME: Final = "-"  # says nothing and is left out
ASKS: Final = "?"  # ?when: what kind of question it is
MODAL: Final = "~"  # ~may, ~need: what somebody is allowed or has to do
NOT: Final = "!"  # turns a meaning around
WEAK: Final = "."  # .max: may be there or not
NUMBER: Final = "#"
ONE: Final = "#one"  # "bir", "one", "a": the number 1 where the other question has it, otherwise nothing

Phrase = tuple[tuple[str, ...], tuple[str, ...]]  # words or meanings, and what they mean together


@dataclass(frozen=True, slots=True)
class Lexicon:
    """One language's words: `exact` as they stand, `roots` with endings, `phrases` by their first, longest first."""

    exact: Mapping[str, str]
    roots: Mapping[str, str]
    phrases: Mapping[str, Sequence[Phrase]]


def lexicon(exact: str, roots: str, phrases: str) -> Lexicon:
    """Tables of `meaning: word word` a line; words of a line without a meaning each mean themselves."""
    found: dict[str, list[Phrase]] = {}
    for line in phrases.strip().splitlines():
        meaning, _, said = line.partition(":")
        for words in (tuple(each.split()) for each in said.split(",")):
            found.setdefault(words[0], []).append((words, tuple(meaning.split())))
    for each in found.values():
        each.sort(key=lambda phrase: -len(phrase[0]))
    return Lexicon(_meanings(exact), _meanings(roots), found)


def _meanings(table: str) -> dict[str, str]:
    made: dict[str, str] = {}
    for line in table.strip().splitlines():
        meaning, colon, words = line.partition(":")
        for word in (words if colon else meaning).split():
            made[word] = meaning.strip() if colon else word
    return made


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Questions of other kinds are never one question; these may stand for each other. `value` is "kaç" before a unit or at
# the end, "" names a thing without asking: "otoyol hız limiti".
NAMING: Final = frozenset({"what", "which", "value", "much", ""})
# "What is the limit" and "how much is the limit" ask the same, since a limit is an amount; "what is a visa" and "how
# much is a visa" do not.
AMOUNTS: Final = _set(
    """limit fee price age number temperature speed rate fine amount height length weight size distance code duration
    percent promil degree point ratio score charge period ivme harc faiz"""
)
UNITS: Final = _set(
    """km m cm mm mile inch foot yard nautical kg g mg pound litre hour minute second day week month year degree tl
    dollar euro bit byte kilobyte megabyte gigabyte mib gib hectare donum promil percent kmh"""
)
DATES: Final = frozenset(f"month{number}" for number in range(1, 13)) | _set(
    "mon tue wed thu fri sat sun weekday weekend summer winter autumn spring today tomorrow yesterday"
)
# What is asked for with "when" and "how long" as well as with "what".
TIMES: Final = _set("hour date time period duration")
# Those between whom it matters who does what to whom.
ACTORS: Final = _set(
    """teacher student parent child doctor patient nurse employer employee manager landlord tenant buyer seller driver
    passenger"""
)
OPPOSITES: Final = frozenset(
    frozenset(pair.split())
    for pair in """in out|open close|start end|enable disable|import export|upload download|before after|above below|
    under over|min .max|install uninstall|add remove|buy sell|allow forbid|safe unsafe|inside outside|arrive depart|
    first last|old new|tok hungry|login logout|book cancel|connect disconnect|big small|boiling freezing|summer winter|
    front back|al ver|tak cikar|legal illegal|urban rural|town rural""".replace("\n", "").split("|")
)
