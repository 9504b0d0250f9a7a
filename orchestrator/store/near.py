"""Kept answers near at hand: in this process' memory, and given without asking Redis as long as Redis would give them.

It knows when what it has is still true. Redis is asked to tell of every key that is read for this place as soon as it
changes, goes or ends (client tracking, of those reads alone: the scripts' many reads are not tracked). Told and asked
on one connection, in one order: what is read before a change comes before the word of it, so nothing stale can stay.
With the connection everything goes. Which answers are wanted, and whether one may be given, is left to others.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from orchestrator.core.errors import StoreError
from orchestrator.store.connection import Connection
from orchestrator.store.link import LinkLostError

log = logging.getLogger(__name__)

# What an answer takes here beside its own bytes and its key: a tuple, two objects of bytes, a place in the map.
OVERHEAD_BYTES: Final = 300


class _Kept(NamedTuple):
    answer: bytes
    until_s: float  # by this process' clock; Redis forgets it then


class Near:
    """At most `room_bytes` of answers by their keys in Redis, those given last. 0: none, and Redis is asked nothing."""

    def __init__(self, connection: Connection, room_bytes: int) -> None:
        self._connection, self._room = connection, room_bytes
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._coming: set[bytes] = set()
        self._is_told = False  # of changes, on the connection that there is
        self.bytes = 0

    def start(self) -> None:
        """Follow the connection. Until then nothing is near."""
        self._connection.follow(self)
        self._connection.on_up(self._begin)
        self._begin()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: str) -> bytes | None:
        """The answer as Redis has it, but for a change whose word is on its way."""
        if not self._kept:
            return None
        name = key.encode()
        kept = self._kept.get(name)
        if kept is None:
            return None
        if kept.until_s <= time.monotonic():
            self._drop(name)
            return None
        self._kept.move_to_end(name)
        return kept.answer

    def want(self, key: str, size: int) -> None:
        """Redis gave this answer, of that many bytes: have it near the next time. Not waited for."""
        name = key.encode()
        if not self._is_told or _taken(name, size) > self._room or name in self._kept or name in self._coming:
            return
        self._coming.add(name)
        asked_s = time.monotonic()

        def told(replies: Any, why: StoreError | None) -> None:
            if name not in self._coming:
                return  # dropped meanwhile
            self._coming.discard(name)
            if why is None:
                lasts_ms, _, answer = replies
                self._keep(name, answer, asked_s + lasts_ms / 1e3 if lasts_ms >= 0 else float("inf"))
            elif not isinstance(why, LinkLostError):
                log.warning("an answer is not kept near: %s", why)

        # Read again: what was given came by a read that Redis does not tell of.
        self._connection.ask_together(((b"PTTL", name), (b"CLIENT", b"CACHING", b"YES"), (b"GET", name)), told)

    def drop(self, key: str) -> None:
        """It is about to change: it is not waited for Redis to say so."""
        name = key.encode()
        self._coming.discard(name)
        self._drop(name)

    def resize(self, room_bytes: int) -> None:
        """Have that much room from now on."""
        was_off, self._room = not self._room, room_bytes
        self._make_room()
        if not room_bytes:
            self._coming.clear()
        elif was_off:
            self._begin()

    # --- as the connection tells ---

    def changed(self, keys: Sequence[bytes] | None) -> None:
        """These keys are not what they were; None: no key is."""
        if keys is None:
            self._clear()
            return
        for each in keys:
            self._drop(each)

    def lost(self) -> None:
        """Nobody tells of changes any more."""
        self._is_told = False
        self._coming.clear()
        self._clear()

    def _begin(self) -> None:
        """Have Redis tell of what is read with CLIENT CACHING, on this connection."""
        if not self._room or self._is_told or not self._connection.is_up:
            return

        def told(_: Any, why: StoreError | None) -> None:
            self._is_told = why is None
            if why is not None and not isinstance(why, LinkLostError):
                log.warning("no answer is kept near: Redis does not tell of changes: %s", why)

        self._connection.ask_together(((b"CLIENT", b"TRACKING", b"ON", b"OPTIN"),), told)

    # --- inside ---

    def _keep(self, name: bytes, answer: bytes | None, until_s: float) -> None:
        if answer is None:
            return
        self._drop(name)
        self._kept[name] = _Kept(answer, until_s)
        self.bytes += _taken(name, len(answer))
        self._make_room()

    def _make_room(self) -> None:
        while self.bytes > self._room:
            self._drop(next(iter(self._kept)))

    def _drop(self, name: bytes) -> None:
        kept = self._kept.pop(name, None)
        if kept is not None:
            self.bytes -= _taken(name, len(kept.answer))

    def _clear(self) -> None:
        self._kept.clear()
        self.bytes = 0


def _taken(name: bytes, size: int) -> int:
    return size + len(name) + OVERHEAD_BYTES
