"""What the steps of a host's base have in common: where things lie, what runs beside them, how a no is said."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Tuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Whether it changed the host, or would, and in words what is there afterwards.
Told = Tuple[bool, str]

# Not that of whoever logs in: without sudo's own it may lack /usr/sbin.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What a host keeps of ours. Not /var/lib/ollamactl: where a cluster runs, too, that is its own, and closed to others.
STATE = "/var/lib/ollamactl-host"
LOCK = "run/ollamactl.lock"
LOCK_WAIT_S = 20.0


class Refused(Exception):
    """A step cannot be done; the text says why and what would help, in one line."""


class Work:
    """One run of steps. `root` is where the host's paths begin; a dry one changes nothing."""

    def __init__(self, root: Path, is_dry: bool = False, say: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.root = root
        self.is_dry = is_dry
        self._say = say
        self._said_at = 0.0
        self.more: dict[str, Any] = {}  # what the step in hand tells besides its words

    def tell(self, words: str, **more: Any) -> None:
        """That a long step goes on; what has `more` to it is said at once, the rest once a second."""
        if self._say is not None and (more or time.monotonic() - self._said_at >= 1.0):
            self._said_at = time.monotonic()
            self._say({"goes_on": words, **more})

    def at(self, path: str) -> Path:
        return self.root / path.lstrip("/")


def ran(*argv: str, given: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
    """A command of the host's. Raises Refused with its first complaint, or where there is no such command."""
    environment = {"PATH": PATH, "LC_ALL": "C"}
    try:
        done = subprocess.run(  # noqa: S603 (a list of words)
            argv, input=given, capture_output=True, text=True, check=False, env=environment
        )
    except FileNotFoundError as error:
        raise Refused(f"no `{argv[0]}` there") from error
    if check and done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise Refused(said[0] if said else f"`{argv[0]}` ended with status {done.returncode}")
    return done


def in_words(error: OSError) -> str:
    """What an error of the system's means to the operator."""
    where = f" at {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full{where}: make room there and run this again"
    return f"{error.strerror or error}{where}"


@contextmanager
def alone(work: Work) -> Iterator[None]:
    """One run of steps at a time on this host. Raises Refused where another has not ended in time."""
    path = work.at(LOCK)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        _lock(file.fileno(), path)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _lock(file: int, path: Path) -> None:
    signal.signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, LOCK_WAIT_S)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except TimeoutError as error:
        who = path.read_text() or "unknown"
        raise Refused(f"another deploy is at work there (process {who}); run this again when it has ended") from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _too_long(number: int, frame: object) -> None:
    raise TimeoutError
