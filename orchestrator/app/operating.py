"""What an operator wants of instances that run, asked of the controller and waited for: drained, started anew.

The wish is what counts: it is kept, and heeded by whichever controller there is, also where nobody waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from orchestrator.app import deployments, settings_in_use, wishes
from orchestrator.app.paths import StatePaths
from orchestrator.app.running import holder_of, redis_of, tell_controller
from orchestrator.core.errors import HostError
from orchestrator.core.model import Instance, InstanceState, Snapshot
from orchestrator.nodes.state_lock import read_holder
from orchestrator.settings import ClusterSettings, NodeSettings
from orchestrator.store.cluster import read, watch
from orchestrator.store.connection import Connection

# The controller hears of a wish at once and publishes within a second.
HEARD_WITHIN_S = 30.0

_DRAINED = InstanceState.DRAINING
_UP = (InstanceState.SERVING, _DRAINED)


async def drain(paths: StatePaths, name: str, *, is_undone: bool) -> None:
    """Have an instance, or all of a node, get nothing new; or take that back. Raises OrchestratorError."""
    holder_of(paths)  # somebody is there to heed it
    settings = settings_in_use.read(paths)
    async with redis_of(paths, settings) as connection:
        published = await read(connection)
        about = [each.id for each in _instances(published) if name in (each.id, each.node)]
        if not is_undone:
            refuse_given(published, name)
        if is_undone:
            if not wishes.undrain(paths, name):
                raise HostError(f"{name} is not drained")
        elif about or name in {each.name for each in settings.nodes}:
            wishes.drain(paths, name)
        else:
            raise HostError(f"{name}: neither an instance nor a node; {_known(published)}")
        await tell_controller(paths)
        wished = wishes.read(paths)

        def is_heard(snapshot: Snapshot) -> bool:
            up = [each for each in _instances(snapshot) if each.id in about and each.state in _UP]
            return all((each.state is _DRAINED) is wished.is_drained(each.id, each.node) for each in up)

        await _until(connection, is_heard, HEARD_WITHIN_S, f"{name}: the controller has not taken that up")


async def restart(paths: StatePaths, name: str) -> None:
    """Have an instance finish what it has, and start anew; it serves again when this returns. Raises
    OrchestratorError."""
    holder_of(paths)  # somebody is there to heed it
    settings = settings_in_use.read(paths)
    async with redis_of(paths, settings) as connection:
        published = await read(connection)
        refuse_given(published, name)
        if name not in [each.id for each in _instances(published)]:
            raise HostError(f"{name}: no instance of that name; {_known(published)}")
        wishes.restart(paths, name)
        await tell_controller(paths)

        def is_back(snapshot: Snapshot) -> bool:
            states = {str(each.id): each.state for each in _instances(snapshot)}
            return name not in wishes.read(paths).restarts and states.get(name) is InstanceState.SERVING

        wait_s = settings.deploy.drain_s + settings.deploy.serve_s
        await _until(connection, is_back, wait_s, f"{name} does not serve again")


def refuse_given(published: Snapshot | None, name: str) -> None:
    """Raises HostError for an instance, or a server, that somebody else runs: the controller only watches those."""
    if any(each.is_given and name in (each.id, each.node) for each in _instances(published)):
        raise HostError(
            f"{name}: its server is somebody else's, to whom this is left; taken out of `instances` in cluster.yaml,"
            " it gets no new calls and finishes those it has"
        )


async def node_of(paths: StatePaths, settings: ClusterSettings, name: str) -> NodeSettings | None:
    """The node of an instance: as deployed, or as published where the cluster runs; None: not known."""
    current = deployments.current(paths)
    nodes = {str(each.instance): each.node for each in current.placements} if current is not None else {}
    if name not in nodes and read_holder(paths.root) is not None:
        async with redis_of(paths, settings) as connection:
            nodes |= {str(each.id): each.node for each in _instances(await read(connection))}
    return next((each for each in settings.nodes if each.name == nodes.get(name)), None)


async def _until(connection: Connection, is_so: Callable[[Snapshot], bool], within_s: float, otherwise: str) -> None:
    """Wait for a published snapshot of which `is_so` holds. Raises HostError."""
    published: asyncio.Queue[Snapshot] = asyncio.Queue()
    watching = await watch(connection, published.put_nowait)
    try:
        async with asyncio.timeout(within_s):
            while not is_so(await published.get()):
                pass
    except TimeoutError as why:
        raise HostError(f"{otherwise} within {within_s:g} s; see `ollamactl status`") from why
    finally:
        await watching.close()


def _instances(published: Snapshot | None) -> list[Instance]:
    return [each for pool in (published.pools if published is not None else ()) for each in pool.instances]


def _known(published: Snapshot | None) -> str:
    names = [each.id for each in _instances(published)]
    return f"there are {', '.join(names)}" if names else "nothing is deployed"
