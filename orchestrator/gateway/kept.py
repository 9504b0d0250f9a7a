"""The pieces of an answer that went by: all of them for who may want them again, or the last for how it ended."""

from __future__ import annotations

import zlib
from typing import ClassVar, Final

# What the end of an answer is judged by: the last writes that ended with a whole line. The last of /api/generate tells
# its context token by token, some hundred KB where that is long, in many pieces.
TAIL_WRITES: Final = 4
TAIL_BYTES_AT_MOST: Final = 8 * 2**20
# Pieces of a stream that is not kept are dropped when they come to this, and not one by one.
DROP_AT_BYTES: Final = 32_768
# Of an answer that may have to be continued nothing is dropped: it is left as it is while all of a worker's take no
# more than this, then packed. Frames are alike, a tenth is left of them; packing costs a tenth of what a frame does.
PLAIN_AT_MOST: Final = 32 * 2**20
PACKED_AT_MOST: Final = 4 * 2**20


class Kept:
    """The answer's pieces as the instance told them: all of them up to a limit, or only the last few writes.

    `packs`: what goes beyond is kept all the same, in less room, in case it has to be read once more (`told`).
    """

    __slots__ = (
        "_drop_at",
        "_frames_dropped",
        "_limit",
        "_packed",
        "_packed_of",
        "_pieces",
        "_plain",
        "_size",
        "is_whole",
    )
    plain_in_all: ClassVar[int] = 0  # bytes beyond what would have been dropped, of all of this process

    def __init__(self, limit: int, *, packs: bool = False) -> None:
        self._limit = limit
        self._packed: tuple[bytes, ...] | None = () if packs else None
        self._packed_of = self._plain = 0
        self._drop_at = limit or DROP_AT_BYTES
        self._pieces: list[bytes] = []
        self._size = 0
        self._frames_dropped = 0
        self.is_whole = True

    def add(self, pieces: list[bytes]) -> None:
        self._pieces += pieces
        size = self._size
        for each in pieces:
            size += len(each)
        self._size = size
        if size > self._drop_at:
            self._drop()

    def _drop(self) -> None:
        """Keep the tail alone; look again when as much has come once more."""
        if self._packed is not None and not self._packed and self._stays_plain():
            return
        self.is_whole = False
        start = self._tail_start()
        self._frames_dropped += _frames_in(self._pieces[:start])
        self._pack(self._pieces[:start])
        del self._pieces[:start]
        self._size = sum(map(len, self._pieces))
        while self._size > TAIL_BYTES_AT_MOST:
            self._packed = None
            self._size -= len(self._pieces.pop(0))
        self._drop_at = self._size + DROP_AT_BYTES

    def _stays_plain(self) -> bool:
        """Whether there is room to leave it as it is, until as much has come once more."""
        if self._limit or Kept.plain_in_all + DROP_AT_BYTES > PLAIN_AT_MOST or self._size > PACKED_AT_MOST:
            return False
        self._plain += DROP_AT_BYTES
        Kept.plain_in_all += DROP_AT_BYTES
        self._drop_at = self._size + DROP_AT_BYTES
        return True

    def __del__(self) -> None:
        type(self).plain_in_all -= self._plain

    def _pack(self, pieces: list[bytes]) -> None:
        if self._packed is None:
            return
        told = b"".join(pieces)
        self._packed_of += len(told)
        if self._packed_of > PACKED_AT_MOST:
            self._packed = None
        else:
            self._packed += (zlib.compress(told, 1),)

    def told(self) -> bytes | None:
        """All that went by; None where that was too much."""
        if self._packed is None:
            return b"".join(self._pieces) if self.is_whole else None
        return b"".join([*map(zlib.decompress, self._packed), *self._pieces])

    def _tail_start(self) -> int:
        ends = 0
        for at in range(len(self._pieces) - 1, -1, -1):
            ends += self._pieces[at].endswith(b"\n")
            if ends > TAIL_WRITES:
                return at + 1
        return 0

    def gap(self, *, is_events: bool) -> bytes:
        """What has to stand before a frame of ours that is to be read by itself, however the pieces were cut."""
        last = b"".join(self._pieces[-4:])[-2:]  # more than one piece of a single byte is possible
        if not last or last == b"\n\n" or (last.endswith(b"\n") and not is_events):
            return b""
        return b"\n" if last.endswith(b"\n") or not is_events else b"\n\n"

    def frames(self) -> int:
        """How many have gone by."""
        return self._frames_dropped + _frames_in(self._pieces)

    def body(self) -> bytes | None:
        """All of it; None where that was not wanted or too much."""
        return b"".join(self._pieces) if self.is_whole and self._limit else None

    def tail(self) -> bytes:
        """The last lines."""
        return b"".join(self._pieces[self._tail_start() :])


def _frames_in(pieces: list[bytes]) -> int:
    """Of Ollama's frames each is a line, which has no empty one behind it; a server-sent event has."""
    told = b"".join(pieces)
    return told.count(b"\n\n") or told.count(b"\n")
