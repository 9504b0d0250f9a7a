"""The nginx server of a cluster, from its settings: before its gateways, or straight over the instances of one model.

Where instances are is told by the settings, or by a running cluster's status; who fetches that is the caller.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from orchestrator.core.address import address_text
from orchestrator.core.errors import HostError
from orchestrator.core.model import Snapshot
from orchestrator.core.nginx import Limits, Site
from orchestrator.settings import ClusterSettings
from orchestrator.settings.syntax import host_and_port

_IN_CLEAR = (
    "nginx asks instances in clear, and this one wants TLS: have nginx ask the gateways, which speak it (no `--direct`)"
)
# A gateway asks three instances in turn (gateway/pipeline.py), and tells the caller a little later.
INSTANCES_ASKED, MARGIN_S = 3, 60
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


def site_of(settings: ClusterSettings, version: tuple[int, int, int] = (0, 0, 0)) -> Site:
    """The server before the gateways; `version` is that of the nginx which will read it."""
    nginx, limits = settings.nginx, settings.limits
    port = 80 if nginx.certificate is None else 443
    silence_s = max(limits.queue_wait_s + INSTANCES_ASKED * limits.first_byte_s, limits.between_bytes_s) + MARGIN_S
    return Site(
        servers=nginx.gateways or (_endpoint(settings.listen),),
        server_name=nginx.server_name,
        listen=nginx.listen or (f"0.0.0.0:{port}",),
        certificate=nginx.certificate,
        key=nginx.certificate_key,
        redirect_from=nginx.redirect_from,
        trusted_proxies=nginx.trusted_proxies,
        is_proxy_protocol=nginx.proxy_protocol,
        operators=nginx.operators,
        limits=Limits(nginx.limits.a_minute, nginx.limits.burst, nginx.limits.at_once),
        access_log=nginx.access_log,
        body_bytes=limits.body_bytes,
        silence_s=math.ceil(silence_s),
        version=version,
    )


def _endpoint(listen: str | None) -> str:
    """Where this machine reaches a gateway that listens there."""
    host, port = host_and_port(listen or "127.0.0.1:11434")
    return address_text(_EVERYWHERE.get(host, host), port)


def given_pools(settings: ClusterSettings) -> dict[str, list[str]]:
    """Addresses by model of servers that somebody else runs; those that name no model are in the pool of every one.

    Raises HostError where one wants TLS.
    """
    named = {model: None for each in settings.instances for model in each.models} or {"": None}
    if tls := [each.url for each in settings.instances if each.is_tls]:
        raise HostError(f"{tls[0]}: {_IN_CLEAR}")
    return {
        model: [address_text(*each.address) for each in settings.instances if not each.models or model in each.models]
        for model in named
    }


def published_pools(status: Mapping[str, Any]) -> dict[str, list[str]]:
    """Addresses of the instances that serve, by model, as a running cluster's status.json has them.

    Raises HostError where one wants TLS.
    """
    if any(each.get("tls_name") for pool in status["pools"] for each in pool["instances"]):
        raise HostError(f"`deploy.tls`: {_IN_CLEAR}")
    return {
        pool["name"]: [
            address_text(each["host"], each["port"]) for each in pool["instances"] if each["state"] == "serving"
        ]
        for pool in status["pools"]
    }


def snapshot_pools(snapshot: Snapshot) -> dict[str, list[str]]:
    """Addresses of the instances that take calls, by model, as published; with those of servers that somebody else runs
    and that load the model when it is asked for. Sorted: the same instances are the same value. None that wants TLS."""
    return {
        pool.name: sorted(
            address_text(each.host, each.port)
            for each in pool.instances
            if each.slots_offered is not None and not each.tls_name
        )
        for pool in snapshot.pools
    }


def over_tls(snapshot: Snapshot) -> dict[str, str]:
    """By model, why not each of its instances is asked by nginx itself: one of them wants TLS."""
    found = ((pool.name, each) for pool in snapshot.pools for each in pool.instances if each.tls_name)
    return {model: f"{each.id}: {_IN_CLEAR}" for model, each in found}


def choose_pool(
    pools: Mapping[str, Sequence[str]], model: str | None, left_out: Mapping[str, str] = MappingProxyType({})
) -> tuple[str, Sequence[str]]:
    """The model and its instances. Raises HostError where it is not clear which, or none of them serves; or all that do
    are `left_out`, by model why."""
    known = ", ".join(sorted(pools)) or "none"
    if model is None and len(pools) != 1:
        raise HostError(f"nginx does not read which model a call is for: name one with --model; there is {known}")
    chosen = next(iter(pools)) if model is None else model
    if chosen not in pools and "" in pools:  # servers whose models are not named: they have it or answer 404
        return chosen, pools[""]
    if chosen not in pools:
        raise HostError(f"there is no model {chosen!r}; there is {known}")
    if not pools[chosen] and chosen in left_out:
        raise HostError(left_out[chosen])
    if not pools[chosen]:
        raise HostError(f"no instance serves {chosen!r} now, and nginx takes no empty pool; see `ollamactl status`")
    return chosen, pools[chosen]
