"""One supervisor a state folder: whoever holds the folder's lock, and where it can be reached.

The lock is the kernel's (flock), so it goes with its holder, however that ends; what the file says is only for people.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType

from pydantic import TypeAdapter, ValidationError

from orchestrator.core.errors import HostError
from orchestrator.nodes.keeper_units import to_line

# The file is always this long, so that one write replaces it whole: no reader sees half of it.
_LENGTH_BYTES = 1024
# A reader takes the lock for a moment to learn whether anybody has it.
_TRIES, _PAUSE_S = 10, 0.02


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the folder. `endpoint` is empty until it has one; `build` is the code that it runs."""

    pid: int
    started_unix_ms: int
    endpoint: str = ""
    build: str = ""


class StateLock:
    """`with StateLock(state) as lock:` holds the folder, made private to its owner. Raises HostError on entry."""

    def __init__(self, state: Path, *, handed: int = -1, since_unix_ms: int = 0) -> None:
        """`handed`: the lock as the program before this one in the same process had it, since then."""
        self._state = state
        self._handle = handed
        self._holder = Holder(os.getpid(), since_unix_ms or time.time_ns() // 1_000_000)

    def __enter__(self) -> StateLock:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, why: BaseException | None, at: TracebackType | None) -> None:
        self.release()

    def acquire(self) -> None:
        """Raises HostError where another supervisor has the folder, or it cannot be had at all."""
        if self._handle >= 0:
            os.set_inheritable(self._handle, False)
            return
        try:
            _make_private(self._state)
            self._handle = os.open(self._state / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as why:
            raise _unusable(self._state, why) from why
        try:
            if not _lock(self._handle):
                raise _held(self._state, _read(self._handle))
            self.tell("")
        except BaseException:
            os.close(self._handle)
            self._handle = -1
            raise

    def hand_over(self) -> tuple[int, int]:
        """The lock's descriptor, open beyond an execve(2), and since when it is held (unix ms)."""
        os.set_inheritable(self._handle, True)
        return self._handle, self._holder.started_unix_ms

    def tell(self, endpoint: str, build: str = "") -> None:
        """Let others know where the holder answers, and which code it runs."""
        self._holder = Holder(self._holder.pid, self._holder.started_unix_ms, endpoint, build)
        try:
            os.pwrite(self._handle, to_line(self._holder).ljust(_LENGTH_BYTES), 0)
        except OSError as why:
            raise _unusable(self._state, why) from why

    def release(self) -> None:
        """Let the folder go; a second time is harmless. The file stays: another may be about to lock it."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def read_holder(state: Path) -> Holder | None:
    """Who holds the folder now; None where nobody does. Raises HostError where that cannot be told."""
    try:
        handle = os.open(state / "lock", os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as why:
        raise _unusable(state, why) from why
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(handle)
    else:
        return None
    finally:
        os.close(handle)


def _make_private(state: Path) -> None:
    """The folder, for its owner alone. One that is there must be ours, and hold state or nothing."""
    try:
        state.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        names = {each.name for each in state.iterdir()}
        about = state.stat()
        if about.st_uid != os.getuid():
            raise HostError(f"{state} belongs to another user (uid {about.st_uid}); name another --state") from None
        if names and "lock" not in names and about.st_mode & 0o077:
            raise HostError(f"{state} holds files of others and is open to them; name an empty --state") from None
        state.chmod(0o700)


def _lock(handle: int) -> bool:
    """Take the lock, unless another supervisor has it."""
    for _ in range(_TRIES):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_PAUSE_S)
        else:
            return True
    return False


def _read(handle: int) -> Holder | None:
    """What the file says; None where it says nothing yet."""
    try:
        return TypeAdapter(Holder).validate_json(os.pread(handle, _LENGTH_BYTES, 0))
    except ValidationError:
        return None  # its holder has only just taken it


def _held(state: Path, holder: Holder | None) -> HostError:
    out = f"stop it with `ollamactl down --state {state}`, or name another --state"
    if holder is None:
        return HostError(f"{state} is being taken by another supervisor right now; {out}")
    since = datetime.fromtimestamp(holder.started_unix_ms / 1000).astimezone().isoformat(" ", "seconds")
    where = f", answering on {holder.endpoint}" if holder.endpoint else ""
    return HostError(f"{state} is in use by pid {holder.pid} since {since}{where}; {out}")


def _unusable(state: Path, why: OSError) -> HostError:
    reasons = {
        errno.EACCES: "no permission to write there",
        errno.EPERM: "no permission to write there",
        errno.EROFS: "the file system is read-only",
        errno.ENOSPC: "the disk is full; free some space",
        errno.EDQUOT: "the disk quota is used up; free some space",
        errno.ENOTDIR: "it, or a part of its path, is not a folder",
        errno.ENAMETOOLONG: "the path is too long",
    }
    return HostError(
        f"{state} cannot hold the state: {reasons.get(why.errno or 0, why.strerror)}; or name another --state"
    )
