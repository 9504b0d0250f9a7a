"""What every scenario runs on: instances and callers, a process each, and contenders between them."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.gateway import machine
from benchmarks.gateway.contenders import ROOT, CannotMeasure, Contender, Kind, NotInstalled, Place, free_port, start
from benchmarks.gateway.jobs import INSTANCES, Job, Result, Setup, plain, result_from
from benchmarks.gateway.table import Table

DIRECT = "direct"
_WARM_S = 0.2


class Spoken:
    """A process that answers each JSON line by one."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def started(cls, module: str, *arguments: str, greets: bool = False) -> Spoken:
        pipe = asyncio.subprocess.PIPE
        command = [sys.executable, "-m", f"benchmarks.gateway.{module}", *arguments]
        # In a session of its own Ctrl-C does not reach it: it ends when nobody is left to tell it anything.
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, stdin=pipe, stdout=pipe, limit=2**28, start_new_session=True
        )
        spoken = cls(process)
        if greets:
            try:
                await spoken._heard()
            except asyncio.CancelledError:
                process.kill()
                await process.wait()
                raise
        return spoken

    async def ask(self, told: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(told).encode() + b"\n")
        return await self._heard()

    async def _heard(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise CannotMeasure("instances or callers ended; what they said is above")
        heard: dict[str, Any] = json.loads(line)
        return heard

    def cpu_s(self) -> float:
        return machine.cpu_s(self._process.pid)

    async def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()


@dataclass(frozen=True, slots=True)
class Measured:
    """A job's result and the seconds of CPU it cost the contender's parts."""

    result: Result
    cpu_s: dict[str, float]
    others_cpu_s: float  # of callers and instances


class Rig:
    """Instances, callers, and the contenders of the scenario under way."""

    def __init__(self, instances: Spoken, callers: Spoken, ports: tuple[int, ...], temperature: float) -> None:
        self._instances, self._callers = instances, callers
        self.ports = ports
        self._temperature = temperature
        self._numbers = itertools.count(time.time_ns() // 1000, 10_000_000)  # none that an earlier run asked
        self.random = Random()  # the order of contenders; what is asked has seeds of its own
        self.contenders: list[Contender] = []

    async def run(self, contender: Contender, job: Job) -> Measured:
        """Callers do `job`, alone."""
        asked = replace(
            job, ports=contender.ports, prefix=contender.prefix, dialect=contender.dialect,
            temperature=self._temperature, first=job.first or self.number(),
        )  # fmt: skip
        before_s, others_before_s = contender.cpu_s(), self._others_cpu_s()
        result = result_from(await self._callers.ask(plain(asked)))
        used_s = {part: after_s - before_s[part] for part, after_s in contender.cpu_s().items()}
        return Measured(result, used_s, self._others_cpu_s() - others_before_s)

    def _others_cpu_s(self) -> float:
        return self._callers.cpu_s() + self._instances.cpu_s()

    def number(self) -> int:
        """The first of numbers that nobody asked yet: no answer kept earlier fits."""
        return next(self._numbers)

    async def behave(self, setup: Setup) -> None:
        await self._instances.ask({"setup": plain(setup)})

    async def fault(self, index: int, fault: str) -> None:
        """`down`, `reset`, `500`, `hang` or `break`; empty ends it."""
        await self._instances.ask({"fault": fault, "index": index})

    async def report(self) -> dict[str, Any]:
        """What instances counted since they were last told how to behave."""
        return await self._instances.ask({"report": True})

    def shuffled(self) -> list[Contender]:
        return self.random.sample(self.contenders, len(self.contenders))

    @asynccontextmanager
    async def standing(self, kinds: Mapping[str, Kind], setup: Setup, cores: set[int]) -> AsyncIterator[None]:
        """Contenders started for `setup`, and warm; one that is not installed is left out."""
        await self.behave(setup)
        with ExitStack() as stack:

            async def begin(name: str, kind: Kind) -> Contender | None:
                folder = Path(tempfile.mkdtemp(prefix=f"bench-{name}-"))
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
                further = tuple(free_port() for _ in range(kind.doors - 1))
                place = Place(folder, kind.port or free_port(), self.ports, setup, further)
                try:
                    return await start(name, kind, place, stack, cores)
                except NotInstalled as why:
                    print(f"{name} is left out: it is not installed ({why})", file=sys.stderr)
                    return None

            beginning = [asyncio.create_task(begin(name, kind)) for name, kind in kinds.items()]
            try:
                await asyncio.wait(beginning)  # all of them, also where one fails: only then is the stack complete
            finally:
                for each in beginning:
                    each.cancel()  # those that an interruption found at work
                await asyncio.wait(beginning)
            begun = [each.result() for each in beginning]
            self.contenders = [Contender(DIRECT, self.ports), *filter(None, begun)]
            for each in self.contenders[1:]:
                await self.run(each, Job((), clients=16, seconds=_WARM_S, models=setup.models))
            yield


# Measures all contenders in so many rounds, with so many seconds a cell.
Measure = Callable[[Rig, Table, int, float], Awaitable[None]]


@asynccontextmanager
async def rig(ports: tuple[int, ...], temperature: float = 0.0) -> AsyncIterator[Rig]:
    """Six instances on `ports`, and callers."""
    assert len(ports) == INSTANCES
    instances = await Spoken.started("instance", *map(str, ports), greets=True)
    callers = await Spoken.started("load")
    try:
        yield Rig(instances, callers, ports, temperature)
    finally:
        await callers.end()
        await instances.end()


def quantile(values: Sequence[float], part: float) -> float:
    """The value that `part` of them do not exceed; not a number if there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else float("nan")
