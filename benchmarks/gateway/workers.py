"""Scenarios W: what one, two and four workers carry, and two gateways with one Redis; beside nginx with as many.

All processes are on all cores, callers and instances too; their part is told, since it ends what contenders can show.
"""

from __future__ import annotations

from functools import partial

from benchmarks.gateway import contenders, ours
from benchmarks.gateway.contenders import STORE, WORKER, Contender, Kind
from benchmarks.gateway.costs import SETUP, count_errors
from benchmarks.gateway.jobs import Job, Setup
from benchmarks.gateway.rig import DIRECT, Measured, Rig, quantile
from benchmarks.gateway.table import Table

CLIENTS = 64
SCARCE = Setup(slots=8)  # of six instances 48: a quarter of the clients waits

TWO_GATEWAYS = "two-gateways"
KINDS = {
    **{f"nginx-{each}": Kind(partial(contenders.nginx, workers=each)) for each in (1, 2, 4)},
    **{f"ours-{each}": Kind(partial(ours.command, workers=each)) for each in (1, 2, 4)},
    TWO_GATEWAYS: Kind(ours.two_gateways, doors=2),
}
PEERS = {**{f"ours-{each}": f"nginx-{each}" for each in (1, 2, 4)}, TWO_GATEWAYS: "nginx-2"}

_RATE, _BESIDE_NGINX, _BESIDE_ONE = "{}s/s", "÷ nginx", "÷ ours-1"
_COST, _OF_PART, _OF_CORE = "CPU µs a {}", "· {}", "{}s/s a core of {} carries"
_CORES, _OTHERS = "cores busy", "cores of callers and instances"
_BEYOND = "most calls beyond the slots"
_COLUMNS = (
    _RATE, _BESIDE_NGINX, _BESIDE_ONE, "p50 ms", "p99 ms", _COST, *map(_OF_PART.format, (WORKER, STORE)),
    *(_OF_CORE.format("{}", part) for part in (WORKER, STORE)), _CORES, _OTHERS, _BEYOND,
)  # fmt: skip


async def calls(rig: Rig, table: Table, rounds: int, seconds: float) -> None:
    """W: tiny answers, not streamed, and more slots than clients."""
    await _measure(rig, table, rounds, SETUP, Job((), clients=CLIENTS, seconds=seconds))


async def bursts(rig: Rig, table: Table, rounds: int, seconds: float) -> None:
    """WB: streams of 128 frames without gaps."""
    job = Job((), clients=CLIENTS, seconds=seconds, frames=128, is_stream=True)
    await _measure(rig, table, rounds, SETUP, job)


async def queued(rig: Rig, table: Table, rounds: int, seconds: float) -> None:
    """WS: streams of 20 frames, 5 ms apart; instances count what they were given beyond their slots."""
    job = Job((), clients=CLIENTS, seconds=seconds, gap_us=5_000, spread_s=0.1, is_stream=True)
    await _measure(rig, table, rounds, SCARCE, job)


async def _measure(rig: Rig, table: Table, rounds: int, setup: Setup, job: Job) -> None:
    unit = "stream" if job.is_stream else "request"
    table.reserve(*(each.format(unit) for each in _COLUMNS))
    for _ in range(rounds):
        for contender in rig.shuffled():
            await rig.behave(setup)  # what was counted so far is forgotten
            measured = await rig.run(contender, job)
            _add(table, unit, contender, measured)
            beyond = (await rig.report())["most_waiting"]
            if job.gap_us:  # elsewhere an instance has answered before it reads the next call
                table.add(_BEYOND, contender.name, beyond)
            count_errors(table, contender, measured)
    _add_ratios(rig, table, unit)


def _add(table: Table, unit: str, contender: Contender, measured: Measured) -> None:
    """Rates, times, and CPU by part, with what a core of each part would carry by that."""
    result, answered = measured.result, max(1, len(measured.result.answers))
    told = {
        _RATE.format(unit): answered / result.seconds,
        "p50 ms": quantile(result.took_us, 0.5) / 1e3,
        "p99 ms": quantile(result.took_us, 0.99) / 1e3,
    }
    if contender.name != DIRECT:
        used_s = sum(measured.cpu_s.values())
        told |= {_COST.format(unit): used_s / answered * 1e6, _CORES: used_s / result.seconds}
        if contender.name in PEERS:
            for part in (WORKER, STORE):
                each_s = measured.cpu_s[part] / answered
                told |= {_OF_PART.format(part): each_s * 1e6, _OF_CORE.format(unit, part): 1 / each_s}
    told[_OTHERS] = measured.others_cpu_s / result.seconds
    for name, value in told.items():
        table.add(name, contender.name, value)


def _add_ratios(rig: Rig, table: Table, unit: str) -> None:
    """Ours beside nginx with as many workers, and beside one worker of ours, round by round."""
    rate = _RATE.format(unit)
    for contender in rig.contenders:
        if contender.name in PEERS:
            for name, peer in ((_BESIDE_NGINX, PEERS[contender.name]), (_BESIDE_ONE, "ours-1")):
                for mine, theirs in zip(table.values(rate, contender.name), table.values(rate, peer), strict=False):
                    table.add(name, contender.name, mine / theirs)
