"""The books of kept answers: which there are, what room they take, how much they are used, what was counted of them.

Answers themselves lie under their pools and routes; gateways tell the books once a second, off the path of calls. What
is kept in that second by a gateway that then dies is in no book: it is given all the same, and ends by its own time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from orchestrator.core.cache_entry import About, about_from, about_text
from orchestrator.core.errors import StoreError
from orchestrator.store import scripts
from orchestrator.store.connection import Connection
from orchestrator.store.schema import ANSWER_BOOKS

log = logging.getLogger(__name__)

# Uses a day ago count half: what was asked all of yesterday makes room for what is asked today.
HALF_LIFE_MS = 86_400_000
# What an answer takes in Redis beside itself: its key's place there and in the three books, as 10,000 of them took.
OVERHEAD_BYTES = 800
# Of what was kept or given, in one run of the script: a longer one would hold up everybody's.
_AT_ONCE = 100
_SCANNED_AT_ONCE = 500
_, _, _ABOUT, _COUNTS = ANSWER_BOOKS


class Noted(NamedTuple):
    """An answer that was kept."""

    key: str
    answer_bytes: int
    kept_at_ms: int
    ends_ms: int
    about: About


@dataclass(frozen=True, slots=True)
class Books:
    """All kept answers, and what was counted since the books were begun."""

    entries: int
    counts: Mapping[str, int]
    deleted: int = 0  # by this reckoning, for want of room

    @property
    def bytes(self) -> int:
        return self.counts.get("bytes", 0)


@dataclass(frozen=True, slots=True)
class Listed:
    """A kept answer by the books."""

    key: str
    bytes: int
    kept_at_ms: int
    about: About

    @property
    def digest(self) -> str:
        return self.key.rpartition(":")[2]


class AnswerBooks:
    """The books, as gateways write them and operators read them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def reckon(
        self, kept: Iterable[Noted], used: Mapping[str, int], counts: Mapping[str, int], room_bytes: int
    ) -> Books:
        """Tell what was kept, given and counted; answers that there is no room for are deleted. Raises StoreError."""
        notes = [
            (each.key, each.answer_bytes + OVERHEAD_BYTES, each.kept_at_ms, each.ends_ms, about_text(each.about))
            for each in kept
        ]
        uses, amounts, deleted = list(used.items()), list(counts.items()), 0
        while True:
            asked = orjson.dumps((notes[:_AT_ONCE], uses[:_AT_ONCE], amounts, room_bytes, HALF_LIFE_MS))
            gone, entries, told, is_more = await self._connection.script(scripts.RECKON, ANSWER_BOOKS, (asked,))
            await self._let_go(gone)
            notes, uses, amounts, deleted = notes[_AT_ONCE:], uses[_AT_ONCE:], [], deleted + len(gone)
            if not (notes or uses or is_more):
                return Books(entries, _counts(told), deleted)

    async def _let_go(self, keys: Sequence[bytes]) -> None:
        """Delete what is in no book any more; what Redis does not take ends by its own time."""
        # One by one: they lie on different servers of a Redis Cluster.
        unlinked = (self._connection.command(b"UNLINK", key) for key in keys)
        failed = [why for why in await asyncio.gather(*unlinked, return_exceptions=True) if isinstance(why, StoreError)]
        if failed:
            log.warning("%d answers without room are still there: %s", len(failed), failed[0])

    async def read(self) -> Books:
        entries = await self._connection.command(b"HLEN", _ABOUT)
        told = await self._connection.command(b"HGETALL", _COUNTS)
        return Books(entries, _counts(told))

    async def count(self, counts: Mapping[str, int]) -> None:
        """Add to what is counted, at once."""
        for name, amount in counts.items():
            await self._connection.command(b"HINCRBY", _COUNTS, name, amount)

    async def listed(self) -> AsyncIterator[Listed]:
        """Every answer in the books; one that comes or goes meanwhile may be left out."""
        cursor = b"0"
        while True:
            cursor, found = await self._connection.command(b"HSCAN", _ABOUT, cursor, b"COUNT", _SCANNED_AT_ONCE)
            for key, told in zip(found[::2], found[1::2], strict=True):
                size, at_ms, about = told.split(b" ", 2)
                yield Listed(key.decode(), int(size), int(at_ms), about_from(about))
            if cursor == b"0":
                return

    async def purge(self, is_meant: Callable[[Listed], bool]) -> int:
        """Delete every answer in the books that is meant; answers how many."""
        keys = [each.key async for each in self.listed() if is_meant(each)]
        await self.delete(keys)
        return len(keys)

    async def delete(self, keys: Iterable[str]) -> int:
        """Delete answers, and take them out of the books; answers how many there were."""
        known = tuple(keys)
        gone = 0
        for at in range(0, len(known), _SCANNED_AT_ONCE):
            some = known[at : at + _SCANNED_AT_ONCE]
            for key in some:
                gone += await self._connection.command(b"UNLINK", key)
            await self._connection.script(scripts.DISOWN, ANSWER_BOOKS, some, repeat=True)
        return gone


def _counts(told: Any) -> dict[str, int]:
    """A hash, as a command (RESP3) or a script tells it."""
    pairs = told.items() if isinstance(told, dict) else zip(told[::2], told[1::2], strict=True)
    return {name.decode(): int(amount) for name, amount in pairs}
