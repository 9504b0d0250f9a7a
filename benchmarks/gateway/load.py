"""The callers, a process of their own: `python -m benchmarks.gateway.load JOB`, a job and its result as JSON lines.

Every answer is checked: its status, and that it is whole. One that is not ends the run.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass

import httptools
import uvloop


@dataclass(frozen=True, slots=True)
class Job:
    """`clients` that ask one after the other for `seconds`, or one stream each where `frames` is not 0."""

    ports: tuple[int, ...]
    model: str
    clients: int
    seconds: float = 0.0
    frames: int = 0
    gap_ms: int = 0
    is_unlike: bool = False  # each call asks something else: no cached answer fits


@dataclass(frozen=True, slots=True)
class Result:
    calls: int
    frames: int
    p50_us: float
    p99_us: float


class Caller(asyncio.Protocol):
    """One kept-alive connection."""

    def __init__(self) -> None:
        self._answered: asyncio.Future[bytes] | None = None
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]

    def connection_lost(self, why: Exception | None) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(ConnectionError("cut off"))

    def ask(self, request: bytes) -> asyncio.Future[bytes]:
        self._answered = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self.transport.write(request)
        return self._answered

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, piece: bytes) -> None:
        self._body.append(piece)

    def on_message_complete(self) -> None:
        assert self._answered is not None
        body, self._body = b"".join(self._body), []
        status = self._parser.get_status_code()
        if status != 200 or b'"done":true' not in body[-400:]:
            self._answered.set_exception(AssertionError(f"{status}: {body[-300:]!r}"))
        else:
            self._answered.set_result(body)


def request(job: Job, number: int) -> bytes:
    """A chat of some 200 bytes, of the kind that clients send."""
    text = f"Summarise ticket {number if job.is_unlike else 4711} in one sentence, please."
    body = {"model": job.model, "messages": [{"role": "user", "content": text}], "stream": bool(job.frames)}
    options = {"num_predict": job.frames or 20, "top_k": job.gap_ms, "temperature": 0 if job.is_unlike else 0.7}
    raw = json.dumps({**body, "options": options}).encode()
    head = f"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}"
    return head.encode() + b"\r\n\r\n" + raw


async def run(job: Job) -> Result:
    loop = asyncio.get_running_loop()
    callers = []
    for number in range(job.clients):
        _, caller = await loop.create_connection(Caller, "127.0.0.1", job.ports[number % len(job.ports)])
        callers.append(caller)
    took: list[float] = []
    frames = 0
    stop_s = time.perf_counter() + job.seconds

    first = time.monotonic_ns()  # no question of an earlier run is asked again

    async def calls(caller: Caller, index: int) -> None:
        number = first + index
        while time.perf_counter() < stop_s:
            began_s = time.perf_counter()
            await caller.ask(request(job, number))
            took.append(time.perf_counter() - began_s)
            number += job.clients

    async def stream(caller: Caller, index: int) -> None:
        nonlocal frames
        await asyncio.sleep(job.gap_ms / 1000 * index / job.clients)  # frames of all streams in turn, not in a burst
        began_s = time.perf_counter()
        body = await caller.ask(request(job, first + index))
        took.append(time.perf_counter() - began_s)
        counted = body.count(b"\n")
        assert counted == job.frames + 1, f"{counted} frames instead of {job.frames + 1}"
        frames += counted

    await asyncio.gather(*((stream if job.frames else calls)(each, index) for index, each in enumerate(callers)))
    for caller in callers:
        caller.transport.close()
    took.sort()
    return Result(len(took), frames, took[len(took) // 2] * 1e6, took[len(took) * 99 // 100] * 1e6)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        told = json.loads(sys.argv[1])
        print(json.dumps(asdict(runner.run(run(Job(**{**told, "ports": tuple(told["ports"])}))))))
