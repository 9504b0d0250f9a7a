"""Which changed settings a running cluster takes over at once, and which wait for the next start. Pure."""

from __future__ import annotations

from orchestrator.settings.model import ClusterSettings

AT_START = {
    "listen": "the endpoint's socket is opened once, so that no connection is lost",
    "redis": "queues, leases and counts are in the old one",
    "engine": "instances of the old engine are serving",
    "keys_file": "the old file's changes are followed",
    "gateway.workers": "the gateway's processes are started once",
    "limits.lease_ttl_s": "leases under way are renewed at the pace they were taken with",
}
"""Fields that only a start reads, each with the reason."""


def needs_restart(old: ClusterSettings, new: ClusterSettings) -> tuple[str, ...]:
    """One sentence for each change that is not live until the cluster is started again."""
    return tuple(
        f"{field} was changed and stays as it was until the next start: {why}"
        for field, why in AT_START.items()
        if _value(old, field) != _value(new, field)
    )


def live_part(old: ClusterSettings, new: ClusterSettings) -> ClusterSettings:
    """`new`, with what waits for the next start as it is in `old`: the settings that the cluster now runs by."""
    gateway = new.gateway.model_copy(update={"workers": old.gateway.workers})
    limits = new.limits.model_copy(update={"lease_ttl_s": old.limits.lease_ttl_s})
    kept = {"listen": old.listen, "redis": old.redis, "engine": old.engine, "keys_file": old.keys_file}
    return new.model_copy(update={**kept, "gateway": gateway, "limits": limits})


def _value(settings: ClusterSettings, field: str) -> object:
    value: object = settings
    for name in field.split("."):
        value = getattr(value, name)
    return value
