"""`ollamactl up`: the supervisor of a cluster on this machine.

It holds the state folder, reserves the endpoint's address, and has the keeper run Redis, the controller and the
gateway workers; the controller has it run the instances. It watches the settings and ends everything with itself.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import orjson

from orchestrator import telemetry
from orchestrator.app import settings_in_use
from orchestrator.app.listening import address_of, reserve
from orchestrator.app.live_settings import LiveSettings, Wish, resolve_settings
from orchestrator.app.loop import on_hangup, until
from orchestrator.app.paths import StatePaths
from orchestrator.app.questions import CACHED_QUESTION, FIRST_TOKENS, FULL_QUESTION, SMALL_QUESTION, Reply, ask
from orchestrator.app.readiness import down_words, engine_words, until_it_answers, until_ready
from orchestrator.core.errors import HostError
from orchestrator.core.model import Snapshot
from orchestrator.nodes.keeper import Keeper
from orchestrator.nodes.keeper_units import EventKind, Unit, UnitEvent
from orchestrator.nodes.state_lock import StateLock
from orchestrator.settings import ClusterSettings
from orchestrator.store import embedded
from orchestrator.store.cluster import set_progress
from orchestrator.store.connection import Connection
from orchestrator.whole_file import write_whole

# `up --detach` waits at the other end of a pipe whose number stands in this variable.
READY_FD = "OLLAMACTL_READY_FD"
INTERRUPTED = 130  # the exit code of an `up` that was ended before every tier answered


@dataclass(frozen=True, slots=True)
class Ready:
    """What stands on the screen, and in the ready file, once every tier answers."""

    endpoint: str
    state: str
    pid: int
    seconds: float
    engine: str
    is_simulated: bool
    settings_from: str
    cache: str
    replies: tuple[Reply, ...]
    notes: tuple[str, ...]
    model: str = ""  # one that can be asked: a route, or else a model that answers; '' none
    deploys: bool = True
    has_hosts: bool = False  # reached over SSH: what runs there is deployed by `ollamactl deploy`


class Screen(Protocol):
    """What the supervisor tells the user; `cli` draws it."""

    def step(self, text: str) -> None: ...
    def tell(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...
    def ready(self, told: Ready) -> None: ...


class Supervisor:
    """One `up`, from the lock to the last process's end."""

    def __init__(self, wish: Wish, screen: Screen) -> None:
        self._wish, self._screen = wish, screen
        self._paths = StatePaths(wish.state)
        self._began_s = time.monotonic()
        self._is_ready = False

    async def run(self, stop: asyncio.Event) -> int:
        """Until `stop`. Raises OrchestratorError where the cluster cannot be started."""
        self._screen.step("reading the settings …" if self._wish.only_balances else "looking at this machine …")
        resolved = await resolve_settings(self._wish)
        settings = resolved.settings
        with StateLock(self._paths.root) as lock, reserve(settings.listen) as bound:
            endpoint = address_of(bound)
            lock.tell(endpoint)
            _prepare_ready(self._wish.ready_file)
            settings_in_use.write(self._paths, settings)
            _empty(self._paths.metrics)
            socket_path = self._paths.keeper_socket
            keeper = Keeper(self._paths.root, self._on_unit, socket_path=socket_path, on_shutdown=stop.set)
            await keeper.open()
            try:
                live = LiveSettings(self._wish, resolved, self._paths, keeper, self._screen)
                on_hangup(live.reload, stop.set)
                await until(stop, self._start_and_serve(keeper, live, settings, endpoint))
            finally:
                self._screen.step("stopping …")
                await _stop_in_order(keeper)
                await keeper.close()
                self._paths.leave_no_sockets()
        return 0 if self._is_ready else INTERRUPTED

    async def _start_and_serve(
        self, keeper: Keeper, live: LiveSettings, settings: ClusterSettings, endpoint: str
    ) -> None:
        """Tell when every tier answers; follow the settings from the start and to the end."""
        self._screen.step("starting Redis, the controller and the gateway …")
        redis_url = await self._start_redis(keeper, settings)
        await self._start_processes(keeper, settings, endpoint, redis_url)
        connection = Connection(redis_url, name="supervisor")
        await connection.open(wait_s=20.0)
        following = asyncio.create_task(live.follow(partial(set_progress, connection, "settings")))
        try:
            await self._tell_when_ready(connection, settings, endpoint)
            await following
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await connection.close()

    # --- processes --------------------------------------------------------------------------------------------------

    async def _start_redis(self, keeper: Keeper, settings: ClusterSettings) -> str:
        if settings.redis != "embedded":
            return settings.redis
        root = self._paths.root
        argv = tuple(embedded.server_command(root))
        await keeper.start(Unit(name="redis", argv=argv, ready=f"unix:{embedded.server_socket(root)}"))
        if note := embedded.socket_note(root):
            self._screen.warn(note)
        return embedded.server_url(root)

    async def _start_processes(self, keeper: Keeper, settings: ClusterSettings, endpoint: str, redis_url: str) -> None:
        shared = {"PROMETHEUS_MULTIPROC_DIR": str(self._paths.metrics), "OLM_REDIS": redis_url}
        state = ("--state", str(self._paths.root))
        module = (sys.executable, "-m", "orchestrator.app.controller")
        await keeper.start(Unit(name="controller", argv=(*module, *state), env={**shared, **_engine_environment()}))
        workers = settings.gateway.workers
        for index in range(workers):
            place = ("--listen", endpoint, "--index", str(index), "--workers", str(workers))
            argv = (sys.executable, "-m", "orchestrator.app.gateway", *state, *place)
            await keeper.start(Unit(name=f"gateway-{index}", argv=argv, env=shared, stop_timeout_s=35.0))

    def _on_unit(self, event: UnitEvent) -> None:
        if event.pid is not None and event.kind in (EventKind.EXITED, EventKind.STOPPED):
            telemetry.forget_process(event.pid, self._paths.metrics)
        if event.kind in (EventKind.EXITED, EventKind.FAILED):
            self._screen.warn(str(event) + "".join(f"\n    {line}" for line in event.lines[-3:]))

    # --- until every tier answers -------------------------------------------------------------------------------------

    async def _tell_when_ready(self, connection: Connection, settings: ClusterSettings, endpoint: str) -> None:
        began_unix_ms = (time.time() - (time.monotonic() - self._began_s)) * 1000
        snapshot = await until_ready(connection, settings, began_unix_ms, self._screen.step, self._paths.logs)
        told = self._ready(settings, endpoint, snapshot, await self._first_answers(endpoint, settings))
        self._is_ready = True
        self._screen.ready(told)
        if self._wish.ready_file is not None:
            _write_ready(self._wish.ready_file, told)
        if READY_FD in os.environ:
            descriptor = int(os.environ.pop(READY_FD))
            os.write(descriptor, b"1")
            os.close(descriptor)

    async def _first_answers(self, endpoint: str, settings: ClusterSettings) -> tuple[Reply, ...]:
        """A question for each tier. Without a curated answer the cache has the first one when it is asked again.

        Servers that somebody else runs are asked nothing: it is for callers to have models loaded there. Nor are hosts:
        what serves there is `deploy`'s to see to.
        """
        if settings.instances or settings.hosts:
            await until_it_answers(endpoint)
            return ()
        key = settings.keys[0].secret.get_secret_value() if settings.keys else ""
        models = [name for name, model in settings.models.items() if not model.embedding]
        name = next(iter([*settings.routes, *models]), None)
        if name is None:
            return ()

        async def asked(question: str, *, is_fresh: bool) -> Reply:
            self._screen.step(f"asking: {question}")
            return await ask(endpoint, question, model=name, key=key, tokens=FIRST_TOKENS, is_fresh=is_fresh)

        first = await asked(CACHED_QUESTION, is_fresh=False)
        if first.tier != "cache" and settings.cache.enabled:
            first = await asked(CACHED_QUESTION, is_fresh=False)
        return first, await asked(SMALL_QUESTION, is_fresh=True), await asked(FULL_QUESTION, is_fresh=True)

    def _ready(self, settings: ClusterSettings, endpoint: str, snapshot: Snapshot, replies: tuple[Reply, ...]) -> Ready:
        return Ready(
            endpoint=f"http://{endpoint}",
            state=str(self._paths.root),
            pid=os.getpid(),
            seconds=round(time.monotonic() - self._began_s, 3),
            engine=engine_words(snapshot),
            is_simulated=any(node.simulate for node in settings.nodes),
            settings_from=str(self._wish.config) if self._wish.config else "defaults that fit this machine",
            cache="ON" if settings.cache.enabled else "OFF",
            replies=replies,
            notes=(*down_words(snapshot), *snapshot.notes),
            model=next(iter([*settings.routes, *(each.name for each in snapshot.pools if not each.is_embedding)]), ""),
            deploys=not settings.instances,
            has_hosts=bool(settings.hosts),
        )


async def _stop_in_order(keeper: Keeper) -> None:
    """Gateways first, all at once, so that what they answer is finished; then who would start things anew."""
    names = [each.name for each in keeper.status()]
    await asyncio.gather(*(keeper.stop(name) for name in names if name.startswith("gateway-")))
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


def _prepare_ready(path: Path | None) -> None:
    """Take an earlier start's file away, before anybody takes it for this one's. Raises HostError."""
    if path is None:
        return
    try:
        path.unlink(missing_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as why:
        raise HostError(f"{path} cannot be written: {why.strerror}; name another --ready-file") from why


def _write_ready(path: Path, told: Ready) -> None:
    """Write the file at once or not at all. Raises HostError."""
    try:
        write_whole(path, orjson.dumps(asdict(told), option=orjson.OPT_INDENT_2) + b"\n")
    except OSError as why:
        raise HostError(f"{path} cannot be written: {why.strerror}; name another --ready-file") from why
