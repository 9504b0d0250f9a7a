"""One process of the keeper's: started so that it cannot outlive the keeper, ended with its whole group, its log kept.

Between fork and exec a child joins a session of its own, asks the kernel for SIGTERM when the keeper dies, and tells
the guardian of itself: from its first instruction on there is no moment at which a crash would leave it behind.
When and why a process is started or stopped is the keeper's to say.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from orchestrator.core.errors import HostError
from orchestrator.nodes.guardian import record
from orchestrator.nodes.keeper_units import SAY_READY_FD, Exit

ROTATE_BYTES = 10 * 2**20
LAST_LINES, LAST_LINES_BYTES = 10, 4096

# What a program may expect of any environment, and where its libraries and files are. Everything else is the unit's.
# PYTHONPATH: our own programs look in no working folder (-P), and are to be found where their supervisor was.
_INHERITED = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "PYTHONPATH",
)  # fmt: skip
_PR_SET_PDEATHSIG = 1
# Looked up before any fork: a child between fork and exec must not load libraries.
_prctl = getattr(ctypes.CDLL(None), "prctl", None)


def minimal_environment() -> dict[str, str]:
    return {name: os.environ[name] for name in _INHERITED if name in os.environ}


class Child(Protocol):
    """A process whose parent this one is, as `subprocess.Popen` has it."""

    returncode: int | None

    @property
    def pid(self) -> int: ...
    def wait(self) -> int: ...


class AdoptedChild:
    """A child that this process had before it became another program (execve(2)): it is its child still."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def wait(self) -> int:
        """Reap it; one that was reaped before ended nobody knows how."""
        try:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        except ChildProcessError:
            self.returncode = 255
        return self.returncode


class Process:
    """A running process, leader of its group.

    It stays a zombie until `ended` has reaped it: its number goes to no stranger while anybody may still signal it.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        log: Path,
        guardian: int | None = None,
        pass_fds: Sequence[int] = (),
        says_ready: bool = False,
        holds_hangup: bool = False,
    ) -> None:
        """Start it. `guardian` is the pipe on which it tells the guardian of itself. Raises HostError."""
        self.log = log
        self.said_ready = asyncio.Event()
        hears, says = os.pipe() if says_ready else (-1, -1)
        try:
            handle = open_log(log)
            try:
                self.log_from = os.fstat(handle).st_size
                self._child: Child = subprocess.Popen(  # noqa: S603  # a unit's command is its owner's own
                    argv,
                    env={**env, SAY_READY_FD: str(says)} if says_ready else dict(env),
                    cwd=cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=handle,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    close_fds=True,
                    pass_fds=(*pass_fds, says) if says_ready else tuple(pass_fds),
                    preexec_fn=None if guardian is None else _bound_to_keeper(guardian, holds_hangup),
                )
            finally:
                os.close(handle)
        except (OSError, ValueError, subprocess.SubprocessError) as why:
            if says_ready:
                os.close(hears)
            raise HostError(f"cannot start {argv[0]}: {why}") from why
        finally:
            if says_ready:
                os.close(says)
        if says_ready:
            _call_when_said(hears, self.said_ready.set)
        self._watch(guardian)

    @classmethod
    def adopted(cls, pid: int, *, log: Path, log_from: int, guardian: int | None) -> Process:
        """One that was started before this program took the place of another in the same process."""
        process = cls.__new__(cls)
        process.log, process.log_from = log, log_from
        process.said_ready = asyncio.Event()
        process._child = AdoptedChild(pid)
        process._watch(guardian)
        return process

    def _watch(self, guardian: int | None) -> None:
        self._guardian = guardian
        self._ended = asyncio.Event()
        _call_at_end(self.pid, self._ended.set)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def is_there(self) -> bool:
        """Whether its number is still its own: it runs, or has ended and was not reaped."""
        return self._child.returncode is None

    def signal(self, number: int) -> None:
        """To the leader alone: it knows best how its children are to end."""
        # Not Popen's own, which reaps a process that has ended: its number may be a stranger's from then on.
        if self.is_there:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End the whole group now; nothing where it was reaped."""
        if self.is_there:
            os.killpg(self.pid, signal.SIGKILL)

    async def ended(self) -> Exit:
        """Wait until the leader has ended, end what is left of its group, and reap it."""
        await self._ended.wait()
        self.kill()
        if self._guardian is not None:
            os.write(self._guardian, record("-", self.pid))
        code = self._child.wait()
        return Exit(signal=-code) if code < 0 else Exit(code=code)

    @property
    def has_ended(self) -> bool:
        return self._ended.is_set()

    async def has_ended_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        except TimeoutError:
            return self.has_ended
        return True

    def last_lines(self) -> tuple[str, ...]:
        """The last lines that it wrote to its log, none of an earlier process."""
        with self.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self.log_from, size - LAST_LINES_BYTES))
            lines = file.read(LAST_LINES_BYTES).decode(errors="replace").splitlines()
        return tuple(lines[-LAST_LINES:])


def open_log(path: Path) -> int:
    """The log to append to, readable by its owner alone; one that has grown is put aside first, as `.1`."""
    if path.exists() and path.stat().st_size > ROTATE_BYTES:
        path.replace(path.with_name(path.name + ".1"))
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def _bound_to_keeper(guardian: int, holds_hangup: bool) -> Callable[[], None]:
    """What a child does between fork and exec: nothing but system calls that were prepared here."""
    keeper = os.getpid()

    def bind() -> None:
        # Until exec the keeper's own handler would take the signal, and lose it.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # A keeper that takes another's place holds its own signals back for a moment: that is not to be inherited.
        signal.pthread_sigmask(signal.SIG_SETMASK, (signal.SIGHUP,) if holds_hangup else ())
        if _prctl is not None:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        os.write(guardian, record("+", os.getpid()))
        if os.getppid() != keeper:
            os._exit(1)  # the keeper died before the kernel was asked

    return bind


def _call_at_end(pid: int, on_end: Callable[[], None]) -> None:
    """Have the loop call `on_end` when the child has ended, without reaping it."""
    loop = asyncio.get_running_loop()
    try:
        handle = os.pidfd_open(pid)
    except (AttributeError, OSError):  # a kernel before 5.3, or a Python built for one
        threading.Thread(target=_wait_in_thread, args=(pid, loop, on_end), name=f"wait-{pid}", daemon=True).start()
        return

    def ended() -> None:
        loop.remove_reader(handle)
        os.close(handle)
        on_end()

    loop.add_reader(handle, ended)


def _call_when_said(hears: int, on_word: Callable[[], None]) -> None:
    """Have the loop call `on_word` when a byte comes; the pipe's end without one says nothing."""
    loop = asyncio.get_running_loop()

    def heard() -> None:
        loop.remove_reader(hears)
        word = os.read(hears, 1)
        os.close(hears)
        if word:
            on_word()

    loop.add_reader(hears, heard)


def _wait_in_thread(pid: int, loop: asyncio.AbstractEventLoop, on_end: Callable[[], None]) -> None:
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    if not loop.is_closed():
        loop.call_soon_threadsafe(on_end)
