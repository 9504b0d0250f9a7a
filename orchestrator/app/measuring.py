"""Whether routes still do what they did: their counters read every few seconds, their drift followed, said and kept.

The controller's part: one process does it for all gateways. What was found lies in Redis beside the counters, so a
restarted controller goes on where it was.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from orchestrator import telemetry
from orchestrator.core.drift import Aims, Counted, Watched, expected_calls, follow
from orchestrator.core.errors import StoreError
from orchestrator.settings import ClusterSettings, RouteSettings
from orchestrator.store import routed
from orchestrator.store.connection import Connection
from orchestrator.store.routed import Routed

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 5.0
ESCALATIONS: Final = "escalations"
RATINGS: Final = "ratings"
# Ratings are rarer than calls, and a few of them are all there is for a while.
_RATINGS_LEARN: Final = 200
_WATCHED: Final = TypeAdapter(Watched)


class Measuring:
    """The rates of all routes. `leads`: whether this controller is the one that speaks for the cluster."""

    def __init__(
        self, connection: Connection, settings: Callable[[], ClusterSettings], leads: Callable[[], bool]
    ) -> None:
        self._connection, self._settings, self._leads = connection, settings, leads
        self._said: set[str] = set()  # routes that metrics name

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if not self._leads():
                continue
            try:
                await self.look(datetime.now(UTC))
            except StoreError:
                telemetry.STORE_ERRORS.inc()

    async def look(self, now: datetime) -> None:
        """Take what was counted since the last time. Raises StoreError."""
        days = [(now - timedelta(days=1)).date().isoformat(), now.date().isoformat()]
        counts = [(day, await routed.read(self._connection, day)) for day in days]
        kept = await routed.drifts(self._connection)
        routes = self._settings().routes
        for name, route in routes.items():
            told = kept.get(name, {})
            found = {
                what: _followed(name, what, told.get(what, {}), _days(counts, name, what), aims)
                for what, aims in _aims(route).items()
            }
            _say(name, counts[-1][1].get(name, Routed()), found)
            if found != told:
                await routed.keep_drift(self._connection, name, found)
        for name in (self._said | set(kept)) - set(routes):
            await routed.forget_drift(self._connection, name)
            _say(name, Routed(), {what: {} for what in (ESCALATIONS, RATINGS)})
        self._said = set(routes)


def _aims(route: RouteSettings) -> Mapping[str, Aims]:
    return {
        ESCALATIONS: Aims(route.escalation_shift, rate=route.usual_escalation),
        RATINGS: Aims(learn_calls=_RATINGS_LEARN),
    }


def _days(counts: Iterable[tuple[str, Mapping[str, Routed]]], route: str, what: str) -> list[Counted]:
    days = [(day, by_route.get(route, Routed())) for day, by_route in counts]
    if what == ESCALATIONS:
        return [Counted(day, each.calls, each.escalations) for day, each in days]
    return [Counted(day, each.right + each.wrong, each.wrong) for day, each in days]


def _followed(route: str, what: str, told: Mapping[str, Any], days: list[Counted], aims: Aims) -> dict[str, Any]:
    """What is kept of it: where it stands, and what people want to know of that."""
    try:
        before = _WATCHED.validate_python(told["watched"]) if told else Watched()
    except (ValidationError, KeyError) as why:
        log.warning("%s: what was kept of its %s cannot be read, and is learnt anew: %s", route, what, why)
        before, told = Watched(), {}
    after = follow(before, days, aims)
    if told and after == before and told.get("shift") == aims.shift:
        return dict(told)
    usual, alarm = after.drift.usual(aims), after.drift.alarm
    since = told.get("since_unix") if alarm and alarm == before.drift.alarm else time.time() if alarm else None
    if alarm != before.drift.alarm:
        _log_change(route, what, alarm, usual)
    rise, fall = expected_calls(usual, aims) if usual is not None else (None, None)
    return {
        "usual": usual,
        "alarm": alarm,
        "since_unix": since,
        "shift": aims.shift,
        "noticed_within": {"rise": _whole(rise), "fall": _whole(fall)},  # calls, in the mean
        "watched": _plain(after),
    }


def _log_change(route: str, what: str, alarm: str, usual: float | None) -> None:
    if alarm:
        log.warning("%s: the rate of its %s shows a %s from the usual %.1f %%", route, what, alarm, 100 * (usual or 0))
    else:
        log.info("%s: the rate of its %s is what it was", route, what)


def _plain(watched: Watched) -> dict[str, Any]:
    """As it comes back from JSON: with lists in place of tuples."""
    told = asdict(watched)
    told["drift"]["held_back"] = [list(each) for each in watched.drift.held_back]
    return told


def _whole(calls: float | None) -> int | None:
    return None if calls is None or calls == float("inf") else round(calls)


def _say(route: str, today: Routed, found: Mapping[str, Mapping[str, Any]]) -> None:
    if today.calls:
        telemetry.ESCALATION_RATE.labels(route).set(today.escalations / today.calls)
    if (usual := found[ESCALATIONS].get("usual")) is not None:
        telemetry.ESCALATION_USUAL.labels(route).set(usual)
    for what, told in found.items():
        for direction in ("rise", "fall"):
            telemetry.DRIFT.labels(route, what, direction).set(told.get("alarm") == direction)
