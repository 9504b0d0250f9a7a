"""How well each tier answers a set of questions, and what routing between them is worth."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.options import CONFIG, ENDPOINT, JSON, KEY, RESULT, STATE


@click.group("eval")
def evaluate() -> None:
    """How well each tier answers a set of questions, and what routing between them is worth."""


@evaluate.command("run")
@click.option("--set", "questions", type=click.Path(path_type=Path), default=None, metavar="FILE",
              help="JSON lines {id, prompt, scorer, answer}.  [default: a small sample that ships]")  # fmt: skip
@click.option("--targets", default="small,full", show_default=True, help="Tiers, routes or models, the cheapest first.")
@click.option("--out", type=RESULT, default=Path("eval.jsonl"), show_default=True, metavar="FILE",
              help="What was answered, a line each; a further run asks what is missing there.")  # fmt: skip
@click.option("--html", type=RESULT, default=None, metavar="FILE", help="Write a page with the curve.")
@click.option("--judge", default="", metavar="MODEL", help="Who grades answers that no rule can.")
@click.option("--price", "prices", multiple=True, metavar="TARGET=IN/OUT", help="Dollars a million tokens.")
@click.option("--at-once", type=click.IntRange(1, 256), default=4, show_default=True, help="Questions under way.")
@click.option("--tokens", type=click.IntRange(1), default=None, help="An answer's most tokens.")
@CONFIG
@STATE
@ENDPOINT
@KEY
@JSON
def evaluate_run(**given: Any) -> None:
    """Ask every question of every target, last in the queue; print accuracy, time, tokens, price and the trade-off."""
    from orchestrator.cli.evaluate import run_evaluation

    sys.exit(run_evaluation(**given))


@click.command()
@STATE
@click.option("--days", type=click.IntRange(1, 40), default=7, show_default=True, help="How many, today among them.")
@click.option("--accept", "route", default="", metavar="ROUTE", help="Learn anew what is usual for ROUTE.")
@JSON
def drift(state: Path, days: int, route: str, as_json: bool) -> None:
    """What each route escalated day by day and whether that is as usual; exit code 1 where it is not."""
    from orchestrator.cli.drift import run_accept, run_drift

    sys.exit(run_accept(state, route) if route else run_drift(state, days=days, as_json=as_json))
