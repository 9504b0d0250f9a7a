"""The callers, a process of their own: `python -m benchmarks.gateway.load`, jobs on stdin, results on stdout.

Open loop means that a call's time runs from when the schedule has it, not from when a connection was free for it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections import Counter

import uvloop

from benchmarks.gateway.callers import REFUSED, Caller, Expected, Question
from benchmarks.gateway.jobs import Job, Result, job_from, plain
from benchmarks.gateway.machine import raise_file_limit

_AGAIN_S = 0.01  # before a client that was refused a connection tries again


class Run:
    """One job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._loop = asyncio.get_running_loop()
        self._question, self._expected = Question(job), Expected(job)
        self._result = Result()
        self._errors: Counter[str] = Counter()
        self._begun = 0
        self._under_way = 0
        self._finished = asyncio.Event()
        self._free: list[Caller] = []
        self._all: set[Caller] = set()
        self._connecting: set[asyncio.Task[None]] = set()

    async def result(self) -> Result:
        job = self._job
        if job.arrivals_s:
            await self._connect_some(min(64, len(job.arrivals_s)))
            self._start_s = time.perf_counter()
            self._under_way = len(job.arrivals_s)
            for index, at_s in enumerate(job.arrivals_s):
                self._loop.call_later(at_s, self._arrive, index)
        else:
            await self._connect_some(job.clients)
            self._start_s = time.perf_counter()
            self._under_way = job.clients
            for client in range(job.clients):
                self._loop.call_later(job.spread_s * client / job.clients, self._next)
        watching = asyncio.create_task(self._watch())
        await self._finished.wait()
        watching.cancel()
        self._result.seconds = time.perf_counter() - self._start_s
        self._result.errors = dict(self._errors)
        for caller in self._all:
            caller.transport.abort()
        return self._result

    async def _connect_some(self, count: int) -> None:
        """Connections before the time runs; those that are refused are tried again by their first call."""
        made = await asyncio.gather(*(self._connect(index) for index in range(count)), return_exceptions=True)
        self._free = [each for each in made if isinstance(each, Caller)]

    async def _connect(self, index: int) -> Caller:
        port = self._job.ports[index % len(self._job.ports)]
        _, caller = await self._loop.create_connection(lambda: Caller(self._expected, self._done), "127.0.0.1", port)
        self._all.add(caller)
        return caller

    def _next(self) -> None:
        """A client of the closed loop begins its next call, or ends."""
        job = self._job
        now_s = time.perf_counter()
        is_over = self._begun >= job.clients if job.is_once else now_s - self._start_s >= job.seconds
        if is_over:
            self._leave()
            return
        index, self._begun = self._begun, self._begun + 1
        self._begin(index, now_s)

    def _arrive(self, index: int) -> None:
        self._begin(index, self._start_s + self._job.arrivals_s[index])

    def _begin(self, index: int, began_s: float) -> None:
        while self._free:
            caller = self._free.pop()
            if caller.is_open:
                self._ask(caller, index, began_s)
                return
            self._all.discard(caller)
        task = self._loop.create_task(self._begin_anew(index, began_s))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _begin_anew(self, index: int, began_s: float) -> None:
        try:
            caller = await self._connect(index)
        except OSError:
            self._errors[REFUSED] += 1
            await asyncio.sleep(_AGAIN_S)
            self._after()
            return
        self._ask(caller, index, began_s)

    def _ask(self, caller: Caller, index: int, began_s: float) -> None:
        number = self._job.first + (0 if self._job.is_alike else index)
        caller.ask(self._question.of(index, number), index, number, began_s)

    def _done(self, caller: Caller, fault: str) -> None:
        result = self._result
        if fault:
            self._errors[fault] += 1
        else:
            result.answers.append((caller.number, caller.began_s - self._start_s, time.perf_counter() - caller.began_s))
            result.frames += caller.frames
            if self._job.is_stream:
                result.first_us.append((caller.first_s - caller.began_s) * 1e6)
        if caller.is_open:
            self._free.append(caller)
        else:
            self._all.discard(caller)
        self._after()

    def _after(self) -> None:
        """A call ended: a client of the closed loop goes on."""
        if self._job.arrivals_s:
            self._leave()
        else:
            self._next()

    def _leave(self) -> None:
        self._under_way -= 1
        if self._under_way == 0:
            self._finished.set()

    async def _watch(self) -> None:
        """Calls end with the callers' patience."""
        while True:
            await asyncio.sleep(min(0.1, self._job.patience_s / 4))
            late_s = time.perf_counter() - self._job.patience_s
            for caller in [each for each in self._all if each.began_s < late_s]:
                caller.give_up()


async def serve() -> None:
    reader = asyncio.StreamReader(limit=2**26)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        result = await Run(job_from(json.loads(line))).result()
        gc.collect()
        print(json.dumps(plain(result)), flush=True)


if __name__ == "__main__":
    raise_file_limit()
    gc.disable()  # collected between jobs: no pause within one
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
