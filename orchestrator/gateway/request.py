"""One HTTP request as its connection parsed it: what was asked, and its body as it comes."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from typing import Final, Protocol

from orchestrator.core.errors import CallerError, CapacityError, OrchestratorError

# A body packed as gzip or zlib is unpacked; 47 lets zlib tell the two by their first bytes.
_PACKED: Final = frozenset({"gzip", "x-gzip", "deflate"})
_ANY_ZLIB: Final = 47
_PASSED_OVER_BYTES: Final = 262_144
# More than this is unpacked in a thread: it may grow a thousandfold.
_UNPACK_ON_LOOP_BYTES: Final = 2048
# A body that trickles is not held as thousands of little pieces.
_PIECES_AT_MOST: Final = 64
# Of a body that is passed on as it comes.
_STREAMED_AHEAD_BYTES: Final = 1_048_576
# For a whole body, where nobody says otherwise.
BODY_S: Final = 300.0


class Sender(Protocol):
    """The client's connection, as far as a request needs it."""

    def send_continue(self) -> None: ...
    def pause_body(self) -> None:
        """Leave what else comes of it in the socket."""

    def resume_body(self) -> None:
        """Read on."""

    @property
    def has_room(self) -> bool:
        """Whether one more large body can be held."""
        ...


class Request:
    """Filled in by `connection`; read by handlers. Header names are in small letters; repeated ones are joined."""

    __slots__ = (
        "_failure",
        "_is_refused",
        "_is_streamed",
        "_limit",
        "_pieces",
        "_size",
        "_waiter",
        "headers",
        "is_http_11",
        "is_whole",
        "keeps_alive",
        "length",
        "method",
        "path",
        "query",
        "sender",
    )

    def __init__(self, sender: Sender) -> None:
        self.sender = sender
        self.method = self.path = self.query = ""
        self.headers: dict[bytes, bytes] = {}
        self.is_http_11 = self.keeps_alive = True
        self.is_whole = False
        self.length: int | None = None  # of the body, as it was announced
        self._pieces: list[bytes | bytearray] = []
        self._size = 0
        self._limit: int | None = None
        self._is_refused = self._is_streamed = False
        self._waiter: asyncio.Future[None] | None = None
        self._failure: OrchestratorError | None = None

    def header(self, name: bytes) -> str:
        """A header's value, '' where it was not sent. Bytes beyond ASCII survive a way there and back."""
        value = self.headers.get(name)
        return "" if value is None else value.decode("utf-8", "surrogateescape")

    @property
    def expects_continue(self) -> bool:
        """The client waits for a word before it sends its body."""
        return self.headers.get(b"expect", b"").lower() == b"100-continue"

    @property
    def has_little_left(self) -> bool:
        """What is still to come of the body can be passed over, so that the connection serves on (as Go's server)."""
        return self.length is not None and self.length <= _PASSED_OVER_BYTES and not self.expects_continue

    @property
    def held_bytes(self) -> int:
        """What its body takes up here."""
        return 0 if self._is_refused else self._size

    # --- the body, for handlers -------------------------------------------------------------------------------------

    async def body(self, limit: int, silence_s: float, within_s: float = BODY_S) -> bytes:
        """The whole body, unpacked.

        Raises CallerError: 413 as soon as it is known to be larger than `limit`, 408 after `silence_s` without a byte
        of it or `within_s` without its end, 400 where it cannot be read, 415 where it is packed in a way not known
        here. CapacityError where there is no room for it.
        """
        if self.length is not None and self.length > limit:
            raise _too_large(limit)
        if not self.is_whole:
            await self._rest(limit, silence_s, within_s)
        elif self._size > limit:
            raise _too_large(limit)
        pieces = self._pieces
        raw = bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)
        return await self._unpacked(raw, limit) if b"content-encoding" in self.headers else raw

    def stream(self) -> None:
        """Its body is to be read by `pieces`: from now on little more of it is held than was taken."""
        self._is_streamed = True

    async def pieces(self, silence_s: float) -> AsyncIterator[bytes]:
        """The body as it comes, no faster than it is taken, and packed as it was sent. Raises CallerError as `body`."""
        self.stream()
        if self.expects_continue and not self.is_whole:
            self.sender.send_continue()
        while True:
            if self._pieces:
                piece, self._pieces, self._size = b"".join(self._pieces), [], 0
                yield piece
                self.sender.resume_body()
            elif self._failure is not None:
                raise self._failure
            elif self.is_whole:
                return
            else:
                self._waiter = asyncio.get_running_loop().create_future()
                try:
                    async with asyncio.timeout(silence_s):
                        await self._waiter
                except TimeoutError as why:
                    raise CallerError(408, f"nothing of the request body came for {silence_s:g} s") from why

    async def _rest(self, limit: int, silence_s: float, within_s: float) -> None:
        if not self.sender.has_room:
            self.turn_away()
        elif self.expects_continue:
            self.sender.send_continue()
        self._limit = limit
        loop = asyncio.get_running_loop()
        until_s = loop.time() + within_s
        while not self.is_whole:
            if self._failure is not None:
                raise self._failure
            if self._size > limit:
                self.drop()
                raise _too_large(limit)
            self._waiter = loop.create_future()
            seen = self._size
            try:
                async with asyncio.timeout_at(min(loop.time() + silence_s, until_s)):
                    await self._waiter
            except TimeoutError as why:
                if loop.time() >= until_s:
                    self.drop()
                    raise CallerError(408, f"the request body did not come within {within_s:g} s") from why
                if self._size == seen:
                    raise CallerError(408, f"nothing of the request body came for {silence_s:g} s") from why
        if self._failure is not None:
            raise self._failure
        if self._size > limit:
            raise _too_large(limit)

    async def _unpacked(self, raw: bytes, limit: int) -> bytes:
        packing = self.header(b"content-encoding").strip().lower()
        if packing in ("", "identity") or not raw:
            return raw
        if packing not in _PACKED:
            raise CallerError(415, f"Content-Encoding {packing} is not known here: send gzip, deflate or none")
        if len(raw) <= _UNPACK_ON_LOOP_BYTES:
            return _unpack(raw, limit)
        return await asyncio.to_thread(_unpack, raw, limit)

    # --- the body, from the connection --------------------------------------------------------------------------------

    def take(self, piece: bytes) -> None:
        """The next bytes of the body. Of a body that is refused nothing is kept."""
        self._size += len(piece)
        pieces = self._pieces
        if self._is_refused:
            pass
        elif len(pieces) < _PIECES_AT_MOST:
            pieces.append(piece)
        elif len(pieces) == _PIECES_AT_MOST:
            pieces.append(bytearray(piece))
        else:
            pieces[-1] += piece
        if self._is_streamed:
            self._wake()
            if self._size > _STREAMED_AHEAD_BYTES and not self._is_refused:
                self.sender.pause_body()
        elif self._waiter is not None and self._limit is not None and self._size > self._limit:
            self._wake()

    def end(self) -> None:
        """The body is whole."""
        self.is_whole = True
        self._wake()

    def fail(self, why: str) -> None:
        """No more of the body can come."""
        self._failure = CallerError(400, f"the request body could not be read: {why}")
        self._wake()

    def turn_away(self) -> None:
        """There is no room for the body here."""
        self.drop()
        self._failure = CapacityError("too many large requests are held here at once", retry_after_s=2)
        self._wake()

    def drop(self) -> None:
        """Keep nothing of the body: nobody is going to read it."""
        self._is_refused = True
        self._pieces.clear()
        if self._is_streamed:
            self.sender.resume_body()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _too_large(limit: int) -> CallerError:
    return CallerError(413, f"the request body is larger than {limit} bytes (limits.body_bytes)")


def _unpack(raw: bytes, limit: int) -> bytes:
    """Never more than `limit`, whatever a small body claims to grow to."""
    unpacker = zlib.decompressobj(_ANY_ZLIB)
    try:
        body = unpacker.decompress(raw, limit + 1)
    except zlib.error as why:
        raise CallerError(400, f"the request body could not be unpacked: {why}") from why
    if len(body) > limit:
        raise _too_large(limit)
    if not unpacker.eof:
        raise CallerError(400, "the request body could not be unpacked: it is cut off")
    if unpacker.unused_data:
        raise CallerError(400, "the request body could not be unpacked: something follows behind its end")
    return body
