"""How hard a question is, and where it would go."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from orchestrator.cli.options import CONFIG, JSON


@click.group()
def route() -> None:
    """How hard a question is, and where it would go."""


@route.command("explain")
@click.argument("question")
@CONFIG
@click.option("--route", "name", default="", metavar="NAME", help="Only this route.  [default: all of them]")
@JSON
def route_explain(question: str, config: Path | None, name: str, as_json: bool) -> None:
    """Difficulty, type, language and tier of QUESTION, each with its reasons. Asks nobody."""
    from orchestrator.cli.route import run_explain

    sys.exit(run_explain(config, question, name, as_json=as_json))


@route.command("score")
@click.option("--in", "questions", type=click.Path(path_type=Path, allow_dash=True), required=True, metavar="FILE")
@click.option("--out", "scores", type=click.Path(path_type=Path, allow_dash=True), required=True, metavar="FILE")
@click.option("--after-answer", is_flag=True, help="Judge each line's `weak_answer`, not its prompt alone.")
def route_score(questions: Path, scores: Path, after_answer: bool) -> None:
    """Score JSON lines {id, prompt} as {id, score}, the harder the higher. `-` is standard input or output."""
    from orchestrator.cli.route import run_score

    sys.exit(run_score(questions, scores, after_answer=after_answer))
