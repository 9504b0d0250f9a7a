"""`ollamactl providers`: the catalogue and the settings side by side, and a look at whether providers answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import click

from orchestrator.app.live_settings import Wish, resolve_settings
from orchestrator.app.provider_check import Finding, check
from orchestrator.app.providers import budget_of_tier, price_of, provider_of
from orchestrator.cli.looking import looked_at
from orchestrator.cli.output import console, draw, literal, table
from orchestrator.core.address import bracketed
from orchestrator.core.providers import WHOLE_ACCOUNT, Known
from orchestrator.core.providers import table as catalogue
from orchestrator.core.target import Budget, Price
from orchestrator.settings import ClusterSettings

# By provider: environment variables of its secrets that are not set here.
Missing = Mapping[str, Sequence[str]]

NOTHING_YET = (
    "no providers in the configuration: name one under `providers`, and in a tier; docs/operations.md shows how"
)


def run_list(config: Path | None, *, as_json: bool) -> int:
    """Print who is configured, and what the catalogue knows."""
    looked = looked_at(config)
    lacking = looked.lacking
    missing = {name: [each.variable for each in lacking if each.provider == name] for name in looked.settings.providers}
    if as_json:
        click.echo(json.dumps(_told(looked.settings, missing), ensure_ascii=False, indent=2))
        return 0
    _draw_configured(looked.settings, missing)
    _draw_catalogue()
    return 0


def run_check(config: Path | None, names: Sequence[str], *, as_json: bool) -> int:
    """Ask the providers named, or all; 1 where one of them or of their models does not answer."""
    settings = _settings(config)
    if unknown := [name for name in names if name not in settings.providers]:
        there = ", ".join(settings.providers) or "none"
        raise click.BadParameter(f"there is no provider {unknown[0]!r}; there are: {there}")
    wanted = [name for name in settings.providers if not names or name in names]
    findings = asyncio.run(_check(settings, wanted, is_told=not as_json))
    if as_json:
        click.echo(json.dumps([asdict(each) for each in findings], ensure_ascii=False, indent=2))
    elif not findings:
        console.print(NOTHING_YET)
    return 0 if all(each.is_good for each in findings) else 1


async def _check(settings: ClusterSettings, names: Sequence[str], *, is_told: bool) -> list[Finding]:
    findings = []
    for name in names:
        tiers = [tier for tier in settings.tiers.values() if tier.provider == name]
        models = [(tier.model, price_of(tier, settings)) for tier in tiers]
        async for each in check(provider_of(name, settings), models):
            findings.append(each)
            if is_told:
                mark = "[green]ok[/green]  " if each.is_good else "[red]fails[/red]"
                console.print(f"{mark} {literal(each.name)} {literal(each.text)}")
    return findings


def _settings(config: Path | None) -> ClusterSettings:
    return asyncio.run(resolve_settings(Wish(Path(), config, None, None, None))).settings


# --- for people ------------------------------------------------------------------------------------------------------


def _draw_configured(settings: ClusterSettings, missing: Missing) -> None:
    if not settings.providers:
        console.print(NOTHING_YET)
    else:
        drawn = table("Provider", "Address", "Key", "Accepts", "Plan", "Account's limits")
        for name, each in settings.providers.items():
            provider = provider_of(name, settings)
            key = f"{', '.join(missing[name])} not set" if missing[name] else "set" if provider.key else "none"
            row = (name, _address(settings, name), key, each.accepts, each.plan or "-", _limits(provider.budget))
            drawn.add_row(*map(literal, row))
        draw(drawn)
    outside = {name: tier for name, tier in settings.tiers.items() if tier.provider is not None}
    if outside:
        drawn = table("Tier", "Asks", "$/M prompt", "$/M answer", "Limits")
        for name, tier in outside.items():
            price, limits = price_of(tier, settings), budget_of_tier(tier, settings)
            drawn.add_row(*map(literal, (name, f"{tier.provider}/{tier.model}", *_prices(price), _limits(limits))))
        draw(drawn)


def _draw_catalogue() -> None:
    known = catalogue()
    console.print(f"catalogue of {known.written_on}: {literal(known.source)}")
    drawn = table("Provider", "Model", "$/M prompt", "$/M answer", "Quotas by plan")
    for name, each in known.providers.items():
        drawn.add_row(*map(literal, (name, each.url, "", "", _quotas(each, WHOLE_ACCOUNT))))
        models = dict.fromkeys([*each.prices, *(model for plan in each.plans.values() for model in plan)])
        for model in models:
            if model != WHOLE_ACCOUNT:
                row = ("", model, *_prices(each.prices.get(model)), _quotas(each, model))
                drawn.add_row(*map(literal, row))
    draw(drawn)
    pages = ", ".join(each.page for each in known.providers.values())
    console.print(f"they change without notice; as the providers tell them: {literal(pages)}")


def _prices(price: Price | None) -> tuple[str, str]:
    return ("-", "-") if price is None else (f"{price.prompt:g}", f"{price.completion:g}")


def _quotas(known: Known, model: str) -> str:
    plans = {plan: quotas[model] for plan, quotas in known.plans.items() if model in quotas}
    return "; ".join(f"{plan}: {_limits(budget)}" for plan, budget in plans.items())


def _limits(budget: Budget) -> str:
    given = {each.name: getattr(budget, each.name) for each in fields(Budget)}
    return ", ".join(f"{name} {value:,}" for name, value in given.items() if value is not None) or "-"


def _address(settings: ClusterSettings, name: str) -> str:
    provider = provider_of(name, settings)
    usual = 443 if provider.is_tls else 80
    port = "" if provider.port == usual else f":{provider.port}"
    return f"{'https' if provider.is_tls else 'http'}://{bracketed(provider.host)}{port}{provider.prefix}"


# --- for programs ----------------------------------------------------------------------------------------------------


def _told(settings: ClusterSettings, missing: Missing) -> dict[str, Any]:
    known = catalogue()
    return {
        "written_on": known.written_on,
        "source": known.source,
        "catalogue": {name: _known(each) for name, each in known.providers.items()},
        "providers": {name: {**_configured(settings, name), "not_set": missing[name]} for name in settings.providers},
    }


def _known(each: Known) -> dict[str, Any]:
    return {
        "url": each.url,
        "page": each.page,
        "prices": {model: asdict(price) for model, price in each.prices.items()},
        "plans": {plan: {of: _stated(quota) for of, quota in by.items()} for plan, by in each.plans.items()},
    }


def _configured(settings: ClusterSettings, name: str) -> dict[str, Any]:
    provider, written = provider_of(name, settings), settings.providers[name]
    tiers = {tier: each for tier, each in settings.tiers.items() if each.provider == name}
    return {
        "address": _address(settings, name),
        "has_key": bool(provider.key),
        "accepts": written.accepts,
        "plan": written.plan,
        "limits": _stated(provider.budget),
        "tiers": {tier: _tier(settings, tier) for tier in tiers},
    }


def _tier(settings: ClusterSettings, name: str) -> dict[str, Any]:
    tier = settings.tiers[name]
    price = price_of(tier, settings)
    told = None if price is None else asdict(price)
    return {"model": tier.model, "price": told, "limits": _stated(budget_of_tier(tier, settings))}


def _stated(budget: Budget) -> dict[str, float]:
    return {name: value for name, value in asdict(budget).items() if value is not None}
