"""Providers and the tiers that go to them: settings, and what the catalogue knows where these say nothing."""

from __future__ import annotations

from orchestrator.core.privacy import Privacy
from orchestrator.core.providers import named, narrowed
from orchestrator.core.target import Budget, Manners, Price, Provider
from orchestrator.settings import BudgetSettings, ClusterSettings, PriceSettings, ProviderSettings, TierSettings
from orchestrator.settings.checks_outside import known_of
from orchestrator.settings.syntax import provider_address


def provider_of(name: str, settings: ClusterSettings) -> Provider:
    """A provider as the gateway asks it."""
    written = settings.providers[name]
    known = known_of(name, written)
    url = written.url or (known.url if known is not None else "")
    is_tls, host, port, prefix = provider_address(url)
    plan = known.account_of(written.plan) if known is not None and written.plan is not None else Budget()
    return Provider(
        name=name,
        host=host,
        port=port,
        is_tls=is_tls,
        prefix=prefix,
        key="" if written.key is None else written.key.get_secret_value(),
        ca="" if written.ca is None else str(written.ca),
        headers={header: value.get_secret_value() for header, value in written.headers.items()},
        budget=narrowed(_budget(written.limits), plan),
        manners=Manners() if known is None else known.manners,
    )


def price_of(tier: TierSettings, settings: ClusterSettings) -> Price | None:
    """What a tier costs by the token: as it says itself, as its provider does, or as the catalogue has it."""
    provider = settings.providers.get(tier.provider or "")
    if tier.price is not None or provider is None:
        return None if tier.price is None else _price(tier.price)
    written, known = named(provider.prices, tier.model), known_of(tier.provider or "", provider)
    if written is not None:
        return _price(written)
    return None if known is None else known.price_of(tier.model)


def budget_of_tier(tier: TierSettings, settings: ClusterSettings) -> Budget:
    """What may be used of a tier; where it says nothing, what its provider's plan allows of the model."""
    written = _budget(tier.limits)
    provider = settings.providers.get(tier.provider or "")
    known = None if provider is None else known_of(tier.provider or "", provider)
    if provider is None or provider.plan is None or known is None:
        return written
    return narrowed(written, known.quota_of(provider.plan, tier.model))


def accepted_by(tier: TierSettings, provider: ProviderSettings | None) -> Privacy:
    """The most private class of calls that may go to a tier."""
    if tier.accepts is not None:
        return Privacy(tier.accepts)
    return Privacy.LOCAL if provider is None else Privacy(provider.accepts)


def _budget(limits: BudgetSettings) -> Budget:
    return Budget(**limits.model_dump())


def _price(price: PriceSettings) -> Price:
    return Price(price.prompt, price.completion)
