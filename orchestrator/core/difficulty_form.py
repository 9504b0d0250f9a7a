"""The form of a question: how long, how many conditions, numbers, clauses. Nothing of what it is about.

Knows how each feature is counted. What each weighs is in the trained model (`difficulty_model`); what the sum leads to,
`difficulty` says. Features are zero for a short plain question and grow with the text, in any language, so that weights
learnt on one kind of question mean the same on another.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

from orchestrator.core.difficulty_cues import Cue

_PLAIN: Final = 64  # letters of a plain question
_LONGEST: Final = 6.0  # doublings of it, beyond which length tells nothing more: 4,096 letters

_SENTENCE = re.compile(r"[.!?]\s")
_NUMBER = re.compile(r"\d+")
_ITEM = re.compile(r"^ ?(?:[-*•]|\d{1,2}[.)]) ", re.MULTILINE)
_COUNTING_WORDS: Final = """
    two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty hundred thousand half
    twice double triple third quarter dozen each every iki uc dort bes alti yedi sekiz dokuz yirmi otuz kirk
    elli yuz bin yari yarim yarisi ceyrek cift duzine her"""
COUNTING: Final = frozenset(_COUNTING_WORDS.split())

# Name of a feature -> how a reason says it. The order is that of `form_of`.
FORM: Final = {
    "length": "its length",
    "sentences": "several sentences",
    "clauses": "clauses and lists",
    "conditions": Cue.CONDITION.value,
    "questions": "more than one question",
    "numbers": "numbers in it",
    "large": "large numbers",
    "counting": "words that count",
    "amounts": "amounts",
    "fractions": "fractions or alternatives",
    "reasons": "a comparison or an explanation in it",
}


def form_of(text: str, length: int, words: Sequence[str], cues: Counter[Cue]) -> tuple[float, ...]:
    """The features in the order of `FORM`, none below zero.

    `text`: what is read of it; `length`: letters of all of it; `words`: its words, small and without marks.
    """
    found = _NUMBER.findall(text)
    return (
        min(_LONGEST, math.log2(max(length, _PLAIN) / _PLAIN)),
        math.log1p(len(_SENTENCE.findall(text))),
        math.log1p(text.count(",") + text.count(";")),
        math.log1p(cues[Cue.CONDITION] + len(_ITEM.findall(text))),
        math.log1p(max(0, text.count("?") - 1)),
        math.log1p(len(set(found))),
        math.log1p(min(9, max(map(len, found), default=0))),
        math.log1p(sum(word in COUNTING for word in words)),
        math.log1p(cues[Cue.AMOUNTS]),
        float("/" in text),
        math.log1p(cues[Cue.REASONS]),
    )
