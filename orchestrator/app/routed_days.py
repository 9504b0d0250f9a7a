"""What routes did on the last days and whether that is as usual, for commands beside the cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from orchestrator.app import settings_in_use
from orchestrator.app.paths import StatePaths
from orchestrator.app.running import redis_of
from orchestrator.core.errors import HostError
from orchestrator.settings import ClusterSettings
from orchestrator.store import routed
from orchestrator.store.routed import Routed

Day: TypeAlias = Routed  # one route's


@dataclass(frozen=True, slots=True)
class Days:
    """By day, the newest first, and by route; what is known of each route's drift; what evaluations found."""

    days: tuple[tuple[str, Mapping[str, Day]], ...]
    drifts: Mapping[str, Mapping[str, Any]]
    replayed: Mapping[str, Mapping[str, Any]]


async def read_days(paths: StatePaths, count: int) -> Days:
    """The last `count` days, today among them. Raises OrchestratorError."""
    now = datetime.now(UTC)
    async with redis_of(paths, _settings(paths)) as connection:
        names = [(now - timedelta(days=ago)).date().isoformat() for ago in range(count)]
        days = tuple([(each, await routed.read(connection, each)) for each in names])
        return Days(days, await routed.drifts(connection), await routed.replayed(connection))


async def accept(paths: StatePaths, route: str) -> None:
    """Whatever a route does from now on is learnt to be usual. Raises OrchestratorError."""
    async with redis_of(paths, _settings(paths)) as connection:
        if not await routed.accept_drift(connection, route):
            known = ", ".join(sorted(await routed.drifts(connection))) or "none yet"
            raise HostError(f"{route}: nothing is known of a route of that name; there are: {known}")


def _settings(paths: StatePaths) -> ClusterSettings:
    if not paths.settings.exists():
        raise HostError(f"no cluster was started with --state {paths.root}; name the folder of one that was")
    return settings_in_use.read(paths)
