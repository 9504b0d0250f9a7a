"""Scenarios A, B, C and P: what a call, a frame and an open stream cost."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from benchmarks.gateway.contenders import PARTS, Contender
from benchmarks.gateway.jobs import Job, Setup
from benchmarks.gateway.rig import DIRECT, Measured, Rig, quantile
from benchmarks.gateway.table import OURS, Table

SETUP = Setup(slots=64)
CALLERS = (1, 16, 64)
LARGE_PROMPT_BYTES = 32 * 1024
MANY_CALLS = 1_000_000


async def calls(rig: Rig, table: Table, rounds: int, seconds: float) -> None:
    """A: tiny answers, not streamed."""
    table.reserve("p50 µs, 1 client", "p99 µs, 1 client", "p50 µs added, 1 client", "p99 µs added, 1 client")
    for _ in range(rounds):
        for clients in CALLERS:
            for contender in rig.shuffled():
                job = Job((), clients=clients, seconds=seconds)
                measured = await rig.run(contender, job)
                name = f"{clients} client{'s' * (clients > 1)}"
                _add_calls(table, name, contender, measured)
                if clients == 1:
                    table.add("p50 µs, 1 client", contender.name, quantile(measured.result.took_us, 0.5))
                    table.add("p99 µs, 1 client", contender.name, quantile(measured.result.took_us, 0.99))
        for contender in rig.shuffled():
            job = Job((), clients=16, seconds=seconds, prompt_bytes=LARGE_PROMPT_BYTES)
            _add_calls(table, "16 clients, 32 KiB prompts", contender, await rig.run(contender, job))
        await _features(rig, table, seconds)
    _add_added(rig, table)


async def _features(rig: Rig, table: Table, seconds: float) -> None:
    """What only ours does: an answer from the cache."""
    for contender in rig.contenders:
        if contender.name == OURS:
            job = Job((), clients=16, seconds=seconds, is_alike=True)
            _add_calls(table, "16 clients, the same question", contender, await rig.run(contender, job))


def _add_calls(table: Table, name: str, contender: Contender, measured: Measured) -> None:
    result = measured.result
    add_cost(table, f"CPU µs a request, {name}", contender, measured.cpu_s, 1e6 / max(1, len(result.answers)))
    table.add(f"requests/s, {name}", contender.name, len(result.answers) / result.seconds)
    count_errors(table, contender, measured)


def _add_added(rig: Rig, table: Table) -> None:
    """What contenders add to the times of one client that asks instances itself, round by round."""
    for part in ("p50", "p99"):
        direct = table.values(f"{part} µs, 1 client", DIRECT)
        for contender in rig.contenders[1:]:
            theirs = table.values(f"{part} µs, 1 client", contender.name)
            for with_it, without in zip(theirs, direct, strict=True):
                table.add(f"{part} µs added, 1 client", contender.name, with_it - without)


async def bursts(rig: Rig, table: Table, rounds: int, seconds: float) -> None:
    """B: streams whose frames come without gaps, as those of small answers that were computed at once."""
    for _ in range(rounds):
        for contender in rig.shuffled():
            job = Job((), clients=8, seconds=seconds, frames=128, is_stream=True)
            _add_frames(table, "128 frames without gaps, 8 streams", contender, await rig.run(contender, job))


async def paced(rig: Rig, table: Table, rounds: int, seconds: float) -> None:
    """C: 40 streams with 10 ms between frames; then shorter ones again and again, for the time to the first frame."""
    for _ in range(rounds):
        for contender in rig.shuffled():
            frames = int(seconds * 100)
            job = Job((), clients=40, is_once=True, frames=frames, gap_us=10_000, spread_s=0.01, is_stream=True)
            _add_frames(table, "40 streams, 10 ms apart", contender, await rig.run(contender, job))
        for contender in rig.shuffled():
            job = Job((), clients=16, seconds=seconds, frames=8, gap_us=10_000, spread_s=0.1, is_stream=True)
            measured = await rig.run(contender, job)
            table.add("first frame p50 µs, 16 clients", contender.name, quantile(measured.result.first_us, 0.5))
            table.add("first frame p99 µs, 16 clients", contender.name, quantile(measured.result.first_us, 0.99))
            count_errors(table, contender, measured)


async def many(rig: Rig, table: Table, rounds: int, seconds: float) -> None:
    """P: 200 streams with 20 ms between frames, and the memory while they are open."""
    for _ in range(rounds):
        for contender in rig.shuffled():
            frames = int(seconds * 50)
            job = Job((), clients=200, is_once=True, frames=frames, gap_us=20_000, spread_s=0.02, is_stream=True)
            running = asyncio.create_task(rig.run(contender, job))
            await asyncio.sleep(seconds * 0.8)
            add_cost(table, "PSS MiB, 200 streams", contender, contender.pss_mib())
            _add_frames(table, "200 streams, 20 ms apart", contender, await running)


async def endured(rig: Rig, table: Table, rounds: int, seconds: float) -> None:
    """L: memory after the first tenth of a million calls, and after all of them."""
    for contender in rig.contenders[1:] * rounds:
        asked = 0
        for name, most in (("a tenth", MANY_CALLS // 10), ("all", MANY_CALLS)):
            while asked < most:
                measured = await rig.run(contender, Job((), clients=64, seconds=seconds))
                asked += len(measured.result.answers)
                count_errors(table, contender, measured)
            add_cost(table, f"PSS MiB, after {name} of {MANY_CALLS:,} calls", contender, contender.pss_mib())


def _add_frames(table: Table, name: str, contender: Contender, measured: Measured) -> None:
    add_cost(table, f"CPU µs a frame, {name}", contender, measured.cpu_s, 1e6 / max(1, measured.result.frames))
    table.add(f"frames/s, {name}", contender.name, measured.result.frames / measured.result.seconds)
    count_errors(table, contender, measured)


def add_cost(table: Table, name: str, contender: Contender, cost: Mapping[str, float], unit: float = 1.0) -> None:
    """A row with the whole of it, and for ours one for each of its parts."""
    table.reserve(name)
    for part in PARTS:
        table.reserve(f"· {part}: {name}", is_compared=False)
    if contender.root is None:
        return
    table.add(name, contender.name, sum(cost.values()) * unit)
    if contender.name == OURS:
        for part in PARTS:
            table.add(f"· {part}: {name}", contender.name, cost[part] * unit)


def count_errors(table: Table, contender: Contender, measured: Measured) -> None:
    """Answers that were not whole, right and in time: a row that stays out while there are none."""
    for what, count in measured.result.errors.items():
        table.add(f"errors: {what}", contender.name, count, is_compared=False)
