"""When a starting cluster counts as ready, and what is said of it until then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import aiohttp

from orchestrator.core.errors import HostError
from orchestrator.core.model import InstanceState, Snapshot
from orchestrator.settings import ClusterSettings
from orchestrator.store.cluster import watch
from orchestrator.store.connection import Connection

READY_TIMEOUT_S = 3600.0  # a first `up` with Ollama pulls some gigabytes
# A worker that has just been started listens within this, many times over.
LISTENS_LOOK_S = 0.02


async def until_ready(
    connection: Connection, settings: ClusterSettings, began_unix_ms: float, step: Callable[[str], None], logs: Path
) -> Snapshot:
    """Follow what the controller publishes from then on until it is ready: each tier's pool serves, or, of servers that
    run already, each was looked at. What serves on hosts is for `deploy` to wait for: there the first look is enough.
    Raises HostError where that is hopeless."""
    published: asyncio.Queue[Snapshot] = asyncio.Queue()
    watching = await watch(connection, published.put_nowait)
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            while True:
                snapshot = await published.get()
                if snapshot.published_at_unix_ms < began_unix_ms:
                    continue  # of the cluster that ran here before
                waits_for = _waits_for(snapshot, settings)
                if not waits_for:
                    return snapshot
                step(waits_for)
    except TimeoutError as why:
        raise HostError(f"not every tier answers within {READY_TIMEOUT_S:g} s; see {logs}") from why
    finally:
        await watching.close()


async def until_it_answers(endpoint: str) -> None:
    """Wait until a gateway worker answers at the endpoint, and knows the cluster."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http:
        while True:
            try:
                async with http.get(f"http://{endpoint}/readyz") as reply:
                    if "no cluster" not in await reply.text():
                        return
            except (aiohttp.ClientError, TimeoutError):
                pass  # not listening yet
            await asyncio.sleep(LISTENS_LOOK_S)


def _waits_for(snapshot: Snapshot, settings: ClusterSettings) -> str:
    """In words; empty: for nothing. Raises HostError."""
    if settings.hosts:
        return "" if snapshot.deployment or snapshot.notes else "looking at the hosts …"
    return _not_looked_at(snapshot, settings) if settings.instances else _not_served(snapshot, settings)


def _not_looked_at(snapshot: Snapshot, settings: ClusterSettings) -> str:
    """Which servers were not yet, in words. Down is a state like others: it may come, and is no reason to wait."""
    seen = {each.url for each in snapshot.given if each.state is not InstanceState.STARTING}
    left = [each.label for each in settings.instances if each.url not in seen]
    return f"looking at {', '.join(dict.fromkeys(left))}" if left else ""


def _not_served(snapshot: Snapshot, settings: ClusterSettings) -> str:
    """What is still being done for tiers, in words. Raises HostError where a tier's model found no room."""
    wanted = {tier.model for tier in settings.tiers.values() if tier.provider is None} or set(settings.models)
    missing = wanted - {pool.name for pool in snapshot.pools if pool.slots_serving}
    if not missing:
        return ""
    if snapshot.pools and any(not pool.instances for pool in snapshot.pools if pool.name in missing):
        raise HostError("not every tier can be placed:\n" + "\n".join(snapshot.notes))
    return _progress(snapshot, missing)


def _progress(snapshot: Snapshot, missing: set[str]) -> str:
    """How far it is: instances that serve, and what the others of the missing pools are doing, each thing once."""
    instances = [each for pool in snapshot.pools for each in pool.instances]
    serving = sum(each.state is InstanceState.SERVING for each in instances)
    doing = dict.fromkeys(
        each.state.value if each.state is InstanceState.STARTING else each.reason or each.state.value
        for each in instances
        if each.pool in missing and each.state is not InstanceState.SERVING
    )
    told = f"{serving} of {len(instances)} instances serve"
    return f"{told}; {', '.join(doing)}" if doing else told


def engine_words(snapshot: Snapshot) -> str:
    """What answers, in few words."""
    if snapshot.given:
        answering = sum(each.state is InstanceState.SERVING for each in snapshot.given)
        return f"{answering} of {len(snapshot.given)} instances answer, {len(snapshot.pools)} models"
    instances = [each for pool in snapshot.pools for each in pool.instances]
    if not instances:
        return "nothing is deployed yet"
    words = {("simulated " if each.is_simulated else "") + each.engine.value for each in instances}
    places = {"GPU" if each.accelerators else "CPU" for each in instances}
    return f"{', '.join(sorted(words))} on {' and '.join(sorted(places))}"


def down_words(snapshot: Snapshot) -> tuple[str, ...]:
    """A sentence for each server that does not answer."""
    return tuple(
        f"{each.name} is down: {each.reason}; it is served as soon as it answers"
        for each in snapshot.given
        if each.state is InstanceState.DOWN
    )
