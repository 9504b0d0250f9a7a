"""`python -m tests.chaos`: every fault there is, one after another in a drawn order; with `--keep` the docs say so.

`--seed` repeats a run, `--only` takes the faults with these words in their names.
"""

from __future__ import annotations

import argparse
import secrets
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path

import pytest

from tests.chaos import table, trial
from tests.chaos.faults import Fault, all_faults
from tests.chaos.real_engine import name_of
from tests.chaos.schedule import shuffled
from tests.chaos.trial import Result
from tests.chaos.world import Plan, world_of
from tests.cluster.running import real_engine


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", default=secrets.token_hex(4), help="of an earlier run, to have its schedule again")
    parser.add_argument("--only", nargs="+", default=[""], help="a part of the names of faults, or several")
    parser.add_argument("--keep", action="store_true", help="write results.json and docs/faults.md")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended, too
    asked = [each for each in all_faults() if any(word.lower() in each.name.lower() for word in given.only)]
    faults = [each for each in asked if not each.lacks()]
    print(f"seed {given.seed}, {len(faults)} faults\n{engine_line()}", flush=True)
    for why in sorted({each.lacks() for each in asked} - {""}):
        print(f"left out: {', '.join(each.name for each in asked if each.lacks() == why)}: {why}", flush=True)
    results = []
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        for result in trials(Path(folder), shuffled(given.seed, faults), given.seed):
            print(line(result), flush=True)
            results.append(result)
            if given.keep:
                table.keep([result])
                table.write()
    return int(any(each.breaches for each in results))


def trials(folder: Path, faults: list[Fault], seed: str) -> Iterator[Result]:
    """Each fault's result. Faults of one plan share a world, and one that cannot be well again ends its world."""
    for number, (plan, several) in enumerate(groupby(sorted(faults, key=_order), key=lambda each: each.plan)):
        waiting = list(several)
        while waiting:
            try:
                yield from _in_one_world(folder / f"world-{number}-{len(waiting)}", plan, waiting, seed)
            except pytest.skip.Exception as why:
                print(f"left out: {', '.join(each.name for each in waiting)}: {why}", flush=True)
                break


def _order(fault: Fault) -> int:
    return id(fault.plan) if fault.plan else 0


def _in_one_world(folder: Path, plan: Plan | None, waiting: list[Fault], seed: str) -> Iterator[Result]:
    with world_of(folder, plan) as world:
        while waiting:
            fault = waiting.pop(0)
            try:
                yield trial.run(world, fault, f"{seed}-{fault.name}")
            except AssertionError as why:  # a condition that never came
                yield trial.never(fault, seed, str(why))
                return


def engine_line() -> str:
    """Whether there is a real engine beside the simulated ones."""
    found = real_engine()
    return f"no real engine: {found}" if isinstance(found, str) else f"real engine: {name_of(found)}"


def line(result: Result) -> str:
    ends, of_engine = _told(result.ends), _told(result.engine_ends)
    ends += f" (of the real engine's: {of_engine})" if of_engine else ""
    told = f"{result.fault}: {ends}; slowest {result.slowest_s} s ({result.usual_s} s), well again {result.back_s} s"
    steps = [f"    {step}: {seconds} s" for step, seconds in result.steps.items()]
    return "\n".join([told, *steps, *(f"    {each[:400]}" for each in result.breaches)])


def _told(ends: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(ends.items()))


if __name__ == "__main__":
    sys.exit(main())
