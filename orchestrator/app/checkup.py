"""What `ollamactl doctor` looks at: settings, hosts, engines, Redis and the cluster that runs, joined as `Seen`.

Nothing is changed anywhere, and nothing that fails ends it: what could not be looked at is `Unseen`, with the reason.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from pydantic import TypeAdapter, ValidationError

from orchestrator.app import settings_in_use
from orchestrator.app.checkup_redis import RedisSeen, look_at_redis
from orchestrator.app.checkup_servers import look_at_servers
from orchestrator.app.held_up import since_in
from orchestrator.app.keys import joined, place_of, read_keys
from orchestrator.app.lasting import of_files, of_servers
from orchestrator.app.paths import StatePaths
from orchestrator.app.questions import reason
from orchestrator.app.speaking_tls import contexts_of, papers_of
from orchestrator.core.certificates import Lasting
from orchestrator.core.doctor import Cluster, FileLimit, Host, OllamaProcess, Seen, Unseen
from orchestrator.core.errors import OrchestratorError
from orchestrator.core.model import Instance
from orchestrator.fleet.inventory import LOCAL, Reach, look_at_all
from orchestrator.gateway.identity import SOON_S
from orchestrator.nodes.checkup import ollama_process, open_files, own_file_limit
from orchestrator.nodes.host_keys import HostKeys
from orchestrator.nodes.state_lock import Holder, read_holder
from orchestrator.nodes.tls import Contexts
from orchestrator.nodes.weights import ollama_models_dir
from orchestrator.settings import ClusterSettings, load
from orchestrator.settings.moments import unix_of
from orchestrator.store.embedded import server_url

STATUS_TIMEOUT_S = 10.0
GATEWAY = "orchestrator.app.gateway"
# Of a worker: its log, listener, Redis, metrics files and what Python has open.
FILES_OF_ITS_OWN = 64
DEFAULT_LISTEN = "127.0.0.1:11434"
NOTHING_RUNS = "no cluster runs with this --state; `ollamactl up` starts one"
NO_SETTINGS = "the settings that would say where cannot be read"

_INSTANCES = TypeAdapter(tuple[Instance, ...])


@dataclass(frozen=True, slots=True)
class Ways:
    """Where to look: the state folder of a cluster that runs, the file of one that does not, an admin's key."""

    state: Path
    config: Path | None
    key: str = ""


@dataclass(frozen=True, slots=True)
class _Known:
    """The settings to go by, where they are from, and who runs by them. None: they cannot be read."""

    settings: ClusterSettings | None
    source: str | Unseen
    holder: Holder | None


async def look(ways: Ways) -> Seen:
    """Everything once; the slowest host decides how long it takes."""
    known = _known(ways)
    settings = known.settings or ClusterSettings()
    status = await _status(known, ways.key or settings_in_use.asking_key(StatePaths(ways.state)))
    instances = _instances(status)
    hosts, redis = await asyncio.gather(_hosts(ways, settings), _redis(ways, known, settings))
    gpus = {each.uuid for host in hosts if not isinstance(host.facts, Unseen) for each in host.facts.accelerators}
    contexts = contexts_of(StatePaths(ways.state), lambda: settings)
    servers, clocks = await look_at_servers(settings.instances, instances, has_gpu_here=bool(gpus), contexts=contexts)
    return Seen(
        settings=known.source,
        hosts=hosts,
        processes=await asyncio.to_thread(_processes, hosts),
        servers=servers if instances is not None or settings.instances else _why_none(status),
        redis=redis.redis,
        cluster=_cluster(known, settings, status),
        clocks=(*clocks, *redis.clocks),
        files=await asyncio.to_thread(_files, known.holder, settings, instances or ()),
        certificates=await _certificates(ways, settings, instances or (), contexts),
        held_up=redis.held_up,
        held_up_since_unix_s=since_in(redis.held_up),
        now_unix_s=time.time(),
    )


def _known(ways: Ways) -> _Known:
    """The settings in use where a cluster runs, otherwise those of the file, otherwise the defaults."""
    try:
        holder = read_holder(ways.state)
        if holder is not None:
            return _Known(settings_in_use.read(StatePaths(ways.state)), f"in use by pid {holder.pid}", holder)
        if ways.config is not None:
            found, paths = load(ways.config), StatePaths(ways.state)
            return _Known(joined(found, read_keys(place_of(found, paths))), f"{ways.config} is valid", None)
    except OrchestratorError as why:  # of a file with mistakes, or a folder that is not ours
        return _Known(None, Unseen(str(why)), None)
    return _Known(ClusterSettings(), "none: what `ollamactl up` would do by itself", None)


# --- hosts -----------------------------------------------------------------------------------------------------------


async def _hosts(ways: Ways, settings: ClusterSettings) -> tuple[Host, ...]:
    reach = Reach(HostKeys(StatePaths(ways.state).known_hosts), settings.ssh)
    sights = await look_at_all(settings.nodes, ollama_models_dir(), reach)
    return tuple(
        Host(node.name, sight.facts or Unseen(sight.error), node.address == LOCAL, sight.is_refused)
        for node, sight in zip(settings.nodes, sights, strict=True)
    )


def _processes(hosts: Iterable[Host]) -> tuple[OllamaProcess, ...]:
    here = (each.facts for each in hosts if each.is_here and not isinstance(each.facts, Unseen))
    found = (ollama_process(server) for facts in here for server in facts.ollamas)
    return tuple(each for each in found if each is not None)


def _files(holder: Holder | None, settings: ClusterSettings, instances: Iterable[Instance]) -> tuple[FileLimit, ...]:
    pools = max(1, len({each.pool for each in instances}) or len(settings.models))
    calls = pools * settings.limits.queue_length + sum(each.slots for each in instances)
    # A caller's connection, and one to the instance that answers it; all callers may have come to one worker.
    needed = 2 * calls + FILES_OF_ITS_OWN
    if holder is None:
        return (FileLimit("what is started from here", own_file_limit(), None, needed),)
    workers = open_files(holder.pid, GATEWAY)
    return tuple(FileLimit(f"gateway, pid {each.pid}", each.limit, each.in_use, needed) for each in workers)


async def _certificates(
    ways: Ways, settings: ClusterSettings, instances: Iterable[Instance], contexts: Contexts
) -> tuple[Lasting, ...]:
    """A host shows the same for each of its instances."""
    given = papers_of(settings)
    hosts = {each.tls_name: (each.host, each.port) for each in instances if each.tls_name and not each.is_given}
    asked = [*(("host", *each) for each in hosts.items()), *(("server", each[0], each) for each in given)]
    files = await asyncio.to_thread(of_files, StatePaths(ways.state), settings)
    return (*files, *await of_servers(contexts, asked))


# --- the cluster -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Silent(Unseen):
    """The endpoint of a cluster that runs does not answer."""


async def _status(known: _Known, key: str) -> dict[str, Any] | Unseen:
    """The endpoint's status.json, or why there is none."""
    if known.holder is None:
        return Unseen(NOTHING_RUNS if known.settings is not None else NO_SETTINGS)
    endpoint = known.holder.endpoint
    if not endpoint:
        return Unseen("the cluster is only starting; ask again once it is ready")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        async with (
            aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=STATUS_TIMEOUT_S)) as http,
            http.get(f"http://{endpoint}/status.json") as reply,
        ):
            told = await reply.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, ValueError) as why:
        return _Silent(f"{endpoint} does not answer: {reason(why)}")
    if reply.status != 200 or not isinstance(told, dict):
        return Unseen(f"{endpoint} answered {reply.status}; name an admin's key in OLLAMACTL_KEY")
    return told


def _instances(status: dict[str, Any] | Unseen) -> tuple[Instance, ...] | None:
    if isinstance(status, Unseen):
        return None
    try:
        return _INSTANCES.validate_python([each for pool in status["pools"] for each in pool["instances"]])
    except (ValidationError, KeyError, TypeError):  # another version's
        return None


def _why_none(status: dict[str, Any] | Unseen) -> Unseen:
    return status if isinstance(status, Unseen) else Unseen("the cluster that runs is of another version")


def _cluster(known: _Known, settings: ClusterSettings, status: dict[str, Any] | Unseen) -> Cluster | Unseen:
    """As it says itself; where it does not, as the settings have it."""
    if isinstance(status, Unseen) and known.settings is None:
        return status
    endpoint = known.holder.endpoint if known.holder is not None else ""
    told: dict[str, Any] = {} if isinstance(status, Unseen) else status
    pools = {each["name"]: tuple(one["state"] for one in each["instances"]) for each in told.get("pools", ())}
    return Cluster(
        listens=endpoint or settings.listen or DEFAULT_LISTEN,
        has_keys=settings.asks_who,
        is_cache_on=told["cache"]["state"] == "ON" if "cache" in told else settings.cache.enabled,
        cached_routes={name: each.cache for name, each in settings.routes.items()},
        store=told.get("store", "up"),
        pools=status if isinstance(status, Unseen) else pools,
        problem=status.why if isinstance(status, _Silent) else "",
        ending_keys=_ending(settings, time.time()),
    )


def _ending(settings: ClusterSettings, now_s: float) -> dict[str, float]:
    """Days that keys are still good for, of those that have ended or soon do."""
    days = {each.name: (unix_of(each.expires) - now_s) / 86_400 for each in settings.keys if each.expires is not None}
    return {name: left for name, left in days.items() if left < SOON_S / 86_400}


async def _redis(ways: Ways, known: _Known, settings: ClusterSettings) -> RedisSeen:
    if known.settings is None:
        return RedisSeen(Unseen(NO_SETTINGS))
    if settings.redis != "embedded":
        url = settings.redis
    elif known.holder is not None:
        url = server_url(ways.state.absolute())
    else:
        return RedisSeen(Unseen("it is embedded, and runs only while a cluster does"))
    return await look_at_redis(url, is_embedded=settings.redis == "embedded")
