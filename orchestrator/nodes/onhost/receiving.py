"""Files that come over a connection, each named for its digest, and room for them.

What has arrived stays when the connection breaks: the next one goes on from there. What is whole is checked.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import struct
import sys
from typing import TYPE_CHECKING, Any, Iterable

from orchestrator.nodes.onhost.archive import CHUNK_BYTES, SYNC_BYTES, to_disk
from orchestrator.nodes.onhost.work import Refused, Told, Work

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

INCOMING = "/opt/ollamactl/incoming"
SPARE_BYTES = 256 * 2**20  # a disk filled to its last byte would be the next step's trouble
_FLOCK = "hhqqi4x"  # struct flock of Linux on 64 bit: type, whence, start, length, process


def have_room(work: Work, sent: str, sent_bytes: int, unpacked_bytes: int) -> Told:
    """Whether the disk holds what is about to come, before any of it does."""
    part = work.at(INCOMING) / sent
    there = part.stat().st_size if part.exists() else 0
    needed = max(0, sent_bytes - there) + unpacked_bytes + SPARE_BYTES
    free = shutil.disk_usage(str(work.at(INCOMING))).free
    if free < needed:
        raise Refused(f"/opt has {_mib(free)} free and needs {_mib(needed)}: make room there and run this again")
    return False, f"{_mib(free)} free, {_mib(needed)} needed"


def receive(work: Work, sent: str, size: int) -> Told:
    """A file of this digest from the input of this process, after what is here of it already.

    Tells first from where on they are wanted. Raises Refused; of what arrived the rest is wanted next time.
    """
    path = work.at(INCOMING) / sent
    with _held(path) as file:
        hashed = hashlib.sha256()
        there = _hash(file, hashed)
        if there > size:
            file.truncate(0)
            file.seek(0)
            hashed, there = hashlib.sha256(), 0
        work.tell("ready", offset=there)
        for chunk in _chunks(sys.stdin.buffer, size - there):
            file.write(chunk)
            hashed.update(chunk)
            there += len(chunk)
            if there % SYNC_BYTES < CHUNK_BYTES:
                to_disk(file)
        to_disk(file)
        if there < size:
            raise Refused(f"the connection ended after {there} of {size} bytes; the next run goes on from there")
        if hashed.hexdigest() != sent:
            path.unlink()
            raise Refused("what arrived is not what was sent (its sha256 is another): run this again")
    return True, f"{_mib(size)} received"


def _chunks(source: BinaryIO, size: int) -> Iterable[bytes]:
    while size:
        chunk = source.read(min(size, CHUNK_BYTES))
        if not chunk:
            return
        size -= len(chunk)
        yield chunk


def _hash(file: BinaryIO, hashed: Any) -> int:
    there = 0
    while True:
        chunk = file.read(CHUNK_BYTES)
        if not chunk:
            return there
        hashed.update(chunk)
        there += len(chunk)


def _held(path: Path) -> BinaryIO:
    """The file, this process's alone: one that still waits for a connection that broke is ended."""
    file = path.open("r+b" if path.exists() else "w+b")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = _holder(file)
        if holder is not None:
            os.kill(holder, signal.SIGTERM)
        fcntl.lockf(file, fcntl.LOCK_EX)
    return file


def _holder(file: BinaryIO) -> int | None:
    told = fcntl.fcntl(file, fcntl.F_GETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    kind, _, _, _, process = struct.unpack(_FLOCK, told)
    return process if kind != fcntl.F_UNLCK and process > 0 else None


def is_locked(path: Path) -> bool:
    with path.open("r+b") as file:
        return _holder(file) is not None


def _mib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
