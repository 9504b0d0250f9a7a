"""The answer cache: what is in it, why a question hits or misses, what is forgotten, what is prepared."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from orchestrator.cli.options import ENDPOINT, JSON, KEY, STATE

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def _duration(ctx: click.Context, param: click.Parameter, given: str | None) -> float | None:
    """`90s`, `10m`, `6h`, `2d` as seconds."""
    if given is None:
        return None
    try:
        return float(given[:-1]) * _UNITS[given[-1:]]
    except (ValueError, KeyError) as why:
        raise click.BadParameter("a number and a unit are wanted: 90s, 10m, 6h, 2d") from why


@click.group()
def cache() -> None:
    """The answer cache: see it, ask why, empty it, fill it."""


@cache.command("stats")
@STATE
@JSON
def cache_stats(state: Path, as_json: bool) -> None:
    """What is on and off and why, what is kept for whom, hits and misses with their reasons."""
    from orchestrator.cli.cache import run_stats

    sys.exit(run_stats(state, as_json=as_json))


@cache.command("get")
@click.argument("key")
@STATE
@JSON
def cache_get(key: str, state: Path, as_json: bool) -> None:
    """A kept answer by KEY: an answer's X-Cache-Key, or the beginning of a key that `explain` names."""
    from orchestrator.cli.cache import run_get

    sys.exit(run_get(state, key, as_json=as_json))


@cache.command("explain")
@click.argument("question", default="")
@STATE
@click.option("--model", default="auto", show_default=True, help="The route or model that is asked.")
@click.option("--path", default="/api/chat", show_default=True, help="The API that is called.")
@click.option("--as", "caller", default="", help="Name of the API key that asks.  [default: the first]")
@click.option(
    "--body",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="A whole request as JSON, in place of QUESTION and --model.",
)
@JSON
def cache_explain(
    question: str, state: Path, model: str, path: str, caller: str, body: Path | None, as_json: bool
) -> None:
    """Why QUESTION hits or misses, layer by layer; exit code 1 where no layer has its answer."""
    from orchestrator.cli.cache import run_explain
    from orchestrator.core.model import Endpoint

    if path not in (paths := [each.value for each in Endpoint if each.is_answered_in_words]):
        raise click.BadParameter(f"one of these is wanted: {', '.join(paths)}", param_hint="--path")
    if bool(question) is (body is not None):
        raise click.UsageError("a QUESTION is wanted, or --body FILE")
    sys.exit(run_explain(state, question, model=model, path=path, caller=caller, body=body, as_json=as_json))


@cache.command("purge")
@STATE
@click.option("--key", "digest", default="", help="The beginning of its key.")
@click.option("--model", default="", help="Answers of this route or model.")
@click.option("--tag", default="", help="Answers whose callers tagged them so (X-Cache-Tags).")
@click.option("--for", "caller", default="", help="Answers made for this API key.")
@click.option("--older-than", "older_s", default=None, callback=_duration, metavar="TIME", help="90s, 10m, 6h or 2d.")
@click.option("--all", "is_all", is_flag=True, help="Every answer.")
def cache_purge(
    state: Path, digest: str, model: str, tag: str, caller: str, older_s: float | None, is_all: bool
) -> None:
    """Forget answers: those that all options given name."""
    from orchestrator.cli.cache import run_purge

    names_some = bool(digest or model or tag or caller) or older_s is not None
    if names_some is is_all:
        raise click.UsageError("say which: --key, --model, --tag, --for, --older-than, or --all alone")
    sys.exit(run_purge(state, key=digest, model=model, tag=tag, caller=caller, older_s=older_s, is_all=is_all))


@cache.command("warm")
@click.argument("questions", type=click.Path(path_type=Path, dir_okay=False))
@STATE
@ENDPOINT
@KEY
@click.option("--model", default="auto", show_default=True, help="The route or model that is asked.")
@click.option("--tag", "tags", default="", help="Tags to purge them by, with commas between.")
@click.option("--at-once", type=click.IntRange(1, 256), default=4, show_default=True, help="Questions at once.")
def cache_warm(
    questions: Path, state: Path, endpoint: str | None, key: str, model: str, tags: str, at_once: int
) -> None:
    """Have QUESTIONS answered and kept: one a line, or a .jsonl of chat bodies; for the API key that asks."""
    from orchestrator.cli.cache import run_warm

    sys.exit(run_warm(state, endpoint, key, questions, model=model, tags=tags, at_once=at_once))
