"""Which instances are behind TLS, and with what they are asked. Who signs their certificates is left to `authority`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from orchestrator.app.paths import StatePaths
from orchestrator.core.model import InstanceState, Snapshot
from orchestrator.nodes.tls import Address, Contexts, Papers
from orchestrator.settings import ClusterSettings

_SILENT: Final = (InstanceState.STARTING, InstanceState.DOWN)


def contexts_of(paths: StatePaths, settings: Callable[[], ClusterSettings]) -> Contexts:
    """What instances behind TLS are asked with: hosts with our own certificate, given servers as the settings say."""
    return Contexts(paths.client_certificate, lambda: papers_of(settings()))


def papers_of(settings: ClusterSettings) -> dict[Address, Papers]:
    """Of servers that somebody else runs, by address; entries of one server say it together."""
    found: dict[Address, Papers] = {}
    for each in settings.instances:
        if each.is_tls:
            before = found.get(each.address, Papers())
            told = {name: str(path) for name in ("ca", "cert", "key") if (path := getattr(each, name)) is not None}
            found[each.address] = Papers(**{"ca": before.ca, "cert": before.cert, "key": before.key, **told})
    return found


def tls_names(snapshot: Snapshot) -> dict[Address, str]:
    """Of instances behind TLS, whom their certificates name."""
    every = (each for pool in snapshot.pools for each in pool.instances)
    return {(each.host, each.port): each.tls_name for each in every if each.tls_name}


def silent_hosts(snapshot: Snapshot) -> frozenset[str]:
    """Hosts of which an instance behind TLS does not answer."""
    every = (each for pool in snapshot.pools for each in pool.instances if each.tls_name and not each.is_given)
    return frozenset(each.node for each in every if each.state in _SILENT)
