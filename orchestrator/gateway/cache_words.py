"""The answer cache in words: what of it is on, what is off and why; and what is odd about how it is hit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from orchestrator.gateway.live import CacheRules, Rules
from orchestrator.store.answer_books import Books

# What each reason for a miss means, said of the calls that had it, and what mends it.
MEANT: Mapping[str, str] = {
    "drawn": "they ask for no certain answer (temperature 0 or a seed), and the policy is `deterministic`; "
    "`cache.models: all` or `routes.NAME.cache: all` caches them too",
    "off": "the cache is off for what they ask for",
    "no_store": "their Cache-Control is no-store",
    "no_cache": "their Cache-Control is no-cache",
    "tools": "they carry tools and ask for no certain answer",
    "kind": "they are embeddings, counts or loads",
    "fields": "they want log probabilities or go on from a context",
    "absent": "no two of them are the same in every field; a time or a user's name in the prompt is enough for that",
    "old": "what was kept was too old; see `cache.ttl_s`, or their max-age",
    "unreadable": "what was kept cannot be read: it was sealed with a key that `cache.encryption_key` does not have",
    "away": "Redis is away",
}


LAYERS = ("faq", "routes", "paraphrases", "models")


class Layer(NamedTuple):
    """One layer of the cache."""

    name: str
    is_on: bool
    why: str


def layers(rules: Rules) -> tuple[Layer, ...]:
    """Every layer in the order in which it is asked."""
    cache = rules.cache
    if not cache.is_enabled:
        return tuple(Layer(name, False, "`cache.enabled` is false") for name in LAYERS)
    policies = {name: route.cache for name, route in rules.routes.items()}
    are_on = any(each != "off" for each in policies.values())
    told = ", ".join(f"{name}: {policy}" for name, policy in policies.items())
    return (
        _faq(rules),
        Layer("routes", are_on, told or "there is no route"),
        _paraphrases(rules),
        Layer("models", cache.models != "off", f"`cache.models` is {cache.models}"),
    )


def _paraphrases(rules: Rules) -> Layer:
    """Of generated answers; those of curated ones are the FAQ's own."""
    named = [name for name, route in rules.routes.items() if route.has_paraphrases]
    on = ", ".join(name for name in named if rules.routes[name].cache != "off")
    if on:
        return Layer("paraphrases", True, f"{on}: single plain questions in Turkish or English")
    why = f"`cache` of {', '.join(named)} is off" if named else "no route has `cache_paraphrases`"
    return Layer("paraphrases", False, why)


def _faq(rules: Rules) -> Layer:
    if not rules.faq:
        return Layer("faq", False, "`cache.faq` names no file with entries")
    if not rules.routes:
        return Layer("faq", False, f"{len(rules.faq)} entries, and no route that asks them")
    wide = "with" if rules.cache.has_paraphrases else "without"
    return Layer("faq", True, f"{len(rules.faq)} entries, {wide} paraphrases")


def terms(rules: Rules) -> str:
    """How answers are kept, in one line."""
    cache, fresh = rules.cache, rules.cache.freshness
    whose = "for all API keys" if cache.is_shared else "for each API key apart"
    sealed = "sealed" if cache.seal.is_on else "as text"
    late = [
        f"{what} {seconds:.0f} s longer"
        for what, seconds in (("while made anew", fresh.while_revalidate_s), ("in need", fresh.if_error_s))
        if seconds
    ]
    lasting = ", ".join((f"fresh for {fresh.ttl_s:.0f} s", *late))
    near = f", {cache.near_bytes / 2**20:.4g} MiB of them in each worker's memory" if cache.near_bytes else ""
    return f"kept {whose}, {sealed}, in {cache.max_bytes / 2**20:.4g} MiB, {lasting}{near}"


def lines(rules: Rules) -> tuple[str, ...]:
    """The whole cache, a line a layer, as it is logged at the start and after each change."""
    told = [f"answer cache, {each.name}: {'ON' if each.is_on else 'OFF'}: {each.why}" for each in layers(rules)]
    return (*told, f"answer cache: {terms(rules)}") if rules.cache.is_enabled else tuple(told)


def in_numbers(books: Books) -> dict[str, Any]:
    """The books, as status and commands show them."""
    counts = books.counts
    return {
        "answers": books.entries,
        "bytes": books.bytes,
        "evicted": counts.get("evicted", 0),
        "expired": counts.get("expired", 0),
        "joins": counts.get("joins", 0),
        "hits": _below("hits:", counts),
        "misses": _below("misses:", counts),
        "reported_wrong": _below("wrong:", counts),
    }


def _below(prefix: str, counts: Mapping[str, int]) -> dict[str, int]:
    return {name.removeprefix(prefix): amount for name, amount in sorted(counts.items()) if name.startswith(prefix)}


def hitless(rules: CacheRules, since: Mapping[str, int], now: Mapping[str, int]) -> str:
    """What is wrong with a cache that is on and has seen many calls and no hit; '' where nothing is."""
    if not rules.is_enabled or not rules.warn_after:
        return ""
    more = {name: amount - since.get(name, 0) for name, amount in now.items()}
    if any(amount > 0 for name, amount in more.items() if name.startswith(("hits:", "joins"))):
        return ""
    reasons = {name.rpartition(":")[2]: amount for name, amount in more.items() if name.startswith("misses:exact:")}
    calls = sum(reasons.values())
    if calls < rules.warn_after:
        return ""
    most = max(reasons, key=lambda each: reasons[each])
    return f"the answer cache is on and has had no hit in {calls} calls; of {reasons[most]} {MEANT.get(most, most)}"
