"""What the answers of a route are watched for, from its settings."""

from __future__ import annotations

from typing import Any

from orchestrator.core.escalation import HOLD_S, HOLD_TOKENS, Conditions, Watch, threshold_from
from orchestrator.settings.routing import RouteSettings


def watch_of(name: str, route: RouteSettings) -> Watch | None:
    """None: its answers are taken as they are."""
    if not route.escalate_if:
        return None
    return Watch(
        route=name,
        conditions=_conditions(route),
        hold_tokens=route.hold_tokens or HOLD_TOKENS,
        hold_s=route.hold_s or HOLD_S,
        is_buffered=route.buffered,
    )


def _conditions(route: RouteSettings) -> Conditions:
    """Each entry names one of them, and none is named twice."""
    named: dict[str, Any] = {}
    for entry in route.escalate_if:
        named |= entry.model_dump(exclude_none=True)
    tools, timeout_s = named.pop("tools_needed", None), named.pop("timeout", None)
    return Conditions(**named, tools_needed=None if tools is None else threshold_from(tools), timeout_s=timeout_s)
