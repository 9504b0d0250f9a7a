"""A cluster's start, as its user sees it: waited for, each tier asked a first question, and told once all answer."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import orjson

from orchestrator.app import settings_in_use
from orchestrator.app.live_settings import Wish
from orchestrator.app.paths import StatePaths
from orchestrator.app.questions import CACHED_QUESTION, FIRST_TOKENS, FULL_QUESTION, SMALL_QUESTION, Reply, ask
from orchestrator.app.readiness import down_words, engine_words, until_it_answers, until_ready
from orchestrator.core.errors import HostError
from orchestrator.core.model import Snapshot
from orchestrator.settings import ClusterSettings
from orchestrator.store.connection import Connection
from orchestrator.whole_file import write_whole

# `up --detach` waits at the other end of a pipe whose number stands in this variable.
READY_FD = "OLLAMACTL_READY_FD"


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


@dataclass(frozen=True, slots=True)
class Start:
    """`began_s`: when, by the monotonic clock."""

    _wish: Wish
    _paths: StatePaths
    _screen: Screen
    _began_s: float

    async def tell_when_ready(self, connection: Connection, settings: ClusterSettings, endpoint: str) -> None:
        """Wait until every tier answers; then say so. Raises OrchestratorError where it cannot be written down."""
        began_unix_ms = (time.time() - (time.monotonic() - self._began_s)) * 1000
        snapshot = await until_ready(connection, settings, began_unix_ms, self._screen.step, self._paths.logs)
        told = self._ready(settings, endpoint, snapshot, await self._first_answers(endpoint, settings))
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
        key = settings_in_use.asking_key(self._paths)
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


def prepare(path: Path | None) -> None:
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
