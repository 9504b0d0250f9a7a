"""Load and use as Redis knows them, in the form that the status page and `ollamactl status` show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from orchestrator import telemetry
from orchestrator.core.errors import StoreError
from orchestrator.store import usage
from orchestrator.store.cluster import progress
from orchestrator.store.connection import Connection
from orchestrator.store.pools import PoolLoad, in_flight


async def read_counts(connection: Connection) -> dict[str, Any]:
    """In flight by instance, queue by pool, calls and tokens by tier today; what is missing while Redis is away."""
    try:
        loads = await in_flight(connection)
        used = await usage.read(connection, datetime.now(UTC).date().isoformat())
        lines = await progress(connection)
    except StoreError as why:
        telemetry.STORE_ERRORS.inc()
        return {"store": f"DOWN: {why}", "in_flight": {}, "queues": {}, "usage": {}, "progress": []}
    return {
        "store": "up",
        "in_flight": {each.instance: each.in_flight for load in loads for each in load.instances},
        "queues": {load.pool: _queue(load) for load in loads},
        "usage": by_tier(used.values()),
        "progress": list(lines.values()),
    }


def _queue(load: PoolLoad) -> dict[str, Any]:
    return {
        "depth": load.queued,
        "oldest_s": load.oldest_wait_s,
        "expected_s": load.expected_wait_s,
        "service_s": load.service_s,
        "keys": [asdict(each) for each in load.keys],
    }


def by_tier(counts: Iterable[dict[str, int]]) -> dict[str, dict[str, int]]:
    """Counters `tier:<name>:<field>` of all pools and routes, added up by tier."""
    total: Counter[tuple[str, str]] = Counter()
    for each in counts:
        for field, amount in each.items():
            kind, _, rest = field.partition(":")
            if kind == "tier":
                tier, _, name = rest.rpartition(":")
                total[tier, name] += amount
    tiers = dict.fromkeys(tier for tier, _ in total)
    names = {"calls": "requests", "prompt_tokens": "prompt_tokens", "completion_tokens": "completion_tokens"}
    return {tier: {told: total[tier, kept] for told, kept in names.items()} for tier in tiers}


def set_gauges(loads: Iterable[PoolLoad], simulated: bool) -> None:
    """Load as metrics. The controller's part: one process says it, or the sum over processes would be wrong."""
    marked = "true" if simulated else "false"
    for load in loads:
        telemetry.QUEUE_DEPTH.labels(load.pool).set(load.queued)
        for each in load.instances:
            telemetry.INSTANCE_SLOTS.labels(load.pool, each.instance, marked).set(each.slots)
            telemetry.INSTANCE_IN_FLIGHT.labels(load.pool, each.instance, marked).set(each.in_flight)
