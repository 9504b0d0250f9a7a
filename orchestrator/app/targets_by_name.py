"""Whom an evaluation asks by a name of the settings, and what that costs: tiers, routes, models."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.app.evaluating import Target
from orchestrator.app.providers import price_of
from orchestrator.app.rules import rule_of
from orchestrator.core.evaluation.questions import SetError
from orchestrator.core.evaluation.report import Price
from orchestrator.core.routing import tiers_to_try
from orchestrator.settings import ClusterSettings
from orchestrator.settings.routing import RouteSettings


def target_of(name: str, settings: ClusterSettings) -> Target:
    """What is asked for under the name of a tier, a route or a model. Raises SetError."""
    tier = settings.tiers.get(name)
    if tier is None:
        return Target(name, name, is_route=name in settings.routes)
    if tier.provider is None:
        return Target(name, tier.model)
    # Providers' models are asked by routes alone, whose privacy holds here, too.
    routes = [route for route, each in settings.routes.items() if name in _reached(each, settings)]
    if not routes:
        raise SetError(f"{name} answers outside the cluster, and no route of these settings leads there")
    return Target(name, min(routes, key=lambda each: settings.routes[each].privacy is not None), tier=name)


def prices_of(targets: Sequence[Target], settings: ClusterSettings) -> dict[str, Price]:
    """Dollars a million tokens, of targets that are tiers of which the settings or the catalogue know it."""
    known = {
        each.name: price_of(settings.tiers[each.name], settings) for each in targets if each.name in settings.tiers
    }
    return {name: Price(each.prompt, each.completion) for name, each in known.items() if each is not None}


def _reached(route: RouteSettings, settings: ClusterSettings) -> set[str]:
    """The tiers that may answer calls of a route."""
    backups = {name: tier.backup for name, tier in settings.tiers.items()}
    first = (*rule_of(route).tiers, *([route.escalate_to] if route.escalate_to else []))
    return {each for tier in first for each in tiers_to_try(tier, backups)}
