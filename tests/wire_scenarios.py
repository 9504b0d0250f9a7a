"""Recorded scenarios, by the name a table of exceptions knows them by, and what playing them has in common."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.nodes.simulators import free_port, running
from tests.waiting import until
from tests.wire_replay import OLDER, RECORDINGS, Case, Exchange, Scenario, load_scenarios, replay_config, send
from tests.wire_script import scripted_answers

SCENARIOS = {each.id: each for folder in (RECORDINGS, OLDER) for each in load_scenarios(folder).values()}

# What the model said differs by chance and seed; how it was said is compared.
WORDS = frozenset({
    "response", "content", "text", "delta", "context", "prompt_eval_count", "eval_count", "sequence_number",
})  # fmt: skip


class Plays:
    """Parametrizes tests by the scenarios they play, of every version that has them, and knows which ones those were.

    `exceptions`: scenarios that are not played, and why.
    """

    def __init__(self, exceptions: Mapping[str, str]) -> None:
        self._exceptions = exceptions
        self._played: set[str] = set()

    def __call__(self, *names: str) -> pytest.MarkDecorator:
        ids = [each for name in names for each in (name, f"{OLDER.name}/{name}") if each in SCENARIOS]
        played = [each for each in ids if each not in self._exceptions]
        self._played.update(played)
        if not SCENARIOS:
            missing = pytest.mark.skip(reason="the recordings in ../shared are not present")
            return pytest.mark.parametrize("recording", [pytest.param(None, marks=missing)])
        return pytest.mark.parametrize("recording", [pytest.param(SCENARIOS[each], id=each) for each in played])

    def unaccounted(self) -> set[str]:
        """Scenarios neither played nor excepted, or both, and exceptions for what there is not."""
        return (set(SCENARIOS) ^ (self._played | set(self._exceptions))) if SCENARIOS else set()


@dataclass(frozen=True, slots=True)
class Simulated:
    """A simulated instance that knows the models and answers of a recording."""

    url: str
    process: subprocess.Popen[bytes]
    seats: Path

    @property
    def is_at_work(self) -> bool:
        """Whether a slot reads or writes."""
        return self.seats.exists() and any(self.seats.read_bytes()[4:8])

    async def until_at_work(self) -> None:
        await until(lambda: self.is_at_work)


@contextmanager
def simulated(
    recording: Scenario, cases: Mapping[str, Case], folder: Path, name: str = "replay", **changes: Any
) -> Iterator[Simulated]:
    """`cases`: recordings whose models and answers it knows besides."""
    seats = folder / f"{name}.seats"
    config = replay_config(
        free_port(),
        cases,
        instance=name,
        script=tuple(scripted_answers([*cases.values(), *recording.exchanges])),
        version=recording.version,
        seats_file=str(seats),
        **changes,
    )
    with running(config, folder) as process:
        yield Simulated(f"http://127.0.0.1:{config.port}", process, seats)


async def ps(http: aiohttp.ClientSession, base: str) -> list[dict[str, Any]]:
    async with http.get(f"{base}/api/ps") as reply:
        return list((await reply.json())["models"])


async def ps_names(http: aiohttp.ClientSession, base: str) -> list[str]:
    return [each["name"] for each in await ps(http, base)]


async def load(http: aiohttp.ClientSession, base: str, model: str = "smollm2:135m", **more: Any) -> None:
    body = {"model": model, "keep_alive": "5m", "stream": False, **more}
    await (await http.post(f"{base}/api/generate", json=body)).read()


async def unload_all(http: aiohttp.ClientSession, base: str) -> None:
    for name in await ps_names(http, base):
        await (await http.post(f"{base}/api/generate", json={"model": name, "keep_alive": 0})).read()


def as_today(case: Case) -> Case:
    """The case as today's Ollama would tell it: 0.24 leaves out the time it took to write a single token."""
    lacking = re.compile(rb'("eval_count":1)\}')
    return replace(case, chunks=tuple(lacking.sub(rb'\1,"eval_duration":1}', each) for each in case.chunks))


def told(exchange: Exchange) -> dict[str, Any]:
    """The JSON of a body, or of a stream's last line."""
    return dict(json.loads(exchange.body.strip().split(b"\n")[-1]))


def changed(case: Case, **fields: Any) -> Case:
    """The case with other fields in its request's body; None leaves one out."""
    body = {name: value for name, value in {**json.loads(case.body), **fields}.items() if value is not None}
    return replace(case, body=json.dumps(body).encode())


def of_any_length(case: Case) -> Case:
    """A stream that was broken off: how many chunks there were before its last is a matter of time."""
    return case if case.omitted_at is not None else replace(case, omitted_at=len(case.chunks) - 1)


def probe_of(recording: Scenario) -> Case:
    """The last request of a scenario: it tells whether the instance still answers."""
    return recording.exchanges[-1]


class At:
    """An `on_chunk` that begins something when so many chunks are there, while the stream is read on."""

    def __init__(self, steps: Mapping[int, Callable[[], Coroutine[Any, Any, Any]]]) -> None:
        self._steps = steps
        self.begun: list[asyncio.Task[Any]] = []

    async def __call__(self, count: int) -> None:
        if (step := self._steps.get(count)) is not None:
            self.begun.append(asyncio.create_task(step()))
            await asyncio.sleep(0)


# --- what clients do -------------------------------------------------------------------------------------------------


async def storm(recording: Scenario, url: str, count: int) -> None:
    """Streaming clients, 4 at a time, that close after some frame each."""
    left = iter(range(count))

    async def leave_in_turn() -> None:
        for n in left:
            stream = changed(probe_of(recording), stream=None, options={"num_predict": 1000, "seed": n})
            await send(stream, url, leave_after=1 + n % 39)

    await asyncio.gather(*(leave_in_turn() for _ in range(4)))


async def leave_while_at_work(case: Case, url: str, instance: Simulated) -> None:
    """Ask, and leave when a slot works on it."""
    asked = asyncio.create_task(send(case, url))
    await instance.until_at_work()
    asked.cancel()
    await asyncio.wait([asked])


# --- what they see ---------------------------------------------------------------------------------------------------


def waited_s(answer: Mapping[str, Any]) -> float:
    """Simulated seconds before its own work began."""
    own = sum(answer.get(name, 0) for name in ("load_duration", "prompt_eval_duration", "eval_duration"))
    return float(answer["total_duration"] - own) / 1e9


def outcomes(exchanges: Iterable[Exchange]) -> dict[str, int]:
    """How many ended how, in the words of the recordings."""
    return dict(Counter(f"{each.status}/{'complete' if each.is_whole else 'cut'}" for each in exchanges))
