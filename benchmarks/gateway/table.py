"""What was measured, and the Markdown drawn of it: medians over rounds, ratios taken inside a round."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

OURS = "ours"


@dataclass(slots=True)
class Row:
    """One measure: for each contender one value a round. `is_compared` adds the columns with ratios."""

    name: str
    is_compared: bool = True
    values: dict[str, list[float]] = field(default_factory=dict)

    def ratio(self, other: str) -> str:
        """Ours ÷ `other`: the median of the rounds' ratios, and the lowest and highest."""
        pairs = zip(self.values.get(OURS, ()), self.values.get(other, ()), strict=False)
        ratios = [ours / theirs for ours, theirs in pairs if theirs and not math.isnan(ours + theirs)]
        if not self.is_compared or not ratios:
            return "–"
        return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


class Table:
    """The rows of one scenario, in the order they were first measured."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._rows: dict[str, Row] = {}

    def add(self, name: str, contender: str, value: float, *, is_compared: bool = True) -> None:
        row = self._rows.setdefault(name, Row(name, is_compared))
        row.values.setdefault(contender, []).append(value)

    def reserve(self, *names: str, is_compared: bool = True) -> None:
        """Rows in this order, whoever is measured first; one without values is not drawn."""
        for name in names:
            self._rows.setdefault(name, Row(name, is_compared))

    def values(self, name: str, contender: str) -> list[float]:
        return self._rows[name].values.get(contender, []) if name in self._rows else []

    def draw(self, contenders: Sequence[str], beside: Sequence[str]) -> str:
        """`beside`: the contenders that ours is divided by."""
        head = ["", *contenders, *(f"{OURS} ÷ {each}" for each in beside)]
        lines = [f"**{self.title}**", "", _line(head), _line(["---"] * len(head))]
        for row in filter(lambda each: each.values, self._rows.values()):
            cells = [_cell(row.values.get(each, [])) for each in contenders]
            lines.append(_line([row.name, *cells, *(row.ratio(each) for each in beside)]))
        return "\n".join(lines)

    def draw_turned(self, contenders: Sequence[str]) -> str:
        """A line for each contender, a column for each measure: for many contenders and few measures."""
        rows = [each for each in self._rows.values() if each.values]
        head = ["", *(each.name for each in rows)]
        lines = [f"**{self.title}**", "", _line(head), _line(["---"] * len(head))]
        measured = [each for each in contenders if any(each in row.values for row in rows)]
        lines += [_line([each, *(_cell(row.values.get(each, [])) for row in rows)]) for each in measured]
        return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(values: Sequence[float]) -> str:
    seen = [each for each in values if not math.isnan(each)]
    if not seen:
        return "–"
    value = statistics.median(seen)
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
