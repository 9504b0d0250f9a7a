"""Settings as the gateway's rules, FAQ files read."""

from __future__ import annotations

from orchestrator.app.curated import faq_from
from orchestrator.core.dialects.parse import canonical_model_name
from orchestrator.core.routing import RouteRule
from orchestrator.gateway.identity import Keys
from orchestrator.gateway.live import CacheRules, Limits, Route, Rules, Tier
from orchestrator.settings import ClusterSettings


def rules_from(settings: ClusterSettings) -> Rules:
    """The settings as the gateway's values. Raises SettingsError where a FAQ file is not valid."""
    cache, limits = settings.cache, settings.limits
    # Pools of servers that somebody else runs have one spelling; those deployed are named as the settings name them.
    pool_of = canonical_model_name if settings.instances else str
    return Rules(
        tiers={name: Tier(name, pool_of(tier.model), tier.backup) for name, tier in settings.tiers.items()},
        routes={
            name: Route(
                name, RouteRule(route.small, route.full, route.chat_full_from, route.task_full_from), route.cache
            )
            for name, route in settings.routes.items()
        },
        cache=CacheRules(cache.enabled, cache.models, cache.ttl_s, cache.max_answer_bytes, cache.shared),
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
