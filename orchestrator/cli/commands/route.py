"""How hard a question is, and where it would go."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.options import CONFIG, ENDPOINT, JSON, KEY, RESULT, STATE


@click.group()
def route() -> None:
    """How hard a question is, and where it would go."""


def _headers(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """`Name: value` each, as curl has them."""
    for each in given:
        if ":" not in each or not each.partition(":")[0].strip():
            raise click.BadParameter(f"{each!r} is no header; write `Name: value`")
    return tuple((each.partition(":")[0].strip(), each.partition(":")[2].strip()) for each in given)


@route.command("explain")
@click.argument("question")
@CONFIG
@click.option("--route", "name", default="", metavar="NAME", help="Only this route.  [default: all of them]")
@click.option("--model", default="", metavar="NAME", help="What is asked for.  [default: the first plain route]")
@click.option("--header", "headers", multiple=True, callback=_headers, metavar="'NAME: VALUE'", help="A header it has.")
@click.option("--caller", default="anonymous", show_default=True, metavar="NAME", help="Whose API key asks.")
@click.option("--path", default="/v1/chat/completions", show_default=True, help="The path that is asked.")
@click.option("--tools", is_flag=True, help="It offers tools.")
@click.option("--images", is_flag=True, help="It shows a picture.")
@click.option("--json-answer", is_flag=True, help="It wants JSON.")
@STATE
@ENDPOINT
@KEY
@JSON
def route_explain(
    question: str,
    config: Path | None,
    name: str,
    model: str,
    headers: tuple[tuple[str, str], ...],
    caller: str,
    path: str,
    tools: bool,
    images: bool,
    json_answer: bool,
    state: Path,
    endpoint: str | None,
    key: str,
    as_json: bool,
) -> None:
    """Difficulty, type, language, privacy and targets of QUESTION, each with its reasons.

    No model is asked. Where a cluster runs, it is asked how much of each limit is used and who is left alone.
    """
    from orchestrator.app.explaining import Asking
    from orchestrator.cli.route import Where, run_explain
    from orchestrator.core.model import Endpoint

    if path not in [*Endpoint]:
        raise click.BadParameter(f"{path!r} is no path of calls; there are: {', '.join(Endpoint)}")
    asking = Asking(question, model, Endpoint(path), headers, caller, tools, images, json_answer)
    sys.exit(run_explain(config, asking, name, Where(state, endpoint, key), as_json=as_json))


@route.command("score")
@click.option("--in", "questions", type=click.Path(path_type=Path, allow_dash=True), required=True, metavar="FILE")
@click.option("--out", "scores", type=click.Path(path_type=Path, allow_dash=True), required=True, metavar="FILE")
@click.option("--after-answer", is_flag=True, help="Judge each line's `weak_answer`, not its prompt alone.")
def route_score(questions: Path, scores: Path, after_answer: bool) -> None:
    """Score JSON lines {id, prompt} as {id, score}, the harder the higher. `-` is standard input or output."""
    from orchestrator.cli.route import run_score

    sys.exit(run_score(questions, scores, after_answer=after_answer))


@route.command("calibrate")
@click.option("--set", "questions", type=click.Path(path_type=Path), required=True, metavar="FILE",
              help="JSON lines {id, prompt, scorer, answer}, some hundreds of them.")  # fmt: skip
@click.option("--tier", required=True, metavar="NAME", help="Whose answers are judged.")
@click.option("--out", type=RESULT, required=True, metavar="FILE", help="For its `calibration`.")
@click.option("--at-once", type=click.IntRange(1, 256), default=4, show_default=True, help="Questions under way.")
@click.option("--tokens", type=click.IntRange(1), default=None, help="An answer's most tokens.")
@CONFIG
@STATE
@ENDPOINT
@KEY
def route_calibrate(**given: Any) -> None:
    """Ask a tier what is known, and find how sure it is of what it gets right: what `confidence_below` goes by."""
    from orchestrator.cli.calibrate import run_calibrate

    sys.exit(run_calibrate(**given))
