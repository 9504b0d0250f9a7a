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
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from orchestrator.core.errors import HostError
from orchestrator.nodes import guardian
from orchestrator.nodes.keeper_life import Kept, Life
from orchestrator.nodes.keeper_process import Process, minimal_environment
from orchestrator.nodes.keeper_socket import ControlSocket
from orchestrator.nodes.keeper_units import (
    LISTEN_FD,
    EventKind,
    Exit,
    Request,
    Unit,
    UnitEvent,
    UnitState,
    UnitStatus,
)

__all__ = ["EventKind", "Exit", "HandedOver", "Keeper", "Unit", "UnitEvent", "UnitState", "UnitStatus"]

log = logging.getLogger(__name__)

# A file's name is at most 255 bytes (NAME_MAX); `.log.1` and a digest go behind this.
LONGEST_FILE_NAME = 200


@dataclass(frozen=True, slots=True)
class HandedOver:
    """What runs, for the keeper of the program that this process becomes; and both ends of the guardian's pipe."""

    units: tuple[Kept, ...]
    guardian: Kept | None
    guardian_reads: int
    guardian_writes: int


def end_this_process() -> None:
    """What a `shutdown` over the socket does by default: the supervisor ends as by a service manager's SIGTERM."""
    os.kill(os.getpid(), signal.SIGTERM)


class Keeper:
    """One a state folder, and whoever opens it holds the folder's lock. `open` first, `close` at the end.

    To be opened on the main thread: the kernel signals a unit when the thread that started it ends. Units that
    outlive the keeper get SIGTERM from the guardian, and SIGKILL after `guardian_grace_s`. `environment` goes to every
    unit; `listeners` has the descriptors of the sockets that units listen on; `verbs` are further ones of the socket.
    """

    def __init__(
        self,
        state: Path,
        on_event: Callable[[UnitEvent], None],
        *,
        socket_path: Path | None = None,
        on_shutdown: Callable[[], None] = end_this_process,
        guardian_grace_s: float = 5.0,
        environment: Mapping[str, str] = MappingProxyType({}),
        listeners: Callable[[str], int] | None = None,
        verbs: Mapping[str, Callable[[Request], Awaitable[dict[str, Any]]]] = MappingProxyType({}),
    ) -> None:
        self._environment, self._listeners_of = environment, listeners
        self._logs = state / "logs"
        self._listeners: list[Callable[[UnitEvent], None]] = [on_event]
        self._lives: dict[str, Life] = {}
        self._coming: dict[str, Life] = {}  # successors that are not ready yet
        self._leaving: dict[str, tuple[Life, asyncio.Task[None]]] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._socket = ControlSocket(socket_path or state / "keeper.sock", self, on_shutdown, verbs)
        self._guardian_grace_s = guardian_grace_s
        self._guardian: Life | None = None
        self._guardian_reads = self._guardian_writes = -1
        self._is_closing = False

    # --- as a whole ------------------------------------------------------------------------------------------------

    async def open(self, handed: HandedOver | None = None) -> None:
        """Start the guardian and listen on the control socket; go on with what was handed over. Raises HostError."""
        if sys.platform != "linux":
            raise HostError("the keeper needs Linux: it relies on /proc and on signals at a parent's death")
        try:
            self._logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as why:
            raise HostError(f"{self._logs}: cannot be created: {why}; name another --state") from why
        # The keeper holds the reading end too: what a guardian that dies has not read, the next one reads.
        if handed is None:
            self._guardian_reads, self._guardian_writes = os.pipe()
        else:
            self._guardian_reads, self._guardian_writes = handed.guardian_reads, handed.guardian_writes
            for each in (self._guardian_reads, self._guardian_writes):
                os.set_inheritable(each, False)
        try:
            if handed is None or handed.guardian is None:
                await self._begin_guardian()
            else:
                self._guardian = self._guardian_life(handed.guardian.unit)
                self._guardian.adopt(handed.guardian, None)
            for kept in handed.units if handed is not None else ():
                self._adopt(kept)
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

    async def hand_over(self) -> HandedOver:
        """Look after nothing any more, for this process's next program; its descriptors go there, too."""
        self._is_closing = True
        await self._socket.close()
        kept = [await each.let_go() for each in self._lives.values()]
        for life, task in tuple(self._leaving.values()):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if life.pid is not None:
                kept.append(await life.let_go())
        guardian = await self._guardian.let_go() if self._guardian is not None else None
        for each in (self._guardian_reads, self._guardian_writes):
            os.set_inheritable(each, True)
        units = tuple(each for each in kept if each is not None)
        return HandedOver(units, guardian, self._guardian_reads, self._guardian_writes)

    async def stop_all(self) -> None:
        """Stop the units one by one, the last started first. Raises HostError that names those that do not end."""
        problems = []
        for name in reversed(list({**self._lives, **self._leaving})):
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

    def keep(self, unit: Unit) -> None:
        """Have `unit` run as soon as it does, tried again and again; nothing where one of its name is kept already."""
        life = self._lives.get(unit.name)
        if (life is None or life.is_over) and not self._is_closing:
            self._adopt(Kept(unit, None, self._log_of(unit), log_from=0, restarts=0, since_unix_ms=0))

    async def restart(self, name: str) -> None:
        """Stop and start it. Raises HostError, also where there is no such unit."""
        async with self._locks[name]:
            life = self._lives.get(name)
            if life is None:
                raise HostError(f"no unit is called {name!r}; there is {', '.join(self._lives) or 'none'}")
            await self._replace(life, life.unit)

    async def succeed(self, unit: Unit, leaves_within_s: float) -> None:
        """Have `unit` run in place of the one of its name, once it says that it is ready; nothing stops in between.

        The other finishes what it has within `leaves_within_s` and ends; nobody waits for that here. Raises HostError
        where the new one does not become ready: then all is as it was.
        """
        async with self._locks[unit.name]:
            old = self._lives.get(unit.name)
            if old is None or old.is_over:
                await self._replace(old, unit)
                return
            await self._until_left(unit.name)
            if self._is_closing:
                raise HostError(f"{unit.name} is not started: the supervisor is shutting down")
            self._coming[unit.name] = life = self._life(unit)
            try:
                await life.begin()
                await life.until_it_says_ready()
            except BaseException:
                await life.end()
                raise
            finally:
                del self._coming[unit.name]
            self._lives[unit.name] = life
            self._let_leave(old, leaves_within_s)

    async def until_all_left(self) -> None:
        """Wait for all that have had a successor to be gone."""
        for name in tuple(self._leaving):
            await self._until_left(name)

    def unit(self, name: str) -> Unit | None:
        """The unit of that name as it was started; None: there is none."""
        life = self._lives.get(name)
        return life.unit if life is not None else None

    async def stop(self, name: str) -> None:
        """Have no unit of this name; nothing where there is none. Raises HostError where it cannot be ended."""
        life = self._lives.get(name)
        if coming := self._coming.get(name):
            await coming.end()
        if leaving := self._leaving.get(name):
            await leaving[0].end()
        if life is None:
            return
        # Before the lock: a `start` that waits for the unit to be ready holds it.
        await life.end()
        async with self._locks[name]:
            if self._lives.get(name) is life:
                del self._lives[name]

    def status(self) -> tuple[UnitStatus, ...]:
        """Every unit, in the order of their starts; then those that have a successor and finish what they have."""
        return tuple(each.status() for each in self._all() if each not in self._coming.values())

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
        life = self._life(unit)
        self._lives[unit.name] = life
        try:
            await life.begin()
        except BaseException:
            if self._lives.get(unit.name) is life:
                del self._lives[unit.name]
            raise

    def _all(self) -> tuple[Life, ...]:
        leaving = (life for life, _ in self._leaving.values())
        return (*self._lives.values(), *self._coming.values(), *leaving)

    def _life(self, unit: Unit) -> Life:
        return Life(unit, self._log_of(unit), lambda: self._spawn(unit), self._tell)

    def _adopt(self, kept: Kept) -> None:
        life = self._life(kept.unit)
        life.adopt(kept, self._guardian_writes)
        if kept.leaves_within_s is None:
            self._lives[kept.unit.name] = life
        else:
            self._let_leave(life, kept.leaves_within_s)

    def _let_leave(self, life: Life, within_s: float) -> None:
        name = life.unit.name

        async def leave() -> None:
            try:
                await life.leave(within_s)
            except HostError as why:
                log.error("%s", why)
            finally:
                if self._leaving.get(name, (None, None))[0] is life:
                    del self._leaving[name]

        self._leaving[name] = life, asyncio.create_task(leave(), name=f"{name} leaves")

    async def _until_left(self, name: str) -> None:
        if leaving := self._leaving.get(name):
            await asyncio.wait((leaving[1],))

    def _spawn(self, unit: Unit) -> Process:
        environment = minimal_environment() | dict(self._environment) | dict(unit.env)
        handed: tuple[int, ...] = ()
        if unit.listens:
            if self._listeners_of is None:
                raise HostError(f"{unit.name}: there is no socket called {unit.listens!r}")
            handed = (self._listeners_of(unit.listens),)
            environment[LISTEN_FD] = str(handed[0])
        return Process(
            unit.argv,
            env=environment,
            cwd=unit.cwd,
            log=self._log_of(unit),
            guardian=self._guardian_writes,
            pass_fds=handed,
            says_ready=unit.says_ready,
            holds_hangup=unit.holds_hangup,
        )

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
        life = self._guardian_life(Unit("guardian", argv, stop_timeout_s=self._guardian_grace_s + 2))
        await life.begin()
        self._guardian = life

    def _guardian_life(self, unit: Unit) -> Life:
        return Life(unit, self._log_of(unit), lambda: self._spawn_guardian(unit), self._tell)

    def _spawn_guardian(self, unit: Unit) -> Process:
        process = Process(
            unit.argv, env=minimal_environment(), log=self._log_of(unit), pass_fds=(self._guardian_reads,)
        )
        for pid in [each.pid for each in self._all() if each.pid is not None]:
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
