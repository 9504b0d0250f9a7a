"""An evaluation as one page of HTML: its table, and accuracy against the share of questions to the dearer target."""

from __future__ import annotations

from html import escape

from orchestrator.core.evaluation.report import Report, Told, TradeOff

COLUMNS = ("Target", "Questions", "Right", "95 %", "p50", "p95", "Tokens in", "out", "$", "Chosen")

_WIDTH, _HEIGHT, _LEFT, _BELOW = 560, 320, 52, 44
_STYLE = """
:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}body{max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse}th,td{padding:.3rem .8rem;text-align:right;border-bottom:1px solid #8884}
th:first-child,td:first-child{text-align:left}svg{max-width:100%;height:auto}.mark{border:2px solid;padding:.5rem}
"""


def page(found: Report) -> str:
    """Stands alone: no script, nothing from elsewhere."""
    marked = '<p class="mark"><b>SIMULATED</b>: texts are played; accuracy says nothing here.</p>'
    rows = "".join(_row(each) for each in found.targets)
    head = "".join(f'<th scope="col">{each}</th>' for each in COLUMNS)
    remarks = "".join(f"<p>{escape(each)}</p>" for each in found.remarks())
    curve = _curve(found.trade_off) if found.trade_off is not None else ""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Evaluation</title><style>{_STYLE}</style><h1>Evaluation</h1>{marked if found.is_simulated else ''}"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{remarks}{curve}</html>\n"
    )


def cells(told: Told) -> tuple[str, ...]:
    """A target's row of `COLUMNS`, as text."""
    return (
        told.target,
        str(told.questions),
        f"{told.accuracy:.1%}",
        f"{told.accuracy_from:.1%} to {told.accuracy_to:.1%}",
        f"{told.p50_s:.2f} s",
        f"{told.p95_s:.2f} s",
        str(told.prompt_tokens),
        str(told.completion_tokens),
        "-" if told.dollars is None else f"{told.dollars:.4f}",
        ", ".join(f"{tier} {count}" for tier, count in told.chosen.items()) or "-",
    )


def _row(told: Told) -> str:
    return f"<tr>{''.join(f'<td>{escape(each)}</td>' for each in cells(told))}</tr>"


def _curve(trade_off: TradeOff) -> str:
    low, high = min(trade_off.curve), max(trade_off.curve)
    span = (high - low) or 1.0
    last = len(trade_off.curve) - 1

    def place(step: float, value: float) -> tuple[float, float]:
        x = _LEFT + step / last * (_WIDTH - _LEFT - 10)
        return x, 10 + (high - value) / span * (_HEIGHT - _BELOW - 10)

    points = [place(step, value) for step, value in enumerate(trade_off.curve)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    (x0, y0), (x1, y1) = points[0], points[-1]
    shares = "".join(
        f'<text x="{place(step, low)[0]:.0f}" y="{_HEIGHT - 24}" text-anchor="middle">{step * 10}</text>'
        for step in range(0, last + 1, 2)
    )
    values = "".join(
        f'<text x="{_LEFT - 6}" y="{place(0, value)[1] + 4:.0f}" text-anchor="end">{value:.0%}</text>'
        for value in (low, high)
    )
    told = ""
    if (found := trade_off.measures) is not None:
        told = f"; APGR {found.apgr:.3f}, CPT(50 %) {found.cpt50:.1f}, CPT(80 %) {found.cpt80:.1f}"
    return (
        f"<h2>{escape(trade_off.small)} and {escape(trade_off.full)}</h2>"
        f"<p>{trade_off.questions} questions{told}</p>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="accuracy by share of questions to the '
        'dearer one" font-size="12" fill="currentColor">'
        f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="currentColor" stroke-dasharray="4"/>'
        f'<polyline points="{line}" fill="none" stroke="currentColor" stroke-width="2"/>{shares}{values}'
        f'<text x="{_WIDTH / 2:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">% of questions to '
        f"{escape(trade_off.full)}</text></svg><p>Dashed: questions sent at random.</p>"
    )
