"""`ollamactl status` and `ask`: the endpoint's own words, drawn."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp
import click
from rich.markup import escape
from rich.table import Table

from orchestrator.app.questions import ask
from orchestrator.cli.output import console, fail
from orchestrator.core.errors import HostError
from orchestrator.nodes.state_lock import read_holder

EXIT_NOBODY = 4
_COLOURS = {"serving": "green", "down": "red"}


def run_status(state: Path, endpoint: str | None, key: str, *, as_json: bool) -> int:
    """Print the status. Exit code 4 where no cluster answers."""
    told = asyncio.run(_fetch(_endpoint(state, endpoint), key))
    if as_json:
        click.echo(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        _draw(told)
    return 0


def run_ask(
    state: Path, endpoint: str | None, key: str, question: str, *, model: str, tokens: int | None, as_json: bool
) -> int:
    """Print the answer and what gave it. Exit code 1 where it is refused, 4 where no cluster answers."""
    where = _endpoint(state, endpoint)
    reply = asyncio.run(ask(where, question, model=model, key=key, tokens=tokens))
    if as_json:
        click.echo(json.dumps(asdict(reply), ensure_ascii=False, indent=2))
        return 0
    console.print(escape(reply.text), highlight=False, soft_wrap=True)
    source = reply.instance or f"answer cache ({reply.cache})"
    counts = f" · {reply.prompt_tokens} + {reply.completion_tokens} tokens" if reply.completion_tokens else ""
    console.print(
        f"[dim]{reply.tier} · {source} · {reply.model} · {reply.seconds * 1e3:.0f} ms{counts}[/dim]", highlight=False
    )
    return 0


def _endpoint(state: Path, given: str | None) -> str:
    if given is not None:
        return given.removeprefix("http://").rstrip("/")
    holder = read_holder(state)
    if holder is None or not holder.endpoint:
        fail(
            f"no cluster runs with --state {state}; start one with `ollamactl up`, or name its --endpoint", EXIT_NOBODY
        )
    return holder.endpoint


async def _fetch(endpoint: str, key: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        async with (
            aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=10)) as http,
            http.get(f"http://{endpoint}/status.json") as reply,
        ):
            told: dict[str, Any] = await reply.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, ValueError) as why:
        fail(f"{endpoint} does not answer: {why}", EXIT_NOBODY)
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
        f"API keys: {told['keys']} · Redis: {told['store']}",
        highlight=False,
    )
    if told["is_simulated"]:
        console.print("[bold magenta]SIMULATED[/bold magenta]: no engine answers here; times and texts are played")
    console.print(_tiers(told))
    console.print(_instances(told))
    for note in told["notes"]:
        console.print(f"  · {escape(note)}", highlight=False, soft_wrap=True)


def _tiers(told: dict[str, Any]) -> Table:
    usage = told["usage"]
    total = sum(each["calls"] for each in usage.values())
    table = Table("Tier", "Model", "Backup", "Calls today", "Share", "Tokens in", "Tokens out")
    for name, tier in {"cache": {"model": "answer cache and FAQ", "backup": None}, **told["tiers"]}.items():
        used = usage.get(name, {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0})
        share = f"{100 * used['calls'] / total:.0f} %" if total else "–"
        counts = (str(used[field]) for field in ("prompt_tokens", "completion_tokens"))
        table.add_row(name, tier["model"], tier["backup"] or "", str(used["calls"]), share, *counts)
    return table


def _instances(told: dict[str, Any]) -> Table:
    table = Table("Pool", "Instance", "State", "Busy", "Queue", "Context", "Runs on")
    for pool in told["pools"]:
        for each in pool["instances"]:
            colour = _COLOURS.get(each["state"], "yellow")
            state = f"[{colour}]{each['state']}[/{colour}]" + (f" {escape(each['reason'])}" if each["reason"] else "")
            name = each["id"] + (" (simulated)" if each["is_simulated"] else "")
            busy = f"{each['in_flight']}/{each['slots']}"
            runs_on = ", ".join(each["accelerators"]) or "CPU"
            table.add_row(pool["name"], name, state, busy, str(pool["queue_depth"]), str(each["context"]), runs_on)
    return table
