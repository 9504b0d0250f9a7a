"""`ollamactl drift`: what routes escalate day by day, and whether that is as usual."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from orchestrator.app.paths import StatePaths
from orchestrator.app.routed_days import Day, Days, accept, read_days
from orchestrator.cli.output import console, draw, literal, table

_RATES = {"escalations": "escalated", "ratings": "rated wrong"}


def run_drift(state: Path, *, days: int, as_json: bool) -> int:
    """Print them. Exit code 1 while a rate is not what it was. Raises OrchestratorError."""
    told = asyncio.run(read_days(StatePaths(state.absolute()), days))
    if as_json:
        click.echo(json.dumps(_as_json(told), indent=2, ensure_ascii=False))
    else:
        draw(_drawn(told))
        for line in (*lines(told.drifts), *replayed_lines(told.replayed)):
            console.print(f"  · {literal(line)}", soft_wrap=True)
    return int(any(each.get("alarm") for about in told.drifts.values() for each in about.values()))


def run_accept(state: Path, route: str) -> int:
    """Raises OrchestratorError."""
    asyncio.run(accept(StatePaths(state.absolute()), route))
    console.print(f"{literal(route)}: what is usual is learnt anew, from the calls that come")
    return 0


def lines(drifts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A sentence for each rate of which anything can be said."""
    return [
        _line(route, _RATES.get(what, what), told)
        for route, about in sorted(drifts.items())
        for what, told in about.items()
        if told.get("usual") is not None
    ]


def _line(route: str, rate: str, told: Mapping[str, Any]) -> str:
    usual = f"{route}: usually {told['usual']:.1%} {rate}"
    if told.get("alarm"):
        return f"{usual}; DRIFT: a {told['alarm']} (`ollamactl drift --accept {route}` takes it as usual)"
    within = told.get("noticed_within", {})
    rise, fall = (f"{within[each]:,}" if within.get(each) else "never" for each in ("rise", "fall"))
    return f"{usual}, as before; {100 * told['shift']:g} points more are noticed in {rise} calls, less in {fall}"


def replayed_lines(replayed: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A sentence for each target of the scheduled evaluation."""
    return [
        f"evaluation: {name} answered {told['accuracy']:.1%} of {told['questions']} right "
        f"(95 %: {told['accuracy_from']:.1%} to {told['accuracy_to']:.1%})"
        f"{', SIMULATED' if told['is_simulated'] else ''}; "
        + ", ".join(f"{day['day']} {day['accuracy']:.1%}" for day in told["days"][-7:])
        for name, told in replayed.items()
    ]


def _drawn(told: Days) -> Table:
    drawn = table("Day", "Route", "Calls", "Escalated", "Why", "Answered by", "Rated right, wrong")
    for day, routes in told.days:
        for name, each in routes.items():
            drawn.add_row(day, literal(name), *_cells(each))
    return drawn


def _cells(each: Day) -> tuple[str, ...]:
    part = f"{each.escalations} ({each.escalations / each.calls:.1%})" if each.calls else str(each.escalations)
    why, tiers = (", ".join(f"{name} {count}" for name, count in of.items()) for of in (each.escalated, each.tiers))
    return str(each.calls), part, literal(why), literal(tiers), f"{each.right}, {each.wrong}"


def _as_json(told: Days) -> dict[str, Any]:
    drifts = {
        route: {what: {key: value for key, value in each.items() if key != "watched"} for what, each in about.items()}
        for route, about in told.drifts.items()
    }
    days = {day: {name: each.told for name, each in routes.items()} for day, routes in told.days}
    return {"days": days, "drift": drifts, "replayed": dict(told.replayed)}
