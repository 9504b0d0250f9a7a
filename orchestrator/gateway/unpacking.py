"""A packed body (gzip or zlib), unpacked piece by piece: who asks says how much it can hold of it.

Knows nothing of the room there is, nor of limits; it may be asked from a thread.
"""

from __future__ import annotations

import zlib
from typing import Final

from orchestrator.core.errors import CallerError

_PACKED: Final = frozenset({"gzip", "x-gzip", "deflate"})
# Lets zlib tell the two kinds by their first bytes.
_ANY_ZLIB: Final = 47
# So much is given to zlib at a time: it copies what it has not come to with each piece.
_GIVEN_BYTES: Final = 65_536


class Unpacking:
    """One body. Raises CallerError 415 for a packing that is not known."""

    def __init__(self, raw: bytes, packing: str) -> None:
        if packing not in _PACKED:
            raise CallerError(415, f"Content-Encoding {packing} is not known here: send gzip, deflate or none")
        self._zlib = zlib.decompressobj(_ANY_ZLIB)
        self._left = memoryview(raw)
        self.is_done = False

    def next(self, at_most: int) -> bytes:
        """What comes next, as much as is asked for or to the end. Raises CallerError 400."""
        pieces: list[bytes] = []
        while at_most > 0 and not self.is_done:
            piece = self._some(at_most)
            at_most -= len(piece)
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _some(self, at_most: int) -> bytes:
        given: bytes | memoryview = self._zlib.unconsumed_tail
        if not given:
            given, self._left = self._left[:_GIVEN_BYTES], self._left[_GIVEN_BYTES:]
        try:
            piece = self._zlib.decompress(given, at_most)
        except zlib.error as why:
            raise CallerError(400, f"the request body could not be unpacked: {why}") from why
        if self._zlib.eof:
            self.is_done = True
            if self._zlib.unused_data or self._left:
                raise CallerError(400, "the request body could not be unpacked: something follows behind its end")
        elif not piece and not given:
            raise CallerError(400, "the request body could not be unpacked: it is cut off")
        return piece
