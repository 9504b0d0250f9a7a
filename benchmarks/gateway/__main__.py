"""What does the gateway add to a call? CPU, time, memory, balance and failures, beside its peers, in one run.

    python -m benchmarks.gateway [--only A,P] [--contenders nginx,ours] [--rounds 3] [--seconds 1]

README.md beside this file says what is measured and how further contenders are named.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gateway import balance, contenders, costs, failures, litellm, machine, ours, workers
from benchmarks.gateway.contenders import Kind
from benchmarks.gateway.jobs import INSTANCES, Setup
from benchmarks.gateway.rig import DIRECT, Measure, rig
from benchmarks.gateway.table import OURS, Table

FIRST_PORT = 19401  # of six instances
KINDS = {
    "nginx": Kind(contenders.nginx),
    "haproxy": Kind(contenders.haproxy),
    "haproxy-queue": Kind(contenders.haproxy_with_queue),
    "plain": Kind(contenders.plain),
    "litellm": litellm.KIND,
    OURS: Kind(ours.command),
    **workers.KINDS,
}
DEFAULT = ("nginx", "haproxy", "plain", OURS)


@dataclass(frozen=True, slots=True)
class Scenario:
    title: str
    setup: Setup
    measures: tuple[Measure, ...]  # each with contenders started anew
    seconds: float = 1.0  # of one cell, at --seconds 1
    rounds: int = 1  # unless --rounds says otherwise
    contenders: tuple[str, ...] = DEFAULT  # unless --contenders names others
    shares_cores: bool = False  # all processes on all cores: it asks how contenders use several
    is_turned: bool = False  # a line for each contender


def _of_workers(title: str, setup: Setup, measure: Measure) -> Scenario:
    kinds = tuple(workers.KINDS)
    return Scenario(title, setup, (measure,), 4, rounds=3, contenders=kinds, shares_cores=True, is_turned=True)


SCENARIOS = {
    "A": Scenario("A. Tiny answers, not streamed", costs.SETUP, (costs.calls,), rounds=2),
    "B": Scenario("B. Streams without gaps", costs.SETUP, (costs.bursts,), rounds=2),
    "C": Scenario("C. Streams, 10 ms apart", costs.SETUP, (costs.paced,), 2, rounds=2),
    "P": Scenario("P. Many streams", costs.SETUP, (costs.many,), 3, rounds=2),
    "D": Scenario("D. Balance, six alike", balance.ALIKE, (balance.open_loop(balance.ALIKE),), 12),
    "D16": Scenario("D16. Balance, six alike", balance.ALIKE, (balance.closed_loop(balance.ALIKE),), 12),
    "U": Scenario("U. Balance, unlike", balance.UNLIKE, (balance.open_loop(balance.UNLIKE),), 12, rounds=2),
    "U16": Scenario("U16. Balance, unlike", balance.UNLIKE, (balance.closed_loop(balance.UNLIKE),), 12),
    "M": Scenario("M. Four models, one resident", balance.MODELS, (balance.open_loop(balance.MODELS, 0.4),), 16),
    "M16": Scenario("M16. Four models, one resident", balance.MODELS, (balance.closed_loop(balance.MODELS),), 16),
    "E": Scenario("E. Failures", failures.SETUP, tuple(failures.errors_of(each) for each in failures.FAILURES)),
    "F": Scenario("F. 2,000 open idle streams", failures.MANY, (failures.held,)),
    "L": Scenario("L. A million calls", costs.SETUP, (costs.endured,), 4),
    "W": _of_workers("W. Workers and gateways, tiny answers", costs.SETUP, workers.calls),
    "WB": _of_workers("WB. Workers and gateways, streams without gaps", costs.SETUP, workers.bursts),
    "WS": _of_workers("WS. Workers and gateways, more streams than slots", workers.SCARCE, workers.queued),
}

DEFAULT_SCENARIOS = ("A", "B", "C", "P", "D", "U", "E", "F")  # what takes five minutes


async def main(asked: argparse.Namespace) -> None:
    kinds = KINDS | (contenders.from_file(asked.file) if asked.file else {})
    named = _known("contender", asked.contenders, kinds)
    wanted = _known("scenario", asked.only.upper(), SCENARIOS)
    letters = [each for each in SCENARIOS if each in wanted]
    if not letters:
        raise SystemExit(f"no scenario is named; there are: {', '.join(SCENARIOS)}")
    measured = named or [name for each in letters for name in SCENARIOS[each].contenders]
    _known("contender that is measured", asked.beside, measured)
    cores = os.sched_getaffinity(0)
    if (task := asyncio.current_task()) is not None:  # SIGINT does so of itself
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    print(f"{machine.described()}\n")
    began_s = time.monotonic()
    for letter in letters:
        print(f"{letter} …", file=sys.stderr)
        scenario = SCENARIOS[letter]
        names = named or scenario.contenders
        shares_cores = asked.shared_cores or scenario.shares_cores
        table = await _measured(asked, scenario, {each: kinds[each] for each in names}, cores, shares_cores)
        print(_drawn(table, scenario, names, asked.beside) + "\n", flush=True)
    print(f"{time.monotonic() - began_s:.0f} s; {' '.join(sys.argv[1:])}")


def _known(what: str, told: str | None, there: Iterable[str]) -> list[str]:
    """The names between commas. Ends the program where one is none."""
    names = [each.strip() for each in (told or "").split(",") if each.strip()]
    there = list(dict.fromkeys(there))
    if unknown := [each for each in names if each not in there]:
        raise SystemExit(f"no such {what}: {', '.join(unknown)}; there are: {', '.join(there)}")
    return names


async def _measured(
    asked: argparse.Namespace, scenario: Scenario, kinds: dict[str, Kind], cores: set[int], shares_cores: bool
) -> Table:
    """The scenario with its own instances and callers: they get their cores as they are started."""
    for_contender, for_others = (cores, cores) if shares_cores else _split(cores)
    os.sched_setaffinity(0, for_others)
    ports = tuple(range(asked.first_port, asked.first_port + INSTANCES))
    table = Table(scenario.title)
    async with rig(ports, asked.temperature) as stand:
        for measure in scenario.measures:
            async with stand.standing(kinds, scenario.setup, for_contender):
                await measure(stand, table, asked.rounds or scenario.rounds, scenario.seconds * asked.seconds)
    return table


def _drawn(table: Table, scenario: Scenario, names: Sequence[str], beside: str) -> str:
    if scenario.is_turned:
        return table.draw_turned([DIRECT, *names])
    others = [each for each in names if each != OURS] if OURS in names else []
    return table.draw([DIRECT, *names], beside.split(",") if beside else others)


def _split(cores: set[int]) -> tuple[set[int], set[int]]:
    """The contender alone on the first core, callers and instances on the others."""
    if len(cores) < 2:
        raise SystemExit("two cores are needed: one for the contender, one for callers and instances")
    first = min(cores)
    return {first}, cores - {first}


def _whole(least: int, most: int) -> Callable[[str], int]:
    def whole(told: str) -> int:
        if not told.isdecimal() or not least <= int(told) <= most:
            raise argparse.ArgumentTypeError(f"a whole number from {least} to {most} is needed, not {told!r}")
        return int(told)

    return whole


def _number(least: float) -> Callable[[str], float]:
    def number(told: str) -> float:
        try:
            value = float(told)
        except ValueError:
            value = math.nan
        if not least <= value < math.inf:
            raise argparse.ArgumentTypeError(f"a number of at least {least:g} is needed, not {told!r}")
        return value

    return number


def arguments(told: Sequence[str] | None = None) -> argparse.Namespace:
    """Of a command line, this one's unless told. Ends the program where one is wrong, and says which."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(DEFAULT_SCENARIOS), help=f"of {', '.join(SCENARIOS)}")
    parser.add_argument("--contenders", help=f"of {', '.join(KINDS)} and those of --file  [default: the scenario's]")
    parser.add_argument("--file", type=Path, help="further contenders, one a line")
    parser.add_argument("--beside", default="", help="contenders that ours is divided by  [default: all]")
    parser.add_argument("--rounds", type=_whole(1, 1000), default=0, help="[default: 1 or 2, by scenario]")
    parser.add_argument("--seconds", type=_number(0.01), default=0.5, help="scales how long each cell takes")
    parser.add_argument(
        "--temperature", type=_number(0), default=0.0, help="0: answers are looked up in the cache and kept"
    )
    parser.add_argument("--shared-cores", action="store_true", help="all processes on all cores")
    parser.add_argument(
        "--first-port", type=_whole(1, 65_536 - INSTANCES), default=FIRST_PORT, help="of the six instances"
    )
    return parser.parse_args(told)


if __name__ == "__main__":
    machine.raise_file_limit()
    try:
        asyncio.run(main(arguments()))
    except contenders.CannotMeasure as why:
        sys.exit(str(why))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
