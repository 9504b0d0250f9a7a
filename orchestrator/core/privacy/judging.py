"""The class of a text: what is found in it, within a bound on the work, and the strictest where one cannot tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from orchestrator.core.privacy.classes import DEFAULT_CLASSES, Privacy, class_of, strictest
from orchestrator.core.privacy.finding import Kind, find
from orchestrator.core.privacy.words import Words

# A regular expression keeps the interpreter to itself until it has found something: so much of a text at a time, in
# which the slowest of them takes 15 ms. What stands across two pieces is whole in one of them, up to the overlap.
PIECE_LETTERS: Final = 8192
OVERLAP_LETTERS: Final = 1024


@dataclass(frozen=True, slots=True)
class Discretion:
    """How far a text may go, and why: what was found, or who said so. Of the text itself nothing."""

    privacy: Privacy
    why: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """What makes a text private."""

    default: Privacy = Privacy.PUBLIC
    detects: bool = True
    classes: Mapping[Kind, Privacy] = field(default_factory=lambda: DEFAULT_CLASSES)
    more: Privacy = Privacy.LOCAL  # of what cannot be read here: images, files
    words: Words = field(default_factory=Words)
    most_letters: int = 262_144  # longer texts are not searched: 0.1 s of prose on one core, 1.1 s of a slow text


def judge(text: str, rules: Rules) -> Discretion:
    """The class of a text by what is found in it; no further than where it is clear."""
    if len(text) > rules.most_letters:
        return Discretion(Privacy.LOCAL, f"longer than the {rules.most_letters} letters that are searched")
    words, kinds = rules.words or None, set[Kind]()
    for piece in _pieces(text):
        kinds |= {each.kind for each in find(piece, words)}
        if any(class_of(each, rules.classes) is Privacy.LOCAL for each in kinds):
            break
    by_kind = {each: class_of(each, rules.classes) for each in Kind if each in kinds}
    found = strictest(by_kind.values())
    return Discretion(found, " and ".join(kind for kind, privacy in by_kind.items() if privacy is found))


def _pieces(text: str) -> Iterator[str]:
    if len(text) <= PIECE_LETTERS:
        yield text
        return
    for start in range(0, len(text) - OVERLAP_LETTERS, PIECE_LETTERS - OVERLAP_LETTERS):
        yield text[start : start + PIECE_LETTERS]


def redacted(text: str, words: Words | None = None) -> str:
    """`text` with the name of its kind in the place of everything private that is found in it."""
    told, ends = [], 0
    for each in find(text, words):
        told += [text[ends : each.start], f"[{each.kind}]"]
        ends = each.end
    return "".join((*told, text[ends:]))
