"""What would run where, and what it would take: `plan` and `capacity`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.options import CONFIG, JSON, RESULT, STATE, checked_cards


@click.command()
@CONFIG
@STATE
@click.option(
    "--simulate",
    default=None,
    metavar="CARDS",
    callback=checked_cards,
    help="Plan for these cards instead of this machine's.",
)
@click.option("--explain", is_flag=True, help="Also several instances a GPU beside one with more slots, as predicted.")
@JSON
def plan(config: Path | None, state: Path, simulate: str | None, explain: bool, as_json: bool) -> None:
    """Which instances would run where, and why; on hosts, what `deploy` would change. Changes nothing.

    Exit codes with hosts: 0 nothing to do · 2 there is a difference · 1 it failed, or a model finds no place.
    """
    from orchestrator.cli.plan import run_plan

    sys.exit(run_plan(state, config, simulate, as_json=as_json, is_explained=explain))


def _checked_mix(ctx: click.Context, param: click.Parameter, given: str) -> Any:
    from orchestrator.core.capacity.demand import Mix

    try:
        cache, small, full = (float(part) / 100 for part in given.split("/"))
        return Mix(cache, small, full)
    except ValueError as why:
        raise click.BadParameter(f"{given!r}: three percentages that make 100, such as 60/30/10") from why


@click.command()
@click.option("--users", type=click.IntRange(1, 20_000), default=None, help="[default: 500, or as many as recorded]")
@click.option("--think", type=click.FloatRange(0.01), default=30.0, show_default=True, help="Seconds between calls.")
@click.option("--mix", default="60/30/10", show_default=True, callback=_checked_mix, help="Cache/small/full, in %.")
@click.option("--hit-rate", type=click.FloatRange(0, 1), default=None, help="Another share for the cache, 0 to 1.")
@click.option("--prompt", type=click.FloatRange(1), default=300, show_default=True, help="Tokens of a question.")
@click.option("--answer", type=click.FloatRange(1), default=100, show_default=True, help="Tokens of an answer.")
@click.option("--trace", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Lengths as recorded.")
@click.option(
    "--questions",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The mix is what the router makes of these, one a line; those asked before are the cache's.",
)
@click.option("--small", default="llama3.2:3b-instruct-q4_K_M", show_default=True, help="The small tier's model.")
@click.option("--full", default="llama3.1:8b-instruct-q4_K_M", show_default=True, help="The full tier's model.")
@click.option("--goal-small", type=click.FloatRange(0.01), default=2.0, show_default=True, help="Seconds, p95.")
@click.option("--goal-full", type=click.FloatRange(0.01), default=5.0, show_default=True, help="Seconds, p95.")
@click.option("--slots", type=click.IntRange(1, 64), default=None, help="Of an instance.  [default: 1 to 16, the best]")
@click.option("--context", type=click.IntRange(256), default=4096, show_default=True, help="Tokens of a slot.")
@click.option("--kv", type=click.Choice(["f16", "q8_0", "q4_0"]), default="f16", show_default=True)
@click.option("--cards", default=None, metavar="CARDS", callback=checked_cards, help="Only these: 'L4, RTX 4090'.")
@click.option("--price", type=click.Choice(["rent", "buy"]), default="rent", show_default=True)
@click.option("--documents", is_flag=True, help="Also what the owner's plans really carry.")
@click.option("--simulation/--no-simulation", default=True, help="Check plans call by call, too.  [default: yes]")
@click.option("--minutes", type=click.IntRange(1, 600), default=30, show_default=True, help="That are simulated.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of what is drawn by chance in a simulation.")
@click.option("--plot", type=RESULT, help="Users against p95 of the cheapest: .svg, .png or .html.")
@click.option("--what-if", is_flag=True, help="Also other hit rates, weights, slots, contexts and lengths.")
@click.option("--prices", is_flag=True, help="Also the cards' prices and where they were read.")
@click.option("--markdown", is_flag=True, help="As Markdown.")
@JSON
def capacity(**given: Any) -> None:
    """The cheapest cards for so many users within so many seconds, predicted and simulated. Changes nothing."""
    from orchestrator.cli.capacity import run_asked

    sys.exit(run_asked(given))
