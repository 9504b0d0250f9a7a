"""What a route's escalation must be together: where to, what for, and nothing that is never used."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final

from orchestrator.settings.escalating import EscalateIfSettings
from orchestrator.settings.model import ClusterSettings
from orchestrator.settings.positions import FieldPath
from orchestrator.settings.problems import Problem, unknown_name
from orchestrator.settings.routing import RouteSettings

_HOLDING: Final = ("hold_tokens", "hold_s")


def escalation_problems(
    path: FieldPath,
    route: RouteSettings,
    chosen: Collection[str],
    tiers: Sequence[str] | None,
    lacks: Callable[..., bool],
) -> Iterator[Problem]:
    """Everything wrong with `escalate_to`, `escalate_if` and what is held back. `chosen`: tiers that answer first."""
    if lacks(*path, "escalate_to") or lacks(*path, "escalate_if"):
        return
    to = route.escalate_to
    if to is not None and tiers is not None and to not in tiers:
        yield unknown_name((*path, "escalate_to"), "tier", to, tiers)
    elif to is not None and set(chosen) == {to}:
        yield Problem((*path, "escalate_to"), f"{to!r} has answered already when it is asked; name a higher tier")
    if to is not None and not route.escalate_if:
        why = "nothing is ever escalated: say in `escalate_if` what for, or leave this out"
        yield Problem((*path, "escalate_to"), why)
    if route.escalate_if and to is None:
        yield Problem((*path, "escalate_if"), "there is nobody to answer instead: name a tier as `escalate_to`")
    yield from _unused(path, route)
    yield from _entries((*path, "escalate_if"), route.escalate_if)


def _entries(path: FieldPath, entries: Sequence[EscalateIfSettings]) -> Iterator[Problem]:
    """One condition an entry, each condition once."""
    before: set[str] = set()
    for at, entry in enumerate(entries):
        if len(entry.named) != 1:
            every = ", ".join(EscalateIfSettings.model_fields)
            found = f"{' and '.join(entry.named)} are" if entry.named else "none is"
            yield Problem((*path, at), f"one condition an entry is wanted ({every}), and {found} there")
        elif (condition := entry.named[0]) in before:
            yield Problem((*path, at, condition), "is there already; keep one of them")
        before.update(entry.named)


def _unused(path: FieldPath, route: RouteSettings) -> Iterator[Problem]:
    if not route.escalate_if:
        for field in (*_HOLDING, "buffered"):
            if getattr(route, field):
                yield Problem((*path, field), "is of use with `escalate_if` alone; name what is doubted, or remove it")
    elif route.buffered:
        for field in _HOLDING:
            if getattr(route, field) is not None:
                yield Problem((*path, field), "is of no use beside `buffered`, which holds all of an answer back")


def unused_calibrations(settings: ClusterSettings) -> Iterator[Problem]:
    """Files that say how sure a tier is, where nobody asks."""
    if any(each.confidence_below is not None for route in settings.routes.values() for each in route.escalate_if):
        return
    for name, tier in settings.tiers.items():
        if tier.calibration is not None:
            why = "is of use with `confidence_below` of a route alone; name that, or leave this out"
            yield Problem(("tiers", name, "calibration"), why)
