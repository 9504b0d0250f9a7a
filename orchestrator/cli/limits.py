"""`ollamactl limits`: what is used of every budget, and when what is used up is free again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

import click
from rich.table import Table

from orchestrator.cli.output import console, draw, json_text, literal, table
from orchestrator.cli.status import endpoint_of, fetch_status, key_of
from orchestrator.core.limits import dollars

GAUGE_CELLS: Final = 12
# From which part of a limit a gauge is yellow, and red.
_LITTLE_LEFT, _NOTHING_LEFT = 0.8, 1.0
_NAMES: Final = {
    "rpm": "requests a minute",
    "tpm": "tokens a minute",
    "concurrent": "at once",
    "rpd": "requests today",
    "tpd": "tokens today",
    "usd_day": "dollars today",
    "usd_month": "dollars this month",
}


def run_limits(state: Path, endpoint: str | None, key: str, *, as_json: bool) -> int:
    """Print every budget. Exit code 4 where no cluster answers."""
    told = asyncio.run(fetch_status(endpoint_of(state, endpoint), key_of(state, endpoint, key)))
    limits = told["limits"]
    if as_json:
        click.echo(json_text({"store": told["store"], "limits": limits}))
        return 0
    if told["store"] != "up":
        console.print(
            f"[red]Redis: {literal(told['store'])}[/red]; each gateway goes on with its part of what was left"
        )
    elif not limits:
        console.print("nothing is limited: `limits` of a tier, of a provider and of a key say how much may be used")
    else:
        draw(_drawn(limits))
    return 0


def _drawn(limits: list[dict[str, Any]]) -> Table:
    drawn = table("Of", "Limit", "Used", "", "Free again")
    for each in limits:
        name = literal(each["scope"])
        for kind, amounts in each["limits"].items():
            free = _duration(each["free_in_s"]) if each["used_up"] == kind else ""
            drawn.add_row(name, _NAMES[kind], _amounts(kind, amounts), _gauge(amounts), free)
            name = ""
        if each["used_up"] == "told":
            drawn.add_row(name, "its provider's word", "asked to wait", "", _duration(each["free_in_s"]))
    return drawn


def _amounts(kind: str, amounts: dict[str, float]) -> str:
    told = dollars if kind.startswith("usd") else "{:,.0f}".format
    return f"{told(amounts['used'])} / {told(amounts['allowed'])}"


def _gauge(amounts: dict[str, float]) -> str:
    part = amounts["used"] / amounts["allowed"]
    cells = min(GAUGE_CELLS, round(part * GAUGE_CELLS))
    colour = "red" if part >= _NOTHING_LEFT else "yellow" if part >= _LITTLE_LEFT else "green"
    return f"[{colour}]{'█' * cells}[/{colour}]{'░' * (GAUGE_CELLS - cells)} {part:.0%}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"in {seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"in {minutes} min"
    return f"in {minutes / 60:.0f} h" if minutes < 48 * 60 else f"in {minutes / 1440:.0f} days"
