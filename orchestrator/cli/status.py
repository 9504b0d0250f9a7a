"""`ollamactl status` and `ask`: the endpoint's own words, drawn."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp
import click
from rich.table import Table

from orchestrator.app.paths import StatePaths
from orchestrator.app.questions import NobodyAnswersError, ask, reason
from orchestrator.app.settings_in_use import asking_key
from orchestrator.cli.drift import lines, replayed_lines
from orchestrator.cli.output import below, console, draw, fail, json_text, literal, table
from orchestrator.core.errors import HostError
from orchestrator.nodes.state_lock import read_holder

EXIT_NOBODY = 4
_COLOURS = {"serving": "green", "down": "red"}


def run_status(state: Path, endpoint: str | None, key: str, *, as_json: bool) -> int:
    """Print the status. Exit code 4 where no cluster answers."""
    told = asyncio.run(fetch_status(endpoint_of(state, endpoint), key_of(state, endpoint, key)))
    if as_json:
        click.echo(json_text(told))
    else:
        _draw(told)
    return 0


def run_ask(
    state: Path, endpoint: str | None, key: str, question: str, *, model: str, tokens: int | None, as_json: bool
) -> int:
    """Print the answer and what gave it. Exit code 1 where it is refused, 4 where no cluster answers."""
    where = endpoint_of(state, endpoint)
    try:
        reply = asyncio.run(ask(where, question, model=model, key=key, tokens=tokens))
    except NobodyAnswersError as why:
        fail(str(why), EXIT_NOBODY)
    if as_json:
        click.echo(json_text(asdict(reply)))
        return 0
    console.print(literal(reply.text), soft_wrap=True)
    source = reply.instance or f"answer cache ({reply.cache})"
    about = f"{reply.tier} · {source} · {reply.model}"
    counts = f" · {reply.prompt_tokens} + {reply.completion_tokens} tokens" if reply.completion_tokens else ""
    console.print(f"[dim]{literal(about)} · {reply.seconds * 1e3:.0f} ms{counts}[/dim]")
    return 0


def endpoint_of(state: Path, given: str | None) -> str:
    """The endpoint named, or that of the cluster which runs with this state folder; without one, the program ends."""
    if given is not None:
        return given.removeprefix("http://").rstrip("/")
    holder = read_holder(state)
    if holder is None or not holder.endpoint:
        fail(
            f"no cluster runs with --state {state}; start one with `ollamactl up`, or name its --endpoint", EXIT_NOBODY
        )
    return holder.endpoint


def key_of(state: Path, endpoint: str | None, given: str) -> str:
    """The key named, or the cluster's own where it is the one of this state folder: who may read that may see all."""
    return given or ("" if endpoint is not None else asking_key(StatePaths(state)))


async def fetch_status(endpoint: str, key: str) -> dict[str, Any]:
    """The endpoint's status.json; the program ends where nobody answers. Raises HostError where it is refused."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        async with (
            aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=10)) as http,
            http.get(f"http://{endpoint}/status.json") as reply,
        ):
            told: dict[str, Any] = await reply.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, ValueError) as why:
        fail(f"{endpoint} does not answer: {reason(why)}", EXIT_NOBODY)
    if reply.status != 200:
        raise HostError(
            f"{endpoint} answered {reply.status}: {told.get('error', told)}; name an admin's key in OLLAMACTL_KEY"
        )
    return told


def _draw(told: dict[str, Any]) -> None:
    cache = told["cache"]
    colour = "green" if cache["state"] == "ON" else "red"
    console.print(
        f"answer cache [{colour}]{cache['state']}[/{colour}] · FAQ {cache['faq_entries']} entries · "
        f"Redis: {literal(told['store'])}\nAPI keys: {literal(told['keys'])}"
    )
    console.print(_cache(cache), soft_wrap=True)
    if told["is_simulated"]:
        console.print("[bold magenta]SIMULATED[/bold magenta]: no engine answers here; times and texts are played")
    if len(told.get("machines", [])) > 1:
        draw(_machines(told["machines"]))
    draw(_tiers(told))
    if told.get("given"):
        draw(_given(told["given"]))
    draw(_instances(told))
    drifts = {name: each["drift"] for name, each in told["routed"].items()}
    for line in (*_escalated(told["routed"]), *lines(drifts), *replayed_lines(told["replayed"])):
        console.print(f"  · {literal(line)}", soft_wrap=True)
    for note in told["notes"]:
        console.print(f"  · {literal(note)}", soft_wrap=True)


def _cache(cache: dict[str, Any]) -> str:
    """Each layer of the answer cache, what it holds, and what it did."""
    off = [f"{each['name']} OFF ({each['why']})" for each in cache["layers"] if not each["is_on"]]
    on = [f"{each['name']} ON ({each['why']})" for each in cache["layers"] if each["is_on"]]
    hits, misses = sum(cache["hits"].values()), sum(cache["misses"].values())
    wrong = f", {amount} reported wrong" if (amount := _reported(cache["reported_wrong"])) else ""
    did = f"{hits} hits, {cache['joins']} joins, {misses} misses{wrong}"
    held = f"{cache['answers']} answers, {cache['bytes'] / 2**20:.1f} MiB, {did}"
    return literal(f"  {' · '.join((*on, *off))}\n  {held}")


def _reported(wrong: dict[str, int]) -> int:
    """Reports of wrong hits: those of curated answers are counted by entry besides."""
    return sum(amount for name, amount in wrong.items() if name in ("exact", "faq:words", "faq:paraphrase"))


def _tiers(told: dict[str, Any]) -> Table:
    usage = told["usage"]
    total = sum(each["calls"] for each in usage.values())
    drawn = table("Tier", "Model", "Backup", "Calls today", "Share", "Tokens in, out", "US$ today")
    rows = {"cache": {"model": "answer cache, FAQ", "backup": None}, **told["tiers"]}
    if "scorer" in usage:
        rows.setdefault("scorer", {"model": "judges questions", "backup": None})
    for name, tier in rows.items():
        used = usage.get(name, {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0, "usd": 0.0})
        share = f"{100 * used['calls'] / total:.0f} %" if total else "–"
        tokens = f"{used['prompt_tokens']}, {used['completion_tokens']}"
        about = (literal(name), literal(tier["model"]), literal(tier["backup"] or ""))
        drawn.add_row(*about, str(used["calls"]), share, tokens, _dollars(used))
    return drawn


def _dollars(used: dict[str, Any]) -> str:
    """What it cost by the token; nothing is said of what costs nothing."""
    usd = used.get("usd", 0.0)
    return f"{usd:.2f}" if usd >= 1 else f"{usd:.6f}" if usd else ""


def _escalated(routes: dict[str, Any]) -> list[str]:
    return [
        f"{name}: {each['calls']} calls today, {each['escalated'] / each['calls']:.1%} escalated"
        for name, each in routes.items()
        if each["calls"]
    ]


def _given(servers: list[dict[str, Any]]) -> Table:
    """Servers that somebody else runs."""
    drawn = table("Server", "State", "Engine", "Models", "In memory")
    for each in servers:
        colour = _COLOURS.get(each["state"], "yellow")
        room = f" (holds {each['room']})" if each["room"] else ""
        state = "answers" if each["state"] == "serving" else each["state"]
        drawn.add_row(
            literal(each["name"]),
            f"[{colour}]{literal(state)}[/{colour}]",
            literal(f"{each['engine']} {each['engine_version'].removeprefix(each['engine'])}".strip()),
            str(len(each["models"])),
            literal(", ".join(each["resident"]) or "–") + room,
        )
        if each["reason"]:
            drawn.add_row(below(each["reason"]))
    return drawn


def _machines(machines: list[dict[str, Any]]) -> Table:
    """Those that share one Redis."""
    drawn = table("Machine", "Gateways", "Heard of", "Controller")
    for each in machines:
        heard = "–" if each["heard_s"] is None else f"{each['heard_s']:.0f} s ago"
        drawn.add_row(literal(each["name"]), str(each["gateways"]), heard, literal(each["controller"]))
        if each["why"]:
            drawn.add_row(below(each["why"]))
    return drawn


def _instances(told: dict[str, Any]) -> Table:
    cards = {
        card["uuid"]: f"{card['name']} #{card['index']}" for node in told["nodes"] for card in node["accelerators"]
    }
    drawn = table("Instance", "State", "Busy", "Runs on")
    for pool in told["pools"]:
        about = (
            f"[bold]{literal(pool['name'])}[/bold]  [dim]context {pool['context']}, queue {pool['queue_depth']}[/dim]"
        )
        drawn.add_row(about)
        if pool.get("followed"):
            drawn.add_row(below(_followed(pool["followed"])))
        for each in pool["instances"]:
            drawn.add_row(*_instance(each, cards))
            if each["reason"]:
                drawn.add_row(below(each["reason"]))
    return drawn


def _followed(told: dict[str, Any]) -> str:
    """How many instances the pool's load asks for, and why."""
    least, most = told["limits"]["least"], told["limits"]["most"]
    room = f"at most {most}" if most is not None else "as many as fit"
    return f"follows its load: {told['instances']} wanted ({least} at least, {room}): {told['why']}"


def _instance(each: dict[str, Any], cards: dict[str, str]) -> tuple[str, ...]:
    colour = _COLOURS.get(each["state"], "yellow")
    name = f"  {literal(each['id'])}"
    elsewhere = f"{each['host']}:{each['port']}" if each.get("is_given") else "CPU"
    runs_on = ", ".join(cards.get(uuid, uuid) for uuid in each["accelerators"]) or elsewhere
    marked = " (simulated)" if each["is_simulated"] else ""
    state = f"[{colour}]{literal(each['state'])}[/{colour}]"
    return name, state, f"{each['in_flight']}/{each['slots']}", literal(runs_on) + marked
