"""Settings as the gateway's rules, FAQ files read."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.app.curated import faq_from
from orchestrator.core.cache_policy import Freshness
from orchestrator.core.dialects.parse import canonical_model_name
from orchestrator.core.routing import RouteRule
from orchestrator.core.target import Budget
from orchestrator.gateway.identity import Keys
from orchestrator.gateway.live import CacheRules, Limits, Route, Rules, Tier
from orchestrator.settings import ClusterSettings
from orchestrator.settings.answering import CacheSettings
from orchestrator.settings.routing import BudgetSettings, RouteSettings, TierSettings
from orchestrator.store.sealing import Seal


def rules_from(settings: ClusterSettings) -> Rules:
    """The settings as the gateway's values. Raises SettingsError where a FAQ file is not valid."""
    cache, limits = settings.cache, settings.limits
    # Pools of servers that somebody else runs have one spelling; those deployed are named as the settings name them.
    pool_of = canonical_model_name if settings.instances else str
    return Rules(
        tiers={name: _tier(name, tier, pool_of) for name, tier in settings.tiers.items()},
        routes={name: _route(name, route, cache) for name, route in settings.routes.items()},
        cache=cache_rules(cache),
        limits=Limits(
            queue_length=limits.queue_length,
            queue_wait_s=limits.queue_wait_s,
            first_byte_s=limits.first_byte_s,
            between_bytes_s=limits.between_bytes_s,
            drain_s=limits.drain_s,
            body_bytes=limits.body_bytes,
            hang_s=limits.hang_s,
        ),
        keys=Keys((key.name, key.secret.get_secret_value(), key.admin) for key in settings.keys),
        faq=faq_from(cache.faq, paraphrases=cache.faq_paraphrases),
    )


def cache_rules(cache: CacheSettings) -> CacheRules:
    """How answers are kept."""
    return CacheRules(
        is_enabled=cache.enabled,
        models=cache.models,
        freshness=Freshness(cache.ttl_s, cache.ttl_jitter, cache.stale_while_revalidate_s, cache.stale_if_error_s),
        max_answer_bytes=cache.max_answer_bytes,
        is_shared=cache.shared,
        joins=cache.join,
        max_bytes=cache.max_bytes,
        near_bytes=cache.near_bytes,
        keeps_tool_calls=cache.tool_calls,
        warn_after=cache.warn_after,
        has_paraphrases=cache.faq_paraphrases,
        seal=seal_of(cache),
        secret=b"" if cache.secret is None else cache.secret.get_secret_value().encode(),
    )


def seal_of(cache: CacheSettings) -> Seal:
    """What answers are sealed and opened with."""
    now = () if cache.encryption_key is None else (cache.encryption_key, *cache.old_encryption_keys)
    return Seal([each.get_secret_value() for each in now])


def _tier(name: str, tier: TierSettings, pool_of: Callable[[str], str]) -> Tier:
    return Tier(name, pool_of(tier.model), tier.backup, budget=budget_of(tier.limits))


def budget_of(limits: BudgetSettings) -> Budget:
    """What may be used, as a value."""
    return Budget(**limits.model_dump())


def _route(name: str, route: RouteSettings, cache: CacheSettings) -> Route:
    while_s, error_s = route.cache_stale_while_revalidate_s, route.cache_stale_if_error_s
    freshness = Freshness(
        ttl_s=cache.ttl_s if route.cache_ttl_s is None else route.cache_ttl_s,
        ttl_jitter=cache.ttl_jitter,
        while_revalidate_s=cache.stale_while_revalidate_s if while_s is None else while_s,
        if_error_s=cache.stale_if_error_s if error_s is None else error_s,
    )
    rule = RouteRule(route.small, route.full, route.chat_full_from, route.task_full_from)
    return Route(name, rule, route.cache, route.cache_shared, freshness, route.cache_paraphrases, route.cache_spellings)
