"""`ollamactl top`: the cluster each second, as the page has it, in a terminal."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import aiohttp
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.app.questions import reason
from orchestrator.cli.output import console, fail, literal, readable, table
from orchestrator.cli.status import EXIT_NOBODY, endpoint_of, key_of
from orchestrator.core.errors import HostError
from orchestrator.core.vitals import Window

WINDOW_S: Final = 60.0
# More than one instance's slots on a line do not help.
SLOTS_SHOWN: Final = 32
_COLOURS: Final = {"serving": "green", "down": "red"}


def run_top(state: Path, endpoint: str | None, key: str) -> int:
    """Draw until Ctrl-C; where the output is no terminal, once. Exit code 4 where no cluster answers."""
    where = endpoint_of(state, endpoint)
    try:
        asyncio.run(_follow(where, key_of(state, endpoint, key)))
    except (aiohttp.ClientError, TimeoutError, ValueError) as why:
        fail(f"{where} does not answer: {reason(why)}", EXIT_NOBODY)
    except KeyboardInterrupt:
        console.print()
    return 0


async def _follow(endpoint: str, key: str) -> None:
    told: deque[tuple[float, dict[str, Any]]] = deque()
    if not console.is_terminal:
        async for each in _events(endpoint, key):
            told.append((time.monotonic(), each))
            if len(told) == 2:  # rates are of two moments
                console.print(drawn(each["status"], _window(told)), soft_wrap=False)
                return
    with Live(console=console, screen=True, auto_refresh=False) as live:
        async for each in _events(endpoint, key):
            told.append((time.monotonic(), each))
            while len(told) > 2 and told[0][0] < told[-1][0] - WINDOW_S:
                told.popleft()
            live.update(drawn(each["status"], _window(told)), refresh=True)


async def _events(endpoint: str, key: str) -> AsyncIterator[dict[str, Any]]:
    """What the endpoint tells each second. Raises HostError where it refuses, aiohttp's errors where it is away."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=30)
    async with (
        aiohttp.ClientSession(headers=headers, timeout=limits, read_bufsize=2**22) as http,
        http.get(f"http://{endpoint}/status/live") as reply,
    ):
        if reply.status != 200:
            raise HostError(
                f"{endpoint} answered {reply.status}: {_why(await reply.text())}; name an admin's key in OLLAMACTL_KEY"
            )
        async for line in reply.content:
            if line.startswith(b"data: "):
                told = json.loads(line[6:])
                if "error" in told:
                    raise HostError(f"{endpoint}: {told['error']}")
                yield told


def _why(refusal: str) -> str:
    """The words of a refusal, whoever it was that refused."""
    try:
        return str(json.loads(refusal)["error"])
    except (ValueError, TypeError, KeyError):
        return refusal[:300]


def _window(told: deque[tuple[float, dict[str, Any]]]) -> Window:
    (before_s, before), (now_s, now) = told[0], told[-1]
    return Window(before["vitals"], now["vitals"], now_s - before_s)


def drawn(status: dict[str, Any], window: Window) -> RenderableType:
    """One picture: what is on, what is going on, tiers, pools, instances, notes."""
    parts: list[RenderableType] = [_head(status, window), _tiers(status, window), _instances(status)]
    if status["limits"]:
        parts.append(_limits(status))
    return Group(*parts, *(Text(readable(f"· {each}")) for each in status["notes"][:6]))


def _head(status: dict[str, Any], window: Window) -> Text:
    instances = [each for pool in status["pools"] for each in pool["instances"]]
    busy, slots = sum(each["in_flight"] for each in instances), sum(each["slots"] for each in instances)
    waiting = sum(pool["queue_depth"] for pool in status["pools"])
    cache = status["cache"]
    hits, misses = sum(cache["hits"].values()), sum(cache["misses"].values())
    rate = f"{hits / (hits + misses):.0%}" if hits + misses else "–"
    failed = window.lately("olm_calls") - window.lately("olm_calls", outcome="ok")
    colour = "green" if cache["state"] == "ON" else "red"
    text = Text.from_markup(
        f"[bold {colour}]CACHE {cache['state']}[/] hit rate {rate} · Redis {literal(status['store'])}"
    )
    if status["is_simulated"]:
        text.append(" · SIMULATED", "bold magenta")
    calls, tokens = window.rate("olm_calls"), window.rate("olm_tokens", kind="completion")
    text.append(f"\n{calls:.1f} calls/s · {tokens:.0f} tokens/s · slots {busy} of {slots} · waiting {waiting}")
    text.append(f" · not answered in {window.seconds:.0f} s: {failed:.0f}", "red" if failed else "")
    return text


def _tiers(status: dict[str, Any], window: Window) -> Table:
    usage = status["usage"]
    calls = sum(each["calls"] for each in usage.values())
    made = table("Tier", "Model", "Calls today", "Share", "Tokens/s", "p50", "p95", "p99")
    for name, tier in {"cache": {"model": "answer cache, FAQ"}, **status["tiers"]}.items():
        used = usage.get(name, {"calls": 0})["calls"]
        times = window.quantiles("olm_call_seconds", (0.5, 0.95, 0.99), tier=name)
        rate = window.rate("olm_tokens", tier=name, kind="completion")
        share = f"{used / calls:.0%}" if calls else "–"
        made.add_row(literal(name), literal(tier["model"]), str(used), share, f"{rate:.0f}", *map(_seconds, times))
    return made


def _instances(status: dict[str, Any]) -> Table:
    made = table("Pool", "Instance", "State", "Slots", "Waiting")
    for pool in status["pools"]:
        for each in pool["instances"]:
            shown = min(each["slots"], SLOTS_SHOWN)
            busy = min(each["in_flight"], shown)
            colour = _COLOURS.get(each["state"], "yellow")
            told = f"{each['state']}{': ' + each['reason'] if each['reason'] else ''}"
            slots = f"[cyan]{'●' * busy}[/cyan]{'○' * (shown - busy)}"
            about = (literal(pool["name"]), literal(each["id"]), f"[{colour}]{literal(told)}[/{colour}]")
            made.add_row(*about, slots, str(pool["queue_depth"]))
    return made


def _limits(status: dict[str, Any]) -> Table:
    made = table("Limit", "Used", "Of", "")
    for scope in status["limits"]:
        for kind, told in scope["limits"].items():
            part = min(1.0, told["used"] / told["allowed"])
            colour = "red" if part >= 1 else "yellow" if part > 0.8 else "green"
            bar = f"[{colour}]{'█' * round(20 * part)}[/{colour}]{'░' * (20 - round(20 * part))}"
            made.add_row(literal(f"{scope['scope']} {kind}"), f"{told['used']:g}", f"{told['allowed']:g}", bar)
    return made


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
