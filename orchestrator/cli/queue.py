"""`ollamactl queue`: who waits for which model, how long, and whose turn is next."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from orchestrator.cli.output import console, draw, json_text, literal, table
from orchestrator.cli.status import endpoint_of, fetch_status, key_of

TOP_KEYS = 5
_TOLD = ("queue_depth", "oldest_wait_s", "expected_wait_s", "service_s")


def run_queue(state: Path, endpoint: str | None, key: str, *, as_json: bool) -> int:
    """Print every pool's queue. Exit code 4 where no cluster answers."""
    told = asyncio.run(fetch_status(endpoint_of(state, endpoint), key_of(state, endpoint, key)))
    pools = [_queue(pool) for pool in told["pools"]]
    if as_json:
        click.echo(json_text({"store": told["store"], "pools": pools}))
        return 0
    if told["store"] != "up":
        console.print(f"[red]Redis: {literal(told['store'])}[/red]; each gateway has a line of its own meanwhile")
    draw(_drawn(pools))
    return 0


def _queue(pool: dict[str, Any]) -> dict[str, Any]:
    serving = [each for each in pool["instances"] if each["state"] == "serving"]
    return {
        "pool": pool["name"],
        **{name: pool[name] for name in _TOLD},
        "slots_busy": sum(each["in_flight"] for each in pool["instances"]),
        "slots": sum(each["slots"] for each in serving),
        "keys": pool["keys"],
    }


def _drawn(pools: list[dict[str, Any]]) -> Table:
    drawn = table("Model", "Waiting", "Oldest", "Expected wait", "Slots busy", "A call takes", "Keys: waiting, tokens")
    for each in pools:
        drawn.add_row(
            literal(each["pool"]),
            str(each["queue_depth"]),
            _seconds(each["oldest_wait_s"] if each["queue_depth"] else None),
            _seconds(each["expected_wait_s"]),
            f"{each['slots_busy']}/{each['slots']}",
            _seconds(each["service_s"]),
            literal(
                "\n".join(f"{key['key'] or '–'}: {key['waiting']}, {key['tokens']}" for key in each["keys"][:TOP_KEYS])
            ),
        )
    return drawn


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f} s" if value >= 10 else f"{value:.2g} s"
