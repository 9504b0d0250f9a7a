"""What workers tell each other of answers that several of them wait for: each hears it on a channel of its own.

A message is its kind in one letter, the digest of the call, and what else there is. What is said is left to those who
say it; that a message may be lost or come twice, too.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final

from orchestrator.store.connection import Connection
from orchestrator.store.schema import joins

_END_OF_DIGEST: Final = b"\n"


class Kind(Enum):
    """Of a message. The first two go to the worker that makes an answer, the others come from it."""

    ASK = b"A"  # pass on what is said, to whom, from where on; join.lua writes it, too
    LEAVE = b"L"  # nobody there waits for it any more
    SAID = b"S"
    MADE = b"M"
    BROKEN = b"B"


Hears = Callable[[Kind, str, bytes], None]


class Joins:
    """One worker's ear and voice. `holder` is its name, as its leases have it."""

    def __init__(self, connection: Connection, holder: str) -> None:
        self._connection, self.holder = connection, holder

    @property
    def is_up(self) -> bool:
        """Whether anything can be told or heard."""
        return self._connection.is_up

    async def listen(self, hears: Hears) -> None:
        """Hear what is told to this worker from now on: its kind, the digest, the rest."""

        def heard(message: bytes) -> None:
            digest, _, rest = message[1:].partition(_END_OF_DIGEST)
            hears(Kind(message[:1]), digest.decode(), rest)

        await self._connection.subscribe(joins(self.holder), heard)

    def tell(self, holder: str, kind: Kind, digest: str, rest: bytes, heard: Callable[[bool], None]) -> None:
        """Not waited for. `heard` is told whether that worker was there."""
        message = b"".join((kind.value, digest.encode(), _END_OF_DIGEST, rest))
        self._connection.publish(joins(holder), message, heard)
