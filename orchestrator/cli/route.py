"""`ollamactl route`: how hard a question is, where it would go and why; and scores for a file of questions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import click
from rich.markup import escape

from orchestrator.app.live_settings import Wish, resolve_settings
from orchestrator.cli.output import console, hanging
from orchestrator.core.dialects.parse import Turn
from orchestrator.core.difficulty import Difficulty, doubt_of, score
from orchestrator.core.errors import OrchestratorError
from orchestrator.core.privacy import classify, find
from orchestrator.core.routing import RouteRule, choose_tier, tiers_to_try
from orchestrator.settings import ClusterSettings


class QuestionsError(OrchestratorError):
    """A file of questions that cannot be read; the text names file and line."""


def run_explain(config: Path | None, question: str, route: str, *, as_json: bool) -> int:
    """Print a question's difficulty, and the tier that each route, or the one named, would send it to."""
    settings = asyncio.run(resolve_settings(Wish(Path(), config, None, None, None))).settings
    if route and route not in settings.routes:
        raise click.BadParameter(f"there is no route {route!r}; there are: {', '.join(settings.routes) or 'none'}")
    judged = score((Turn("user", question),))
    names = [route] if route else list(settings.routes)
    decisions = {name: _decision(judged, settings, name) for name in names}
    privacy = _privacy(question)
    if as_json:
        told = {**asdict(judged), "privacy": privacy, "routes": decisions}
        click.echo(json.dumps(told, ensure_ascii=False, indent=2))
    else:
        _draw(judged, privacy, decisions)
    return 0


def run_score(questions: Path, scores: Path, *, after_answer: bool) -> int:
    """Write a score for every question of a file, the harder the higher, as JSON lines of id and score."""
    judge = _doubt if after_answer else _points
    with _opened(questions, "r") as lines:
        told = list(_scored(lines, str(questions), judge))
    with _opened(scores, "w") as out:
        out.writelines(f"{json.dumps(each, ensure_ascii=False)}\n" for each in told)
    if str(scores) != "-":
        console.print(f"{len(told)} scores in {escape(str(scores))}")
    return 0


def _decision(judged: Difficulty, settings: ClusterSettings, name: str) -> dict[str, Any]:
    route = settings.routes[name]
    rule = RouteRule(route.small, route.full, route.chat_full_from, route.task_full_from)
    chosen = choose_tier(judged, rule)
    backups = {tier: told.backup for tier, told in settings.tiers.items()}
    tiers = tiers_to_try(chosen.tier, backups)
    return {
        "tier": chosen.tier,
        "rule": chosen.reasons[-1],
        "tiers": [{"tier": tier, "model": settings.tiers[tier].model} for tier in tiers],
    }


def _privacy(question: str) -> dict[str, Any]:
    """How far the question may go, and what in it says so; never the private matter itself."""
    found = find(question)
    return {"class": classify(found), "found": list(dict.fromkeys(each.kind for each in found))}


def _draw(judged: Difficulty, privacy: dict[str, Any], decisions: dict[str, dict[str, Any]]) -> None:
    console.print(f"difficulty  [bold]{judged.level}[/bold] of 10 ({judged.points:.2f})")
    console.print(f"type        {judged.kind}, {judged.work}")
    console.print(f"language    {judged.language or 'neither Turkish nor English was recognised'}")
    hanging("because     ", escape("; ".join(judged.reasons)))
    console.print(f"privacy     {privacy['class']}: {', '.join(privacy['found']) or 'nothing private was recognised'}")
    for name, told in decisions.items():
        first, *backups = told["tiers"]
        console.print(f"route       [bold]{escape(name)}[/bold] → {escape(first['tier'])} ({escape(first['model'])})")
        hanging("  rule      ", escape(told["rule"]))
        backup = ", then ".join(f"{each['tier']} ({each['model']})" for each in backups)
        hanging("  backup    ", escape(backup or "none"))
    if not decisions:
        console.print("route       none: the configuration has no routes")


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
