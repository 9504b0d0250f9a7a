"""`ollamactl up`: the supervisor of a cluster on this machine.

It holds the state folder, reserves the endpoint's address, and has the keeper run Redis, the controller and the
gateway workers; the controller has it run the instances. It watches the settings and ends everything with itself.
Asked to, it becomes the code on disk in the same process, with all that it keeps.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from orchestrator import telemetry
from orchestrator.app import builds, settings_in_use, succession
from orchestrator.app.listening import Listeners, reserve, taken_over
from orchestrator.app.live_settings import (
    LiveSettings,
    Resolved,
    Wish,
    as_before,
    file_behind,
    resolve_settings,
    with_kept_keys,
)
from orchestrator.app.loop import on_hangup, until
from orchestrator.app.machines import check_together
from orchestrator.app.own_redis import keep_on, redis_unit
from orchestrator.app.paths import StatePaths
from orchestrator.app.renewing import Renewing
from orchestrator.app.starting import Screen, Start, prepare
from orchestrator.app.succession import Succession
from orchestrator.app.workers import PREFIX, Workers
from orchestrator.nodes.keeper import Keeper
from orchestrator.nodes.keeper_units import EventKind, Unit, UnitEvent
from orchestrator.nodes.state_lock import StateLock
from orchestrator.settings import ClusterSettings
from orchestrator.store import embedded
from orchestrator.store.cluster import set_progress
from orchestrator.store.connection import Connection

REDIS_WAIT_S = 20.0
# Of glibc's allocator: from a quarter of a MiB on, what is allocated has pages of its own, which are given back with
# it, and of the rest 8 MiB are kept at most. By itself it raises both limits, to 32 and 64 MiB, once it has seen large
# bodies, and keeps what they took. Less than that, and calls of 32 KiB have their pages anew from the system each time.
WORKERS_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "8388608"}
INTERRUPTED = 130  # the exit code of an `up` that was ended before every tier answered


class Supervisor:
    """One `up`, from the lock to the last process's end."""

    def __init__(self, wish: Wish, screen: Screen) -> None:
        self._wish, self._screen = wish, screen
        self._paths = StatePaths(wish.state)
        self._began_s = time.monotonic()
        self._is_ready = False
        self._build = builds.on_disk()
        self._handed = succession.received()
        # What the program that this process becomes goes on with; None: it ends.
        self.succession: Succession | None = None

    async def run(self, stop: asyncio.Event) -> int:
        """Until `stop`. Raises OrchestratorError where the cluster cannot be started."""
        handed = self._handed
        resolved = await self._resolved()
        settings = resolved.settings
        with ExitStack() as held:
            lock = held.enter_context(self._lock())
            listeners = held.enter_context(self._listeners(settings))
            lock.tell(listeners.address, self._build)
            if handed is None:
                prepare(self._wish.ready_file)
                settings_in_use.write(self._paths, settings)
                _empty(self._paths.metrics)
            self._renewing = Renewing(self._build, handed.times if handed else 0, stop.set)
            keeper = self._keeper(listeners, stop)
            environment = self._environment(settings) | WORKERS_MEMORY
            self._workers = Workers(keeper, listeners, self._paths, settings.gateway.workers, environment)
            await keeper.open(handed.keeper if handed else None)
            try:
                live = LiveSettings(self._wish, resolved, self._paths, keeper, self._screen)
                on_hangup(live.reload, stop.set)
                succession.take_signals()
                await until(stop, self._start_and_serve(keeper, live, settings, listeners.address))
            finally:
                if self._renewing.program:
                    self.succession = await self._hand_over(keeper, lock, listeners)
                    self._kept_open = held.pop_all()
                else:
                    self._screen.step("stopping …")
                    listeners.drop_all()
                    await _stop_in_order(keeper)
                    await keeper.close()
                    self._paths.leave_no_sockets()
        return 0 if self._is_ready else INTERRUPTED

    # --- from one program to the next in this process ---------------------------------------------------------------

    async def _resolved(self) -> Resolved:
        """Settings to begin with. A program that takes over goes on by those in use; the file's are a change."""
        if self._handed is not None:
            before = as_before(settings_in_use.read(self._paths), self._paths)
            return replace(before, of_file=file_behind(before.own, self._wish))
        self._screen.step("reading the settings …" if self._wish.only_balances else "looking at this machine …")
        return with_kept_keys(await resolve_settings(self._wish), self._paths)

    def _lock(self) -> StateLock:
        if self._handed is None:
            return StateLock(self._paths.root)
        return StateLock(self._paths.root, handed=self._handed.lock, since_unix_ms=self._handed.started_unix_ms)

    def _listeners(self, settings: ClusterSettings) -> Listeners:
        if self._handed is None:
            return Listeners(reserve(settings.listen))
        return Listeners(taken_over(self._handed.address), self._handed.sockets)

    def _keeper(self, listeners: Listeners, stop: asyncio.Event) -> Keeper:
        return Keeper(
            self._paths.root,
            self._on_unit,
            socket_path=self._paths.keeper_socket,
            on_shutdown=stop.set,
            environment={builds.MARK: self._build},
            listeners=listeners.descriptor,
            verbs=self._renewing.verbs,
        )

    async def _hand_over(self, keeper: Keeper, lock: StateLock, listeners: Listeners) -> Succession:
        """All that runs goes on, but for the controller: it works with the keeper, which is away for a moment."""
        self._screen.step("going on as the code on disk …")
        await keeper.stop("controller")
        succession.hold_signals()
        address, sockets = listeners.hand_over()
        descriptor, since = lock.hand_over()
        return Succession(await keeper.hand_over(), descriptor, since, address, sockets, self._renewing.times + 1)

    @property
    def program(self) -> str:
        """The Python that goes on with `succession`."""
        return self._renewing.program

    # --- start, and serve -------------------------------------------------------------------------------------------

    async def _start_and_serve(
        self, keeper: Keeper, live: LiveSettings, settings: ClusterSettings, endpoint: str
    ) -> None:
        """Tell when every tier answers; follow the settings from the start and to the end."""
        if self._handed is None:
            self._screen.step("starting Redis, the controller and the gateway …")
            await check_together(self._paths, settings)
            await self._start_redis(keeper, settings)
        elif settings.redis == "embedded" and (problem := keep_on(keeper, self._paths.root)):
            self._screen.warn(f"Redis is not started: {problem}")
        await self._start_controller(keeper, settings)
        if self._handed is None:
            await self._workers.start()
        connection = Connection(self._redis_url(settings), name="supervisor")
        # One that takes over does so without Redis, too: gateways serve without it.
        await connection.open(wait_s=REDIS_WAIT_S if self._handed is None else 0.0)
        following = asyncio.create_task(live.follow(partial(set_progress, connection, self._progress_name)))
        try:
            if self._handed is None:
                start = Start(self._wish, self._paths, self._screen, self._began_s)
                await start.tell_when_ready(connection, settings, endpoint)
            else:
                self._screen.tell(f"goes on as {self._build}")
            self._is_ready = True
            self._renewing.began(self._workers)
            await following
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await connection.close()

    @property
    def _progress_name(self) -> str:
        """What is wrong with this machine's settings is not another's to take back."""
        return f"settings of {settings_in_use.place(self._paths)}"

    # --- processes --------------------------------------------------------------------------------------------------

    async def _start_redis(self, keeper: Keeper, settings: ClusterSettings) -> None:
        if settings.redis != "embedded":
            return
        await keeper.start(redis_unit(self._paths.root))
        if note := embedded.socket_note(self._paths.root):
            self._screen.warn(note)

    def _redis_url(self, settings: ClusterSettings) -> str:
        return embedded.server_url(self._paths.root) if settings.redis == "embedded" else settings.redis

    def _environment(self, settings: ClusterSettings) -> dict[str, str]:
        return {"PROMETHEUS_MULTIPROC_DIR": str(self._paths.metrics), "OLM_REDIS": self._redis_url(settings)}

    async def _start_controller(self, keeper: Keeper, settings: ClusterSettings) -> None:
        argv = (sys.executable, "-P", "-m", "orchestrator.app.controller", "--state", str(self._paths.root))
        environment = {**self._environment(settings), **_engine_environment()}
        await keeper.start(Unit(name="controller", argv=argv, env=environment, holds_hangup=True))

    def _on_unit(self, event: UnitEvent) -> None:
        self._workers.on_unit(event)
        if event.pid is not None and event.kind in (EventKind.EXITED, EventKind.STOPPED):
            telemetry.forget_process(event.pid, self._paths.metrics)
        if event.kind in (EventKind.EXITED, EventKind.FAILED):
            self._screen.warn(str(event) + "".join(f"\n    {line}" for line in event.lines[-3:]))


async def _stop_in_order(keeper: Keeper) -> None:
    """Gateways first, all at once, so that what they answer is finished; then who would start things anew."""
    names = [each.name for each in keeper.status()]
    await asyncio.gather(*(keeper.stop(name) for name in names if name.startswith(PREFIX)))
    await keeper.stop("controller")
    await asyncio.gather(*(keeper.stop(name) for name in names if name.startswith("engine-")))


def _empty(folder: Path) -> None:
    """Metrics of processes long gone would be added to today's."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)


def _engine_environment() -> dict[str, str]:
    """What an engine may need of the user's environment; nothing else of it reaches a child."""
    own = ("HOME", "PATH", "OLLAMA_MODELS", "LD_LIBRARY_PATH", "NVML_STUB")
    network = ("HTTPS_PROXY", "NO_PROXY", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR")
    names = (*own, *network)
    return {name: os.environ[name] for name in names if name in os.environ}
