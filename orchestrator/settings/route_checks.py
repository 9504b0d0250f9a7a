"""What a route's settings must be together: one way to choose a tier, and nothing of another way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from orchestrator.core.routing import tiers_to_try
from orchestrator.settings.deciding import DeepFromSettings
from orchestrator.settings.escalation_checks import escalation_problems
from orchestrator.settings.model import ClusterSettings
from orchestrator.settings.positions import FieldPath
from orchestrator.settings.problems import Problem, unknown_name
from orchestrator.settings.routing import RouteSettings

_BY_ROLE: Final = ("chat", "task", "deep", "band", "band_from")
_BY_SIZE: Final = ("small", "full", "chat_full_from", "task_full_from")
_TIERS: Final = ("primary", "chat", "task", "deep", "band", "small", "full")


def tiers_of(route: RouteSettings) -> dict[str, str]:
    """The tiers that a route chooses from, by the field that names each."""
    named = {field: tier for field in _TIERS if (tier := getattr(route, field)) is not None}
    if route.primary is None and route.task is None:
        return {"small": "small", "full": "full", **named}
    return named


def used_tiers(settings: ClusterSettings) -> set[str]:
    """Tiers that a call can reach: those of routes, those they escalate to, and the backups of both."""
    backups = {name: tier.backup for name, tier in settings.tiers.items()}
    named = {tier for route in settings.routes.values() for tier in tiers_of(route).values()}
    named |= {route.escalate_to for route in settings.routes.values() if route.escalate_to is not None}
    chains = {tier for first in named for tier in tiers_to_try(first, backups)}
    return chains | {route.scorer_tier for route in settings.routes.values() if route.scorer_tier is not None}


def route_problems(
    path: FieldPath, route: RouteSettings, tiers: Sequence[str] | None, lacks: Callable[..., bool]
) -> Iterator[Problem]:
    """Everything wrong with one route by itself, and with its tiers' names where these are known."""
    yield from _two_ways(path, route)
    yield from escalation_problems(path, route, tiers_of(route).values(), tiers, lacks)
    yield from _out_of_order(path, route)
    for field, tier in tiers_of(route).items():
        if tiers is not None and tier not in tiers and not lacks(*path, field):
            yield unknown_name((*path, field), "tier", tier, tiers)
    yield from _scorer(path, route, tiers)
    match = route.match
    if match is not None and match.tokens_to is not None and (match.tokens_from or 0) > match.tokens_to:
        why = f"is below `tokens_from`, {match.tokens_from}: no call has so many and so few"
        yield Problem((*path, "match", "tokens_to"), why)


def _scorer(path: FieldPath, route: RouteSettings, tiers: Sequence[str] | None) -> Iterator[Problem]:
    """A model that judges is one of a tier; that it is a pool's is seen where tiers are known (`used_tiers`)."""
    if route.scorer == "llm" and route.scorer_tier is None:
        yield Problem((*path, "scorer"), "a model has to be asked: name its tier as `scorer_tier`")
    if route.scorer == "trained":
        for field in ("scorer_tier", "scorer_timeout_s"):
            if getattr(route, field) != RouteSettings.model_fields[field].default:
                yield Problem((*path, field), "is of use with `scorer: llm` alone; set that, or leave this out")
    elif route.primary is not None:
        yield Problem((*path, "scorer"), "is of no use beside `primary`, which answers whatever the difficulty is")
    if route.scorer_tier is not None and tiers is not None and route.scorer_tier not in tiers:
        yield unknown_name((*path, "scorer_tier"), "tier", route.scorer_tier, tiers)


def _two_ways(path: FieldPath, route: RouteSettings) -> Iterator[Problem]:
    """The first way that is begun is meant; what belongs to another one would never be used."""
    is_set = {field for field in (*_BY_ROLE, *_BY_SIZE) if getattr(route, field) is not None}
    is_set |= {"deep_from"} if route.deep_from != DeepFromSettings() else set()
    of_roles = [field for field in (*_BY_ROLE, "deep_from") if field in is_set]
    of_size = [field for field in _BY_SIZE if field in is_set]
    if route.primary is not None:
        for field in (*of_roles, *of_size):
            yield Problem((*path, field), "is of no use beside `primary`, which answers whatever the difficulty is")
    elif route.task is not None:
        for field in of_size:
            yield Problem(
                (*path, field), "is of no use beside `task`; name `chat`, `task` and `deep`, or `small` and `full`"
            )
    else:
        for field in of_roles:
            yield Problem((*path, field), "is of use with `task` alone; name the tier that answers TASK, too")


def _out_of_order(path: FieldPath, route: RouteSettings) -> Iterator[Problem]:
    if route.task is None:
        return
    if route.deep is None and route.deep_from != DeepFromSettings():
        yield Problem((*path, "deep_from"), "says when `deep` answers; name that tier, or leave this out")
    if route.band is None and route.band_from is not None:
        yield Problem((*path, "band_from"), "says when `band` answers; name that tier, or leave this out")
    band_from = route.band_from or 5
    if route.band is not None and route.deep is not None and band_from >= route.deep_from.default:
        why = f"tasks from {route.deep_from.default} up are `deep`'s already (`deep_from.default`): it is never reached"
        yield Problem((*path, "band_from" if route.band_from is not None else "band"), why)
