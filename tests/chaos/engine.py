"""A played instance that counts for itself what it does, and can be told to do wrong.

    python -m tests.chaos.engine CONFIG JOURNAL

It is the product's simulator with two things around it. The journal has a line of JSON for each call that it took and
for each end of one, written at once, so that a SIGKILL takes nothing from it; times are those of CLOCK_MONOTONIC, which
all processes of a machine share. What it does wrong is posted to /chaos as the fields of `Wrong`.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
import uvloop
from aiohttp import web

from orchestrator.core.dialects.frames import Stats
from orchestrator.core.dialects.parse import parse_call
from orchestrator.core.model import Endpoint
from orchestrator.nodes.simulator import calls
from orchestrator.nodes.simulator.config import load_config
from orchestrator.nodes.simulator.http import GoStream
from orchestrator.nodes.simulator.runner import Runner
from orchestrator.nodes.simulator.server import Simulator
from orchestrator.nodes.simulator.work import Work

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CALL = re.compile(rb"\[call ([\w-]+)\]")
GARBAGE = b'{"model":"small:1b","message":{"role":"assis\n'
REFUSALS = {
    "error": (500, "something is broken here"),
    "busy": (503, "server busy, please try again.  maximum pending requests exceeded"),
}


@dataclass(frozen=True, slots=True)
class Wrong:
    """What it does wrong from now on; nothing, by default.

    `what`: "die" (SIGKILL, by its own hand), "torn" (the same, when half a frame is written), "hang" (nothing more
    comes), "eof" (the connection is closed), "half" (the same, in the middle of a frame), "done" (the stream ends as
    HTTP has it, without its last frame), "garbage" (a frame that is no JSON, and on), "error" (500 before anything),
    "busy" (503 before anything, as with a full queue).
    `after`: so many frames of a stream; 0, and of whole answers: before the first byte. `left`: so many calls meet it;
    -1: all. `slower`: each step of the card takes so many times its time, in addition to what is wrong.
    `only_streams`: whole answers are given as ever.
    """

    what: str = ""
    after: int = 0
    left: int = -1
    slower: float = 1.0
    only_streams: bool = False


@dataclass(slots=True)
class Served:
    """One call on its way: what it will meet, and what was written of its answer."""

    number: int
    wrong: Wrong
    request: web.Request
    goes_on: asyncio.Event
    frames: int = 0
    is_cut_short: bool = False
    is_garbled: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    is_whole: bool = False


_NOW: ContextVar[Served | None] = ContextVar("now", default=None)


class Journal:
    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, event: str, **more: Any) -> None:
        os.write(self._file, orjson.dumps({"at_s": time.monotonic(), "event": event, **more}) + b"\n")


class Trouble:
    """The middleware: counts calls, and lets those that shall meet something meet it."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.wrong = Wrong()
        self.goes_on = asyncio.Event()  # whoever hangs hangs until something else is told
        self._left = -1
        self._numbers = iter(range(10**9))

    def tell(self, wrong: Wrong) -> None:
        self.wrong, self._left = wrong, wrong.left
        self.goes_on.set()
        self.goes_on = asyncio.Event()
        self.journal.write("told", **asdict(wrong))

    @web.middleware
    async def serve(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path == "/chaos":
            self.tell(Wrong(**orjson.loads(await request.read())))
            return web.Response(text="so be it\n")
        raw = await request.read()
        found = CALL.search(raw)
        if request.method != "POST" or found is None:
            return await handler(request)
        call = parse_call(Endpoint(request.path), raw)
        served = Served(next(self._numbers), self._next(is_stream=call.is_stream), request, self.goes_on)
        self.journal.write("took", n=served.number, id=found[1].decode(), model=call.model, meets=served.wrong.what)
        token = _NOW.set(served)
        try:
            return await _serve(served, request, handler)
        finally:
            _NOW.reset(token)
            told = {"whole": served.is_whole, "frames": served.frames}
            tokens = {"prompt_tokens": served.prompt_tokens, "completion_tokens": served.completion_tokens}
            self.journal.write("ended", n=served.number, **told, **tokens)

    def _next(self, *, is_stream: bool) -> Wrong:
        """What the next call meets."""
        wrong = self.wrong
        if not wrong.what or self._left == 0 or (wrong.only_streams and not is_stream):
            return Wrong()
        self._left -= 1
        return wrong


async def _serve(served: Served, request: web.Request, handler: Handler) -> web.StreamResponse:
    wrong = served.wrong
    if wrong.what in REFUSALS:
        status, text = REFUSALS[wrong.what]
        return web.json_response({"error": text}, status=status)
    if wrong.what and wrong.after == 0:
        await _fall_silent(served)
    response = await handler(request)
    if isinstance(response, web.Response) and wrong.what:
        if wrong.what == "garbage":
            return web.Response(status=200, body=GARBAGE, content_type="application/json")
        await _fall_silent(served)
    served.is_whole = served.completion_tokens > 0 and not (served.is_cut_short or served.is_garbled)
    return response


async def _fall_silent(served: Served) -> None:
    """Be dead, or cut off, from here on; or hang, and go on once all is well again."""
    if served.wrong.what in ("die", "torn"):
        os.kill(os.getpid(), signal.SIGKILL)
    if served.wrong.what == "hang":
        await served.goes_on.wait()
    if served.wrong.what in ("eof", "half") and served.request.transport is not None:
        served.request.transport.close()
        await asyncio.Event().wait()  # until the lost connection cancels it


class TroubledStream(GoStream):
    """A streamed answer that goes wrong after some of its frames."""

    async def send(self, frame: bytes) -> None:
        served = _NOW.get()
        if served is None:
            await super().send(frame)
            return
        wrong = served.wrong
        if wrong.what and served.frames == wrong.after > 0:
            if wrong.what == "done":
                served.is_cut_short = True
                await self.write_eof()
            elif wrong.what == "garbage":
                served.is_garbled = True
                await super().send(GARBAGE)
            elif wrong.what in ("half", "torn"):
                await super().send(frame[: len(frame) // 2])
                await _fall_silent(served)
            else:
                await _fall_silent(served)
        if not served.is_cut_short:
            await super().send(frame)
        served.frames += 1


def played(config: Path, journal: Journal) -> Simulator:
    """The simulator, with its calls counted and in for trouble."""
    trouble = Trouble(journal)
    usual_stats, usual_step_s = calls._stats, Runner._step_s

    def stats(work: Work, load_s: float) -> Stats:
        told = usual_stats(work, load_s)
        if (served := _NOW.get()) is not None:
            served.prompt_tokens, served.completion_tokens = told.prompt_tokens, told.completion_tokens
        return told

    def step_s(runner: Runner, prompt_tokens: int, writing: Sequence[Work]) -> float:
        return usual_step_s(runner, prompt_tokens, writing) * trouble.wrong.slower

    calls._stats, calls.GoStream, Runner._step_s = stats, TroubledStream, step_s  # type: ignore[method-assign]
    simulator = Simulator(load_config(config))
    simulator._runner.app.middlewares.append(trouble.serve)
    return simulator


async def serve(config: Path, journal: Path) -> None:
    asked_to_stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked_to_stop.set)
    book = Journal(journal)
    simulator = played(config, book)
    await simulator.start()
    book.write("began", slots=max(each.slots for each in load_config(config).models))
    print("simulated, and in for trouble", flush=True)
    try:
        await asked_to_stop.wait()
    finally:
        await simulator.stop()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1]), Path(sys.argv[2])))
