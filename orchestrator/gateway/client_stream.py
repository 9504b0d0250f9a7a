"""The client's side of a streamed answer: bytes written to its transport at once, and held back where it is slow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter


def _nothing() -> None:
    """Nothing to pause: these bytes come from here."""


class ClientStream:
    """One streamed answer to one client.

    aiohttp sends the headers and keeps the connection; the body is framed here and written to the transport directly,
    without a coroutine a chunk. `pause` and `resume` are called when the client's socket is full and when it has
    drained, so that a slow client slows its instance and fills no memory here.
    """

    def __init__(self, request: web.Request, headers: Callable[[], Mapping[str, str]]) -> None:
        self._request = request
        self._headers = headers
        self._response: web.StreamResponse | None = None
        self._writer: AbstractStreamWriter | None = None
        self._is_chunked = request.version >= (1, 1)
        self._drainer: asyncio.Task[None] | None = None
        self._is_at_line_start = True
        self.is_started = False

    @property
    def is_stalled(self) -> bool:
        """The client reads no more for now: its buffers are full."""
        return self._drainer is not None

    async def start(self, content_type: str) -> None:
        """Send status 200 and the headers; after this the call can no longer be tried elsewhere unseen.

        Raises ConnectionError where the client has left.
        """
        self._response = web.StreamResponse(headers={**self._headers(), "Content-Type": content_type})
        self.is_started = True
        self._writer = await self._response.prepare(self._request)

    def write(self, piece: bytes, pause: Callable[[], None] = _nothing, resume: Callable[[], None] = _nothing) -> None:
        """Frame and write one piece; where the client's buffer is full, `pause` until it has drained."""
        transport = self._request.transport
        if transport is None or transport.is_closing() or not piece:
            return
        transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if self._is_chunked else piece)
        self._is_at_line_start = piece.endswith(b"\n")
        if self._request.protocol.writing_paused and self._drainer is None:
            pause()
            self._drainer = asyncio.create_task(self._drain(resume))

    async def _drain(self, resume: Callable[[], None]) -> None:
        assert self._writer is not None
        try:
            await self._writer.drain()
        except ConnectionError:
            return  # the handler is cancelled by the same loss, and settles there
        finally:
            self._drainer = None
        resume()

    def fail(self, frame: bytes) -> None:
        """Put an error frame in the caller's dialect behind a broken stream, on a line of its own."""
        self.write(frame if self._is_at_line_start else b"\n" + frame)

    async def finish(self, within_s: float) -> web.StreamResponse:
        """End the answer and hand aiohttp its response object; a client that reads no more by then is cut off."""
        assert self._response is not None
        if self._drainer is not None:
            try:
                async with asyncio.timeout(within_s):
                    await asyncio.shield(self._drainer)
            except TimeoutError:
                return self.abort()
        with suppress(ConnectionError):  # it left with the answer's last bytes on their way: aiohttp sees that too
            await self._response.write_eof()
        return self._response

    def abandon(self) -> web.StreamResponse:
        """Close a broken stream behind its error frame, without the last chunk: nobody takes it for whole."""
        if self.is_stalled:
            return self.abort()
        assert self._response is not None
        if self._request.transport is not None:
            self._request.transport.close()
        return self._response

    def abort(self) -> web.StreamResponse:
        """Cut off a client that does not read: what is still buffered for it is dropped."""
        assert self._response is not None
        if self._request.transport is not None:
            self._request.transport.abort()
        return self._response
