"""Settings as the gateway's rules, FAQ files read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Final

from orchestrator.app.calibration_file import calibration_from
from orchestrator.app.curated import faq_from
from orchestrator.app.private import privacy_rules
from orchestrator.app.providers import accepted_by, budget_of_tier, price_of, provider_of
from orchestrator.app.watches import watch_of
from orchestrator.core.breaker import BreakerTerms
from orchestrator.core.cache_policy import Freshness
from orchestrator.core.dialects.parse import canonical_model_name
from orchestrator.core.difficulty import CHAT, TASK
from orchestrator.core.errors import SettingsError
from orchestrator.core.matching import Match
from orchestrator.core.otlp import PATH
from orchestrator.core.patterns import compile_pattern
from orchestrator.core.privacy import Privacy, redacted
from orchestrator.core.routing import RouteRule, always, by_role, by_size
from orchestrator.core.target import Budget
from orchestrator.gateway.budget_claims import budgets_of
from orchestrator.gateway.grants import Grant, Issuer, Login
from orchestrator.gateway.identity import NEVER, Caller, Key, Keys
from orchestrator.gateway.live import CacheRules, Limits, Route, Rules, Scorer, Tier, TraceRules
from orchestrator.gateway.signing_keys import FetchError, keys_in
from orchestrator.settings import ClusterSettings
from orchestrator.settings.access import IssuerSettings, KeySettings, LoginSettings, TermsSettings
from orchestrator.settings.answering import CacheSettings
from orchestrator.settings.deciding import BreakerSettings, MatchSettings
from orchestrator.settings.moments import unix_of
from orchestrator.settings.routing import BudgetSettings, RouteSettings, TierSettings
from orchestrator.settings.tracing import TraceSettings
from orchestrator.store.sealing import Seal

# The thresholds of a route that names none.
CHAT_FULL_FROM: Final = 8
TASK_FULL_FROM: Final = 5
BAND_FROM: Final = 5


def rules_from(settings: ClusterSettings) -> Rules:
    """The settings as the gateway's values. Raises SettingsError where a file they name is not valid."""
    cache, limits = settings.cache, settings.limits
    # Pools of servers that somebody else runs have one spelling; those deployed are named as the settings name them.
    pool_of = canonical_model_name if settings.instances else str
    tiers = {name: _tier(name, tier, pool_of, settings) for name, tier in settings.tiers.items()}
    return Rules(
        tiers=tiers,
        routes={name: _route(name, route, cache, tiers) for name, route in settings.routes.items()},
        cache=cache_rules(cache),
        limits=Limits(
            queue_length=limits.queue_length,
            queue_wait_s=limits.queue_wait_s,
            first_byte_s=limits.first_byte_s,
            between_bytes_s=limits.between_bytes_s,
            drain_s=limits.drain_s,
            body_bytes=limits.body_bytes,
            hang_s=limits.hang_s,
            body_s=limits.body_s,
            whole_s=limits.whole_s,
            answer_tokens=limits.answer_tokens,
            images=limits.images,
            connections_per_address=limits.connections_per_address,
            fronts=limits.fronts,
            continues=limits.continue_streams,
        ),
        keys=keys_of(settings),
        faq=faq_from(cache.faq, paraphrases=cache.faq_paraphrases),
        keeps_records=settings.request_log.enabled,
        traces=traces_of(settings.traces),
        privacy=privacy_rules(settings.privacy),
        backups={name: tier.backup for name, tier in settings.tiers.items()},
        matches=matches_of(settings),
        budgets=budgets_of(tiers.values(), map(caller_of, settings.keys)),
        issuers={each.url: issuer_of(name, each) for name, each in settings.issuers.items()},
    )


def traces_of(traces: TraceSettings) -> TraceRules | None:
    """Where spans go; None: nowhere."""
    if traces.endpoint is None:
        return None
    headers = {name: value.get_secret_value() for name, value in traces.headers.items()}
    return TraceRules(traces.endpoint.removesuffix(PATH) + PATH, traces.share, headers)


def texts_in_logs(settings: ClusterSettings, rules: Rules) -> Callable[[str], str] | None:
    """How logs say what errors quote; None: not at all."""
    if settings.logs.texts == "off":
        return None
    return partial(redacted, words=rules.privacy.words or None)


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


def with_other_keys(rules: Rules, settings: ClusterSettings) -> Rules:
    """`rules`, with the keys of `settings` and nothing else of them."""
    budgets = budgets_of(rules.tiers.values(), map(caller_of, settings.keys))
    return replace(rules, keys=keys_of(settings), budgets=budgets)


def keys_of(settings: ClusterSettings) -> Keys:
    """Who may ask."""
    found: list[Key] = []
    for key in settings.keys:
        caller, end_s = caller_of(key), NEVER if key.expires is None else unix_of(key.expires)
        found.append(Key(_digest(key.known_by), caller, end_s))
        for old in key.old:
            found.append(Key(_digest(old.digest), caller, min(end_s, unix_of(old.until)), is_replaced=True))
    return Keys(found, is_open=not settings.asks_who)


def caller_of(key: KeySettings) -> Caller:
    """A key's holder, as far as the gateway has to know."""
    return _caller(key.name, key)


def _caller(name: str, terms: TermsSettings) -> Caller:
    budget = budget_of(terms.limits)
    return Caller(
        name,
        scopes=frozenset(terms.granted),
        privacy=privacy_of(terms.privacy),
        budget=None if budget.is_endless else budget,
        models=terms.models,
        priority=terms.priority,
        tenant=terms.tenant or "",
    )


def issuer_of(name: str, issuer: IssuerSettings) -> Issuer:
    """Whose tokens are taken, as far as the gateway has to know. Raises SettingsError where its file is not valid."""
    if issuer.jwks_file is not None:
        try:
            keys_in(issuer.jwks_file.read_bytes())
        except (OSError, FetchError) as why:
            raise SettingsError(f"{issuer.jwks_file}: {why} (issuers.{name}.jwks_file)") from why
    grants = tuple(
        Grant(each, tuple((claim, _several(values)) for claim, values in terms.when.items()), _caller("", terms))
        for each, terms in issuer.grants.items()
    )
    fields = {"url", "audience", "algorithms", "leeway_s", "jwks_file", "ca", "name_claim", "tenant_claim"}
    return Issuer(name=name, grants=grants, login=_login(issuer.login), **issuer.model_dump(include=fields))


def _login(login: LoginSettings | None) -> Login | None:
    if login is None:
        return None
    secret = "" if login.client_secret is None else login.client_secret.get_secret_value()
    return Login(login.client_id, login.url.rstrip("/"), login.scopes, login.session_s, secret)


def _digest(written: str) -> bytes:
    return bytes.fromhex(written.removeprefix("sha256:"))


def privacy_of(written: str | None) -> Privacy | None:
    """A class as settings name it."""
    return None if written is None else Privacy(written)


def _tier(name: str, tier: TierSettings, pool_of: Callable[[str], str], settings: ClusterSettings) -> Tier:
    return Tier(
        name,
        pool_of(tier.model) if tier.provider is None else "",
        tier.backup,
        provider=None if tier.provider is None else provider_of(tier.provider, settings),
        model="" if tier.provider is None else tier.model,
        budget=budget_of_tier(tier, settings),
        price=price_of(tier, settings),
        accepts=accepted_by(tier, settings.providers.get(tier.provider or "")),
        breaker=breaker_of(tier.breaker),
        calibration=None if tier.calibration is None else calibration_from(tier.calibration),
    )


def breaker_of(breaker: BreakerSettings) -> BreakerTerms:
    """When a tier is left alone, as a value."""
    return BreakerTerms(**breaker.model_dump())


def budget_of(limits: BudgetSettings) -> Budget:
    """What may be used, as a value."""
    return Budget(**limits.model_dump())


def _route(name: str, route: RouteSettings, cache: CacheSettings, tiers: Mapping[str, Tier]) -> Route:
    while_s, error_s = route.cache_stale_while_revalidate_s, route.cache_stale_if_error_s
    freshness = Freshness(
        ttl_s=cache.ttl_s if route.cache_ttl_s is None else route.cache_ttl_s,
        ttl_jitter=cache.ttl_jitter,
        while_revalidate_s=cache.stale_while_revalidate_s if while_s is None else while_s,
        if_error_s=cache.stale_if_error_s if error_s is None else error_s,
    )
    return Route(
        name,
        rule_of(route),
        route.cache,
        is_shared=route.cache_shared,
        freshness=freshness,
        has_paraphrases=route.cache_paraphrases,
        has_spellings=route.cache_spellings,
        privacy=privacy_of(route.privacy),
        match=None if route.match is None else match_of(route.match),
        unsure_rpm=route.unsure_rpm,
        escalate_to=route.escalate_to or "",
        watch=watch_of(name, route),
        scorer=_scorer(route, tiers),
    )


def _scorer(route: RouteSettings, tiers: Mapping[str, Tier]) -> Scorer | None:
    """Who says how hard a question is; None: the weights that ship. Never a provider, whatever the settings say."""
    tier = tiers.get(route.scorer_tier or "")
    if route.scorer != "llm" or tier is None or tier.is_outside:
        return None
    return Scorer(tier, route.scorer_timeout_s)


def rule_of(route: RouteSettings) -> RouteRule:
    """Which tier of a route answers what."""
    if route.primary is not None:
        return always(route.primary)
    if route.task is None:
        chat_from, task_from = route.chat_full_from or CHAT_FULL_FROM, route.task_full_from or TASK_FULL_FROM
        return by_size(route.small or "small", route.full or "full", chat_from, task_from, route.unsure_points)
    roles = (route.chat or route.task, route.task, route.deep or route.task)
    levels = {**route.deep_from.named(), CHAT: route.deep_from.chat, TASK: route.deep_from.default}
    band = None if route.band is None else (route.band_from or BAND_FROM, route.band)
    return by_role(roles, levels, band, route.unsure_points)


def matches_of(settings: ClusterSettings) -> tuple[tuple[str, Match], ...]:
    """What calls must have for a route to take them, in the routes' order."""
    return tuple((name, match_of(each.match)) for name, each in settings.routes.items() if each.match is not None)


def match_of(match: MatchSettings) -> Match:
    """A `match` as a value."""
    return Match(
        models=_several(match.model),
        headers=tuple(match.header.items()),
        keys=_several(match.key),
        paths=_several(match.path),
        text=None if match.text is None else compile_pattern(match.text),
        tokens_from=match.tokens_from,
        tokens_to=match.tokens_to,
        has_tools=match.tools,
        has_images=match.images,
        has_schema=match.json_schema,
        languages=_several(match.language),
    )


def _several(written: str | tuple[str, ...]) -> tuple[str, ...]:
    return (written,) if isinstance(written, str) else written
