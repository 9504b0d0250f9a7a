"""Kept-alive HTTP/1.1 connections to instances, without the cost of a general client.

Knows how to send one POST and hand its answer's body on as it is read. It leaves to `relay` what the bytes mean and
where they go, and to `pipeline` whether a failed call may be tried elsewhere.

An own protocol instead of aiohttp's client, because the answer's bytes must be handed on inside the read callback
(docs/decisions/0001).
"""

from __future__ import annotations

import asyncio
import errno
import math
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from contextlib import suppress
from enum import IntEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol, cast

import httptools

from orchestrator.core.address import address_text
from orchestrator.core.errors import CapacityError, InstanceError
from orchestrator.core.tls_words import tls_trouble
from orchestrator.gateway.addresses import Addresses

# Ollama and llama.cpp's server answer on loopback or a rack's network: longer than this is a dead host.
CONNECT_TIMEOUT_S = 3.0
# Not the instance's fault, which would be left alone for it by everybody: files, ports or memory of ours are used up.
_OUR_OWN_LACK: Final = (errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM)
# An idle connection is cheap, and an instance never gets more calls than it has slots.
IDLE_CONNECTIONS_PER_INSTANCE = 64


class Head(NamedTuple):
    """Status and the headers that matter of an instance's answer."""

    status: int
    content_type: str
    retry_after: bytes = b""


_NO_HEAD: Final = Head(0, "")


@lru_cache(maxsize=64)
def _head_of(status: int, content_type: bytes, retry_after: bytes) -> Head:
    """Nearly all answers have one of a few."""
    return Head(status, content_type.decode("latin-1"), retry_after)


class Stage(IntEnum):
    """How far an answer has come."""

    SENT = 0
    HEAD = 1
    BODY = 2
    DONE = 3


# A member of an enumeration costs more to look up than what is done with it.
_SENT, _HEAD, _BODY, _DONE = Stage


class _Come:
    """What has come already: nobody waits for it. A coroutine would be held as long as the answer lasts."""

    def __await__(self) -> Generator[None]:
        yield from ()


_COME: Final = _Come()


class Reader(Protocol):
    """Who is shown an answer."""

    @property
    def is_held_up(self) -> bool:
        """It reads nothing, so the instance is not read from."""
        ...


# The body's pieces that one read brought, as the instance's chunks cut them.
Sink = Callable[[list[bytes]], None]


class Silences:
    """Ends exchanges in which nothing comes for too long: one timer for all of them, where each had its own."""

    def __init__(self) -> None:
        self._watched: set[Exchange] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._at_s = math.inf  # loop time at which it runs out: none is over before

    def watch(self, exchange: Exchange, until_s: float) -> None:
        """From now on, until `leave`. `until_s`: when it has been silent for too long, unless something comes."""
        self._watched.add(exchange)
        if until_s < self._at_s:
            self._look_at(until_s)

    def leave(self, exchange: Exchange) -> None:
        self._watched.discard(exchange)

    def _look_at(self, at_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at_s, self._timer = at_s, asyncio.get_running_loop().call_at(at_s, self._look)

    def _look(self) -> None:
        """Set anew when it has run out, and not with each read."""
        self._at_s, self._timer = math.inf, None
        now_s, next_s = asyncio.get_running_loop().time(), math.inf
        for each in tuple(self._watched):
            if each.silent_until_s <= now_s:
                self._watched.discard(each)
                each.end_silence()
            else:
                next_s = min(next_s, each.silent_until_s)
        if next_s < self._at_s:
            self._look_at(next_s)


class Exchange(asyncio.Protocol):
    """One connection; serves one request at a time. A sink gets the body as it comes, in the read callback."""

    __slots__ = (
        "_awaited",
        "_came",
        "_content_type",
        "_error",
        "_instance",
        "_is_complete",
        "_is_idle",
        "_is_paused",
        "_loop",
        "_parser",
        "_reader",
        "_retry_after",
        "_silence_s",
        "_silences",
        "_sink",
        "_waiter",
        "head",
        "is_client_stalled",
        "is_reusable",
        "last_read_s",
        "on_body",
        "stage",
        "transport",
        "was_answered",
        "was_closed",
    )

    def __init__(self, instance: str, silences: Silences) -> None:
        self._instance, self._silences = instance, silences
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.is_reusable = False
        self.was_answered = False  # something came back since the last `send`
        self.was_closed = False  # the connection ended since the last `send`
        self.is_client_stalled = False  # it was cut because the client read nothing
        self._is_idle = True
        self._is_paused = False
        self._is_complete = False  # its last byte was read, in this very turn
        self.stage = Stage.SENT
        self.head = _NO_HEAD  # until it has come
        self.last_read_s = 0.0  # loop time of its last bytes; before the first, of `send`
        self._awaited = _DONE
        self._waiter: asyncio.Future[None] | None = None
        self._error: InstanceError | None = None
        self._came: list[bytes] = []  # pieces that no sink has had
        self._sink: Sink | None = None
        self.on_body = self._came.append  # the parser calls it for each piece: a method of ours would cost as much more
        self._content_type = b""
        self._retry_after = b""
        self._silence_s = 0.0
        self._reader: Reader | None = None
        self._parser = httptools.HttpResponseParser(self)

    # --- for relay -----------------------------------------------------------------------------------------------

    def send(self, head: bytes, body: bytes, silence_s: float) -> None:
        """Write one request; its answer may be silent for so long (`allow_silence`)."""
        self.stage, self._awaited, self._waiter, self._error = _SENT, _DONE, None, None
        self._came.clear()
        self._sink, self._content_type, self._retry_after = None, b"", b""
        self._is_idle = self._is_complete = self.is_reusable = False
        self.was_answered = self.was_closed = self.is_client_stalled = False
        self.last_read_s = self._loop.time()
        self.allow_silence(silence_s)
        if self.transport is None:  # closed by the instance in the turn of the loop since it was opened
            self.was_closed = True
            self.fail("closed the connection at once")
            return
        self.transport.write(head + body)

    def allow_silence(self, seconds: float, reader: Reader | None = None) -> None:
        """Cut the answer where nothing comes for so long: by the instance, or because of `reader`."""
        self._silence_s, self._reader = seconds, reader
        self._silences.watch(self, self.last_read_s + seconds)

    def until(self, stage: Stage) -> Awaitable[None]:
        """Wait until the answer has come so far, or is whole. Raises InstanceError where it was cut before that."""
        return _COME if self.stage >= stage else self._coming_to(stage)

    def more(self) -> Awaitable[None]:
        """Wait for the next piece of the body, or its end. Raises InstanceError where it was cut."""
        return _COME if self.stage is _DONE else self._coming_to(_BODY)

    def _coming_to(self, stage: Stage) -> asyncio.Future[None]:
        if self._error is not None:
            raise self._error
        self._awaited, self._waiter = stage, self._loop.create_future()
        return self._waiter

    def attach(self, sink: Sink) -> None:
        """Hand the body to `sink` from now on, what came already first."""
        self._sink = sink
        if self._came:
            came = self._came[:]
            self._came.clear()
            sink(came)

    def detach(self) -> None:
        """Nobody waits for anything of it, nor is anything of it held."""
        self._silences.leave(self)
        self._sink = self._reader = None
        self._came.clear()

    def body(self) -> bytes:
        """What has come of a body that no sink was attached to."""
        pieces = self._came
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def pause(self) -> None:
        """Read no more for now: who reads the answer is slower than it comes."""
        if self.transport is not None and not self._is_idle and not self._is_paused:
            self._is_paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read on. Safe to call at any time."""
        if self.transport is not None and self._is_paused:
            self.last_read_s = self._loop.time()  # the time that nobody read is not the instance's silence
            self.transport.resume_reading()
        self._is_paused = False

    def close(self) -> None:
        self._silences.leave(self)
        if self.transport is not None:
            self.transport.abort()

    # --- for who watches silences ------------------------------------------------------------------------------------

    @property
    def silent_until_s(self) -> float:
        """Loop time at which it has been silent for too long."""
        return self.last_read_s + self._silence_s

    def end_silence(self) -> None:
        """It has been."""
        if self._is_idle:
            return
        self.is_client_stalled = self._reader is not None and self._reader.is_held_up
        self.fail("the client does not read" if self.is_client_stalled else f"silent for {self._silence_s:g} s")
        self.close()

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
        except httptools.HttpParserError as why:
            if self._came:
                self._hand_on()
            self.fail("its answer is not HTTP", quoted=str(why.__context__ or why))
            self.close()
            return
        if self._came:
            self._hand_on()
        if self._is_complete and self._error is None:
            self._come_to(_DONE)

    def _hand_on(self) -> None:
        """What was read of the body, to the sink if there is one yet."""
        sink = self._sink
        if sink is not None:
            came = self._came[:]
            self._came.clear()
            try:
                sink(came)
            except InstanceError as why:
                self.fail(why.said, quoted=why.quoted)
                self.close()
            except Exception as why:  # noqa: BLE001 - whatever it was, who waits for this answer is told
                self.fail("its answer could not be handed on", quoted=str(why))
                self.close()
        self.stage = _BODY
        if self._awaited is _BODY:
            self._come_to(_BODY)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.is_reusable = False
        self._silences.leave(self)
        if not self._is_idle:
            self.was_closed = True
            lost = tls_trouble(exc) or f"connection lost: {exc}"
            self.fail(lost if exc else "closed the connection before the answer's end")

    # --- httptools callbacks -----------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == 12 and name.lower() == b"content-type":
            self._content_type = value
        elif len(name) == 11 and name.lower() == b"retry-after":
            self._retry_after = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:
            self.head = _head_of(status, self._content_type, self._retry_after)
            self._come_to(_HEAD)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < 200:
            return
        self._is_idle = True
        self.is_reusable = self._parser.should_keep_alive()
        self._is_complete = True

    # --- inside -------------------------------------------------------------------------------------------------------

    def _come_to(self, stage: Stage) -> None:
        self.stage = stage
        waiter = self._waiter
        if waiter is not None and stage >= self._awaited:
            self._waiter, self._awaited = None, _DONE
            if not waiter.done():
                waiter.set_result(None)

    def fail(self, why: str, *, is_hung: bool = False, quoted: str = "") -> None:
        """End the exchange with an InstanceError for whoever waits."""
        if self.stage is _DONE or self._error is not None:
            return
        self._is_idle, self.is_reusable = True, False
        self._silences.leave(self)
        self._error = InstanceError(self._instance, why, is_hung=is_hung, quoted=quoted)
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(self._error)


class Contexts(Protocol):
    """Whoever knows what an instance behind TLS is asked with."""

    def of(self, host: str, port: int) -> ssl.SSLContext:
        """Raises OSError, in words, where a file of it cannot be read."""


class Connections:
    """Idle connections by instance address, newest first. `contexts`: what instances behind TLS are asked with."""

    def __init__(self, addresses: Addresses | None = None, contexts: Contexts | None = None) -> None:
        self._idle: dict[tuple[str, int], deque[Exchange]] = {}
        self._addresses = addresses or Addresses()
        self._contexts = contexts
        self._silences = Silences()
        self._tls_names: Mapping[tuple[str, int], str] = {}

    def learn(self, hosts: Iterable[str], tls_names: Mapping[tuple[str, int], str] = MappingProxyType({})) -> None:
        """Where instances are that calls will go to. `tls_names`: of those behind TLS, whom a certificate must name."""
        self._addresses.learn(hosts)
        self._tls_names = tls_names

    def idle(self, host: str, port: int) -> Exchange | None:
        """A kept connection to send on; it may have died unnoticed."""
        kept = self._idle.get((host, port))
        while kept:
            exchange = kept.pop()
            if exchange.is_reusable and exchange.transport is not None and not exchange.transport.is_closing():
                return exchange
        return None

    async def connect(self, instance: str, host: str, port: int) -> Exchange:
        """A new connection. Raises InstanceError where nobody answers within CONNECT_TIMEOUT_S; CapacityError where
        it is this machine that can open no more."""
        where = address_text(host, port)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                return await self._connect(instance, host, port)
        except TimeoutError as why:
            text = f"no connection to {where} within {CONNECT_TIMEOUT_S:g} s"
            raise InstanceError(instance, text, is_unreachable=True) from why
        except OSError as why:
            if why.errno in _OUR_OWN_LACK:
                raise CapacityError(f"this gateway can open no more connections: {why.strerror}", 1) from why
            said = tls_trouble(why) or str(why)
            raise InstanceError(instance, f"no connection to {where}: {said}", is_unreachable=True) from why

    async def _connect(self, instance: str, host: str, port: int) -> Exchange:
        """To the first of the name's addresses where somebody takes it. Raises OSError."""
        *others, last = await self._addresses.of(host)
        loop = asyncio.get_running_loop()
        name = self._tls_names.get((host, port))
        if name is not None and self._contexts is None:
            raise OSError("it is asked over TLS alone, and nothing to ask with was given")
        tls = None if name is None or self._contexts is None else self._contexts.of(host, port)

        async def open_to(address: str) -> Exchange:
            made = loop.create_connection(
                lambda: Exchange(instance, self._silences), address, port, ssl=tls, server_hostname=name
            )
            return (await made)[1]

        for each in others:
            with suppress(OSError):
                async with asyncio.timeout(CONNECT_TIMEOUT_S / (len(others) + 1)):
                    return await open_to(each)
        try:
            return await open_to(last)
        except ConnectionResetError:
            if tls is None:
                raise
            # What ends TLS there has read renewed certificates: it listens anew, and drops whom it had not taken yet.
            return await open_to(last)

    def give_back(self, host: str, port: int, exchange: Exchange) -> None:
        """Keep a connection whose answer was read to its end; close any other."""
        exchange.resume()
        idle = self._idle.get((host, port))
        if idle is None:
            idle = self._idle[host, port] = deque()
        if exchange.is_reusable and len(idle) < IDLE_CONNECTIONS_PER_INSTANCE:
            exchange.detach()
            idle.append(exchange)
        else:
            exchange.close()

    def close(self) -> None:
        self._addresses.close()
        for idle in self._idle.values():
            for exchange in idle:
                exchange.close()
        self._idle.clear()
