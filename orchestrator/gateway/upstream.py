"""Kept-alive HTTP/1.1 connections to instances, without the cost of a general client.

Knows how to send one POST and hand its answer's body on as it is read. It leaves to `relay` what the bytes mean and
where they go, and to `pipeline` whether a failed call may be tried elsewhere.

An own protocol instead of aiohttp's client, because the answer's bytes must be handed on inside the read callback
(docs/decisions/0001).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import httptools

from orchestrator.core.errors import InstanceError

# Ollama and llama.cpp's server answer on loopback or a rack's network: longer than this is a dead host.
CONNECT_TIMEOUT_S = 3.0
# An idle connection is cheap, and an instance never gets more calls than it has slots.
IDLE_CONNECTIONS_PER_INSTANCE = 64


@dataclass(frozen=True, slots=True)
class Head:
    """Status and the headers that matter of an instance's answer."""

    status: int
    content_type: str


class Exchange(asyncio.Protocol):
    """One connection; serves one request at a time. `sink` gets each piece of the body, in the read callback."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.is_reusable = False
        self.was_answered = False  # something came back since the last `send`
        self.was_closed = False  # the connection ended since the last `send`
        self.last_read_s = 0.0
        self._is_idle = True
        self._is_paused = False
        self._early: list[bytes] = []
        self._sink: Callable[[bytes], None] | None = None
        self._head: asyncio.Future[Head] | None = None
        self._done: asyncio.Future[None] | None = None
        self._content_type = ""

    # --- for relay -----------------------------------------------------------------------------------------------

    def send(self, path: str, host: str, body: bytes) -> None:
        """Write one POST. The instance's own address goes out as Host: Ollama refuses a foreign one with 403."""
        self._parser = httptools.HttpResponseParser(self)
        self._head, self._done = self._loop.create_future(), self._loop.create_future()
        self._early, self._sink, self._content_type = [], None, ""
        self._is_idle = self.is_reusable = self.was_answered = self.was_closed = False
        self.last_read_s = self._loop.time()
        if self.transport is None:  # closed by the instance in the turn of the loop since it was opened
            self.was_closed = True
            self.fail("closed the connection at once")
            return
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode("ascii") + body)

    async def head(self) -> Head:
        """Wait for status and headers. Raises InstanceError where the connection ends first."""
        assert self._head is not None
        return await self._head

    def attach(self, sink: Callable[[bytes], None]) -> None:
        """Hand the body to `sink` from now on, what came already first."""
        self._sink = sink
        early, self._early = self._early, []
        for piece in early:
            sink(piece)

    async def done(self) -> None:
        """Wait for the end of the answer. Raises InstanceError where it was cut."""
        assert self._done is not None
        await asyncio.shield(self._done)

    def pause(self) -> None:
        """Read no more for now: who reads the answer is slower than it comes."""
        if self.transport is not None and not self._is_idle and not self._is_paused:
            self._is_paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read on. Safe to call at any time."""
        if self.transport is not None and self._is_paused:
            self.transport.resume_reading()
        self._is_paused = False

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    # --- asyncio.Protocol ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's transports are not its subclasses

    def data_received(self, data: bytes) -> None:
        self.last_read_s = self._loop.time()
        self.was_answered = True
        if self._is_idle:  # bytes nobody asked for: whatever is at the other end, it is out of step
            self.is_reusable = False
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as why:  # also what the sink raised: its cause is behind it
            self.fail(f"its answer is not HTTP: {why.__context__ or why}")
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.is_reusable = False
        if not self._is_idle:
            self.was_closed = True
            self.fail(f"connection lost: {exc}" if exc else "closed the connection before the answer's end")

    # --- httptools callbacks -----------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type":
            self._content_type = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        assert self._head is not None
        status = self._parser.get_status_code()
        if status >= 200 and not self._head.done():
            self._head.set_result(Head(status, self._content_type))

    def on_body(self, piece: bytes) -> None:
        if self._sink is None:
            self._early.append(piece)
        else:
            self._sink(piece)

    def on_message_complete(self) -> None:
        assert self._done is not None
        if self._parser.get_status_code() < 200:
            return
        self._is_idle = True
        self.is_reusable = self._parser.should_keep_alive()
        if not self._done.done():
            self._done.set_result(None)

    def fail(self, why: str) -> None:
        """End the exchange with an InstanceError for whoever waits."""
        self._is_idle = True
        error = InstanceError(self._instance, why)
        for future in (self._head, self._done):
            if future is not None and not future.done():
                future.set_exception(error)
                future.exception()  # whoever waits gets it; nobody waiting is no mistake


class Connections:
    """Idle connections by instance address, newest first."""

    def __init__(self) -> None:
        self._idle: dict[tuple[str, int], deque[Exchange]] = {}

    async def take(self, instance: str, host: str, port: int) -> tuple[Exchange, bool]:
        """A connection to send on, and whether it was used before: such a one may have died unnoticed.

        Raises InstanceError where nobody answers within CONNECT_TIMEOUT_S.
        """
        idle = self._idle.get((host, port))
        while idle:
            kept = idle.pop()
            if kept.is_reusable and kept.transport is not None and not kept.transport.is_closing():
                return kept, True
        return await self.connect(instance, host, port), False

    async def connect(self, instance: str, host: str, port: int) -> Exchange:
        """A new connection. Raises InstanceError."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, exchange = await loop.create_connection(lambda: Exchange(instance), host, port)
        except TimeoutError as why:
            text = f"no connection to {host}:{port} within {CONNECT_TIMEOUT_S:g} s"
            raise InstanceError(instance, text, is_unreachable=True) from why
        except OSError as why:
            raise InstanceError(instance, f"no connection to {host}:{port}: {why}", is_unreachable=True) from why
        return exchange

    def give_back(self, host: str, port: int, exchange: Exchange) -> None:
        """Keep a connection whose answer was read to its end; close any other."""
        exchange.resume()
        idle = self._idle.setdefault((host, port), deque())
        if exchange.is_reusable and len(idle) < IDLE_CONNECTIONS_PER_INSTANCE:
            idle.append(exchange)
        else:
            exchange.close()

    def close(self) -> None:
        for idle in self._idle.values():
            for exchange in idle:
                exchange.close()
        self._idle.clear()
