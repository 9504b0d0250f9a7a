"""Six scripted Ollama instances in one process: `python -m benchmarks.gateway.instance PORT…`.

How a call is answered stands in its prompt, `[[FRAMES GAP_US WORK_US NUMBER]]`: after so much work, with so many frames
(a stream) or words (a body), and with its number repeated. Nothing else of it is read but the model's name, and whether
an answer was begun elsewhere, which is gone on with: what is measured is what stands before it. How the instances
behave is told on stdin, JSON lines answered by one each.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Callable
from typing import Any, cast

import httptools
import uvloop

from benchmarks.gateway import replies
from benchmarks.gateway.engine import Engine, Work
from benchmarks.gateway.jobs import MODEL, setup_from
from benchmarks.gateway.machine import raise_file_limit

_MARK = re.compile(rb"\[\[(\d+) (\d+) (\d+) (\d+)\]\]")
_MODEL = re.compile(rb'"model":\s*"([^"]+)"')
_IS_STREAM = re.compile(rb'"stream":\s*true')
_IS_NO_STREAM = re.compile(rb'"stream":\s*false')
_ASKS = re.compile(rb'"messages":\s*\[\s*\{|"prompt":\s*"[^"]')
_IS_UNLOAD = re.compile(rb'"keep_alive":\s*"?0')
_BEGUN = re.compile(rb'"role":"assistant","content":"(\d+ (?:word )*)"')
_UNMARKED = b"[[3 0 0 0]]"  # a gateway that asks something of its own
_FAILED = replies.reply(b'{"error":"llama runner process has terminated"}', b"500 Internal Server Error")


class Conversation(asyncio.Protocol):
    """One connection to one instance, one call at a time."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._url, self._body = b"", b""
        self._work: Work | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._instance.open.add(self)

    def connection_lost(self, why: Exception | None) -> None:
        self._instance.open.discard(self)
        self._finish()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_body(self, piece: bytes) -> None:
        self._body = self._body + piece if self._body else piece

    def on_message_complete(self) -> None:
        url, body, self._body = self._url, self._body, b""
        mark = _MARK.search(body)
        if mark is not None:
            if not self._fails():
                self._serve(url.decode(), body, mark)
        elif url.startswith((b"/api/chat", b"/api/generate", b"/v1/chat/")):
            if not self._fails():
                self._serve_own(url.decode(), body)
        else:
            self.transport.write(self._instance.tell(url.decode(), self._parser.get_method() == b"HEAD"))

    def _serve_own(self, path: str, body: bytes) -> None:
        """A gateway's own call: a probe, a load or an unload."""
        if _ASKS.search(body):
            self._serve(path, body, cast(re.Match[bytes], _MARK.match(_UNMARKED)))
            return
        model, reason = _model_of(body), "load"
        if _IS_UNLOAD.search(body):
            self._instance.engine.unload()
            reason = "unload"
        answer = replies.emptied(model, reason)

        def start() -> None:
            self.transport.write(answer)
            self._finish()

        self._work = Work(0, model if reason == "load" else self._instance.engine.resident, 0, start)
        self._instance.engine.take(self._work)

    def _fails(self) -> bool:
        fault = self._instance.engine.fault
        if fault == "reset":
            self.transport.abort()
        elif fault == "500":
            self.transport.write(_FAILED)
        return fault in ("reset", "500", "hang")

    def _serve(self, path: str, body: bytes, mark: re.Match[bytes]) -> None:
        model = _model_of(body)
        dialect = replies.dialect_of(path, model)
        assert dialect is not None, path
        frames, gap_us, work_us = int(mark[1]), int(mark[2]), int(mark[3])
        begun = _BEGUN.search(body)
        said = begun[1].count(b" ") if begun else 0
        is_stream = bool(_IS_STREAM.search(body)) or (path.startswith("/api/") and not _IS_NO_STREAM.search(body))

        def answer() -> None:
            if is_stream:
                self._stream(dialect, b"" if said else mark[4], frames - said, gap_us)
            else:
                self.transport.write(dialect.whole(mark[4], frames))
                self._finish()

        def start() -> None:
            if work_us:
                self._timer = self._loop.call_later(work_us / 1e6 / self._instance.engine.speed, answer)
            else:
                answer()

        self._work = Work(int(mark[4]), model, work_us, start)
        self._instance.engine.take(self._work)

    def _stream(self, dialect: replies.Dialect, number: bytes, frames: int, gap_us: int) -> None:
        """So many frames; the first repeats the number, unless it was said before."""
        if not frames:
            self.transport.write(dialect.head + dialect.end)
            self._finish()
            return
        first = dialect.head + (dialect.first(number) if number else dialect.word)
        if not gap_us and self._instance.engine.fault != "break":
            self._write_each([first, *[dialect.word] * (frames - 1), dialect.end])
            self._finish()
            return
        self.transport.write(first)
        gap_s = gap_us / 1e6
        at_s = self._loop.time() + gap_s
        self._timer = self._loop.call_at(at_s, self._frame, dialect, frames - 1, frames // 2, gap_s, at_s)

    def _write_each(self, pieces: list[bytes]) -> None:
        """Each piece in a write of its own, as Ollama flushes each frame: a transport would put them together."""
        descriptor = self.transport.get_extra_info("socket").fileno()
        for number, piece in enumerate(pieces):
            try:
                written = os.write(descriptor, piece)
            except BlockingIOError:
                written = 0
            except OSError:
                return  # the caller left; the transport is told so too
            if written < len(piece):
                self.transport.write(b"".join([piece[written:], *pieces[number + 1 :]]))
                return

    def _frame(self, dialect: replies.Dialect, left: int, middle: int, gap_s: float, at_s: float) -> None:
        if left == 0:
            self.transport.write(dialect.end)
            self._finish()
            return
        if left <= middle and self._instance.engine.fault == "break":
            self.transport.abort()
            return
        self.transport.write(dialect.word)
        self._timer = self._loop.call_at(at_s + gap_s, self._frame, dialect, left - 1, middle, gap_s, at_s + gap_s)

    def _finish(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._work is not None:
            work, self._work = self._work, None
            self._instance.engine.end(work)


class Instance:
    """One port: its engine, and the connections to it."""

    def __init__(self, index: int, port: int) -> None:
        self.engine = Engine(index)
        self.open: set[Conversation] = set()
        self._port = port
        self._server: asyncio.Server | None = None

    async def listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Conversation(self), "127.0.0.1", self._port, backlog=4096)

    async def fail(self, fault: str) -> None:
        """`down`: nothing listens and all connections end; `""`: all is well again, and what hung is cut."""
        before, self.engine.fault = self.engine.fault, fault
        if "down" in (fault, before) or before == "hang":
            for each in tuple(self.open):
                each.transport.abort()
        if fault == "down":
            assert self._server is not None
            self._server.close()
        elif before == "down":
            await self.listen()

    def tell(self, path: str, is_head: bool) -> bytes:
        """The answer to what is no call of the benchmark's: what a gateway asks for its own purposes."""
        engine = self.engine
        answers: dict[str, Callable[[], bytes]] = {
            "/": lambda: replies.reply(b"Ollama is running"),
            "/api/version": replies.version,
            "/api/tags": lambda: replies.tags(engine.setup.models),
            "/api/ps": lambda: replies.resident(engine.resident),
            "/api/show": replies.shown,
            "/v1/models": lambda: replies.openai_models(engine.setup.models),
        }
        if path in answers:
            answer = answers[path]()
            return answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if is_head else answer
        return replies.reply(b'{"error":"not scripted"}', b"404 Not Found")


async def obey(instances: list[Instance], told: dict[str, Any]) -> dict[str, Any]:
    """One line from stdin: `setup`, `fault` (with `index`), or `report`."""
    if "setup" in told:
        for each in instances:
            each.engine.behave(setup_from(told["setup"]))
    elif "fault" in told:
        await instances[told["index"]].fail(told["fault"])
    elif "report" in told:
        return {
            "resident": [each.engine.resident for each in instances],
            "loads": sum(each.engine.seen.loads for each in instances),
            "most_waiting": max(each.engine.seen.most_waiting for each in instances),
            "works_s": {number: s for each in instances for number, s in each.engine.seen.works_s.items()},
        }
    return {}


async def serve(ports: list[int]) -> None:
    instances = [Instance(index, port) for index, port in enumerate(ports)]
    for each in instances:
        try:
            await each.listen()
        except OSError as why:
            raise SystemExit(f"{why}: another run? --first-port moves the instances") from why
    print("{}", flush=True)
    reader = asyncio.StreamReader(limit=2**26)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        print(json.dumps(await obey(instances, json.loads(line))), flush=True)


def _model_of(body: bytes) -> str:
    named = _MODEL.search(body)
    return named[1].decode() if named else MODEL


if __name__ == "__main__":
    raise_file_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve([int(each) for each in sys.argv[1:]]))
