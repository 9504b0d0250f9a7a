"""What happened to the fleet, kept in a file of JSON lines that stays small and that people can follow.

Lines are written whole and in their order by one process, the controller. Who reads needs neither Redis nor the
controller. What is worth a line is decided where it happens.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import orjson
from pydantic import TypeAdapter, ValidationError

from orchestrator.core.model import Event

log = logging.getLogger(__name__)

# Some 6,000 events. The file before it is kept too: a look back never finds a fresh, empty one alone.
MOST_BYTES: Final = 2**20

_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


def older(path: Path) -> Path:
    """Where the lines before those of `path` are."""
    return path.with_name(f"{path.name}.1")


class Chronicle:
    """Writes to `path`. A disk that is full costs lines, and nothing else."""

    def __init__(self, path: Path, most_bytes: int = MOST_BYTES) -> None:
        self._path, self._most_bytes = path, most_bytes
        self._said = ""

    def record(self, event: Event) -> None:
        """Add one line, and tell the log."""
        log.info("%s", event.text)
        line = orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE)
        try:
            self._turn_over(len(line))
            handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(handle, line)
            finally:
                os.close(handle)
            self._said = ""
        except OSError as why:
            if str(why) != self._said:
                log.warning("%s: events are not kept: %s", self._path, why)
            self._said = str(why)

    def _turn_over(self, more: int) -> None:
        try:
            size = self._path.stat().st_size
        except FileNotFoundError:
            return
        if size + more > self._most_bytes:
            self._path.replace(older(self._path))


def read(path: Path) -> tuple[Event, ...]:
    """All that is kept, the oldest first. Raises OSError where a file is there and cannot be read."""
    reader = Reader(path)
    before = tuple(_events(_bytes(older(path))))
    return before + reader.new()


class Reader:
    """Follows a chronicle: each event of it once, also across the beginning of a new file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = 0
        self._at = 0

    def new(self) -> tuple[Event, ...]:
        """Those written since the last call; at the first one all of the present file. Raises OSError."""
        events: list[Event] = []
        if self._inode and self._inode != _inode(self._path) and self._inode == _inode(older(self._path)):
            events += _events(_bytes(older(self._path))[self._at :])
        try:
            with self._path.open("rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                if inode != self._inode:
                    self._inode, self._at = inode, 0
                file.seek(self._at)
                whole = file.read()
        except FileNotFoundError:
            return tuple(events)
        whole = whole[: whole.rfind(b"\n") + 1]  # the last line may be on its way
        self._at += len(whole)
        return (*events, *_events(whole))


def _events(lines: bytes) -> Iterator[Event]:
    """What a machine that lost its power left half-written is left out."""
    for line in lines.splitlines():
        try:
            yield _EVENT.validate_json(line)
        except ValidationError as why:
            log.debug("a line of events makes no sense: %s", why)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0
