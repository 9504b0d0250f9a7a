"""Sums that a text works out, and whether they come out right: `a op b = c` recomputed.

Knows plain arithmetic as people and models write it (`$`, `%`, thousands, `x` for times). It judges nothing else: what
a wrong sum means is `difficulty_answer`'s. Cost grows with the text's length alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

LONGEST: Final = 120  # letters of one sum; longer ones are prose with an equals sign in it
NUMBER: Final = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")

_SPACES = re.compile(r"[ \t$€£₺]+")
_LEFT = re.compile(r"[\d(][\d.()+*/-]*$")
_RIGHT = re.compile(r"-?(?:\d+(?:\.\d+)?|\.\d+)(?!\d|\.\d|[(+*/-])")
_PIECE = re.compile(r"\d+(?:\.\d+)?|\.\d+|[-+*/()]")
_OPERAND = re.compile(r"\d+(?:\.\d+)?|\.\d+")
_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "\\": "", "[": "(", "]": ")"})
_TIMES = re.compile(r"(?<=[\d)%$ ])[xX](?=[\d($ ])")
_END = re.compile(r"(?<=\d)\.[ \t]+")  # of a sentence: the number behind it is another one
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)%")
_PRIORITY: Final = {"+": 1, "-": 1, "*": 2, "/": 2}
# A result may be rounded, or carried on with a rounded number: this much is not an error.
_TOLERANCE: Final = 0.011


@dataclass(frozen=True, slots=True)
class Sum:
    """A calculation as written, the result stated for it, and what it really is."""

    text: str
    stated: float
    is_right: bool

    @property
    def operands(self) -> list[float]:
        """What is reckoned with, in order."""
        return [float(each) for each in _OPERAND.findall(self.text)]


def sums(text: str) -> Iterator[Sum]:
    """Every calculation in `text` that states its result, in order. What cannot be read is passed over."""
    for line in text.splitlines():
        if "=" in line:
            yield from _of_line(_plain(line))


def numbers(text: str) -> list[float]:
    """The numbers of `text` in order, without their thousands' commas."""
    return [float(each.replace(",", "")) for each in NUMBER.findall(text)]


def calculate(written: str) -> float | None:
    """What a calculation of numbers, `+ - * /` and parentheses comes to; None where it cannot be read."""
    values: list[float] = []
    waiting: list[str] = []
    is_value_next = True
    for part in _PIECE.findall(written):
        if part[0].isdigit() or part[0] == ".":
            if not is_value_next:
                return None
            values.append(float(part))
            is_value_next = False
        elif part == "(":
            waiting.append(part)
            is_value_next = True
        elif part == ")":
            while waiting and waiting[-1] != "(":
                if not _apply(waiting.pop(), values):
                    return None
            if not waiting or is_value_next:
                return None
            waiting.pop()
        else:
            if is_value_next:
                return None
            while waiting and _PRIORITY.get(waiting[-1], 0) >= _PRIORITY[part]:
                if not _apply(waiting.pop(), values):
                    return None
            waiting.append(part)
            is_value_next = True
    while waiting:
        if not _apply(waiting.pop(), values):
            return None
    return values[0] if len(values) == 1 and not is_value_next else None


def _plain(line: str) -> str:
    signs = _TIMES.sub("*", _END.sub(";", line).translate(_SIGNS))
    return _PERCENT.sub(r"(\1/100)", _THOUSANDS.sub("", _SPACES.sub("", signs)))


def _of_line(line: str) -> Iterator[Sum]:
    """`a+b=c=d` is two statements about a+b; `=` inside `<<a=b>>` is read like any other."""
    sides = line.split("=")
    for before, after in pairwise(sides):
        left = _LEFT.search(before[-LONGEST:])
        right = _RIGHT.match(after)
        if left is None or right is None or not any(sign in left[0][1:] for sign in "+-*/"):
            continue
        real = calculate(left[0])
        if real is not None:
            stated = float(right[0])
            yield Sum(left[0], stated, _agree(real, stated))


def _agree(real: float, stated: float) -> bool:
    return abs(real - stated) <= max(_TOLERANCE, abs(real) * _TOLERANCE / 2)


def _apply(sign: str, values: list[float]) -> bool:
    """Replace the last two values by their result. False where that is not possible."""
    if sign == "(" or len(values) < 2:
        return False
    right, left = values.pop(), values.pop()
    if sign == "/" and right == 0:
        return False
    values.append(
        left + right if sign == "+" else left - right if sign == "-" else left * right if sign == "*" else left / right
    )
    return True
