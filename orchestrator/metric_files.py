"""Files of metrics that a full disk cannot kill their writer with.

prometheus-client maps a file of each process, grown without taking any room for it: the first byte on a page for which
the disk has none ends the process by SIGBUS, and so it does each one that is started in its place. Here room is taken
before anything is written, and what finds none is kept in memory until there is. What is counted is `telemetry`'s.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

# Of each file, taken at once: a worker's counters and histograms fit into twice as much.
FIRST_BYTES: Final = 64 * 2**10
# Length, padding, value and time of an entry, at most.
_BESIDES_KEY: Final = 32


class RoomyDict(MmapedDict):
    """The library's dict of doubles in a mapped file, whose pages are there before they are written to."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        self._path, self._reads = Path(filename), read_mode
        self._unwritten: dict[str, tuple[float, float]] = {}  # values and their times, for want of room
        self._is_open = False
        self._positions: dict[str, int] = {}
        self._f = None  # type: ignore[assignment]  # as the library has it once it was closed
        with suppress(OSError):  # no room now: `_has` tries again with each value
            self._open()

    def read_value(self, key: str) -> tuple[float, float]:
        if self._has(key):
            return super().read_value(key)  # type: ignore[no-any-return,no-untyped-call]
        return self._unwritten.get(key, (0.0, 0.0))

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        if self._has(key):
            super().write_value(key, value, timestamp)  # type: ignore[no-untyped-call]
        else:
            self._unwritten[key] = value, timestamp

    def _has(self, key: str) -> bool:
        """Whether the key has its place in the file; it is given one where there is room."""
        if key in self._positions:
            return True
        try:
            self._open()
            self._make_room(key)
        except OSError:
            return False
        self._init_value(key)  # type: ignore[no-untyped-call]
        if key in self._unwritten:
            super().write_value(key, *self._unwritten.pop(key))  # type: ignore[no-untyped-call]
        return True

    def _open(self) -> None:
        if self._is_open:
            return
        if not self._reads:
            _take_first_room(self._path)
        super().__init__(str(self._path), self._reads)  # type: ignore[no-untyped-call]
        self._is_open = True

    def _make_room(self, key: str) -> None:
        """Take room for one more entry, as the library is about to: a file twice as long."""
        needed, capacity = self._used + len(key.encode()) + _BESIDES_KEY, self._capacity
        while needed > capacity:
            _lengthen(self._path, capacity, capacity)
            capacity *= 2


def _take_first_room(path: Path) -> None:
    """Raises OSError, and leaves no file without room behind: readers could make nothing of it."""
    if path.exists() and path.stat().st_size:
        return
    try:
        _lengthen(path, 0, FIRST_BYTES)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _lengthen(path: Path, size: int, by: int) -> None:
    """Written, not cut to size: what is written has its place on the disk. Raises OSError, the file as it was."""
    with path.open("ab", buffering=0) as file:
        try:
            if file.tell() < size + by and file.write(bytes(by)) != by:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            file.truncate(size)
            raise


def install() -> None:
    """To be called before the first metric is made."""
    values.MmapedDict = RoomyDict  # type: ignore[attr-defined]  # the library imports it there, and takes it from there
