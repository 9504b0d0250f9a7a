"""Doors to attack: the gateway's HTTP alone, where a test says what time it is; and bytes to throw at any door."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.app.rules import rules_from
from orchestrator.core.errors import OrchestratorError
from orchestrator.gateway.connection import LINGER_S, Connection
from orchestrator.gateway.live import Limits
from orchestrator.gateway.replies import Reply, whole
from orchestrator.gateway.request import Request
from orchestrator.gateway.visitors import Visitors
from orchestrator.settings import ClusterSettings
from tests.gateway.asking import connected
from tests.waiting import WITHIN_S, until

PATIENCE_S = WITHIN_S


def limits(**more: Any) -> Limits:
    """As they are where nobody says anything, and `more`."""
    return replace(rules_from(ClusterSettings()).limits, **more)


@dataclass(slots=True)
class Door:
    """Connections of a test's own process. `asked` are the requests that reached a handler, with what they brought."""

    visitors: Visitors[Connection]
    asked: list[Request] = field(default_factory=list)
    bodies: list[bytes | Exception] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def later(self, seconds: float) -> None:
        """So much time passes, for all that is connected."""
        for each in tuple(self.visitors):
            each.look_at_time(asyncio.get_running_loop().time() + seconds)

    async def until(self, holds: Callable[[], bool]) -> None:
        await until(holds)


@asynccontextmanager
async def door(answer: bytes = b"ok\n", within_s: float = 60.0, **more: Any) -> AsyncIterator[Door]:
    """A door behind which a body is read to its end and `answer` said."""
    allowed = limits(**more)
    opened = Door(Visitors(lambda: allowed))

    async def serve(request: Request, _: Connection) -> Reply:
        opened.asked.append(request)
        try:
            if request.method == "POST":
                opened.bodies.append(await request.body(allowed.body_bytes, 60.0, within_s))
        except OrchestratorError as why:
            opened.bodies.append(why)
            return whole("text/plain", str(why).encode(), status=getattr(why, "status", 500))
        return whole("text/plain", answer)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(serve, opened.visitors), "127.0.0.1", 0)
    opened.port = server.sockets[0].getsockname()[1]
    ticking = loop.create_task(_tick(opened))
    try:
        yield opened
    finally:
        ticking.cancel()
        server.close()
        for each in tuple(opened.visitors):
            each.transport.abort()
        await until(lambda: not len(opened.visitors))


async def _tick(opened: Door) -> None:
    """As the server does each second: who was refused while it was still sending is cut off in the end."""
    while True:
        await asyncio.sleep(0.05)
        opened.later(LINGER_S + 1)


async def thrown(url: str, *pieces: bytes, ends: bool = False) -> bytes:
    """All that comes back for these bytes until the connection is closed, which it has to be."""
    async with connected(url) as (reader, writer), asyncio.timeout(PATIENCE_S):
        with suppress(ConnectionError):  # it may be closed before all is sent
            for each in pieces:
                writer.write(each)
                await writer.drain()
            if ends:
                writer.write_eof()
        return await left(reader)


async def left(reader: asyncio.StreamReader) -> bytes:
    """All that still comes. What was sent and not read resets a connection that is closed; what came before counts."""
    received = b""
    with suppress(ConnectionError):
        while piece := await reader.read(65_536):
            received += piece
    return received


def statuses(received: bytes) -> list[int]:
    """Of every answer."""
    return [int(each) for each in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", received)]


class Wire(asyncio.Transport):
    """A client's end of a connection without a socket: what is written to it is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.may_send = asyncio.Event()
        self.may_send.set()
        self.is_shut = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.is_shut = True
        self.may_send.set()

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self.is_shut

    def pause_reading(self) -> None:
        self.may_send.clear()

    def resume_reading(self) -> None:
        self.may_send.set()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def get_write_buffer_size(self) -> int:
        return 0


@dataclass(slots=True)
class Heard:
    """What a connection made of some bytes: each request with its body, and what it wrote."""

    requests: list[tuple[str, str, str, dict[bytes, bytes], bytes | None]] = field(default_factory=list)
    written: bytes = b""
    is_shut: bool = False


async def heard(*pieces: bytes, body_bytes: int = 2**20) -> Heard:
    """Feed these bytes to a connection, piece by piece, and end it behind them."""
    told = Heard()
    allowed = limits(body_bytes=body_bytes)

    async def serve(request: Request, _: Connection) -> Reply:
        at = len(told.requests)
        told.requests.append((request.method, request.path, request.query, dict(request.headers), None))
        try:
            body = b"" if request.method in ("GET", "HEAD") else await request.body(body_bytes, 60.0)
        except OrchestratorError as why:
            return whole("text/plain", b"no\n", status=getattr(why, "status", 500))
        told.requests[at] = (*told.requests[at][:4], body)
        return whole("text/plain", b"ok\n")

    wire, visitors = Wire(), Visitors[Connection](lambda: allowed)
    connection = Connection(serve, visitors)
    connection.connection_made(wire)
    for each in pieces:
        async with asyncio.timeout(PATIENCE_S):
            await wire.may_send.wait()
        if wire.is_shut:
            break
        connection.data_received(each)
    for _ in range(4 * len(pieces) + 40):  # turns of the loop, for what is under way and what stands behind it
        await asyncio.sleep(0)
    task = connection.task
    connection.connection_lost(None)
    if task is not None:
        await asyncio.wait((task,))
    told.written, told.is_shut = wire.written, wire.is_shut
    assert len(visitors) == 0
    return told
