"""The client's side of a streamed answer: bytes written to its transport at once, and held back where it is slow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from orchestrator.core.dialects.frames import SSE_TYPE
from orchestrator.gateway.connection import Connection
from orchestrator.gateway.replies import CHUNKED, LAST_CHUNK, head
from orchestrator.gateway.request import Request


def _told() -> str:
    """The head is out."""
    return ""


class Source(Protocol):
    """Where a stream's bytes come from."""

    def pause(self) -> None:
        """The client's socket is full."""

    def resume(self) -> None:
        """It has drained."""


class Told(Protocol):
    """What of an answer has gone by."""

    def frames(self) -> int: ...


class ClientStream:
    """One streamed answer to one client.

    Its `source`, where set, is told when the client's socket is full and when it has drained, so that a slow client
    slows its instance and fills no memory here. `fields` are the answer's headers, asked for when it begins.
    """

    __slots__ = (
        "_connection",
        "_fields",
        "_head",
        "_is_chunked",
        "_request",
        "_transport",
        "is_open",
        "is_stalled",
        "is_started",
        "source",
        "told",
    )

    def __init__(self, request: Request, connection: Connection, fields: Callable[[], str]) -> None:
        self._request, self._connection, self._fields = request, connection, fields
        self._is_chunked = request.is_http_11
        self._head = b""
        self._transport = connection.transport
        self.is_open = False  # the head is out: whatever comes now comes within the stream
        self.is_started = False
        self.is_stalled = False  # the client reads no more for now: its buffers are full
        self.source: Source | None = None  # None: these bytes come from here
        self.told: Told | None = None

    @property
    def heard_tokens(self) -> int:
        """Of an answer that ends before it is counted, about: engines tell one or a few with each frame."""
        return 0 if self.told is None else self.told.frames()

    def start(self, content_type: str) -> None:
        """Say status 200 and the headers, with the first piece: no other instance can be asked unseen from now on."""
        self._open(content_type)
        self.is_started = True

    def comment(self, text: str) -> None:
        """Tell a client of server-sent events something that is no part of the answer, perhaps long before it."""
        self._open(SSE_TYPE)
        self.write([f": {text}\n\n".encode()])

    def _open(self, content_type: str) -> None:
        if self.is_open:
            return
        fields = f"{self._fields()}Content-Type: {content_type}\r\n"
        if self._is_chunked:
            fields += CHUNKED
        else:
            self._connection.end_after()
        self._head = head(200, fields, self._request, is_last=self._connection.is_last(self._request))
        self._fields = _told  # what they are made of is needed no more
        self._connection.begin_stream(self)
        self.is_open = True

    def write(self, pieces: list[bytes]) -> None:
        """Write pieces at once, each as a chunk of its own: there are clients that take a chunk for a frame."""
        if len(pieces) == 1:
            data = pieces[0]
            if self._is_chunked and data:
                data = b"%x\r\n%b\r\n" % (len(data), data)
        elif self._is_chunked:
            data = b"".join([b"%x\r\n%b\r\n" % (len(each), each) for each in pieces if each])
        else:
            data = b"".join(pieces)
        if not data or self._transport.is_closing():
            return
        if self._head:
            data, self._head = self._head + data, b""
        self._transport.write(data)
        if self._connection.is_full and not self.is_stalled:
            self._stall()

    def _stall(self) -> None:
        def drained() -> None:
            self.is_stalled = False
            if self.source is not None:
                self.source.resume()

        self.is_stalled = True
        self._connection.on_drained = drained
        if self.source is not None:
            self.source.pause()

    async def finish(self, within_s: float) -> None:
        """End the answer; a client that reads no more by then is cut off."""
        if self._transport.is_closing():
            return
        if self.is_stalled and not await self._has_drained(within_s):
            self._connection.abort()
        elif not self._transport.is_closing():
            self._transport.write(self._head + LAST_CHUNK if self._is_chunked else self._head)

    async def _has_drained(self, within_s: float) -> bool:
        drained: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def note() -> None:
            self.is_stalled = False
            if not drained.done():
                drained.set_result(None)

        self._connection.on_drained = note
        await asyncio.wait((drained,), timeout=within_s)
        return drained.done()

    def abandon(self) -> None:
        """Close a broken stream behind its error frame, without the last chunk: nobody takes it for whole."""
        if self.is_stalled:
            self._connection.abort()
        else:
            self._connection.end_after()


class Unheard(ClientStream):
    """A stream that is made for others: its own client is told what they hear, by them."""

    __slots__ = ()

    def _open(self, content_type: str) -> None:
        self.is_open = True

    def write(self, pieces: list[bytes]) -> None:
        """Nobody reads it."""

    async def finish(self, within_s: float) -> None:
        """Nobody waits for it."""

    def abandon(self) -> None:
        """Nobody takes it for whole."""
