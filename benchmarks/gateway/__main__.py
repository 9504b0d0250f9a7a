"""What does the gateway add to a call? CPU, time and memory, beside nginx and beside nothing, in one run.

    python -m benchmarks.gateway [--rounds 3] [--seconds 1]

Six scripted instances behind each contender; contenders in turn within a round, medians over rounds, ratios taken
inside a round. CPU is user and system time of the contender's processes (the gateway's: one worker and its Valkey),
divided by what was answered. The contender has the first core, callers and instances have the others.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path

from benchmarks.gateway.contenders import CORE_OF_CONTENDER, MODEL, Contender, gateway, instances, nginx
from benchmarks.gateway.load import Job, Result
from tests.nodes.simulators import ROOT

STREAMS = ((40, 10), (200, 20))  # streams at once, ms between the frames of one
STREAM_S = 3.0
CALLERS = (1, 16, 64)

Table = dict[str, dict[str, list[float]]]


async def run(job: Job) -> Result:
    command = [sys.executable, "-m", "benchmarks.gateway.load", json.dumps(asdict(job))]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=subprocess.PIPE)
    async with asyncio.timeout(job.seconds + STREAM_S + 30):
        out, _ = await process.communicate()
    assert process.returncode == 0, f"the load failed: {job}"
    return Result(**json.loads(out))


async def measure(contender: Contender, name: str, job: Job, table: Table) -> Result:
    """One cell: the job's cost on this contender, per frame where it streams, otherwise per call."""
    before = {root: contender.cpu_s(root) for root in contender.roots}
    result = await run(job)
    answered = result.frames or result.calls
    used_us = {root: (contender.cpu_s(root) - before[root]) / answered * 1e6 for root in contender.roots}
    if used_us:
        table[f"CPU µs {name}"][contender.name].append(sum(used_us.values()))
    if "valkey" in used_us and not result.frames:
        table[f"CPU µs {name}, of which Valkey's"][contender.name].append(used_us["valkey"])
    return result


async def round_of(contender: Contender, seconds: float, table: Table) -> None:
    """Everything that all contenders can do, once."""
    for clients in CALLERS:
        job = Job(contender.ports, MODEL, clients, seconds)
        result = await measure(contender, f"a request, {clients:2} clients", job, table)
        if clients == 1:
            table["p50 µs, 1 client"][contender.name].append(result.p50_us)
            table["p99 µs, 1 client"][contender.name].append(result.p99_us)
        table[f"requests/s, {clients:2} clients"][contender.name].append(result.calls / seconds)
    for streams, gap_ms in STREAMS:
        job = Job(contender.ports, MODEL, streams, frames=int(STREAM_S * 1000 / gap_ms), gap_ms=gap_ms)
        name = f"a frame, {streams} streams {gap_ms} ms apart"
        running = asyncio.create_task(measure(contender, name, job, table))
        if streams == STREAMS[-1][0] and contender.roots:
            await asyncio.sleep(STREAM_S * 0.7)
            table[f"PSS MiB, {streams} streams open"][contender.name].append(contender.memory_mib())
        await running


async def features_of(contender: Contender, seconds: float, table: Table) -> None:
    """What only the gateway does: the router's part, an answer kept, an answer given from the cache."""
    seen: Table = defaultdict(lambda: defaultdict(list))
    jobs = {
        "kept in the cache": Job(contender.ports, MODEL, 16, seconds, is_unlike=True),
        "scored by the router, kept": Job(contender.ports, "auto", 16, seconds, is_unlike=True),
        "from the cache": Job(contender.ports, "auto", 16, seconds),
    }
    for name, job in jobs.items():
        await measure(contender, name, job, seen)
    for name, by in seen.items():
        table[f"{name}, 16 clients"]["gateway"] += by["gateway"]


def draw(table: Table) -> Sequence[str]:
    names = ("direct", "nginx", "gateway")
    lines = [f"| | {' | '.join(names)} | ÷ nginx |", "|---|---|---|---|---|"]
    for name, by in table.items():
        cells = [
            f"{statistics.median(by[each]):,.0f}" if by.get(each) else "–" for each in ("direct", "nginx", "gateway")
        ]
        ratio = "–"
        if by.get("nginx") and by.get("gateway"):
            ratios = [ours / theirs for ours, theirs in zip(by["gateway"], by["nginx"], strict=True)]
            ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
        lines.append(f"| {name} | {' | '.join(cells)} | {ratio} |")
    return lines


async def main(rounds: int, seconds: float) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("two cores are needed: one for the contender, one for callers and instances")
    os.sched_setaffinity(0, set(cores) - {cores[CORE_OF_CONTENDER]})
    table: Table = defaultdict(lambda: defaultdict(list))
    async with AsyncExitStack() as stack:
        ports = stack.enter_context(instances(6))
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))) for _ in range(2)]
        peer = stack.enter_context(nginx(folders[0], ports))
        ours = await stack.enter_async_context(gateway(folders[1], ports))
        for each in (peer, ours):
            each.pin()
            await run(Job(each.ports, MODEL, 16, seconds=0.5))  # warm
        for number in range(rounds):
            print(f"round {number + 1} of {rounds} …", file=sys.stderr)
            for each in (Contender("direct", ports, {}), peer, ours):
                await round_of(each, seconds, table)
            await features_of(ours, seconds, table)
    print(f"{len(cores)} cores, {_cpu()}, {platform.system()} {platform.release()}, Python {platform.python_version()}")
    print(f"{rounds} rounds, {seconds:g} s a cell; median, and in brackets the lowest and highest ratio of a round\n")
    print("\n".join(draw(table)))


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0)
    asked = parser.parse_args()
    asyncio.run(main(asked.rounds, asked.seconds))
