"""One HTTP request as its connection parsed it: what was asked, and its body as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final, Protocol

from orchestrator.core.errors import CallerError, CapacityError, OrchestratorError
from orchestrator.gateway.unpacking import Unpacking
from orchestrator.gateway.visitors import Refusal

_PASSED_OVER_BYTES: Final = 262_144
# A body up to this is small: it has room whatever others hold, and is not counted. It is unpacked on the loop, too.
SMALL_BYTES: Final = 65_536
# Of a body that is large, so much is unpacked at a time, in a thread, once there is room for it.
UNPACKED_AT_ONCE_BYTES: Final = 1_048_576
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
    def room(self) -> Room:
        """What large bodies may hold."""
        ...

    @property
    def address(self) -> str:
        """Whence it comes."""
        ...


class Room(Protocol):
    """The memory that large bodies may hold, of a worker and of each caller: of a key, or '', of an address."""

    def refusal(self, address: str, caller: str, more: int) -> Refusal | None:
        """Why so many bytes more cannot be held; None where they can."""
        ...

    def hold(self, address: str, caller: str, more: int) -> Refusal | None:
        """Hold so many bytes more; why not, where they cannot be."""
        ...

    def let_go(self, address: str, caller: str, less: int) -> None:
        """Hold so many bytes less."""
        ...


class Request:
    """Filled in by `connection`; read by handlers. Header names are in small letters; repeated ones are joined."""

    __slots__ = (
        "_caller",
        "_failure",
        "_held",
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
        self._held = 0  # of a large body: what it counts as
        self._caller = ""
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

    def asked_by(self, caller: str) -> None:
        """Whose it is, by its key: from now on its body counts as that caller's."""
        held = self._held
        if held:
            self._count(0)
        self._caller = caller
        if held:
            self._has_room(held)

    # --- the body, for handlers -------------------------------------------------------------------------------------

    async def body(self, limit: int, silence_s: float, within_s: float = BODY_S) -> bytes:
        """The whole body, unpacked.

        Raises CallerError: 413 as soon as it is known to be larger than `limit`, 408 after `silence_s` without a byte
        of it or `within_s` without its end, 400 where it cannot be read, 415 where it is packed in a way not known
        here. CapacityError where there is no room for it.
        """
        if self._failure is not None:
            raise self._failure
        if self.length is not None and self.length > limit:
            raise _too_large(limit)
        if not self.is_whole:
            await self._rest(limit, silence_s, within_s)
        elif self._size > limit:
            raise _too_large(limit)
        pieces = self._pieces
        raw = bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)
        # Whoever has it lets go of it when it is understood; what is made of it counts until the call has ended.
        pieces.clear()
        return await self._unpacked(raw, limit) if b"content-encoding" in self.headers else raw

    def stream(self) -> None:
        """Its body is to be read by `pieces`: from now on little more of it is held than was taken."""
        self._is_streamed = True
        self._count(0)

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
        more = 0 if self.length is None or self.length <= SMALL_BYTES else self.length - self._held
        refusal = self.sender.room.refusal(self.sender.address, self._caller, more) if more else None
        if refusal is not None:
            self._turn_away(refusal)
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
        """Never more than `limit`, nor than there is room for, whatever a small body claims to grow to."""
        packing = self.header(b"content-encoding").strip().lower()
        if packing in ("", "identity") or not raw:
            return raw
        unpacking = Unpacking(raw, packing)
        pieces = [unpacking.next(min(limit, SMALL_BYTES) + 1)]
        size = len(pieces[0])
        while size <= limit and not unpacking.is_done:
            at_most = min(UNPACKED_AT_ONCE_BYTES, limit + 1 - size)
            self._make_room(len(raw) + size + at_most)
            pieces.append(await asyncio.to_thread(unpacking.next, at_most))
            size += len(pieces[-1])
        if size > limit:
            self.drop()
            raise _too_large(limit)
        if size > SMALL_BYTES:
            self._make_room(size)
        self._count(size if size > SMALL_BYTES else 0)
        return b"".join(pieces)

    def _make_room(self, size: int) -> None:
        if not self._has_room(size):
            raise self._failure or CallerError(400, "nobody waits for this request any more")

    # --- the body, from the connection --------------------------------------------------------------------------------

    def take(self, piece: bytes) -> None:
        """The next bytes of the body. Of a body that is refused nothing is kept."""
        self._size += len(piece)
        pieces = self._pieces
        if self._is_refused or (self._size > SMALL_BYTES and not self._is_streamed and not self._has_room(self._size)):
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

    def drop(self) -> None:
        """Keep nothing of the body: nobody is going to read it, or what was made of it has been answered."""
        self._is_refused = True
        self._pieces.clear()
        if self._held:
            self._count(0)
        if self._is_streamed:
            self.sender.resume_body()

    def _has_room(self, size: int) -> bool:
        """Count its large body as so many bytes. Where they have no room, or nobody waits for it, it is turned away."""
        refusal = None
        if size > self._held and not self._is_refused:
            refusal = self.sender.room.hold(self.sender.address, self._caller, size - self._held)
            if refusal is None:
                self._held = size
        if refusal is not None:
            self._turn_away(refusal)
        return not self._is_refused

    def _count(self, size: int) -> None:
        """What it counted as, or less."""
        less, self._held = self._held - size, size
        if less:
            self.sender.room.let_go(self.sender.address, self._caller, less)

    def _turn_away(self, refusal: Refusal) -> None:
        self.drop()
        self._failure = CapacityError(refusal.why, retry_after_s=2, status=refusal.status)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _too_large(limit: int) -> CallerError:
    return CallerError(413, f"the request body is larger than {limit} bytes (limits.body_bytes)")
