"""The doctor's checks, in the order in which one would look: what everything stands on first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from orchestrator.core.doctor import certificates, cluster, hosts, ollama, servers
from orchestrator.core.doctor.seen import Seen
from orchestrator.core.doctor.told import Finding, Says

CHECKS: Final[Mapping[str, Callable[[Seen], Iterable[Finding]]]] = {
    "settings": cluster.settings,
    "driver": hosts.driver,
    "vram": hosts.vram,
    "redis": cluster.redis,
    "pools": cluster.pools,
    "servers": servers.answering,
    "version": servers.version,
    "ollama settings": ollama.settings,
    "residency": servers.residency,
    "cpu fallback": servers.on_cpu,
    "context": servers.context,
    "cache": cluster.cache,
    "open ports": hosts.open_ports,
    "certificates": certificates.ending,
    "clocks": cluster.clocks,
    "file limits": hosts.files,
}


def check(seen: Seen) -> tuple[Finding, ...]:
    """What every check says of `seen`, the same sentence once; none is silent."""
    found = (each for name, look in CHECKS.items() for each in tuple(look(seen)) or (_nothing(name),))
    return tuple(dict.fromkeys(found))


def _nothing(name: str) -> Finding:
    return Says(name).unseen("", "there is nothing here that it could be about")
