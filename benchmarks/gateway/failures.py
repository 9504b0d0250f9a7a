"""Scenarios E and F: what callers see of an instance that fails, and two thousand streams open at once."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass

from benchmarks.gateway.callers import CUT_AS_IF_WHOLE
from benchmarks.gateway.contenders import Contender
from benchmarks.gateway.costs import add_cost
from benchmarks.gateway.jobs import INSTANCES, Job, Result, Setup
from benchmarks.gateway.rig import DIRECT, Measure, Rig
from benchmarks.gateway.table import Table

# Full, also for who knows the slots: every instance has calls, and while one fails a few calls wait.
SETUP = Setup(slots=4)
CLIENTS = 24
_AROUND_S = 0.5  # before the fault begins, and after it ended

MANY = Setup(slots=400)
STREAMS = 2000
_OPEN_WITHIN_S = 2.0
_HELD_S = 4.0


@dataclass(frozen=True, slots=True)
class Failure:
    """One way to fail. Whoever asks whether the instance lives is told that it does, unless it is killed."""

    name: str
    fault: str
    lasts_s: float = 2.0
    is_stream: bool = False


FAILURES = (
    Failure("killed", "down"),
    Failure("killed, streams under way", "down", is_stream=True),
    Failure("resets connections", "reset"),
    Failure("answers 500 at once", "500"),
    Failure("hangs", "hang", lasts_s=4.0),
    Failure("breaks streams midway", "break", is_stream=True),
)


def errors_of(failure: Failure) -> Measure:
    """E: 24 clients; one of six instances fails for a while."""

    async def measure(rig: Rig, table: Table, rounds: int, seconds: float) -> None:
        for number in range(rounds):
            for contender in rig.shuffled():
                if contender.name != DIRECT:
                    result = await _failing(rig, contender, failure, number % INSTANCES, seconds)
                    _add(table, contender, failure, result)

    return measure


async def _failing(rig: Rig, contender: Contender, failure: Failure, index: int, seconds: float) -> Result:
    lasts_s = failure.lasts_s * seconds
    job = Job(
        (), clients=CLIENTS, seconds=lasts_s + 2 * _AROUND_S, works_us=(20_000,), is_stream=failure.is_stream,
        gap_us=5_000 if failure.is_stream else 0, spread_s=0.1, patience_s=0.75 * lasts_s,
    )  # fmt: skip
    running = asyncio.create_task(rig.run(contender, job))
    await asyncio.sleep(_AROUND_S)
    await rig.fault(index, failure.fault)
    await asyncio.sleep(lasts_s)
    await rig.fault(index, "")
    return (await running).result


def _add(table: Table, contender: Contender, failure: Failure, result: Result) -> None:
    if result.errors:
        print(f"  {contender.name}, {failure.name}: {result.errors}", file=sys.stderr)
    as_if_whole = result.errors.get(CUT_AS_IF_WHOLE, 0)
    table.add(f"{failure.name}: calls", contender.name, result.failed + len(result.answers), is_compared=False)
    table.add(f"{failure.name}: errors", contender.name, result.failed, is_compared=False)
    if failure.is_stream:
        table.add(f"{failure.name}: of them ended as if whole", contender.name, as_if_whole, is_compared=False)


async def held(rig: Rig, table: Table, rounds: int, seconds: float) -> None:
    """F: streams that have begun and wait for their next frame."""
    for _ in range(rounds):
        for contender in rig.shuffled():
            if contender.name == DIRECT:
                continue
            add_cost(table, "PSS MiB, before", contender, contender.pss_mib())
            job = Job(
                (), clients=STREAMS, is_once=True, frames=1, gap_us=int((_OPEN_WITHIN_S + _HELD_S) * 1e6),
                spread_s=_OPEN_WITHIN_S, is_stream=True,
            )  # fmt: skip
            running = asyncio.create_task(rig.run(contender, job))
            await asyncio.sleep(_OPEN_WITHIN_S + _HELD_S * 0.75)
            add_cost(table, "PSS MiB, held", contender, contender.pss_mib())
            result = (await running).result
            table.add("streams refused", contender.name, result.failed, is_compared=False)
