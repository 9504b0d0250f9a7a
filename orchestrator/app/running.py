"""The cluster that runs from a state folder, as commands beside it reach it: Redis, controller and endpoint."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from orchestrator.app import settings_in_use
from orchestrator.app.paths import StatePaths
from orchestrator.core.errors import HostError
from orchestrator.nodes.keeper_client import KeeperClient
from orchestrator.nodes.state_lock import Holder, read_holder
from orchestrator.settings import ClusterSettings
from orchestrator.store import embedded
from orchestrator.store.connection import Connection

REDIS_WAIT_S = 20.0


def holder_of(paths: StatePaths) -> Holder:
    """Who holds the folder. Raises HostError where no cluster runs."""
    holder = read_holder(paths.root)
    if holder is None or not holder.endpoint:
        raise HostError(f"no cluster runs with --state {paths.root}; start one with `ollamactl up`")
    return holder


@asynccontextmanager
async def redis_of(
    paths: StatePaths, settings: ClusterSettings, wait_s: float = REDIS_WAIT_S
) -> AsyncIterator[Connection]:
    """A connection to the Redis that the cluster works with. Raises StoreError where it is not up within `wait_s`; 0:
    it is not waited for."""
    url = embedded.server_url(paths.root) if settings.redis == "embedded" else settings.redis
    connection = Connection(url, name=f"command-{os.getpid()}")
    await connection.open(wait_s=wait_s)
    try:
        yield connection
    finally:
        await connection.close()


async def tell_controller(paths: StatePaths) -> None:
    """Have the controller look at deployment and wishes anew; one that is just being started looks by itself.

    Raises HostError where no cluster runs.
    """
    (await controller_here(paths, is_needed=False))()


async def controller_here(paths: StatePaths, *, is_needed: bool = True) -> Callable[[], None]:
    """How to tell the controller of this state folder. Raises HostError where there is none and one `is_needed`."""
    units = [each for each in await KeeperClient(paths.keeper_socket).list() if each.name == "controller"]
    if not units and is_needed:
        raise HostError("no controller is kept beside this gateway; ask where `ollamactl up` runs")

    def tell() -> None:
        for each in units:
            if each.pid is not None:
                os.kill(each.pid, signal.SIGHUP)

    return tell


def read_settings_again(paths: StatePaths) -> None:
    """Have the supervisor read its settings at once. Raises HostError where no cluster runs."""
    os.kill(holder_of(paths).pid, signal.SIGHUP)


def works_by(paths: StatePaths, settings: ClusterSettings) -> bool:
    """Whether the cluster runs by what these settings say of hosts and models."""
    in_use = settings_in_use.read(paths)
    return all(
        getattr(in_use, name) == getattr(settings, name) for name in ("nodes", "ssh", "models", "tiers", "deploy")
    )


def now_unix_ms() -> int:
    return time.time_ns() // 1_000_000
