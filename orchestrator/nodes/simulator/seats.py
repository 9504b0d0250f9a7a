"""Who is at work on a simulated card: one small file a card, mapped by every instance on it, one seat each.

An instance writes its own seat only: its process id and its slots at work. Reading the others takes no lock: a seat
is eight aligned bytes, and what is read a step too late is only a step's share.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

from orchestrator.core.physics import share_of
from orchestrator.nodes.simulator.config import SEATS_PER_CARD

_SEAT: Final = struct.Struct("<II")
# A killed instance leaves its seat as it was; whether the processes on the other seats live is asked this often.
_LIVENESS_S: Final = 0.5


class CardSeats:
    """This instance's seat on its card. Without a file the card is its own."""

    def __init__(self, path: Path | None, seat: int, now: Callable[[], float]) -> None:
        self._seat = seat
        self._now = now
        self._mine = 0
        self._dead: frozenset[int] = frozenset()
        self._asked_at = float("-inf")
        self._map = _mapped(path) if path else None
        self.change_active(0)

    def change_active(self, by: int) -> None:
        """So many slots more, or fewer, are at work here."""
        self._mine += by
        if self._map is not None:
            _SEAT.pack_into(self._map, self._seat * _SEAT.size, os.getpid(), self._mine)

    def share(self) -> float:
        """The part of the card that is this instance's now."""
        if self._map is None:
            return 1.0
        seats = list(_SEAT.iter_unpack(self._map[: SEATS_PER_CARD * _SEAT.size]))
        others = [(pid, slots) for seat, (pid, slots) in enumerate(seats) if slots and seat != self._seat]
        if others and self._now() - self._asked_at > _LIVENESS_S:
            self._asked_at = self._now()
            self._dead = frozenset(pid for pid, _ in others if not _is_alive(pid))
        return share_of(self._mine, self._mine + sum(slots for pid, slots in others if pid not in self._dead))

    def close(self) -> None:
        """Leave the seat. Safe to call twice."""
        if self._map is not None:
            self.change_active(-self._mine)
            self._map.close()
            self._map = None


def _mapped(path: Path) -> mmap.mmap:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.ftruncate(file, SEATS_PER_CARD * _SEAT.size)  # the same size from every instance: it cuts nothing off
        return mmap.mmap(file, SEATS_PER_CARD * _SEAT.size)
    finally:
        os.close(file)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
