"""`ollamactl cache …`: what the answer cache holds, why a question hits or misses, what is forgotten or prepared."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from orchestrator.app.cache_desk import Step, found_told, opened, question_call
from orchestrator.app.questions import NobodyAnswersError
from orchestrator.app.warming import read_questions, warm
from orchestrator.cli.output import console, draw, fail, literal, table
from orchestrator.cli.status import EXIT_NOBODY, endpoint_of
from orchestrator.core.dialects.parse import parse_call
from orchestrator.core.errors import CallerError, HostError
from orchestrator.core.model import Call, Endpoint

_COLOURS = {"hit": "green", "miss": "red"}
_SHOWN_LETTERS = 400


def run_stats(state: Path, *, as_json: bool) -> int:
    """What is on, how much is in it, what was hit and missed, and why."""

    async def look() -> dict[str, Any]:
        async with opened(state) as desk:
            return await desk.stats()

    told = asyncio.run(look())
    if as_json:
        click.echo(json.dumps(told, ensure_ascii=False, indent=2))
        return 0
    for each in told["layers"]:
        console.print(f"{_switch(each['is_on'])} {each['name']}: {literal(each['why'])}")
    console.print(
        f"{told['answers']} answers, {_mib(told['bytes'])} of {_mib(told['room_bytes'])}; "
        f"{told['evicted']} forgotten for want of room, {told['expired']} past their time\n{literal(told['terms'])}"
    )
    drawn = table("What", "Which", "How many")
    drawn.add_row("joined", "an identical call under way", str(told["joins"]))
    for what, title in (("hits", "hit"), ("misses", "miss"), ("reported_wrong", "reported wrong")):
        for which, amount in told[what].items():
            drawn.add_row(title, literal(which), str(amount))
    for what, title in (("by_scope", "answers of"), ("by_key", "answers for"), ("by_tag", "answers tagged")):
        for which, amount in told[what].items():
            drawn.add_row(title, literal(which), str(amount))
    draw(drawn)
    return 0


def run_get(state: Path, name: str, *, as_json: bool) -> int:
    """The kept answers that `name` names. Exit code 1 where there is none."""

    async def look() -> list[dict[str, Any]]:
        async with opened(state) as desk:
            return [found_told(each) for each in await desk.get(name)]

    found = asyncio.run(look())
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False, indent=2))
        return 0 if found else 1
    if not found:
        console.print("no kept answer has this key")
    for each in found:
        _draw_entry(each)
    return 0 if found else 1


def run_explain(
    state: Path, question: str, *, model: str, path: str, caller: str, body: Path | None, as_json: bool
) -> int:
    """Layer by layer, why a question hits or misses. Exit code 1 where no layer has its answer."""
    call = _call(question, model, path, body)

    async def look() -> list[Step]:
        async with opened(state) as desk:
            return await desk.explain(call, caller or desk.first_caller)

    steps = asyncio.run(look())
    is_hit = any(each.verdict == "hit" for each in steps)
    if as_json:
        told = [{"layer": each.layer, "verdict": each.verdict, "why": each.why} for each in steps]
        click.echo(json.dumps({"is_hit": is_hit, "steps": told}, ensure_ascii=False, indent=2))
        return 0 if is_hit else 1
    for each in steps:
        colour = _COLOURS.get(each.verdict, "yellow")
        console.print(f"[{colour}]{each.verdict}[/{colour}] {each.layer}: {literal(each.why[0])}")
        for more in each.why[1:]:
            console.print(literal(f"  {more}"))
    if not is_hit:
        console.print("an instance answers")
    return 0 if is_hit else 1


def run_purge(state: Path, *, key: str, model: str, tag: str, caller: str, older_s: float | None, is_all: bool) -> int:
    """Forget what is named by all that is given."""

    async def forget() -> int:
        async with opened(state) as desk:
            if is_all:
                return await desk.purge_all()
            if model and not (key or tag or caller or older_s is not None):
                return await desk.purge_scope(model)
            before_ms = None if older_s is None else (time.time() - older_s) * 1e3
            return await desk.purge(
                lambda each: (
                    each.digest.startswith(key)
                    and (not model or each.about.scope == model)
                    and (not tag or tag in each.about.tags)
                    and (not caller or each.about.tenant == caller)
                    and (before_ms is None or each.kept_at_ms < before_ms)
                )
            )

    gone = asyncio.run(forget())
    console.print(f"{gone} {'answer' if gone == 1 else 'answers'} forgotten")
    return 0


def run_warm(
    state: Path, endpoint: str | None, key: str, questions: Path, *, model: str, tags: str, at_once: int
) -> int:
    """Ask every question of a file. Exit code 1 where one failed, or none can be cached; 4 where nobody answers."""
    calls = read_questions(questions, model)
    try:
        seen = asyncio.run(warm(endpoint_of(state, endpoint), calls, key=key, tags=tags, at_once=at_once))
    except NobodyAnswersError as why:
        fail(str(why), EXIT_NOBODY)
    console.print(
        f"{len(calls)} questions: {seen['miss']} answered and kept, {seen['hit']} kept already, "
        f"{seen['faq']} by the FAQ, {seen['bypass'] + seen['off']} not to be cached"
    )
    failed = {word: amount for word, amount in seen.items() if word.startswith("failed")}
    for word, amount in failed.items():
        console.print(f"[red]{amount}[/red] {literal(word)}")
    return 1 if failed or seen["bypass"] + seen["off"] == len(calls) else 0


def _call(question: str, model: str, path: str, body: Path | None) -> Call:
    """The call to explain: the question alone, or a whole body from a file."""
    endpoint = Endpoint(path)
    if body is None:
        return question_call(question, model, endpoint)
    try:
        return parse_call(endpoint, body.read_bytes())
    except OSError as why:
        raise HostError(f"{body} cannot be read: {why}") from why
    except CallerError as why:
        raise HostError(f"{body}: {why}") from why


def _draw_entry(told: Mapping[str, Any]) -> None:
    console.print(f"[bold]{literal(told['key'])}[/bold]")
    for name in ("scope", "tenant", "tags", "bytes", "age_s", "fresh_for_s", "ends_in_s", "problem"):
        if told.get(name) not in (None, "", ()):
            value = ", ".join(told[name]) if name == "tags" else told[name]
            console.print(literal(f"  {name}: {value}"))
    if "answer" in told:
        text = told["answer"]["text"]
        console.print(literal(f"  {text if len(text) <= _SHOWN_LETTERS else text[:_SHOWN_LETTERS] + '…'}"))


def _switch(is_on: bool) -> str:
    return "[green]ON [/green]" if is_on else "[red]OFF[/red]"


def _mib(amount: int) -> str:
    return f"{amount / 2**20:.1f} MiB"
