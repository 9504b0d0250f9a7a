"""Ends what a supervisor kept, when the supervisor is gone: `python -I -S guardian.py READ_FD GRACE_S`.

It knows process groups, by what is written to the pipe it reads, and nothing else; only the standard library is
imported, so that it is there a moment after it was started. Each record is `+PID` or `-PID`, padded to RECORD bytes:
a write of one is atomic, so children write their own between fork and exec. When the last writer is gone, by a crash
or `kill -9` too, every group still known gets SIGTERM, and SIGKILL once its leader has ended or the time is up.
"""

import os
import select
import signal
import sys
import time
from collections.abc import Iterator

RECORD = 12
# Where the kernel has no pidfd (before 5.3), a leader's end is looked for this often.
_POLL_S = 0.02


def record(sign: str, pid: int) -> bytes:
    """`+` a group to end with the supervisor, `-` one that is gone."""
    return f"{sign}{pid:<{RECORD - 2}}\n".encode()


def main(pipe: int, grace_s: float) -> None:
    # It ends with the pipe and by no other wish: a Ctrl-C or a service manager's SIGTERM is the supervisor's to handle.
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    end(_follow(pipe), grace_s)


def end(groups: dict[int, str | None], grace_s: float) -> None:
    """SIGTERM to the groups, then SIGKILL to each as soon as its leader has ended, to all after `grace_s`."""
    ours = {pid for pid, born in groups.items() if _born(pid) in (born, None)}
    for pid in ours:
        _signal_group(pid, signal.SIGTERM)
    for pid in _as_they_end(ours, time.monotonic() + grace_s):
        _signal_group(pid, signal.SIGKILL)


def _follow(pipe: int) -> dict[int, str | None]:
    """The groups known when the last writer is gone, each with its leader's time of birth."""
    groups: dict[int, str | None] = {}
    # Whole records only: reads ask for a multiple of one, and every write is one.
    while data := os.read(pipe, RECORD * 256):
        for line in data.decode().splitlines():
            pid = int(line[1:])
            if line.startswith("+"):
                groups[pid] = _born(pid)
            else:
                groups.pop(pid, None)
    return groups


def _born(pid: int) -> str | None:
    """When the process began, in clock ticks since boot; None where there is none.

    It tells a leader from a stranger with its number. Without any process of that number the group, if there is one,
    is still the old one: the kernel gives no number away that a group has.
    """
    fields = _stat(pid)
    return fields[19] if fields else None


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on (proc(5)): the second, the command, may hold blanks."""
    try:
        handle = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
        try:
            return os.read(handle, 4096).decode(errors="replace").rpartition(")")[2].split()
        finally:
            os.close(handle)
    except (FileNotFoundError, ProcessLookupError):
        return []


def _as_they_end(pids: set[int], deadline_s: float) -> Iterator[int]:
    """Each of `pids` when it has ended; those that have not by the deadline then."""
    left = set(pids)
    poll = select.poll()
    watched: dict[int, int] = {}
    for pid in pids:
        handle = _pidfd(pid)
        if handle is not None:
            poll.register(handle, select.POLLIN)
            watched[handle] = pid
    while left and (time_left_s := deadline_s - time.monotonic()) > 0:
        blind = left - set(watched.values())
        timeout_s = min(time_left_s, _POLL_S) if blind else time_left_s
        ended = {watched[handle] for handle, _ in poll.poll(timeout_s * 1000)} | {pid for pid in blind if _is_over(pid)}
        for handle in [handle for handle, pid in watched.items() if pid in ended]:
            poll.unregister(handle)
            del watched[handle]
        left -= ended
        yield from ended
    yield from left


def _pidfd(pid: int) -> int | None:
    """A handle that becomes readable when the process ends; None without one, or without the process."""
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):
        return None


def _is_over(pid: int) -> bool:
    fields = _stat(pid)
    return not fields or fields[0] in "ZX"


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return  # the whole group has ended
    except PermissionError as why:
        # Another user's process by now; the other groups still have to end.
        print(f"cannot end process group {pid}: {why}", file=sys.stderr)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
