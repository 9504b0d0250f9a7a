"""Clients that ask one call after another, of all kinds, and write down all they see; never again what has failed.

A client knows every endpoint. It asks another one only where it could not connect: whether a call that broke was served
it cannot know.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import h11

from tests.chaos.history import Called, Framing, Piece, Sent
from tests.cluster.running import until

# Nothing in a cluster may keep a caller without a word for so long, whatever happens to it.
PATIENCE_S = 90.0
LONGEST_AWAY_S = 5.0
PATHS = ("/api/chat", "/api/chat", "/api/generate", "/v1/chat/completions", "/v1/chat/completions")
COMMON_QUESTIONS = 12
LONG_TEXT = "It was said again and again, and nobody had an answer to it. " * 1200  # 73 kB: parsed in a thread


def any_call(rng: random.Random, id_: str, models: Sequence[str]) -> Sent:
    """One call drawn: stream or not, two dialects, perhaps cacheable, perhaps long, perhaps left."""
    is_cacheable = rng.random() < 0.2
    number = rng.randrange(COMMON_QUESTIONS)
    text = f"[call common-{number}] What of {number}?" if is_cacheable else f"[call {id_}] What of {rng.random()}?"
    if rng.random() < 0.03:
        text = f"{LONG_TEXT} {text}"
    path, is_stream = rng.choice(PATHS), rng.random() < 0.65
    leaves_after = rng.randrange(6) if not is_cacheable and rng.random() < 0.08 else None
    tokens, temperature = (12, 0.0) if is_cacheable else (rng.randint(6, 40), 0.8)
    body: dict[str, Any] = {"model": rng.choice(models), "stream": is_stream}
    if path == "/api/generate":
        body |= {"prompt": text}
    else:
        body |= {"messages": [{"role": "user", "content": text}]}
    if path.startswith("/v1/"):
        body |= {"max_tokens": tokens, "temperature": temperature}
    else:
        body |= {"options": {"num_predict": tokens, "temperature": temperature}}
    return Sent(id_, path, body, is_cacheable, leaves_after)


def engine_call(rng: random.Random, id_: str, model: str, questions: Sequence[str], tokens: int, seed: int) -> Sent:
    """One call drawn of a real engine's model: one of the questions whose answers are known, and no other's reply."""
    path, is_stream = rng.choice(PATHS), rng.random() < 0.65
    leaves_after = rng.randrange(4) if rng.random() < 0.05 else None
    text, chosen = rng.choice(questions), {"temperature": 0.0, "seed": seed}
    body: dict[str, Any] = {"model": model, "stream": is_stream}
    body |= {"prompt": text} if path == "/api/generate" else {"messages": [{"role": "user", "content": text}]}
    if path.startswith("/v1/"):
        body |= {"max_tokens": tokens, **chosen}
    else:
        body |= {"options": {"num_predict": tokens, **chosen}}
    return Sent(id_, path, body, leaves_after=leaves_after, headers={"Cache-Control": "no-store"})


def question_of(sent: Sent) -> str:
    """What it asks."""
    messages = sent.body.get("messages")
    return str(messages[-1]["content"] if messages else sent.body["prompt"])


@dataclass(frozen=True, slots=True)
class Callers:
    """So many clients, the calls that they draw, and for how long each rests at most between two."""

    name: str
    count: int
    draw: Callable[[random.Random, str], Sent]
    rest_s: float = 0.2


@dataclass(slots=True)
class Connection:
    """One connection to one endpoint, and HTTP's state of it."""

    endpoint: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    http: h11.Connection = field(default_factory=lambda: h11.Connection(h11.CLIENT))

    @property
    def is_fresh(self) -> bool:
        """Whether another request may go out on it, as far as a client can see."""
        return not self.reader.at_eof() and not self.writer.is_closing() and self.http.our_state is h11.IDLE

    async def event(self) -> Any:
        """HTTP's next event. Raises h11.RemoteProtocolError and OSError where the connection breaks."""
        while (event := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(await self.reader.read(65536))
        return event


class Client:
    """One caller; `keeps` its connection, or has one a call."""

    def __init__(self, name: str, endpoints: Sequence[str], callers: Callers, seed: str) -> None:
        self.name, self._endpoints, self._callers = name, list(endpoints), callers
        self._rng = random.Random(f"{seed} {name}")
        self._keeps = self._rng.random() < 0.5
        self._connection: Connection | None = None

    async def ask(self, number: int) -> Called:
        sent = self._callers.draw(self._rng, f"{self.name}-{number}")
        began_s = time.monotonic()
        connection = await self._connected()
        if connection is None:
            return Called(sent, began_s, time.monotonic(), Framing.UNREACHED, why="no endpoint takes a connection")
        called = await _exchange(connection, sent, began_s)
        if called.framing is not Framing.WHOLE or not self._keeps or not _may_go_on(connection):
            self.close()
        return called

    async def pause(self, after: Called) -> None:
        """Between two calls; who was told when to come back stays away until then, or for as long as a trial has."""
        told = after.header("retry-after")
        away_s = min(float(told), LONGEST_AWAY_S) if told.isdigit() else 0.0
        await asyncio.sleep(self._rng.uniform(0.0, self._callers.rest_s) + away_s)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.writer.close()
            self._connection = None

    async def _connected(self) -> Connection | None:
        if self._connection is not None and not self._connection.is_fresh:
            self.close()
        if self._connection is None:
            for endpoint in self._rng.sample(self._endpoints, len(self._endpoints)):
                address = urlsplit(endpoint)
                with suppress(OSError):
                    streams = await asyncio.open_connection(address.hostname, address.port)
                    self._connection = Connection(endpoint, *streams)
                    break
        return self._connection


def _may_go_on(connection: Connection) -> bool:
    with suppress(h11.ProtocolError):
        connection.http.start_next_cycle()
        return True
    return False


async def _exchange(connection: Connection, sent: Sent, began_s: float) -> Called:
    status, headers, pieces = 0, {}, []
    framing, why = Framing.WHOLE, ""
    try:
        _send(connection, sent)
        while True:
            async with asyncio.timeout(PATIENCE_S):
                event = await connection.event()
            if isinstance(event, h11.Response):
                status = event.status_code
                headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
            elif isinstance(event, h11.Data):
                pieces.append(Piece(time.monotonic(), bytes(event.data)))
            elif isinstance(event, h11.EndOfMessage):
                break
            elif isinstance(event, h11.ConnectionClosed):
                raise h11.RemoteProtocolError("closed before an answer")
            if sent.leaves_after is not None and status == 200 and len(pieces) >= sent.leaves_after:
                framing = Framing.LEFT
                break
    except TimeoutError:
        framing, why = Framing.SILENT, f"nothing came for {PATIENCE_S:g} s"
    except (h11.ProtocolError, OSError) as failure:
        framing, why = Framing.CUT, f"{type(failure).__name__}: {failure}"
    ended_s = time.monotonic()
    return Called(sent, began_s, ended_s, framing, connection.endpoint, status, headers, tuple(pieces), why)


def _send(connection: Connection, sent: Sent) -> None:
    payload = json.dumps(sent.body).encode()
    headers = [("Host", urlsplit(connection.endpoint).netloc), ("Content-Length", str(len(payload)))]
    headers += sent.headers.items()
    events = [h11.Request(method="POST", target=sent.path, headers=headers), h11.Data(payload), h11.EndOfMessage()]
    connection.writer.write(b"".join(connection.http.send(each) or b"" for each in events))


class Load:
    """Clients at work, in a thread of their own. `ended`: every call that has ended, in that order."""

    def __init__(self, endpoints: Sequence[str], callers: Sequence[Callers], seed: str) -> None:
        self.ended: list[Called] = []
        self.begun: dict[str, float] = {}
        self._clients = [
            Client(f"{each.name}{n}", endpoints, each, seed) for each in callers for n in range(each.count)
        ]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="clients")
        self._failure: BaseException | None = None

    @contextmanager
    def asking(self) -> Iterator[Load]:
        """Until the block ends, and then until each call has ended."""
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._thread.join()
        if self._failure is not None:
            raise self._failure

    def until_more(self, count: int, what: str, by: str = "") -> None:
        """Wait until so many more calls have begun from now on, and ended: of any callers, or of those of a name."""
        now_s = time.monotonic()

        def is_enough() -> bool:
            assert self._failure is None, self._failure
            ended = self.ended if by else self.ended[-20 * count :]
            return sum(each.began_s >= now_s and each.sent.id.startswith(by) for each in ended) >= count

        until(is_enough, f"{count} more calls end {what}", 2 * PATIENCE_S)

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for each in self._clients:
                    group.create_task(self._ask_on(each))
        except BaseException as why:  # noqa: BLE001 - told to whoever waits
            self._failure = why

    async def _ask_on(self, client: Client) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            self.begun[f"{client.name}-{number}"] = time.monotonic()
            called = await client.ask(number)
            self.ended.append(called)
            await client.pause(called)
        client.close()
