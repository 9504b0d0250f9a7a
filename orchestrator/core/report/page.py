"""A report as one page of HTML with its charts; it stands alone: no script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from orchestrator.core.report.facts import Bar, Facts, Group
from orchestrator.core.report.findings import Finding, Weight
from orchestrator.core.report.words import Table, headline, tables

_STYLE = """
:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}body{max-width:72rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;display:block;overflow-x:auto}th,td{padding:.25rem .7rem;text-align:right;
border-bottom:1px solid #8884}th:first-child,td:first-child{text-align:left}svg{max-width:100%;height:auto}
.charts{display:flex;flex-wrap:wrap;gap:1.5rem}figure{margin:0}figcaption{font-weight:600}
li.wrong::marker{content:"✖  "}li.costly::marker{content:"▲  "}li.know::marker{content:"●  "}
rect{fill:#3b82c4}text{fill:currentColor;font:12px system-ui,sans-serif}
"""
_CLASSES = {Weight.WRONG: "wrong", Weight.COSTLY: "costly", Weight.WORTH_KNOWING: "know"}
_WIDTH, _HEIGHT, _BELOW, _ABOVE = 420, 200, 22, 16


def page(facts: Facts, found: Sequence[Finding]) -> str:
    """The whole page."""
    told = "".join(
        f'<li class="{_CLASSES[each.weight]}"><b>{escape(each.told)}</b><br>{_with_code(each.to_do)}</li>'
        for each in found
    )
    charts = "".join((
        _days_chart(facts.days),
        _bars_chart("Milliseconds of whole calls", facts.latency_bars),
        _bars_chart("Tokens of prompts", facts.prompt_bars),
        _bars_chart("Tokens of answers", facts.completion_bars),
    ))  # fmt: skip
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Report</title><style>{_STYLE}</style><h1>Report</h1><p>{escape(headline(facts))}</p>"
        f"<h2>Findings</h2><ul>{told or '<li>none</li>'}</ul>"
        f'<div class="charts">{charts}</div>{"".join(_table(each) for each in tables(facts))}</html>\n'
    )


def _with_code(text: str) -> str:
    parts = escape(text).split("`")
    return "".join(f"<code>{each}</code>" if at % 2 else each for at, each in enumerate(parts))


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(each)}</th>' for each in table.head)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(each)}</td>' for each in row)}</tr>" for row in table.rows)
    return f"<h2>{escape(table.title)}</h2><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _bars_chart(title: str, bars: Sequence[Bar]) -> str:
    names = [f"< {_short(each.below)}" for each in bars[:-1]] + ([f"≥ {_short(bars[-2].below)}"] if bars[1:] else [])
    return _chart(title, [(name, each.count) for name, each in zip(names, bars, strict=False)])


def _days_chart(days: Sequence[Group]) -> str:
    return _chart("Calls a day", [(each.name[5:], each.calls) for each in days[-31:]])


def _chart(title: str, values: Sequence[tuple[str, int]]) -> str:
    """Bars from the left to the right, each with its number."""
    most = max((count for _, count in values), default=0)
    if not most:
        return ""
    step, tall = _WIDTH / len(values), _HEIGHT - _BELOW - _ABOVE
    named = max(1, round(len(values) * 46 / _WIDTH))  # so that names do not run into each other
    drawn = []
    for at, (name, count) in enumerate(values):
        high, x = tall * count / most, at * step
        drawn.append(
            f'<rect x="{x + 2:.1f}" y="{_ABOVE + tall - high:.1f}" width="{step - 4:.1f}" height="{high:.1f}"/>'
        )
        if at % named == 0:
            middle = x + step / 2
            drawn.append(f'<text x="{middle:.1f}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(name)}</text>')
            above = _ABOVE + tall - high - 3
            drawn.append(f'<text x="{middle:.1f}" y="{above:.1f}" text-anchor="middle">{_short(count)}</text>')
    told = ", ".join(f"{name}: {count}" for name, count in values)
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg role="img" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" aria-label="{escape(f"{title}: {told}")}">{"".join(drawn)}</svg></figure>'
    )


def _short(number: float) -> str:
    for above, word in ((1e6, "M"), (1e3, "k")):
        if number >= above:
            return f"{number / above:.3g}{word}"
    return f"{number:.3g}"
