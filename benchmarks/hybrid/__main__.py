"""Does the owner's hybrid plan carry 500 users, and what do its parts bring?

    python -m benchmarks.hybrid [--users 500] [--minutes 2] [--think 30] [--answer 100] [--seed 1] [--only hybrid,…]
                                [--together]

hybrid      4 servers with the 3B model and 2 with the 8B model, one card each: cache, router, queue
pure 8B     the same six cards, the 8B model on all of them, no cache: the gateway's queue alone
least_conn  the same instances, nginx straight over them by `ollamactl nginx render --direct`
two cards   cache, router and queue before the cheapest plan of two tiers by `ollamactl capacity`

Users think, ask, read to the end and think again; of their questions 60 in 100 were asked before, 30 are easy and 10
hard. Gateway, Redis, cache, router and controller are the real ones, in real time. Cards and models are played: one
process an instance, at the card's pace. The numbers of users carried are those of the simulation in `core/capacity`.
`--together`: all setups at the same time, each with users of its own, on whatever cores there are; an hour is an hour.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import uvloop

from benchmarks.gateway.machine import cpu_s, raise_file_limit, tree
from benchmarks.hybrid.questions import REPEATED, repeated
from benchmarks.hybrid.setups import ROOT, SETUPS, Setup, running
from benchmarks.hybrid.told import Measured, beside_simulation, draw, table
from benchmarks.hybrid.users import use, warm
from orchestrator.core.capacity.demand import Load
from orchestrator.core.capacity.seen import quantile
from orchestrator.whole_file import write_whole

PROMPT_TOKENS = 30.0  # about what these questions come to with the template around them
WARM_SHARE = 0.25  # of the time measured: goes before it, for two minutes at most
MOST_WARM_S = 120.0
FOLDER = Path(__file__).parent
DRAWING = ROOT / "docs" / "drawings" / "hybrid.svg"


def measure(setups: Sequence[Setup], load: Load, seconds: float, seed: int, folder: Path) -> list[Measured]:
    """Setups started, asked at the same time, each by its own users, and ended."""
    with ExitStack() as all_up:
        up = [all_up.enter_context(running(each, folder / str(place))) for place, each in enumerate(setups)]
        return uvloop.run(_asked(setups, up, load, seconds, seed))


async def _asked(
    setups: Sequence[Setup], up: Sequence[tuple[int, int]], load: Load, seconds: float, seed: int
) -> list[Measured]:
    for setup, (port, _) in zip(setups, up, strict=True):
        if setup.has_tiers:
            await warm(port, setup.asks, repeated(load))
    warm_s = min(seconds * WARM_SHARE, MOST_WARM_S)
    before_s, own_s, began_s = [_cpu_of(pid) for _, pid in up], time.process_time(), time.monotonic()
    seen = await asyncio.gather(
        *(use(port, each.asks, load, seed, warm_s, seconds) for each, (port, _) in zip(setups, up, strict=True))
    )
    took_s = time.monotonic() - began_s
    own = (time.process_time() - own_s) / took_s / len(setups)
    cores = [(_cpu_of(pid) - was_s) / took_s for (_, pid), was_s in zip(up, before_s, strict=True)]
    return [Measured(*each, seconds, used, own) for *each, used in zip(setups, map(tuple, seen), cores, strict=True)]


def _cpu_of(up: int) -> float:
    return sum(map(cpu_s, tree(up)))


def results(measured: Sequence[Measured], load: Load, given: argparse.Namespace, loads: Sequence[float]) -> str:
    """The text of RESULTS.md."""
    late = sorted(each.late_s for one in measured for each in one.seen)
    busy = ", ".join(f"{each:.1f}" for each in loads)
    cores, mix = len(os.sched_getaffinity(0)), load.mix
    kinds = f"{100 * mix.cache:.0f} were asked before ({REPEATED} texts, answered before the measuring)"
    together = " --together" if given.together else ""
    side = "at the same time, on the same cores" if given.together else "one after the other"
    warm_s = min(given.minutes * 60 * WARM_SHARE, MOST_WARM_S)
    return f"""# The hybrid plan alive: {load.users} users, six cards

**Question:** does the owner's hybrid plan carry {load.users} users, what do cache, tiers and queue bring beside the 8B
model on the same cards, and does the simulation of `ollamactl capacity` say the same?

**Command:** `python -m benchmarks.hybrid --users {load.users} --minutes {given.minutes:g}{together}`, in real time

**Machine:** {cores} cores, shared with other work (load average before: {busy}); setups ran {side}

{load.users} users who think {load.think_s:g} s; {load.answer_tokens:g} tokens answered on average, lognormal; about
{load.prompt_tokens:g} asked. Of 100 questions {kinds}, {100 * mix.small:.0f} are easy, {100 * mix.full:.0f} are hard.
{given.minutes:g} minutes are counted for each setup, after {warm_s:g} s that are not.

{table(measured, load, given.seed)}

What is real: gateway (one worker a core), Redis, cache, router, controller, nginx, and every byte between them. What is
played: cards and models, a process an instance, at the pace of the card's published figures; further slots cost those
engines memory reads alone, so they are faster with many slots than real cards are. No answer means anything.

How often each kind of question comes is given; which tier answers it is the router's word, and the cache's. Prices are
rents of cards ([how](../../docs/capacity.md)), beside what the documents say the plan costs.

## Beside the simulation

`core/capacity` played {120 * load.think_s / 60:g} minutes of the same plans, with the same engines' physics:

{beside_simulation(measured, load, given.seed)}

Users were asked for by one process; it asked {quantile(late, 0.99) * 1000:.0f} ms late at the 99th percentile.

![answers whole within so long](../../docs/drawings/hybrid.svg)
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--think", type=float, default=30.0)
    parser.add_argument("--answer", type=float, default=100.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--together", action="store_true", help="all setups at the same time")
    parser.add_argument("--only", default=",".join(SETUPS), help="setups, with commas between")
    parser.add_argument("--results", type=Path, default=FOLDER / "RESULTS.md")
    parser.add_argument("--drawing", type=Path, default=DRAWING)
    given = parser.parse_args(arguments)
    raise_file_limit()
    load = Load(given.users, given.think, prompt_tokens=PROMPT_TOKENS, answer_tokens=given.answer)
    measured: list[Measured] = []
    loads: list[float] = []
    setups = [SETUPS[name] for name in given.only.split(",")]
    with tempfile.TemporaryDirectory(prefix="hybrid-") as folder:
        for place, some in enumerate([setups] if given.together else [[each] for each in setups]):
            loads.append(os.getloadavg()[0])
            below = Path(folder) / str(place)
            below.mkdir()
            for found in measure(some, load, given.minutes * 60, given.seed, below):
                print(f"{found.setup.name}: {len(found.seen)} calls", flush=True)
                measured.append(found)
    text = results(measured, load, given, loads)
    print(text)
    write_whole(given.results, text)
    draw(given.drawing, measured, load)


if __name__ == "__main__":
    main()
