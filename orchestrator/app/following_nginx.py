"""nginx in step with a cluster: its file written anew, checked and reloaded as instances and settings change.

What the file says is left to `fronting` and `core/nginx`, how it gets into force to `nodes/nginx`. Whatever is in the
way is said once, and tried again; what was installed last serves on until then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.app.fronting import choose_pool, given_pools, over_tls, site_of, snapshot_pools
from orchestrator.app.paths import StatePaths
from orchestrator.app.running import redis_of
from orchestrator.core.errors import HostError, OrchestratorError, SettingsError
from orchestrator.core.model import Snapshot
from orchestrator.core.nginx import render, without_gateway
from orchestrator.nodes.nginx import Installed, Nginx
from orchestrator.settings import ClusterSettings
from orchestrator.settings.watch import SettingsWatch
from orchestrator.store import cluster
from orchestrator.store.connection import Connection

# Each reload leaves old workers until their last answer has ended, so what changes together is one reload. Not later
# than that: an instance that is gone costs each caller a try.
QUIET_S, TOGETHER_AT_MOST_S = 0.5, 2.0
# The file is looked at without a reason, too: somebody may have changed it.
LOOK_AGAIN_S = 10.0
FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 30.0

SERVES_ON = "what was installed last serves on"


@dataclass(frozen=True, slots=True)
class Followed:
    """What is followed, and where nginx reads it. `is_direct`: instances, those of `model`; otherwise the gateways.

    `nginx` finds it anew each time (it may be installed later, or upgraded), and raises HostError where there is none.
    `is_forced`: the first time also over a file of somebody else's.
    """

    settings_file: Path
    paths: StatePaths
    nginx: Callable[[], Nginx]
    file: Path
    is_direct: bool = False
    model: str | None = None
    is_forced: bool = False


async def follow(
    followed: Followed,
    settings: ClusterSettings,
    stop: asyncio.Event,
    say: Callable[[str], None],
    warn: Callable[[str], None],
) -> None:
    """Keep nginx in step until `stop`, from `settings` on. `say` is told what was done, `warn` what is in the way."""
    following = _Following(followed, settings, say, warn)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(following.follow_settings(), name="nginx: settings"),
            group.create_task(following.keep_installed(), name="nginx: file"),
        ]
        if followed.is_direct:
            tasks.append(group.create_task(following.follow_cluster(), name="nginx: cluster"))
        await stop.wait()
        for each in tasks:
            each.cancel()


class _Following:
    """What is known now, and what was said of it."""

    def __init__(
        self, followed: Followed, settings: ClusterSettings, say: Callable[[str], None], warn: Callable[[str], None]
    ) -> None:
        self._followed = followed
        self._settings = settings
        self._say, self._warn = say, warn
        self._pools: dict[str, list[str]] | None = None  # as published; None: nothing was yet
        self._over_tls: dict[str, str] = {}  # why some of them are left out, by model
        self._last: tuple[str, Sequence[str]] | None = None  # a model and its servers, never none
        self._is_forced = followed.is_forced
        self._told: dict[str, str] = {}
        self._stirred, self._redis_moved = asyncio.Event(), asyncio.Event()
        self._stirred.set()

    # --- what changes ---

    async def follow_settings(self) -> None:
        """Take up each change of the file; a wrong one is said, and the settings before stay in force."""
        watch = SettingsWatch(self._followed.settings_file, self._settings)
        async with aclosing(watch.changes()) as changes:
            async for changed in changes:
                if isinstance(changed, SettingsError):
                    self._trouble("settings", f"{changed}; the settings before stay in force")
                    continue
                self._trouble("settings", None)
                if changed.redis != self._settings.redis:
                    self._redis_moved.set()
                self._settings = changed
                self._stirred.set()

    async def follow_cluster(self) -> None:
        """Hear what the controller publishes, from the Redis that the settings name."""
        pause_s = FIRST_RETRY_S
        while True:
            self._redis_moved.clear()
            try:
                async with redis_of(self._followed.paths, self._settings) as connection:
                    await self._listen(connection)
                    pause_s = FIRST_RETRY_S
            except OrchestratorError as why:
                self._redis_is_away(str(why))
                await _set_within(self._redis_moved, pause_s)
                pause_s = min(pause_s * 2, LONGEST_RETRY_S)

    async def _listen(self, connection: Connection) -> None:
        heeding = _Heeding(lambda: self._redis_is_away(connection.problem))
        connection.follow(heeding)
        with _heard(cluster.log, self._redis_is_away):
            watching = await cluster.watch(connection, self._published)
            try:
                self._redis_is_back()
                connection.on_up(self._redis_is_back)
                await self._redis_moved.wait()
            finally:
                heeding.is_over = True
                await watching.close()

    def _published(self, snapshot: Snapshot) -> None:
        """Most of what is published is how hosts are; that is no reason to write anything."""
        known = snapshot_pools(snapshot), over_tls(snapshot)
        if known != (self._pools, self._over_tls):
            self._pools, self._over_tls = known
            self._stirred.set()

    # --- what follows from it ---

    async def keep_installed(self) -> None:
        """Write, check and reload after each change; where that failed, again and again, more and more seldom."""
        retry_s = FIRST_RETRY_S
        wait_s = LOOK_AGAIN_S
        while True:
            await _set_within(self._stirred, wait_s)
            await self._until_quiet()
            if await self._is_installed():
                retry_s, wait_s = FIRST_RETRY_S, LOOK_AGAIN_S
            else:
                wait_s, retry_s = retry_s, min(retry_s * 2, LONGEST_RETRY_S)

    async def _until_quiet(self) -> None:
        clock = asyncio.get_running_loop().time
        ends_s = clock() + TOGETHER_AT_MOST_S
        while self._stirred.is_set() and clock() < ends_s:
            self._stirred.clear()
            await _set_within(self._stirred, min(QUIET_S, ends_s - clock()))

    async def _is_installed(self) -> bool:
        """Whether all that is known is in force, as far as nginx is there."""
        self._stirred.clear()
        chosen = self._chosen()
        if self._followed.is_direct and chosen is None:
            return True  # nothing to write; a first snapshot stirs
        try:
            became = await asyncio.to_thread(self._install, self._settings, chosen)
        except (HostError, ValueError) as why:  # ValueError: an address that nginx could misread
            self._trouble("nginx", f"{why}; {SERVES_ON}")
            return False
        self._trouble("nginx", None)
        self._is_forced = False
        if became is not Installed.UNCHANGED:
            self._say(f"{self._followed.file}: {became}{_servers_in_words(chosen)}")
        return True

    def _chosen(self) -> tuple[str, Sequence[str]] | None:
        """The model and its servers; those it had before where none serves now. None: before the gateways, or none was
        ever known."""
        if not self._followed.is_direct:
            return None
        try:
            pools = given_pools(self._settings) if self._pools is None and self._settings.instances else self._pools
            if pools is not None:
                self._last = choose_pool(pools, self._followed.model, self._over_tls)
                self._trouble("pool", None)
        except HostError as why:
            self._trouble("pool", f"{why}; {SERVES_ON}")
        return self._last

    def _install(self, settings: ClusterSettings, chosen: tuple[str, Sequence[str]] | None) -> Installed:
        nginx = self._followed.nginx()
        site = site_of(settings, nginx.version())
        text = render(site if chosen is None else without_gateway(site, *chosen))
        return nginx.install(text, self._followed.file, is_forced=self._is_forced)

    # --- what is said ---

    def _trouble(self, about: str, why: str | None) -> None:
        """Say what is in the way, not again while it is the same; None: nothing is."""
        if why is None:
            self._told.pop(about, None)
        elif self._told.get(about) != why:
            self._told[about] = why
            self._warn(why)

    def _redis_is_away(self, why: str) -> None:
        """Said once, however the reasons change: refused, reset, no such socket."""
        if "redis" not in self._told:
            self._trouble("redis", f"{why}; {SERVES_ON}")

    def _redis_is_back(self) -> None:
        if self._told.pop("redis", None):
            self._say("Redis answers again")


class _Heeding:
    """Told by a connection that it is gone; until `is_over`, when it is closed here."""

    def __init__(self, lost: Callable[[], None]) -> None:
        self._lost = lost
        self.is_over = False

    def lost(self) -> None:
        if not self.is_over:
            self._lost()

    def changed(self, keys: Sequence[bytes] | None) -> None:
        """No keys are tracked here."""


@contextmanager
def _heard(log: logging.Logger, told: Callable[[str], None]) -> Iterator[None]:
    """What `log` would say, told instead: the watch says at each of its looks that Redis is away."""

    def tell(record: logging.LogRecord) -> bool:
        told(record.getMessage())
        return False

    log.addFilter(tell)
    try:
        yield
    finally:
        log.removeFilter(tell)


def _servers_in_words(chosen: tuple[str, Sequence[str]] | None) -> str:
    return "" if chosen is None else f" ({', '.join(sorted(set(chosen[1])))})"


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    """Wait for `event`, not for ever."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):  # wait_for can swallow a cancellation (CPython 86296)
            await event.wait()
