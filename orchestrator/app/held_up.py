"""Whom a change of the cluster's authority waits for: as a metric, and as one line in Redis for status, doctor and
whoever watches the change, on every machine. The controller that leads says it."""

from __future__ import annotations

import calendar
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from orchestrator import telemetry
from orchestrator.store.cluster import progress
from orchestrator.store.connection import Connection

NAME: Final = "authority"  # of the line, among those of Redis
# Who waits, where it is no host or machine: somebody deploys, or the authority's file cannot be written.
CONTROLLER: Final = "controller"
_TIME: Final = "%Y-%m-%d %H:%M:%S UTC"
_SINCE: Final = re.compile(r"waits since (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC) for ")


class HeldUp:
    """Of one controller. `tell` puts the line into Redis, None takes it away; both raise StoreError. `check` raises it
    unless this controller leads for sure."""

    def __init__(self, tell: Callable[[str | None], Awaitable[None]], check: Callable[[], None]) -> None:
        self._tell, self._check = tell, check
        self._since: dict[str, float] = {}  # unix time, by whom
        self._series = telemetry.Series(telemetry.AUTHORITY_HELD_UP)

    async def by(self, whom: Mapping[str, str]) -> None:
        """It waits for those, and why; for nobody where there are none. Raises StoreError: say it again then.

        That it waits for nobody is said each time: a line of whoever led before may have come since.
        """
        self._check()
        now = time.time()
        self._since = {name: self._since.get(name, now) for name in whom}
        self._series.tell({(name,): since for name, since in self._since.items()})
        await self._tell(in_words(whom, min(self._since.values())) if whom else None)

    def let_go(self) -> None:
        """Another controller leads, and says it from now on."""
        self._since = {}
        self._series.tell({})


def in_words(whom: Mapping[str, str], since_unix_s: float) -> str:
    """One line; `whom`: why, by name."""
    since = time.strftime(_TIME, time.gmtime(since_unix_s))
    named = "; ".join(f"{name} ({' '.join(why.split())})" for name, why in whom.items())
    return f"the change of the cluster's authority waits since {since} for {named}"


def since_in(line: str) -> float | None:
    """The `since_unix_s` of `in_words`; None: the line tells none."""
    found = _SINCE.search(line)
    try:
        return calendar.timegm(time.strptime(found[1], _TIME)) if found is not None else None
    except ValueError:  # digits that are no time
        return None


async def held_up(connection: Connection) -> str:
    """What the controller that leads said last; '' nothing. Raises StoreError."""
    return (await progress(connection)).get(NAME, "")
