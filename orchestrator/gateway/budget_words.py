"""What is told of budgets: to a caller in headers like OpenAI's, to operators as numbers and gauges."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from orchestrator import telemetry
from orchestrator.core.limits import DAY_MS, LIMITED, NANO, WINDOW_S, Kind, Need, Used
from orchestrator.core.target import Budget
from orchestrator.store import budgets
from orchestrator.store.budgets import Claim, Standing
from orchestrator.store.connection import Connection

# The least that a call can use, to learn whether any could be made.
_ONE: Final = Need(requests=1, tokens=1, nano=1, holds=True)


def allowed(budget: Budget, kind: Kind) -> float | None:
    """A limit by its kind; None: there is none."""
    limit: float | None = getattr(budget, kind.value)
    return limit


def used(by_now: Used, kind: Kind) -> float:
    """What is used of a kind, in its own unit."""
    if kind is Kind.USD_DAY:
        return by_now.nano_day / NANO
    if kind is Kind.USD_MONTH:
        return by_now.nano_month / NANO
    amount: int = getattr(by_now, kind.value)
    return amount


def header_fields(budget: Budget, by_now: Used) -> str:
    """`X-RateLimit-…` of an API key as OpenAI has them, a line each: by the minute, or else by the day."""
    told = _header("Requests", budget, by_now, Kind.RPM, Kind.RPD)
    return told + _header("Tokens", budget, by_now, Kind.TPM, Kind.TPD)


def _header(name: str, budget: Budget, by_now: Used, minute: Kind, day: Kind) -> str:
    kind = minute if allowed(budget, minute) is not None else day
    limit = allowed(budget, kind)
    if limit is None:
        return ""
    left_s = WINDOW_S if kind is minute else (DAY_MS - time.time_ns() // 1_000_000 % DAY_MS) // 1000
    left = max(0, int(limit) - int(used(by_now, kind)))
    return (
        f"X-RateLimit-Limit-{name}: {limit}\r\nX-RateLimit-Remaining-{name}: {left}\r\n"
        f"X-RateLimit-Reset-{name}: {left_s}s\r\n"
    )


async def standings(connection: Connection, scopes: Mapping[str, Budget]) -> dict[str, Standing]:
    """How each scope stands for the smallest call. Raises StoreError."""
    found = await budgets.look(connection, [Claim(scope, budget, _ONE) for scope, budget in scopes.items()])
    return dict(zip(scopes, found, strict=True))


def told_of(scopes: Mapping[str, Budget], found: Mapping[str, Standing]) -> list[dict[str, Any]]:
    """Scopes for the status; where a provider's own word is all there is, while it forbids."""
    return [
        _told(scope, scopes[scope], standing)
        for scope, standing in found.items()
        if standing.refusal is not None or not scopes[scope].is_endless
    ]


def _told(scope: str, budget: Budget, standing: Standing) -> dict[str, Any]:
    """Used and allowed of each limit, which one is used up, and when it is free again."""
    by_kind = {
        kind.value: {"used": used(standing.used, kind), "allowed": limit}
        for kind in LIMITED
        if (limit := allowed(budget, kind)) is not None
    }
    refusal = standing.refusal
    return {
        "scope": scope,
        "limits": by_kind,
        "used_up": None if refusal is None else refusal.kind.value,
        "free_in_s": None if refusal is None else refusal.wait_ms / 1000,
    }


def set_gauges(scope: str, budget: Budget, by_now: Used) -> None:
    for kind in LIMITED:
        if (limit := allowed(budget, kind)) is not None:
            telemetry.LIMIT_ALLOWED.labels(scope, kind.value).set(limit)
            telemetry.LIMIT_USED.labels(scope, kind.value).set(used(by_now, kind))
