"""Load and use as Redis knows them, in the form that the status page and `ollamactl status` show."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from orchestrator import telemetry
from orchestrator.app.machines import machines
from orchestrator.core.errors import StoreError
from orchestrator.core.limits import NANO
from orchestrator.core.target import Budget
from orchestrator.gateway.budget_words import standings, told_of
from orchestrator.store import routed, usage
from orchestrator.store.callers import seen
from orchestrator.store.cluster import progress
from orchestrator.store.connection import Connection
from orchestrator.store.pools import PoolLoad, in_flight
from orchestrator.store.routed import Routed

_UNLIMITED: Final[Mapping[str, Budget]] = {}
_NOTHING: Final[Mapping[str, Any]] = {"routed": {}, "replayed": {}, "limits": [], "machines": []}


async def read_counts(connection: Connection, budgets: Mapping[str, Budget] = _UNLIMITED) -> dict[str, Any]:
    """In flight by instance, queue by pool, calls and tokens by tier today, what of budgets is used; what is missing
    while Redis is away."""
    try:
        loads = await in_flight(connection)
        day = datetime.now(UTC).date().isoformat()
        used = await usage.read(connection, day)
        routes = _routes(await routed.read(connection, day), await routed.drifts(connection))
        replayed = await routed.replayed(connection)
        lines = await progress(connection)
        limited = {**budgets, **await seen(connection, time.time_ns() // 1_000_000), **budgets}
        limits = await standings(connection, limited)
        together = await machines(connection)
    except StoreError as why:
        telemetry.STORE_ERRORS.inc()
        return {"store": f"DOWN: {why}", "in_flight": {}, "queues": {}, "usage": {}, "progress": [], **_NOTHING}
    return {
        "store": f"DOWN: {connection.problem}" if connection.problem else "up",
        "in_flight": {each.instance: each.in_flight for load in loads for each in load.instances},
        "queues": {load.pool: _queue(load) for load in loads},
        "usage": by_tier(used.values()),
        "progress": list(lines.values()),
        "routed": routes,
        "replayed": replayed,
        "limits": told_of(limited, limits),
        "machines": together,
    }


def _routes(today: Mapping[str, Routed], drifts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What each route did today, and whether that is as usual."""
    told = {}
    for name in sorted({*today, *drifts}):
        each, known = today.get(name, Routed()), drifts.get(name, {})
        told[name] = {
            **each.told,
            "drift": {
                what: {field: value for field, value in about.items() if field != "watched"}
                for what, about in known.items()
            },
        }
    return told


def _queue(load: PoolLoad) -> dict[str, Any]:
    return {
        "depth": load.queued,
        "oldest_s": load.oldest_wait_s,
        "expected_s": load.expected_wait_s,
        "service_s": load.service_s,
        "keys": [asdict(each) for each in load.keys],
    }


def by_tier(counts: Iterable[dict[str, int]]) -> dict[str, dict[str, float]]:
    """Counters `tier:<name>:<field>` of all pools and routes, added up by tier; `usd`: what providers' answers cost."""
    total: Counter[tuple[str, str]] = Counter()
    for each in counts:
        for field, amount in each.items():
            kind, _, rest = field.partition(":")
            if kind == "tier":
                tier, _, name = rest.rpartition(":")
                total[tier, name] += amount
    tiers = dict.fromkeys(tier for tier, _ in total)
    names = {"calls": "requests", "prompt_tokens": "prompt_tokens", "completion_tokens": "completion_tokens"}
    return {
        tier: {
            **{told: total[tier, kept] for told, kept in names.items()},
            "reasoning_tokens": total[tier, "reasoning_tokens"],
            "usd": total[tier, "usd_nano"] / NANO,
        }
        for tier in tiers
    }


def set_gauges(loads: Iterable[PoolLoad], simulated: bool) -> None:
    """Load as metrics. The controller's part: one process says it, or the sum over processes would be wrong."""
    marked = "true" if simulated else "false"
    for load in loads:
        telemetry.QUEUE_DEPTH.labels(load.pool).set(load.queued)
        for each in load.instances:
            telemetry.INSTANCE_SLOTS.labels(load.pool, each.instance, marked).set(each.slots)
            telemetry.INSTANCE_IN_FLIGHT.labels(load.pool, each.instance, marked).set(each.in_flight)
