"""The plot of `ollamactl capacity`: users against p95 by tier, predicted as lines, simulated as dots, goals dashed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from orchestrator.cli.chart import Chart, Level, Rows, Series, write_chart
from orchestrator.core.capacity.comparing import Point
from orchestrator.core.capacity.demand import Load
from orchestrator.core.capacity.planning import Candidate

_TIERS: Final = ("small", "full")
_BEYOND: Final = 1.4  # times the users that the plan carries are drawn
_ABOVE: Final = 2.0  # times the highest goal


def users_drawn(carried: int, count: int) -> list[int]:
    """Numbers of users from few to more than the plan carries."""
    most = max(count, round(carried * _BEYOND))
    return sorted({max(1, round(most * n / count)) for n in range(1, count + 1)})


def plot(path: Path, found: Candidate, load: Load, lines: Sequence[Point], dots: Sequence[Point]) -> None:
    """Draw it into a file of the kind that its name says."""
    goals = {"small": load.goals.small_s, "full": load.goals.full_s}
    tiers = [tier for tier in _TIERS if any(each.tier == tier for each in lines)]
    series: list[Series] = []
    for colour, tier in enumerate(tiers):
        predicted = tuple((float(each.users), each.predicted_s) for each in lines if each.tier == tier)
        series.append(Series(f"{tier}, predicted", predicted, colour))
        played = tuple(
            (float(each.users), each.played_s) for each in dots if each.tier == tier and each.played_s is not None
        )
        if played:
            series.append(Series(f"{tier}, simulated", played, colour, is_dots=True))
    levels = tuple(Level(f"goal of {tier}: {goals[tier]:g} s", goals[tier], at) for at, tier in enumerate(tiers))
    most_y = _ABOVE * max((goals[tier] for tier in tiers), default=1.0)
    chart = Chart(found.plan.name, "users who think", "p95 of whole answers, s", tuple(series), levels, most_y)
    rows = tuple(
        (str(each.users), each.tier, f"{each.predicted_s:.2f} s", _seconds(each.played_s), f"{goals[each.tier]:g} s")
        for each in dots or lines
    )
    note = f"{found.usd:,.0f} $/month; users think {load.think_s:g} s. Predicted and simulated, not measured."
    write_chart(path, chart, Rows(("Users", "Tier", "p95 predicted", "p95 simulated", "Goal"), rows), (note,))


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"
