"""`ollamactl route`: how hard a question is, where it would go and why; and scores for a file of questions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import click

from orchestrator.app.explaining import Asking, explain
from orchestrator.cli.looking import looked_at
from orchestrator.cli.output import console, literal
from orchestrator.cli.route_explained import draw_explained
from orchestrator.cli.status import endpoint_of, fetch_status, key_of
from orchestrator.core.dialects.parse import Turn
from orchestrator.core.difficulty import doubt_of, score
from orchestrator.core.errors import OrchestratorError
from orchestrator.nodes.state_lock import read_holder


class QuestionsError(OrchestratorError):
    """A file of questions that cannot be read; the text names file and line."""


@dataclass(frozen=True, slots=True)
class Where:
    """The cluster whose limits and states are told: the one named, or that of the state folder."""

    state: Path
    endpoint: str | None
    key: str = field(repr=False)


def run_explain(config: Path | None, asking: Asking, route: str, where: Where, *, as_json: bool) -> int:
    """Print a question's difficulty, and the targets that each route, or the one named, would send it to."""
    settings = looked_at(config, where.state if where.endpoint is None else None).settings
    if route and route not in settings.routes:
        raise click.BadParameter(f"there is no route {route!r}; there are: {', '.join(settings.routes) or 'none'}")
    names = ["anonymous", *(each.name for each in settings.keys)]
    if settings.keys and asking.caller not in names:
        raise click.BadParameter(f"there is no API key {asking.caller!r}; there are: {', '.join(names)}")
    told = explain(settings, asking, _status(where))
    if route:
        told["routes"] = {route: told["routes"][route]}
    if as_json:
        click.echo(json.dumps(told, ensure_ascii=False, indent=2))
    else:
        draw_explained(told)
    return 0


def _status(where: Where) -> dict[str, Any] | None:
    """What the cluster says of itself that runs with the state folder, or the one named; None: none runs."""
    if where.endpoint is None and ((holder := read_holder(where.state)) is None or not holder.endpoint):
        return None
    key = key_of(where.state, where.endpoint, where.key)
    return asyncio.run(fetch_status(endpoint_of(where.state, where.endpoint), key))


def run_score(questions: Path, scores: Path, *, after_answer: bool) -> int:
    """Write a score for every question of a file, the harder the higher, as JSON lines of id and score."""
    judge = _doubt if after_answer else _points
    with _opened(questions, "r") as lines:
        told = list(_scored(lines, str(questions), judge))
    with _opened(scores, "w") as out:
        out.writelines(f"{json.dumps(each, ensure_ascii=False)}\n" for each in told)
    if str(scores) != "-":
        console.print(f"{len(told)} scores in {literal(str(scores))}")
    return 0


def _opened(path: Path, mode: str) -> TextIO:
    """A file, or for `-` the command's own input or output."""
    try:
        opened: TextIO = click.open_file(str(path), mode, encoding="utf-8")  # type: ignore[assignment]
    except OSError as why:
        raise QuestionsError(f"{path}: {why.strerror}") from why
    return opened


def _scored(lines: TextIO, name: str, judge: Callable[[dict[str, Any]], float]) -> Iterator[dict[str, Any]]:
    try:
        for number, line in enumerate(lines, 1):
            if line.strip():
                asked = _asked(line, f"{name}:{number}")
                yield {"id": asked["id"], "score": _with_place(judge, asked, f"{name}:{number}")}
    except UnicodeDecodeError as why:
        raise QuestionsError(f"{name}: is not UTF-8: {why.reason}") from why


def _asked(line: str, place: str) -> dict[str, Any]:
    try:
        asked = json.loads(line)
    except json.JSONDecodeError as why:
        raise QuestionsError(f"{place}: is not JSON: {why.msg}") from why
    if not isinstance(asked, dict) or "id" not in asked or not isinstance(asked.get("prompt"), str):
        raise QuestionsError(f'{place}: {{"id": …, "prompt": "…"}} is wanted')
    return asked


def _with_place(judge: Callable[[dict[str, Any]], float], asked: dict[str, Any], place: str) -> float:
    try:
        return round(judge(asked), 6)
    except KeyError as why:
        raise QuestionsError(f"{place}: has no {why.args[0]!r}, which --after-answer judges") from why


def _points(asked: dict[str, Any]) -> float:
    return score((Turn("user", asked["prompt"]),)).points


def _doubt(asked: dict[str, Any]) -> float:
    """By `weak_answer`, as the recorded outcomes name it, or `answer`."""
    answer = asked.get("weak_answer", asked.get("answer"))
    if not isinstance(answer, str):
        raise KeyError("weak_answer")
    return doubt_of(asked["prompt"], answer).points
