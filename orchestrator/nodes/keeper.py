"""Keeps this machine's processes running: what systemd is to a remote host, the keeper is to `ollamactl up`.

It knows units, their order, and a guardian that ends them all should the keeper itself be killed. What the units are
for, and who asks for them over the control socket, it does not know.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from orchestrator.core.errors import HostError
from orchestrator.nodes import guardian
from orchestrator.nodes.keeper_life import Life
from orchestrator.nodes.keeper_process import Process, minimal_environment
from orchestrator.nodes.keeper_socket import ControlSocket
from orchestrator.nodes.keeper_units import EventKind, Exit, Unit, UnitEvent, UnitState, UnitStatus

__all__ = ["EventKind", "Exit", "Keeper", "Unit", "UnitEvent", "UnitState", "UnitStatus"]

log = logging.getLogger(__name__)

# A file's name is at most 255 bytes (NAME_MAX); `.log.1` and a digest go behind this.
LONGEST_FILE_NAME = 200


def end_this_process() -> None:
    """What a `shutdown` over the socket does by default: the supervisor ends as by a service manager's SIGTERM."""
    os.kill(os.getpid(), signal.SIGTERM)


class Keeper:
    """One a state folder, and whoever opens it holds the folder's lock. `open` first, `close` at the end.

    To be opened on the main thread: the kernel signals a unit when the thread that started it ends. Units that
    outlive the keeper get SIGTERM from the guardian, and SIGKILL after `guardian_grace_s`.
    """

    def __init__(
        self,
        state: Path,
        on_event: Callable[[UnitEvent], None],
        *,
        socket_path: Path | None = None,
        on_shutdown: Callable[[], None] = end_this_process,
        guardian_grace_s: float = 5.0,
    ) -> None:
        self._logs = state / "logs"
        self._listeners: list[Callable[[UnitEvent], None]] = [on_event]
        self._lives: dict[str, Life] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._socket = ControlSocket(socket_path or state / "keeper.sock", self, on_shutdown)
        self._guardian_grace_s = guardian_grace_s
        self._guardian: Life | None = None
        self._guardian_reads = self._guardian_writes = -1
        self._is_closing = False

    # --- as a whole ------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Start the guardian and listen on the control socket. Raises HostError."""
        if sys.platform != "linux":
            raise HostError("the keeper needs Linux: it relies on /proc and on signals at a parent's death")
        try:
            self._logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as why:
            raise HostError(f"{self._logs}: cannot be created: {why}; name another --state") from why
        # The keeper holds the reading end too: what a guardian that dies has not read, the next one reads.
        self._guardian_reads, self._guardian_writes = os.pipe()
        try:
            await self._begin_guardian()
            await self._socket.open()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop every unit and, last, whoever waits on the control socket for that. Raises HostError like `stop_all`."""
        self._is_closing = True
        try:
            await self.stop_all()
        finally:
            await self._end_guardian()
            await self._socket.close()

    async def stop_all(self) -> None:
        """Stop the units one by one, the last started first. Raises HostError that names those that do not end."""
        problems = []
        for name in reversed(list(self._lives)):
            try:
                await self.stop(name)
            except HostError as why:
                problems.append(str(why))
        if problems:
            raise HostError("\n".join(problems))

    # --- units ---------------------------------------------------------------------------------------------------

    async def start(self, unit: Unit) -> None:
        """Have `unit` run, as defined here; nothing where it does already. Waits for `ready`. Raises HostError."""
        async with self._locks[unit.name]:
            life = self._lives.get(unit.name)
            if life is not None and life.unit == unit and not life.is_over:
                return
            await self._replace(life, unit)

    async def restart(self, name: str) -> None:
        """Stop and start it. Raises HostError, also where there is no such unit."""
        async with self._locks[name]:
            life = self._lives.get(name)
            if life is None:
                raise HostError(f"no unit is called {name!r}; there is {', '.join(self._lives) or 'none'}")
            await self._replace(life, life.unit)

    async def stop(self, name: str) -> None:
        """Have no unit of this name; nothing where there is none. Raises HostError where it cannot be ended."""
        life = self._lives.get(name)
        if life is None:
            return
        # Before the lock: a `start` that waits for the unit to be ready holds it.
        await life.end()
        async with self._locks[name]:
            if self._lives.get(name) is life:
                del self._lives[name]

    def status(self) -> tuple[UnitStatus, ...]:
        """Every unit, in the order of their starts."""
        return tuple(each.status() for each in self._lives.values())

    def subscribe(self, listener: Callable[[UnitEvent], None]) -> Callable[[], None]:
        """Tell `listener` of every event too, until what is returned is called."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    # --- inside ---------------------------------------------------------------------------------------------------

    async def _replace(self, old: Life | None, unit: Unit) -> None:
        if old is not None:
            await old.end()
            del self._lives[unit.name]
        if self._is_closing:
            raise HostError(f"{unit.name} is not started: the supervisor is shutting down")
        life = Life(unit, self._log_of(unit), lambda: self._spawn(unit), self._tell)
        self._lives[unit.name] = life
        try:
            await life.begin()
        except BaseException:
            if self._lives.get(unit.name) is life:
                del self._lives[unit.name]
            raise

    def _spawn(self, unit: Unit) -> Process:
        environment = minimal_environment() | dict(unit.env)
        log_file = self._log_of(unit)
        return Process(unit.argv, env=environment, cwd=unit.cwd, log=log_file, guardian=self._guardian_writes)

    def _log_of(self, unit: Unit) -> Path:
        return unit.log or self._logs / f"{_file_name(unit.name)}.log"

    def _tell(self, event: UnitEvent) -> None:
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception:
                log.exception("a listener failed on: %s", event)

    # --- guardian -------------------------------------------------------------------------------------------------

    async def _begin_guardian(self) -> None:
        argv = (sys.executable, "-I", "-S", guardian.__file__, str(self._guardian_reads), str(self._guardian_grace_s))
        # It ends with the pipe, after it has given units their grace.
        unit = Unit("guardian", argv, stop_timeout_s=self._guardian_grace_s + 2)
        life = Life(unit, self._log_of(unit), lambda: self._spawn_guardian(unit), self._tell)
        await life.begin()
        self._guardian = life

    def _spawn_guardian(self, unit: Unit) -> Process:
        process = Process(
            unit.argv, env=minimal_environment(), log=self._log_of(unit), pass_fds=(self._guardian_reads,)
        )
        for pid in [each.pid for each in self._lives.values() if each.pid is not None]:
            os.write(self._guardian_writes, guardian.record("+", pid))
        return process

    async def _end_guardian(self) -> None:
        if self._guardian_writes < 0:
            return
        os.close(self._guardian_writes)
        try:
            if self._guardian is not None:
                await self._guardian.end()
        finally:
            os.close(self._guardian_reads)
            self._guardian_writes = self._guardian_reads = -1


def _file_name(name: str) -> str:
    """The unit's name; of one too long for a file's, its beginning and a digest."""
    if len(name) <= LONGEST_FILE_NAME:
        return name
    return f"{name[:LONGEST_FILE_NAME]}-{hashlib.blake2b(name.encode(), digest_size=6).hexdigest()}"
