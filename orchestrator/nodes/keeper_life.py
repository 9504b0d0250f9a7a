"""One unit's life: started, restarted when it dies, ended when told to. What is told of it are its events.

A unit that dies is started again at once, then after pauses that double; one that stayed up for a while has earned
the quick restart again.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.errors import HostError
from orchestrator.nodes.keeper_process import Process
from orchestrator.nodes.keeper_units import EventKind, Exit, Unit, UnitEvent, UnitState, UnitStatus

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 10.0
HEALTHY_AFTER_S = 10.0
# A killed process is gone at once, except one that is stuck inside a driver.
KILL_WAIT_S = 5.0
# How often a starting unit is asked whether it accepts connections.
_FIRST_ASK_S, _LONGEST_ASK_S = 0.01, 0.2
_CREDENTIALS = struct.Struct("iII")  # pid, uid, gid


def pause_s(deaths: int) -> float:
    """How long to wait before the next start, after so many deaths in a row before this one."""
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(deaths - 1, 10)) if deaths else 0.0


@dataclass(frozen=True, slots=True)
class Kept:
    """A life as the keeper's next program takes it up. `pid` None: it waits to be started again."""

    unit: Unit
    pid: int | None
    log: Path
    log_from: int
    restarts: int
    since_unix_ms: int
    leaves_within_s: float | None = None  # it was told to leave, and has so long for it


class Life:
    """`begin` or `adopt` once, `end` at any time and as often as one likes."""

    def __init__(self, unit: Unit, log: Path, spawn: Callable[[], Process], emit: Callable[[UnitEvent], None]) -> None:
        self.unit = unit
        self._log, self._spawn, self._emit = log, spawn, emit
        self._process: Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._has_begun = False
        self._state, self._since_unix_ms = UnitState.STARTING, _now_unix_ms()
        self._restarts = self._deaths = 0
        self._began_s = self._pause_s = 0.0
        self._last_exit: Exit | None = None
        self._leaves_at_s: float | None = None

    @property
    def is_over(self) -> bool:
        return self._task is None or self._task.done()

    @property
    def pid(self) -> int | None:
        """The leader's, while the number is its own."""
        return self._process.pid if self._process is not None and self._process.is_there else None

    def status(self) -> UnitStatus:
        return UnitStatus(
            self.unit.name, self.pid, self._state, self._restarts, self._since_unix_ms, self._last_exit, self._log
        )

    async def begin(self) -> None:
        """Start it, and wait until it is ready where it says when. Raises HostError, and leaves nothing running."""
        process = self._start()
        self._task = asyncio.create_task(self._run(process), name=f"unit {self.unit.name}")
        try:
            problem = await self._until_ready(process)
            if process.has_ended:
                await asyncio.wait({self._task})  # its end is told of as one that nobody asked for
            self._has_begun = not problem
        finally:
            if not self._has_begun:
                await self.end()
        if problem:
            raise HostError("\n".join((problem, *process.last_lines())))

    async def until_it_says_ready(self) -> None:
        """Wait for the word of a unit that `says_ready`. Raises HostError where it ends before, or the time is up."""
        process = self._process
        assert process is not None
        word = asyncio.ensure_future(process.said_ready.wait())
        end = asyncio.ensure_future(process.has_ended_within(self.unit.ready_timeout_s))
        try:
            await asyncio.wait((word, end), return_when=asyncio.FIRST_COMPLETED)
        finally:
            word.cancel()
            end.cancel()
        if process.said_ready.is_set():
            return
        if process.has_ended:
            raise HostError("\n".join((f"{self.unit.name} ended before it was ready", *process.last_lines())))
        raise HostError(f"{self.unit.name} was not ready after {self.unit.ready_timeout_s:g} s; its log is {self._log}")

    def adopt(self, kept: Kept, guardian: int | None) -> None:
        """Go on with a process that an earlier program of this process started."""
        self._restarts, self._has_begun = kept.restarts, True
        self._state = UnitState.WAITING if kept.pid is None else UnitState.RUNNING
        self._since_unix_ms = kept.since_unix_ms
        if kept.pid is not None:
            self._process = Process.adopted(kept.pid, log=kept.log, log_from=kept.log_from, guardian=guardian)
        self._task = asyncio.create_task(self._go_on(), name=f"unit {self.unit.name}")

    async def let_go(self) -> Kept | None:
        """Look after it no more, for the next program to take it up; None: it is over."""
        if self._task is None or self._task.done():
            return None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        log_from = self._process.log_from if self._process is not None else 0
        left_s = max(0.0, self._leaves_at_s - time.monotonic()) if self._leaves_at_s is not None else None
        return Kept(self.unit, self.pid, self._log, log_from, self._restarts, self._since_unix_ms, left_s)

    async def leave(self, within_s: float) -> None:
        """Tell it that another does its work now: it finishes what it has, and ends by itself. Then `end`."""
        self._stopping.set()
        self._leaves_at_s = time.monotonic() + within_s
        if self._process is None or self.is_over:
            return
        self._enter(UnitState.STOPPING)
        self._process.signal(self.unit.leave_signal)
        if not await self._process.has_ended_within(max(0.0, within_s - self.unit.stop_timeout_s)):
            await self.end(within_s)
        elif self._task is not None:
            await asyncio.wait({self._task})

    async def end(self, within_s: float = float("inf")) -> None:
        """Its stop signal, then SIGKILL to its whole group. Raises HostError where even that does not end it."""
        self._stopping.set()
        if self._task is None or self._process is None or self._task.done():
            return
        self._enter(UnitState.STOPPING)
        self._process.signal(self.unit.stop_signal)
        if not await self._process.has_ended_within(min(self.unit.stop_timeout_s, within_s)):
            self._process.kill()
        done, _ = await asyncio.wait({self._task}, timeout=KILL_WAIT_S)
        if not done:
            raise HostError(
                f"{self.unit.name} (pid {self._process.pid}) does not end, even by SIGKILL: it is stuck in the kernel, "
                "mostly in a device's driver; `dmesg` may say where, a reboot of this machine ends it"
            )

    async def _go_on(self) -> None:
        """An adopted unit's life: it runs, or was about to be started again."""
        if self._process is not None:
            await self._run(self._process)
        elif (process := await self._start_again()) is not None:
            await asyncio.gather(self._run(process), self._until_ready(process))

    async def _run(self, process: Process) -> None:
        """From a started process to the unit's last."""
        ended = await process.ended()
        while self._goes_on_after(process, ended):
            again = await self._start_again()
            if again is None:
                return
            process = again
            ended, _ = await asyncio.gather(process.ended(), self._until_ready(process))

    def _goes_on_after(self, process: Process, ended: Exit) -> bool:
        """Tell of the process's end, and whether there will be another."""
        self._last_exit = ended
        goes_on = self.unit.restart and self._has_begun and not self._stopping.is_set()
        self._enter(UnitState.WAITING if goes_on else UnitState.EXITED)
        if self._stopping.is_set():
            self._tell(EventKind.STOPPED, process, exit=ended)
        else:
            retry_in_s = self._next_pause_s() if goes_on else None
            self._tell(EventKind.EXITED, process, exit=ended, retry_in_s=retry_in_s, lines=process.last_lines())
        return goes_on

    async def _start_again(self) -> Process | None:
        """The next process, after the pause and as many tries as it takes. None: told to end meanwhile."""
        while not await _is_set_within(self._stopping, self._pause_s):
            try:
                process = self._start()
            except HostError as why:
                self._tell(EventKind.FAILED, why=str(why), retry_in_s=self._next_pause_s())
            else:
                self._restarts += 1
                return process
        self._enter(UnitState.EXITED)
        self._tell(EventKind.STOPPED)
        return None

    def _start(self) -> Process:
        self._began_s = time.monotonic()
        self._process = self._spawn()
        self._enter(UnitState.RUNNING if self.unit.ready is None else UnitState.STARTING)
        self._tell(EventKind.STARTED, self._process)
        return self._process

    async def _until_ready(self, process: Process) -> str:
        """Wait until it accepts connections. Why it does not, where it ends or the time is up; empty: it is ready."""
        if self.unit.ready is None:
            return ""
        deadline_s, ask_s = time.monotonic() + self.unit.ready_timeout_s, _FIRST_ASK_S
        while not await _accepts(self.unit.ready, process.pid):
            if await process.has_ended_within(ask_s):
                return f"{self.unit.name} ended before it was ready"
            if time.monotonic() > deadline_s:
                why = f"{self.unit.name} was not ready after {self.unit.ready_timeout_s:g} s; its log is {self._log}"
                self._tell(EventKind.FAILED, process, why=why)
                return why
            ask_s = min(ask_s * 2, _LONGEST_ASK_S)
        if process.has_ended:  # nobody starts one again that ends before it has begun
            return f"{self.unit.name} ended as soon as it accepted connections"
        if not self._stopping.is_set():
            self._enter(UnitState.RUNNING)
            self._tell(EventKind.READY, process)
        return ""

    def _next_pause_s(self) -> float:
        if time.monotonic() - self._began_s >= HEALTHY_AFTER_S:
            self._deaths = 0
        self._pause_s = pause_s(self._deaths)
        self._deaths += 1
        return self._pause_s

    def _enter(self, state: UnitState) -> None:
        self._state, self._since_unix_ms = state, _now_unix_ms()

    def _tell(
        self,
        kind: EventKind,
        process: Process | None = None,
        *,
        exit: Exit | None = None,
        why: str = "",
        retry_in_s: float | None = None,
        lines: tuple[str, ...] = (),
    ) -> None:
        pid = process.pid if process is not None else None
        self._emit(UnitEvent(self.unit.name, kind, _now_unix_ms(), pid, exit, why, retry_in_s, lines))


async def _accepts(address: str, session: int) -> bool:
    """Whether `unix:/path` or `tcp:host:port` accepts a connection now; of a path, by a process of this session.

    What had the path before may listen still: it makes nothing ready.
    """
    kind, _, where = address.partition(":")
    try:
        if kind == "unix":
            _, writer = await asyncio.open_unix_connection(where)
        else:
            host, _, port = where.rpartition(":")
            _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    is_own = kind != "unix" or _is_of(session, writer)
    writer.close()
    return is_own


def _is_of(session: int, writer: asyncio.StreamWriter) -> bool:
    """Whether a process of this session listens at the far side of a Unix socket, as the kernel knows (unix(7))."""
    told = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    listener, _, _ = _CREDENTIALS.unpack(told)
    try:
        return listener == 0 or os.getsid(listener) == session  # 0: of another namespace, so nobody here can tell
    except ProcessLookupError:
        return False


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True


def _now_unix_ms() -> int:
    return time.time_ns() // 1_000_000
