"""The state of the cluster as JSON: what the page draws, and `ollamactl status`. No text of any call is in it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from typing import Any

from orchestrator import __version__
from orchestrator.core import providers
from orchestrator.core.breaker import State
from orchestrator.core.model import Instance, Pool
from orchestrator.gateway import cache_words
from orchestrator.gateway.identity import SOON_S, Keys
from orchestrator.gateway.live import Live, Rules, Tier

# What Redis knows of load and use: in flight by instance, queue by pool, calls and tokens by tier today.
ReadCounts = Callable[[], Awaitable[Mapping[str, Any]]]


class StatusPage:
    """Reads the cluster's state for people. `read_counts` is the store's part."""

    def __init__(
        self,
        live: Live,
        read_counts: ReadCounts,
        read_cache: Callable[[], Mapping[str, Any]],
        read_breakers: Callable[[], Mapping[str, Mapping[str, Any]]],
    ) -> None:
        self._live, self._read_counts, self._read_cache = live, read_counts, read_cache
        self._read_breakers = read_breakers

    async def read(self) -> dict[str, Any]:
        """The whole state as JSON."""
        counts = await self._read_counts()
        snapshot, rules, breakers = self._live.snapshot, self._live.rules, self._read_breakers()
        age_s = time.time() - snapshot.published_at_unix_ms / 1e3 if snapshot.published_at_unix_ms else None
        return {
            "version": __version__,
            "published_s_ago": age_s,
            "cache": _cache(rules) | (cached := dict(self._read_cache())),
            "keys": "none: whoever reaches the endpoint may ask" if rules.keys.is_open else "needed",
            "keys_ending": (ending := _ending(rules.keys)),
            "is_simulated": any(each.is_simulated for pool in snapshot.pools for each in pool.instances),
            "tiers": {name: {**_tier(tier), **breakers[name]} for name, tier in rules.tiers.items()},
            "routes": sorted(rules.routes),
            "pools": [_pool(pool, counts) for pool in snapshot.pools],
            "nodes": [asdict(node) for node in snapshot.nodes],
            "given": [asdict(each) for each in snapshot.given],
            "usage": counts.get("usage", {}),
            "routed": counts.get("routed", {}),
            "replayed": counts.get("replayed", {}),
            "limits": counts.get("limits", []),
            "machines": counts.get("machines", []),
            "prices": prices(),
            "store": counts.get("store", "up"),
            "notes": [
                *counts.get("progress", []),
                *snapshot.notes,
                *(f"the API key {each['name']} {each['what']} on {each['at']}" for each in ending),
                *filter(None, [cached.get("warning")]),
                *_left_alone(breakers),
            ],
        }


def _ending(keys: Keys) -> list[dict[str, str]]:
    """Keys that have ended, or do so within days."""
    now_s = time.time()
    return [
        {
            "name": each.caller.name,
            "what": "ended" if each.until_s <= now_s else "ends",
            "at": datetime.fromtimestamp(each.until_s, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        }
        for each in keys
        if each.until_s - now_s < SOON_S and not each.is_replaced
    ]


@cache
def prices() -> list[dict[str, Any]]:
    """What the models of the catalogue cost outside, US dollars for a million tokens."""
    priced = ((each.name, *told) for each in providers.table().providers.values() for told in each.prices.items())
    return [{"name": f"{name} {model}", **asdict(price)} for name, model, price in priced if "*" not in model]


def _tier(tier: Tier) -> dict[str, Any]:
    return {"model": tier.target, "backup": tier.backup, "provider": tier.provider.name if tier.provider else ""}


def _left_alone(breakers: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The tiers that this worker leaves alone, each with the way out."""
    for name, each in breakers.items():
        if each["state"] != State.CLOSED:
            until = (
                f"for {each['opens_in_s']:.0f} s" if each["state"] == State.OPEN else "but for one call that tries it"
            )
            yield f"tier {name} failed or was slow and is left to its backup, {until}: its target's logs say why"


def _cache(rules: Rules) -> dict[str, Any]:
    """The answer cache by its settings; what it did is counted elsewhere."""
    return {
        "state": "ON" if rules.cache.is_enabled else "OFF",
        "layers": [{"name": each.name, "is_on": each.is_on, "why": each.why} for each in cache_words.layers(rules)],
        "terms": cache_words.terms(rules),
        "ttl_s": rules.cache.freshness.ttl_s,
        "faq_entries": len(rules.faq),
        "shared_between_keys": rules.cache.is_shared,
    }


def _pool(pool: Pool, counts: Mapping[str, Any]) -> dict[str, Any]:
    waiting = counts.get("queues", {}).get(pool.name, {})
    return {
        "name": pool.name,
        "context": pool.context,
        "queue_depth": waiting.get("depth", 0),
        "oldest_wait_s": waiting.get("oldest_s", 0.0),
        "expected_wait_s": waiting.get("expected_s"),
        "service_s": waiting.get("service_s"),
        "keys": waiting.get("keys", []),
        "followed": None if pool.followed is None else asdict(pool.followed),
        "instances": [_instance(each, counts) for each in pool.instances],
    }


def _instance(instance: Instance, counts: Mapping[str, Any]) -> dict[str, Any]:
    told = asdict(instance)
    told["in_flight"] = counts.get("in_flight", {}).get(instance.id, 0)
    return told
