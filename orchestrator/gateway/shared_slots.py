"""How many slots each gateway of this machine uses on each instance: a table in one file that all of them have mapped.

Every worker keeps its own row true at all times, and reads the others' when Redis cannot say who has what. A count is a
few hundred nanoseconds, and outlives whoever wrote it: the row of a paused worker stays true, that of a dead one stands
until its next life begins.
"""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.core.model import InstanceId

# Instances share a column where their ids' sums meet. Each then counts the other's calls as well as its own, which
# leaves slots unused while Redis is away, and never uses one twice.
COLUMNS = 4096
# One more says that this worker has taken slots that Redis has not been told of.
_UNTOLD = COLUMNS
_ROW = COLUMNS + 1
_BYTES = 2  # unsigned short


class SharedSlots:
    """The row of gateway `index`, and a look at those of all `gateways`. Opening it begins a new life of the row."""

    def __init__(self, path: Path, index: int, gateways: int) -> None:
        size = gateways * _ROW * _BYTES
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # Grown, never cut: a sibling that has mapped more would be killed upon a look past the end (mmap(2), SIGBUS).
        # Room is taken for all of it: a page for which a full disk has none would kill who writes to it as well.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._file, 0, size)
        elif os.fstat(self._file).st_size < size:
            os.ftruncate(self._file, size)
        self._map = mmap.mmap(self._file, size)
        self._all = memoryview(self._map).cast("H")
        self._row = self._all[index * _ROW : (index + 1) * _ROW]
        self._row[:] = memoryview(bytes(_ROW * _BYTES)).cast("H")
        self._columns: dict[str, int] = {}
        self._ending: set[asyncio.TimerHandle] = set()

    def took(self, instance: InstanceId) -> None:
        """A call of this worker is about to use a slot."""
        self._row[self._column(instance)] += 1

    def gave(self, instance: InstanceId, hold_s: float = 0.0) -> None:
        """The call is over; the instance works on for `hold_s` all the same, and the slot is taken until then."""
        if not hold_s:
            self._row[self._column(instance)] -= 1
            return

        def end() -> None:
            self._ending.discard(handle)
            self.gave(instance)

        handle = asyncio.get_running_loop().call_later(hold_s, end)
        self._ending.add(handle)

    def own(self, instance: str) -> int:
        """Slots that this worker uses now."""
        return self._row[self._column(instance)]

    def everyones(self, instance: str) -> int:
        """Slots that the workers of this machine use now, all together."""
        return sum(self._all[self._column(instance) :: _ROW])

    @contextmanager
    def locked(self) -> Iterator[bool]:
        """Nobody else takes a slot by itself meanwhile; false: somebody does just now, to be tried again.

        It never waits: whoever has the lock may be paused, and this worker has other things to do.
        """
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    @property
    def is_somebody_untold(self) -> bool:
        """Whether some worker uses slots that Redis may not know of, so that what Redis grants may be one too many."""
        return any(self._all[_UNTOLD::_ROW])

    def mark_untold(self, is_untold: bool) -> None:
        """Say to the others that this worker does, or no longer does."""
        self._row[_UNTOLD] = is_untold

    def close(self) -> None:
        """Let go of the file; the row stays as it is."""
        for each in self._ending:
            each.cancel()
        self._row.release()
        self._all.release()
        self._map.close()
        os.close(self._file)

    def _column(self, instance: str) -> int:
        column = self._columns.get(instance)
        if column is None:
            column = self._columns[instance] = zlib.crc32(instance.encode()) % COLUMNS
        return column
