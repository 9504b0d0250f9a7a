"""Charts of lines and dots as SVG, as one page of HTML, and as PNG where matplotlib is installed.

SVG and HTML stand alone: no script, nothing from elsewhere, light and dark. Knows nothing of what it draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from io import BytesIO
from math import ceil, floor, log10
from pathlib import Path
from typing import Final

from orchestrator.core.errors import OrchestratorError
from orchestrator.whole_file import write_whole

KINDS: Final = (".svg", ".png", ".html")
# Okabe and Ito's colours, which people who see fewer of them tell apart, too.
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")

_WIDTH, _HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BELOW = 64, 196, 34, 46
_STYLE: Final = (
    "svg{background:#fff;color:#222}@media (prefers-color-scheme:dark){svg{background:#1b1b1f;color:#ddd}}"
    "text{font:12px system-ui,sans-serif;fill:currentColor}.title{font-size:14px;font-weight:600}"
)
_PAGE: Final = (
    ":root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}body{max-width:60rem;margin:2rem auto;"
    "padding:0 1rem}table{border-collapse:collapse}th,td{padding:.3rem .8rem;text-align:right;"
    "border-bottom:1px solid #8884}th:first-child,td:first-child{text-align:left}svg{max-width:100%;height:auto}"
)


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one colour: a line, or dots. `colour`: place in `COLOURS`; what belongs together has the same."""

    name: str
    points: tuple[tuple[float, float], ...]
    colour: int = 0
    is_dots: bool = False


@dataclass(frozen=True, slots=True)
class Level:
    """A horizontal line, such as a goal; it has a series' colour."""

    name: str
    at: float
    colour: int = 0


@dataclass(frozen=True, slots=True)
class Chart:
    """What is drawn. `most_y`: what is above is not drawn; axes begin at zero, or at a power of ten."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    levels: tuple[Level, ...] = ()
    most_y: float | None = None
    is_x_log: bool = False


@dataclass(frozen=True, slots=True)
class Rows:
    """A table that a page has below its chart."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...] = field(default=())


def check_kind(path: Path) -> None:
    """Raises OrchestratorError where the name says no kind that is drawn, or its library is missing."""
    if path.suffix not in KINDS:
        raise OrchestratorError(f"{path}: a plot is {', '.join(KINDS)} by its name's end")
    if path.suffix == ".png":
        _png_library()


def write_chart(path: Path, chart: Chart, rows: Rows | None = None, notes: Sequence[str] = ()) -> None:
    """Draw into a file, of the kind that its name says. Raises OrchestratorError, OSError."""
    check_kind(path)
    if path.suffix == ".png":
        write_whole(path, as_png(chart), mode=0o644)
    else:
        drawn = as_svg(chart) if path.suffix == ".svg" else as_page(chart, rows, notes)
        write_whole(path, drawn.encode(), mode=0o644)


def as_page(chart: Chart, rows: Rows | None = None, notes: Sequence[str] = ()) -> str:
    """The chart, its table and remarks as one page."""
    table = ""
    if rows is not None:
        head = "".join(f'<th scope="col">{escape(each)}</th>' for each in rows.columns)
        lines = ("".join(f"<td>{escape(each)}</td>" for each in row) for row in rows.rows)
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    told = "".join(f"<p>{escape(each)}</p>" for each in notes)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(chart.title)}</title><style>{_PAGE}</style><h1>{escape(chart.title)}</h1>"
        f"{as_svg(chart)}{table}{told}</html>\n"
    )


def as_svg(chart: Chart) -> str:
    """The chart alone."""
    plane = _Plane(chart)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(chart.title)}"><style>{_STYLE}</style>',
        f'<text class="title" x="{_LEFT}" y="20">{escape(chart.title)}</text>',
        *plane.axes(),
    ]
    parts += [plane.level(each) for each in chart.levels]
    parts += [plane.series(each) for each in chart.series]
    parts += plane.legend()
    return "\n".join([*parts, "</svg>"]) + "\n"


def ticks(most: float) -> list[float]:
    """Round numbers from zero to `most`, about six."""
    rough = most / 6
    unit = 10.0 ** floor(log10(rough))
    step = next(each * unit for each in (1, 2, 5, 10) if each * unit >= rough)
    return [round(step * n, 10) for n in range(int(most / step + 1e-9) + 1)]


class _Plane:
    """Where numbers are on the paper."""

    def __init__(self, chart: Chart) -> None:
        self._chart = chart
        points = [point for each in chart.series for point in each.points]
        highest = max([y for _, y in points] + [each.at for each in chart.levels], default=1.0)
        self._most_y = min(highest * 1.05, chart.most_y or highest * 1.05) or 1.0
        xs = [x for x, _ in points] or [1.0]
        self._most_x = max(xs) or 1.0
        self._powers = (floor(log10(min(xs))), ceil(log10(self._most_x))) if chart.is_x_log else (0, 1)

    def _x(self, value: float) -> float:
        if self._chart.is_x_log:
            low, high = self._powers
            part = (log10(value) - low) / max(1, high - low)
        else:
            part = value / self._most_x
        return _LEFT + part * (_WIDTH - _LEFT - _RIGHT)

    def _y(self, value: float) -> float:
        return _HEIGHT - _BELOW - value / self._most_y * (_HEIGHT - _BELOW - _TOP)

    def axes(self) -> list[str]:
        bottom, right = _HEIGHT - _BELOW, _WIDTH - _RIGHT
        low, high = self._powers
        across = [10.0**n for n in range(low, high + 1)] if self._chart.is_x_log else ticks(self._most_x)
        parts = []
        for value in ticks(self._most_y):
            y = self._y(value)
            parts.append(
                f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="currentColor" stroke-opacity=".15"/>'
                f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
            )
        for value in across:
            x = self._x(value)
            parts.append(
                f'<path d="M{x:.1f} {bottom}v5" stroke="currentColor"/>'
                f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{value:g}</text>'
            )
        middle = (_TOP + bottom) / 2
        parts.append(f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="currentColor"/>')
        parts.append(
            f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(self._chart.x_label)}'
            f'</text><text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">'
            f"{escape(self._chart.y_label)}</text>"
        )
        return parts

    def level(self, level: Level) -> str:
        y, colour = self._y(level.at), COLOURS[level.colour % len(COLOURS)]
        if level.at > self._most_y:
            return ""
        return (
            f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="{colour}" stroke-dasharray="6 4"/>'
            f'<text x="{_WIDTH - _RIGHT + 6}" y="{y + 4:.1f}">{escape(level.name)}</text>'
        )

    def series(self, series: Series) -> str:
        colour = COLOURS[series.colour % len(COLOURS)]
        at = [(self._x(x), self._y(y)) for x, y in series.points if y <= self._most_y]
        if series.is_dots:
            return "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in at)
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        return f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>'

    def legend(self) -> list[str]:
        parts = []
        left = _WIDTH - _RIGHT + 6
        for place, each in enumerate(self._chart.series):
            y = _HEIGHT - _BELOW - 18 * (len(self._chart.series) - 1 - place) - 4
            colour = COLOURS[each.colour % len(COLOURS)]
            mark = (
                f'<circle cx="{left + 9}" cy="{y - 4}" r="4" fill="{colour}"/>'
                if each.is_dots
                else f'<path d="M{left} {y - 4}h18" stroke="{colour}" stroke-width="2"/>'
            )
            parts.append(f'{mark}<text x="{left + 24}" y="{y}">{escape(each.name)}</text>')
        return parts


# --- PNG -------------------------------------------------------------------------------------------------------------


def _png_library() -> type:
    """matplotlib's figure: drawn without a screen, and imported only where a PNG is wanted."""
    try:
        from matplotlib.figure import Figure
    except ImportError as why:
        raise OrchestratorError(
            "a PNG needs matplotlib: pip install 'ollama-orchestrator[plot]'; .svg and .html need nothing"
        ) from why
    return Figure


def as_png(chart: Chart) -> bytes:
    """The same chart by matplotlib. Raises OrchestratorError where it is missing."""
    figure = _png_library()(figsize=(9, 5), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for each in chart.series:
        xs, ys = [x for x, _ in each.points], [y for _, y in each.points]
        style = {"marker": "o", "linestyle": "none"} if each.is_dots else {}
        axes.plot(xs, ys, color=COLOURS[each.colour % len(COLOURS)], label=each.name, **style)
    for level in chart.levels:
        colour = COLOURS[level.colour % len(COLOURS)]
        axes.axhline(level.at, color=colour, linestyle="dashed", linewidth=1, label=level.name)
    axes.set(title=chart.title, xlabel=chart.x_label, ylabel=chart.y_label, ylim=(0, chart.most_y))
    if chart.is_x_log:
        axes.set_xscale("log")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    made = BytesIO()
    figure.savefig(made, format="png")
    return made.getvalue()
