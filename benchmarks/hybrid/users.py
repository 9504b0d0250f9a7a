"""Users who think, ask, read the answer as it streams, and think again: all in one process, a connection a call."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, cast

from benchmarks.hybrid.questions import Question, asked_by
from orchestrator.core.capacity.demand import Load

TIMEOUT_S: Final = 120.0
_END: Final = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Seen:
    """One call as its user saw it. `late_s`: how much later than meant this process asked it."""

    kind: str
    tier: str
    is_whole: bool
    ended_s: float
    took_s: float
    first_s: float
    queue_s: float
    late_s: float


class _Exchange(asyncio.Protocol):
    """One request and its answer, of which only head, first byte and end are looked at."""

    def __init__(self, request: bytes) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.head: dict[str, str] = {}
        self.status = 0
        self.is_whole = False
        self.first_s = self.ended_s = 0.0
        self._request, self._buffer, self._tail = request, bytearray(), b""
        self._left: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is one, and does not say so
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self.status:
            self._buffer += data
            head, found, data = bytes(self._buffer).partition(b"\r\n\r\n")
            if not found:
                return
            self._read_head(head.decode())
        if not data:
            return
        self.first_s = self.first_s or time.perf_counter()
        self._tail = (self._tail + data)[-64:]
        if self._left is not None:
            self._left -= len(data)
        if self._left == 0 or (self._left is None and self._tail.endswith(_END)):
            self._end(is_whole=self.status == 200)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(is_whole=False)

    def _read_head(self, head: str) -> None:
        lines = head.split("\r\n")
        self.status = int(lines[0].split()[1])
        self.head = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        length = self.head.get("content-length")
        self._left = int(length) if length is not None else None

    def _end(self, *, is_whole: bool) -> None:
        if not self.done.done():
            self.is_whole, self.ended_s = is_whole, time.perf_counter()
            self.done.set_result(None)
            self._transport.close()


async def ask(port: int, model: str, question: Question, late_s: float = 0.0) -> Seen:
    """One call, streamed to its end."""
    body = json.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": question.text}],
            "options": {"num_predict": question.tokens},
        }
    ).encode()
    head = (
        f"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    )
    request = f"{head}\r\nConnection: close\r\n\r\n".encode() + body
    began_s = time.perf_counter()
    exchange: _Exchange | None = None
    try:
        async with asyncio.timeout(TIMEOUT_S):
            loop = asyncio.get_running_loop()
            _, exchange = await loop.create_connection(lambda: _Exchange(request), "127.0.0.1", port)
            await exchange.done
    except (OSError, TimeoutError):
        exchange = None
    if exchange is None:
        return Seen(question.kind, "", False, time.perf_counter(), 0.0, 0.0, 0.0, late_s)
    ended_s = exchange.ended_s
    return Seen(
        question.kind,
        exchange.head.get("x-tier", ""),
        exchange.is_whole,
        ended_s,
        ended_s - began_s,
        (exchange.first_s or ended_s) - began_s,
        _queue_s(exchange.head.get("server-timing", "")),
        late_s,
    )


def _queue_s(timing: str) -> float:
    parts = dict(each.strip().partition(";dur=")[::2] for each in timing.split(","))
    return float(parts.get("queue", 0) or 0) / 1000


async def warm(port: int, model: str, questions: Sequence[Question]) -> None:
    """Have questions answered and kept, a few at once."""
    waiting = iter(questions)

    async def some() -> None:
        for each in waiting:
            seen = await ask(port, model, each)
            if not seen.is_whole:
                raise RuntimeError(f"{each.text!r} was not answered")

    await asyncio.gather(*(some() for _ in range(8)))


async def use(port: int, model: str, load: Load, seed: int, warm_s: float, seconds: float) -> list[Seen]:
    """All users at work; the calls that ended within `seconds`, after `warm_s`."""
    began_s = time.perf_counter()
    since_s, until_s = began_s + warm_s, began_s + warm_s + seconds
    seen: list[Seen] = []

    async def user(number: int) -> None:
        rng, questions = Random(f"think {seed} {number}"), asked_by(number, load, seed)
        due_s = began_s
        while True:
            due_s += rng.expovariate(1 / load.think_s)
            await asyncio.sleep(due_s - time.perf_counter())
            told = await ask(port, model, next(questions), time.perf_counter() - due_s)
            if since_s <= told.ended_s < until_s:
                seen.append(told)
            due_s = told.ended_s

    users = [asyncio.ensure_future(user(number)) for number in range(load.users)]
    await asyncio.sleep(until_s - time.perf_counter())
    ended = [each for each in users if each.done()]
    for each in users:
        each.cancel()
    await asyncio.gather(*users, return_exceptions=True)
    for each in ended:
        each.result()  # raises what ended a user before the time
    return seen
