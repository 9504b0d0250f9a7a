"""The answers that a question gives to choose from, and how it asks: what an examination's form tells of difficulty.

Knows how each sign is counted, from text alone. What each weighs is in the trained model (`difficulty_model`): they
count only for questions that give choices, for on no others were they trained.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import combinations
from typing import Final

from orchestrator.core.letters import lower, without_marks

MOST: Final = 8  # choices that are compared with one another

_CHOICE = re.compile(r"^([A-Z])[.)] ?(.*)$", re.MULTILINE)
_WORD = re.compile(r"[a-z0-9]+")
_DIGIT = re.compile(r"\d")
_NUMBER = re.compile(r"[-+$]?[\d.,/%^()\s×x*e-]+[a-zA-Z%°/]{0,8}")
_MATHS = re.compile(r"[=^∑√∫<>]|\\\w")
_YES_OR_NO = re.compile(r"\b(?:true|false|yes|no|dogru|yanlis|evet|hayir)\b")
_OF_PEOPLE: Final = "he she his her patient man woman plaintiff defendant hasta adam kadin davaci davali"
_PEOPLE: Final = frozenset(_OF_PEOPLE.split())
_WEIGHED: Final = frozenset({"most", "best", "primarily", "likely", "en", "genellikle"})
_WORKED_OUT = re.compile(
    r"\b(?:find|calculate|compute|how many|what is the (?:value|probability)|bulun|hesapla\w*|kac)\b", re.ASCII
)

# Name of a sign -> how a reason says it. The order is that of `choices_of`.
CHOICES: Final = {
    "numbers": "choices that are numbers",
    "shared": "words that all choices share",
    "alike": "choices that are like one another",
    "echoed": "choices in the question's own words",
    "asks": "a question, not a sentence to be ended",
    "yes_or_no": "choices of yes and no",
    "digits": "digits before the choices",
    "maths": "formulas",
    "word_length": "long words before the choices",
    "words": "words before the choices",
    "lines": "lines before the choices",
    "people": "a case with people in it",
    "weighed": "the best of several is asked for",
    "worked_out": "something to be worked out",
}


def choices_of(text: str) -> tuple[float, ...]:
    """The signs in the order of `CHOICES`."""
    stem, choices = _split(text)
    folded = without_marks(lower(stem, is_turkish=False))
    return (*_of_choices(choices, set(_WORD.findall(folded))), *_of_stem(stem, folded, text, choices))


def _split(text: str) -> tuple[str, list[str]]:
    """What comes before the last list of choices, and that list. Texts may have lists of their own before it."""
    found = list(_CHOICE.finditer(text))
    first = max((place for place, each in enumerate(found) if each[1] == "A"), default=len(found))
    choices = found[first : first + MOST]
    return (text[: choices[0].start()] if choices else text), [each[2].strip() for each in choices]


def _of_choices(choices: Sequence[str], asked: set[str]) -> tuple[float, ...]:
    if not choices:
        return (0.0,) * 4
    words = [set(_WORD.findall(without_marks(lower(each, is_turkish=False)))) for each in choices]
    pairs = [len(one & other) / (len(one | other) or 1) for one, other in combinations(words, 2)]
    return (
        sum(_is_number(each) for each in choices) / len(choices),
        math.log1p(len(set.intersection(*words))),
        sum(pairs) / (len(pairs) or 1),
        sum(len(each & asked) / (len(each) or 1) for each in words) / len(words),
    )


def _of_stem(stem: str, folded: str, text: str, choices: Sequence[str]) -> tuple[float, ...]:
    written = stem.split()
    words = set(_WORD.findall(folded))
    first = without_marks(lower(" ".join(choices[:1]), is_turkish=False))
    return (
        float(stem.rstrip().endswith("?")),
        float(bool(_YES_OR_NO.search(first))),
        math.log1p(len(_DIGIT.findall(stem))),
        float(bool(_MATHS.search(text))),
        min(20.0, sum(map(len, written)) / (len(written) or 1)),
        math.log1p(len(written)),
        math.log1p(stem.count("\n")),
        float(bool(words & _PEOPLE)),
        float(bool(words & _WEIGHED)),
        float(bool(_WORKED_OUT.search(folded))),
    )


def _is_number(choice: str) -> bool:
    return bool(_DIGIT.search(choice) and _NUMBER.fullmatch(choice))
