"""One HTTP request as its connection parsed it: what was asked, and its body as it comes."""

from __future__ import annotations

import asyncio
import zlib
from typing import Final, Protocol

from orchestrator.core.errors import CallerError

# A body packed as gzip or zlib is unpacked; 47 lets zlib tell the two by their first bytes.
_PACKED: Final = frozenset({"gzip", "x-gzip", "deflate"})
_ANY_ZLIB: Final = 47
_PASSED_OVER_BYTES: Final = 262_144
# More than this is unpacked in a thread.
_UNPACK_ON_LOOP_BYTES: Final = 65_536


class Sender(Protocol):
    """The client's connection, as far as a request needs it."""

    def send_continue(self) -> None: ...


class Request:
    """Filled in by `connection`; read by handlers. Header names are in small letters; repeated ones are joined."""

    __slots__ = (
        "_failure",
        "_is_refused",
        "_limit",
        "_pieces",
        "_size",
        "_waiter",
        "headers",
        "is_http_11",
        "is_whole",
        "keeps_alive",
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
        self._pieces: list[bytes] = []
        self._size = 0
        self._limit: int | None = None
        self._is_refused = False
        self._waiter: asyncio.Future[None] | None = None
        self._failure = ""

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
        announced = self.headers.get(b"content-length")
        return announced is not None and int(announced) <= _PASSED_OVER_BYTES and not self.expects_continue

    # --- the body, for handlers -------------------------------------------------------------------------------------

    async def body(self, limit: int, silence_s: float) -> bytes:
        """The whole body, unpacked.

        Raises CallerError: 413 as soon as it is known to be larger than `limit`, 408 after `silence_s` without a byte
        of it, 400 where it cannot be read, 415 where it is packed in a way not known here.
        """
        announced = self.headers.get(b"content-length")
        if announced is not None and int(announced) > limit:
            raise _too_large(limit)
        if not self.is_whole:
            await self._rest(limit, silence_s)
        elif self._size > limit:
            raise _too_large(limit)
        pieces = self._pieces
        raw = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return await self._unpacked(raw, limit) if b"content-encoding" in self.headers else raw

    async def _rest(self, limit: int, silence_s: float) -> None:
        if self.expects_continue:
            self.sender.send_continue()
        self._limit = limit
        while not self.is_whole:
            self._waiter = asyncio.get_running_loop().create_future()
            seen = self._size
            if self._size > limit:
                self._is_refused = True
                raise _too_large(limit)
            try:
                async with asyncio.timeout(silence_s):
                    await self._waiter
            except TimeoutError as why:
                if self._size == seen:
                    raise CallerError(408, f"nothing of the request body came for {silence_s:g} s") from why
            if self._failure:
                raise CallerError(400, f"the request body could not be read: {self._failure}")
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
        if not self._is_refused:
            self._pieces.append(piece)
        if self._waiter is not None and self._limit is not None and self._size > self._limit:
            self._wake()

    def end(self) -> None:
        """The body is whole."""
        self.is_whole = True
        self._wake()

    def fail(self, why: str) -> None:
        """No more of the body can come."""
        self._failure = why
        self._wake()

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
    return body
