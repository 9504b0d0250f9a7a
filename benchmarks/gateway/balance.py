"""Scenarios D and M: how well calls are spread, beside one ideal queue on the same calls."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from math import exp
from random import Random
from statistics import NormalDist

from benchmarks.gateway.contenders import Contender
from benchmarks.gateway.costs import count_errors
from benchmarks.gateway.ideal import Call, Ideal
from benchmarks.gateway.jobs import Job, Result, Setup
from benchmarks.gateway.rig import DIRECT, Measure, Rig, quantile
from benchmarks.gateway.table import Table

ALIKE = Setup(slots=2)
UNLIKE = Setup(slots=1, speeds=(1.5, 1.5, 1.0, 1.0, 0.5, 0.5))
MODELS = Setup(slots=2, models=tuple(f"bench-{each}:latest" for each in "abcd"), load_s=0.4)
SHARES = (4, 3, 2, 1)  # of calls, by model

LOAD = 0.8
CLIENTS = 16
MEAN_WORK_S = 0.1
_SIGMA = 1.5  # of the lognormal: a tenth of the calls is six tenths of the work
_PATIENCE_S = 60.0
_IDEALS, _JITTER_S = 8, 0.002


def open_loop(setup: Setup, load: float = LOAD) -> Measure:
    """As many calls as make up `load` of what the instances can do; Poisson arrivals, lognormal work."""
    a_second = load * setup.slots * sum(setup.speeds) / MEAN_WORK_S

    def job(random: Random, seconds: float) -> Job:
        count = round(a_second * seconds)  # the same in every round; given their number, arrivals are uniform
        arrivals = sorted(random.uniform(0, seconds) for _ in range(count))
        return Job((), arrivals_s=tuple(arrivals), works_us=_works(random, count))

    return _measure_of(setup, f"open loop at {load:.0%}", job)


def closed_loop(setup: Setup) -> Measure:
    """Clients who ask their next question when they have the answer."""

    def job(random: Random, seconds: float) -> Job:
        count = int(seconds * CLIENTS / MEAN_WORK_S) * 2  # more than can be answered
        return Job((), clients=CLIENTS, seconds=seconds, works_us=_works(random, count))

    return _measure_of(setup, f"{CLIENTS} clients", job)


def _works(random: Random, count: int) -> tuple[int, ...]:
    """Lognormal, in milliseconds, the clocks' unit; every draw has the same works, in another order.

    With works drawn freely, one long call more or less would say more of a run than the balancer does.
    """
    works = [exp(_SIGMA * NormalDist().inv_cdf((rank + 0.5) / count)) for rank in range(count)]
    random.shuffle(works)
    scale = MEAN_WORK_S * 1e6 * count / sum(works)
    return tuple(max(1000, round(each * scale / 1000) * 1000) for each in works)


def _measure_of(setup: Setup, name: str, make: Callable[[Random, float], Job]) -> Measure:
    async def measure(rig: Rig, table: Table, rounds: int, seconds: float) -> None:
        for number in range(rounds):
            random = Random(f"{number} {name}")
            asked = _for_models(make(random, seconds), setup, random)
            for contender in rig.shuffled():
                if contender.name != DIRECT:
                    await _measure(rig, table, name, contender, setup, asked)

    return measure


def _for_models(job: Job, setup: Setup, random: Random) -> Job:
    if len(setup.models) == 1:
        return job
    return replace(job, models=tuple(random.choices(setup.models, SHARES, k=len(job.works_us))))


async def _measure(rig: Rig, table: Table, name: str, contender: Contender, setup: Setup, asked: Job) -> None:
    await rig.behave(setup)
    resident = (await rig.report())["resident"]
    job = replace(asked, first=rig.number(), patience_s=_PATIENCE_S)
    measured = await rig.run(contender, job)
    count_errors(table, contender, measured)
    report = await rig.report()
    took_s = [each for _, _, each in measured.result.answers]
    ideals = _ideals(job, measured.result, report["works_s"], setup, resident)
    mean_s = statistics.fmean(statistics.fmean(each.took_s.values()) for each in ideals)
    p99_s = statistics.fmean(quantile(list(each.took_s.values()), 0.99) for each in ideals)
    table.add(f"mean ÷ ideal, {name}", contender.name, statistics.fmean(took_s) / mean_s)
    table.add(f"p99 ÷ ideal, {name}", contender.name, quantile(took_s, 0.99) / p99_s)
    table.reserve(f"mean ms, {name}", is_compared=False)
    table.add(f"mean ms, {name}", contender.name, statistics.fmean(took_s) * 1e3)
    if setup.load_s:
        loads = statistics.fmean(each.loads for each in ideals)
        table.add(f"loads, {name}", contender.name, report["loads"], is_compared=False)
        table.add(f"loads of the ideal, {name}", contender.name, loads, is_compared=False)


def _ideals(job: Job, result: Result, works_s: dict[str, float], setup: Setup, resident: list[str]) -> list[Ideal]:
    """The ideal queue on the calls that were answered, with their work as it turned out: timers are a little late.

    Of unlike instances luck decides which one a long call meets. So an open loop is reckoned again and again with
    arrivals that differ by a millisecond or two, and the mean of these is what a run is held against.
    """
    random = Random(job.first)
    calls = [
        Call(index, began_s, works_s[str(number)], job.models[index % len(job.models)])
        for number, began_s, _ in sorted(result.answers)
        if str(number) in works_s
        for index in (number - job.first,)
    ]
    ideals = [Ideal(setup, resident) for _ in range(_IDEALS if job.arrivals_s else 1)]
    for ideal in ideals:
        if job.arrivals_s:
            ideal.open_loop([replace(each, at_s=each.at_s + random.uniform(0, _JITTER_S)) for each in calls])
        else:
            ideal.closed_loop(calls, job.clients)
    return ideals
