"""What settings of outside providers must be together: names that are there, ways that are safe, prices for dollars.

Pure, as `checks`, which calls this.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator

from orchestrator.core.providers import Known, named, table
from orchestrator.core.routing import tiers_to_try
from orchestrator.settings.model import ClusterSettings
from orchestrator.settings.outside import ProviderSettings
from orchestrator.settings.problems import Problem, unknown_name
from orchestrator.settings.route_checks import tiers_of
from orchestrator.settings.routing import BudgetSettings, TierSettings
from orchestrator.settings.syntax import check_header_name, provider_address

# Whether something was left out because it was wrong by itself.
Lacks = Callable[..., bool]


def known_of(name: str, provider: ProviderSettings) -> Known | None:
    """The entry of the catalogue that a provider goes by."""
    return table().providers.get(provider.like or name)


def has_price(tier: TierSettings, settings: ClusterSettings) -> bool:
    """Whether anybody says what a tier costs."""
    provider = settings.providers.get(tier.provider or "")
    if tier.price is not None or provider is None:
        return tier.price is not None
    known = known_of(tier.provider or "", provider)
    return named(provider.prices, tier.model) is not None or (
        known is not None and known.price_of(tier.model) is not None
    )


def check_outside(settings: ClusterSettings, lacks: Lacks) -> Iterator[Problem]:
    """Every problem with providers, and with tiers that go to them."""
    used = {tier.provider for tier in settings.tiers.values()}
    for name, provider in settings.providers.items():
        if name not in used and not lacks("tiers"):
            yield Problem(("providers", name), "no tier names this provider; name it in one, or remove it", at_key=True)
        yield from _catalogued(name, provider, lacks)
        yield from _way(name, provider, lacks)
        yield from _unused_prices(name, provider, settings)
        yield from _headers(name, provider)
    for name, tier in settings.tiers.items():
        if tier.provider is not None and not lacks("providers", tier.provider):
            yield from _outside_tier(name, tier, settings)
    yield from _dollars(settings, lacks)
    if not (lacks("tiers") or lacks("providers") or lacks("routes")):
        yield from _confidence(settings)


def _confidence(settings: ClusterSettings) -> Iterator[Problem]:
    """Somebody tells how likely the answers are that a route doubts for it."""
    backups = {name: tier.backup for name, tier in settings.tiers.items()}
    for name, route in settings.routes.items():
        judged = {each for first in tiers_of(route).values() for each in tiers_to_try(first, backups)}
        judged -= {route.escalate_to}
        for index, doubt in enumerate(route.escalate_if):
            if doubt.confidence_below is not None and judged and not any(_tells(each, settings) for each in judged):
                why = f"no provider of {', '.join(sorted(judged))} tells log probabilities; leave it out"
                yield Problem(("routes", name, "escalate_if", index, "confidence_below"), why)


def _tells(name: str, settings: ClusterSettings) -> bool:
    """Whether a tier's answers may come with log probabilities; one that is not there is another's problem."""
    tier = settings.tiers.get(name)
    provider = None if tier is None else settings.providers.get(tier.provider or "")
    known = None if provider is None or tier is None else known_of(tier.provider or "", provider)
    return known is None or "logprobs" not in known.manners.refuses


def _catalogued(name: str, provider: ProviderSettings, lacks: Lacks) -> Iterator[Problem]:
    """What the catalogue says in a provider's place, and what it cannot."""
    path, known = ("providers", name), known_of(name, provider)
    if provider.like is not None and known is None:
        yield unknown_name((*path, "like"), "catalogued provider", provider.like, table().providers)
        return
    if provider.url is None and known is None and not lacks(*path, "url"):
        there = ", ".join(table().providers)
        why = f"is missing: {name!r} is not in the catalogue; name it, or set `like` to one of {there}"
        yield Problem((*path, "url"), why)
    if provider.key is None and known is not None and provider.url is None and not lacks(*path, "key"):
        yield Problem((*path, "key"), f"is missing: {known.name} answers nobody without one; write key: env:NAME")
    if provider.plan is not None and (known is None or provider.plan not in known.plans):
        yield unknown_name((*path, "plan"), "plan", provider.plan, known.plans if known else ())


def _way(name: str, provider: ProviderSettings, lacks: Lacks) -> Iterator[Problem]:
    """Keys and prompts in clear stay near; what is of use over TLS alone is named with it."""
    if provider.url is None or lacks("providers", name, "url"):
        return
    is_tls, host, _, _ = provider_address(provider.url)
    path = ("providers", name)
    if not is_tls and not provider.in_clear and not _is_near(host):
        why = "keys and prompts would go through the network in clear; name https://…, or state `in_clear: true`"
        yield Problem((*path, "url"), why)
    if is_tls and provider.in_clear:
        yield Problem((*path, "in_clear"), "is of no use with https; leave it out")
    if not is_tls and provider.ca is not None:
        yield Problem((*path, "ca"), "is of no use without https; name https://…, or leave this out")


def _is_near(host: str) -> bool:
    """This machine, or an address that no network outside routes."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or (address.is_private and not address.is_unspecified)


def _headers(name: str, provider: ProviderSettings) -> Iterator[Problem]:
    for header in provider.headers:
        try:
            check_header_name(header)
        except ValueError as why:
            yield Problem(("providers", name, "headers", header), str(why), at_key=True)


def _unused_prices(name: str, provider: ProviderSettings, settings: ClusterSettings) -> Iterator[Problem]:
    models = [tier.model for tier in settings.tiers.values() if tier.provider == name]
    for model in provider.prices:
        if not any(named({model: True}, each) for each in models):
            yield Problem(("providers", name, "prices", model), "no tier asks for this model; remove it", at_key=True)


def _outside_tier(name: str, tier: TierSettings, settings: ClusterSettings) -> Iterator[Problem]:
    path = ("tiers", name)
    provider = settings.providers.get(tier.provider or "")
    if provider is None:
        yield unknown_name((*path, "provider"), "provider", tier.provider or "", settings.providers)
        return
    if not tier.model.strip():
        yield Problem((*path, "model"), f"is missing; name a model as {tier.provider} does")
    for field in ("share", "answer_s"):
        if getattr(tier, field) is not None:
            yield Problem((*path, field), "is about instances of the cluster; leave it out beside `provider`")
    if tier.accepts == "local":
        yield Problem((*path, "accepts"), "`local` never leaves the cluster; `public` or `internal` may")
    elif tier.accepts == "internal" and provider.accepts == "public":
        why = f"goes beyond what provider {tier.provider!r} accepts; set `accepts: internal` there as well"
        yield Problem((*path, "accepts"), why)


def _dollars(settings: ClusterSettings, lacks: Lacks) -> Iterator[Problem]:
    """A limit in dollars needs prices of everything that counts towards it."""
    if lacks("tiers") or lacks("providers"):
        return
    unpriced = [name for name, tier in settings.tiers.items() if not has_price(tier, settings)]
    for name in unpriced:
        if field := _dollar_limit(settings.tiers[name].limits):
            why = f"is not known, and `limits.{field}` needs it; write price: {{prompt: …, completion: …}}"
            yield Problem(("tiers", name, "price"), why)
    outside = {name: settings.tiers[name].provider for name in unpriced if settings.tiers[name].provider is not None}
    for name, provider in settings.providers.items():
        if (field := _dollar_limit(provider.limits)) and (tiers := [t for t, of in outside.items() if of == name]):
            yield Problem(("providers", name, "limits", field), _without_price(tiers))
    for index, key in enumerate(settings.keys):
        if (field := _dollar_limit(key.limits)) and outside:
            yield Problem(("keys", index, "limits", field), _without_price(list(outside)))


def _without_price(tiers: list[str]) -> str:
    return f"needs the price of tier {tiers[0]!r}, which is not known; write `price` there"


def _dollar_limit(limits: BudgetSettings) -> str:
    """The first limit in dollars that is set, or an empty text."""
    return next((each for each in ("usd_day", "usd_month") if getattr(limits, each) is not None), "")
