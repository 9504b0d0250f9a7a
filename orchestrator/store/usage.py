"""What was served: counters by day, each under a pool or a route, by tier, caller and instance.

The settle script adds a call's own; here are those outside a pool, and reading them all. Days are UTC.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.store.connection import Connection
from orchestrator.store.pools import pool_names
from orchestrator.store.schema import ROUTES, pool_usage, route_usage

KEPT_S = 40 * 86_400


def fields(
    *,
    tier: str = "",
    caller: str = "",
    instance: str = "",
    requests: int = 1,
    cache_hits: int = 0,
    prompt_tokens: int = 0,
    completion_tokens: int = 0,
    errors: int = 0,
) -> dict[str, int]:
    """Counts by field name, the way `settle` and `add` take them: "tier:small:requests" and so on, without zeros."""
    counts = {
        "requests": requests,
        "cache_hits": cache_hits,
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "errors": errors,
    }
    scopes = [f"{kind}:{name}:" for kind, name in (("tier", tier), ("caller", caller), ("instance", instance)) if name]
    return {scope + name: amount for scope in scopes for name, amount in counts.items() if amount}


async def add(connection: Connection, route: str, day: str, counts: Mapping[str, int]) -> None:
    """Count what no pool has counted: answers of a route from the cache, refusals."""
    key = route_usage(route, day)
    await connection.command(b"SADD", ROUTES, route)
    for name, amount in counts.items():
        await connection.command(b"HINCRBY", key, name, amount)
    await connection.command(b"EXPIRE", key, KEPT_S)


async def read(connection: Connection, day: str) -> dict[str, dict[str, int]]:
    """The day's counts by pool or route, then field; pools and routes without any are left out."""
    keys = {str(name): pool_usage(name, day) for name in await pool_names(connection)}
    for route in await connection.command(b"SMEMBERS", ROUTES):
        keys[route.decode()] = route_usage(route.decode(), day)
    found = {name: await connection.command(b"HGETALL", key) for name, key in keys.items()}
    return {
        name: {field.decode(): int(amount) for field, amount in counts.items()}
        for name, counts in found.items()
        if counts
    }
