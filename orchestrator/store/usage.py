"""What was served: counters by day, each under a pool or a route, by tier, caller and instance.

The settle script adds a call's own; here are those outside a pool, and reading them all. Days are UTC.
"""

from __future__ import annotations

from collections import Counter
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
    reasoning_tokens: int = 0,
    usd_nano: int = 0,
    errors: int = 0,
) -> dict[str, int]:
    """Counts by field name, the way `settle` and `add` take them, without zeros.

    A field is one tier, caller and instance with a name of these, so that a call costs a command a count and not three:
    `read` adds up what each of them has. Money is in billionths of a US dollar.
    """
    scope = "\t".join((tier, caller.replace("\t", " "), instance, ""))
    counts = {
        "requests": requests,
        "cache_hits": cache_hits,
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "reasoning_tokens": reasoning_tokens,
        "usd_nano": usd_nano,
        "errors": errors,
    }
    return {scope + name: amount for name, amount in counts.items() if amount}


async def add(connection: Connection, route: str, day: str, counts: Mapping[str, int]) -> None:
    """Count what no pool has counted: answers of a route from the cache, refusals."""
    key = route_usage(route, day)
    await connection.command(b"SADD", ROUTES, route)
    for name, amount in counts.items():
        await connection.command(b"HINCRBY", key, name, amount)
    await connection.command(b"EXPIRE", key, KEPT_S)


async def read(connection: Connection, day: str) -> dict[str, dict[str, int]]:
    """The day's counts by pool or route, then "tier:small:requests", "caller:…", "instance:…" and so on.

    Pools and routes without any are left out. A pool's answers that cost no instance are counted as a route's are, and
    added to its own.
    """
    keys = [(str(name), pool_usage(name, day)) for name in await pool_names(connection)]
    routes = [route.decode() for route in await connection.command(b"SMEMBERS", ROUTES)]
    keys += [(route, route_usage(route, day)) for route in routes]
    found: dict[str, Counter[str]] = {}
    for name, key in keys:
        if counts := await connection.command(b"HGETALL", key):
            found.setdefault(name, Counter()).update(_by_scope(counts))
    return {name: dict(counts) for name, counts in found.items()}


def _by_scope(counts: Mapping[bytes, bytes]) -> Counter[str]:
    total: Counter[str] = Counter()
    for field, amount in counts.items():
        *scope, name = field.decode().split("\t")
        for kind, value in zip(("tier", "caller", "instance"), scope, strict=False):
            if value:
                total[f"{kind}:{value}:{name}"] += int(amount)
        if not scope:  # counted by the script itself: cache hits and misses of a pool
            total[name] += int(amount)
    return total
