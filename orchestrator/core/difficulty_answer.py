"""What a small model's answer tells of itself: sums that do not come out, a result that is missing or odd, doubt.

Knows how each sign is counted, from the question's and the answer's text alone. What each weighs is in the trained
model (`difficulty_model`); `doubt_of` in `difficulty` adds them up. Of either the first `LONGEST` letters are read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final

from orchestrator.core.difficulty_sums import Sum, numbers, sums
from orchestrator.core.letters import lower, without_marks

LONGEST: Final = 8192

_RESULT = re.compile(r"(?:####|\\boxed\{|\b(?:answer|result|sonuç|cevap)(?: is)?\b:?)[ \t]*([^\n]*)", re.IGNORECASE)
_PLAIN = re.compile(r"[-$€₺]?[\d,]+(?:\.\d+)?%?\.?")
_BROKEN = re.compile(r"\d\.\d")
_MONEY = re.compile(r"[$€₺]|\bcents?\b|\bTL\b|\bkuruş")
_PERCENT = re.compile(r"%|\bpercent|\byüzde\b", re.IGNORECASE)
_HEDGE = re.compile(
    r"\b(?:assum\w*|however|not (?:enough|possible|clear|specified|given)|cannot|can't|impossible|unclear|sorry|"
    r"depends|approximately|about|might|may|unless|actually|wait|mistake|varsay\w*|ancak|yeterli değil|"
    r"mümkün değil|belirsiz|yaklaşık)\b",
    re.IGNORECASE,
)
_AGES = re.compile(r"\b(?:ago|younger|older|years? old|yil once|yil sonra|yasi(?:nda)?)\b")  # without Turkish marks
_UNKNOWN = re.compile(r"\b[xyn] ?[=+-]", re.IGNORECASE)

# Name of a sign -> how a reason says it. The order is that of `answer_of`.
ANSWER: Final = {
    "length": "the answer's length",
    "length_to_question": "its length beside the question's",
    "lines": "the lines it takes",
    "line_length": "long lines",
    "sums": "how much is worked out",
    "sums_a_line": "sums in a line",
    "wrong_sums": "sums that do not come out",
    "equations": "equations that could not be checked",
    "unknowns": "unknowns",
    "no_result": "no result stated",
    "odd_result": "a result that is not one plain number",
    "result_broken": "a result with a fraction",
    "result_negative": "a result below zero",
    "result_is_last": "the result is what was worked out last",
    "result_worked_out": "the result was worked out",
    "result_given": "the result stood in the question",
    "result_size": "the result's size beside the question's numbers",
    "unused": "numbers of the question that it does not use",
    "unfounded": "numbers that come from nowhere",
    "largest": "large numbers",
    "question_broken": "numbers with a fraction in the question",
    "question_percent": "percentages in the question",
    "result_unlike": "a result with a fraction where the question has none",
    "not_reckoned": "numbers of the question that are in no sum",
    "ages": "ages and times past in the question",
    "hedges": "words of doubt",
    "repeats": "lines said again",
    "cut": "an end in the middle of a sentence",
}


def answer_of(question: str, answer: str) -> tuple[float, ...]:
    """The signs in the order of `ANSWER`."""
    question, answer = question[:LONGEST], answer[:LONGEST]
    worked = list(sums(answer))
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    return (
        *_of_length(question, answer, lines),
        *_of_sums(answer, worked, len(lines)),
        *_of_result(question, answer, worked),
        *_of_numbers(question, answer, worked),
        *_of_fractions(question, answer),
        *_of_steps(question, worked),
        float(min(5, len(_HEDGE.findall(answer)))),
        float(min(5, len(lines) - len(set(lines)))),
        float(_is_cut(answer)),
    )


def _of_length(question: str, answer: str, lines: Sequence[str]) -> tuple[float, ...]:
    letters = len(answer) + 1
    return (
        math.log(letters),
        math.log(letters / (len(question) + 1)),
        math.log1p(len(lines)),
        math.log(letters / (len(lines) + 1)),
    )


def _of_sums(answer: str, worked: Sequence[Sum], lines: int) -> tuple[float, ...]:
    wrong = sum(not each.is_right for each in worked)
    return (
        math.log1p(len(worked)),
        len(worked) / (lines + 1),
        min(2.0, wrong),
        math.log1p(max(0, answer.count("=") - len(worked))),
        float(bool(_UNKNOWN.search(answer))),
    )


def _of_result(question: str, answer: str, worked: Sequence[Sum]) -> tuple[float, ...]:
    result = _result_of(answer)
    if not result:
        return (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    found = numbers(result)
    if not found:
        return (0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    value = found[0]
    given = numbers(question)
    return (
        0.0,
        float(not _PLAIN.fullmatch(result)),
        float(value != int(value)),
        float("-" in result[: result.find(str(int(value))[0]) + 1]),
        float(bool(worked) and value == worked[-1].stated),
        float(any(value == each.stated for each in worked)),
        float(value in given),
        _size(value) - _size(max(given, default=0.0)),
    )


def _of_steps(question: str, worked: Sequence[Sum]) -> tuple[float, ...]:
    """What a question gives is to be reckoned with; and a step that is often missed is the one from then to now."""
    reckoned = {value for each in worked for value in each.operands}
    asked = without_marks(lower(question, is_turkish=False))
    return (
        float(min(3, sum(value not in reckoned for value in numbers(question)))),
        float(min(5, len(_AGES.findall(asked)))),
    )


def _result_of(answer: str) -> str:
    stated = _RESULT.findall(answer)
    return stated[-1].strip() if stated else ""


def _of_fractions(question: str, answer: str) -> tuple[float, ...]:
    """Boxes and people come whole: a fraction among them is an error, and one among prices is none."""
    is_broken = bool(_BROKEN.search(question))
    may_break = is_broken or _MONEY.search(question)
    value = next(iter(numbers(_result_of(answer))), 0.0)
    return (
        float(is_broken),
        float(min(2, len(_PERCENT.findall(question)))),
        float(value != int(value) and not may_break),
    )


def _of_numbers(question: str, answer: str, worked: Sequence[Sum]) -> tuple[float, ...]:
    given, used = set(numbers(question)), set(numbers(answer))
    known = given | {each.stated for each in worked}
    return (
        len(given - used) / max(1, len(given)),
        len(used - known) / max(1, len(used)),
        _size(max(used, default=0.0)),
    )


def _size(value: float) -> float:
    return math.log1p(min(1e9, abs(value)))


def _is_cut(answer: str) -> bool:
    end = answer.rstrip()[-1:]
    return not (end in set(".!?)]}\"'`:") or (end.isdigit() and "####" in answer))
