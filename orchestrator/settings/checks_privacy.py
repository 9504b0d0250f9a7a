"""What settings of privacy must be together: nothing that is never looked for, and no target that never may answer.

Pure, as `checks`, which calls this. A class that is stated where no tier is outside the cluster yet is no mistake: it
holds from the day on which there is one.
"""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.core.privacy import Privacy, may_leave, strictest
from orchestrator.core.routing import tiers_to_try
from orchestrator.settings.checks_outside import Lacks
from orchestrator.settings.model import ClusterSettings
from orchestrator.settings.privacy import PrivacySettings
from orchestrator.settings.problems import Problem
from orchestrator.settings.route_checks import tiers_of
from orchestrator.settings.routing import RouteSettings

_OF_THE_SEARCH = ("classes", "words", "search_letters")


def check_privacy(settings: ClusterSettings, lacks: Lacks) -> Iterator[Problem]:
    """Every problem with privacy classes."""
    if lacks("privacy"):
        return
    yield from _never_looked_for(settings.privacy)
    if lacks("tiers") or lacks("providers") or lacks("routes"):
        return
    yield from _never_asked(settings)
    for name, route in settings.routes.items():
        yield from _nobody_left(name, route, settings)


def _never_looked_for(privacy: PrivacySettings) -> Iterator[Problem]:
    usual = PrivacySettings()
    for field in _OF_THE_SEARCH:
        if not privacy.detect and getattr(privacy, field) != getattr(usual, field):
            yield Problem(("privacy", field), "is of no use with `detect: false`; leave one of them out")
    if privacy.detect and "word" in privacy.classes and not privacy.words:
        yield Problem(("privacy", "classes", "word"), "needs `words` to look for; name a file there, or remove this")


def _never_asked(settings: ClusterSettings) -> Iterator[Problem]:
    """Tiers outside that no call may go to."""
    default = Privacy(settings.privacy.default)
    for name, tier in settings.tiers.items():
        accepted = _accepted(name, settings)
        if accepted is not None and not may_leave(default, accepted):
            path = ("tiers", name, "accepts" if tier.accepts is not None else "provider")
            why = f"every call is `{default}` at least (privacy.default) and this tier takes `{accepted}` ones"
            yield Problem(path, f"{why}; change one of them, or remove the tier")


def _nobody_left(name: str, route: RouteSettings, settings: ClusterSettings) -> Iterator[Problem]:
    """A route of a class that none of its tiers may answer."""
    if route.privacy is None:
        return
    floor = strictest((Privacy(route.privacy), Privacy(settings.privacy.default)))
    backups = {each: tier.backup for each, tier in settings.tiers.items()}
    first = [*tiers_of(route).values(), *([route.escalate_to] if route.escalate_to is not None else [])]
    tiers = {tier for each in first if each in settings.tiers for tier in tiers_to_try(each, backups)}
    accepted = [_accepted(each, settings) for each in tiers if each in settings.tiers]
    if accepted and all(each is not None and not may_leave(floor, each) for each in accepted):
        why = f"none of its tiers may answer `{floor}` calls; give one a pool of the cluster as backup"
        yield Problem(("routes", name, "privacy"), why)


def _accepted(tier_name: str, settings: ClusterSettings) -> Privacy | None:
    """What a tier outside takes at most; None: it is no such tier."""
    tier = settings.tiers[tier_name]
    provider = settings.providers.get(tier.provider or "")
    return None if provider is None else Privacy(tier.accepts or provider.accepts)
