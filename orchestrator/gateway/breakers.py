"""This worker's circuit breakers, one a tier: which of them are open, said in metrics, log and status."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, Final

from orchestrator import telemetry
from orchestrator.core.breaker import Breaker, Ended, Permit, State
from orchestrator.gateway.live import Live, Tier

log = logging.getLogger(__name__)

# Of a call to a tier that nobody stands in for: it is asked whatever its breaker says, and counts for nothing there.
UNCOUNTED: Final = Permit(-1, is_trial=False)


class Breakers:
    """Made as tiers are asked; one whose terms were changed begins anew."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._of: dict[str, Breaker] = {}

    def ask(self, tier: Tier) -> Permit | None:
        """Whether a call may go to this tier; None: it is left alone."""
        breaker = self._breaker(tier)
        before = breaker.state
        permit = breaker.ask(time.monotonic())
        self._say(tier.name, before, breaker)
        return permit

    def end(self, tier: Tier, permit: Permit, ended: Ended, first_byte_s: float = 0.0) -> None:
        """How the call that was let through ended."""
        breaker = self._breaker(tier)
        before = breaker.state
        breaker.end(permit, ended, time.monotonic(), first_byte_s)
        self._say(tier.name, before, breaker)

    def opens_in_s(self, tier: Tier) -> float:
        """Until it is worth asking again."""
        return self._breaker(tier).opens_in_s(time.monotonic())

    def told(self) -> Mapping[str, Mapping[str, Any]]:
        """The state of each tier, for the status page."""
        now_s = time.monotonic()
        tiers = self._live.rules.tiers
        known = {name: self._of[name] for name in tiers if name in self._of}
        closed = {name: {"state": State.CLOSED.value, "opens_in_s": 0.0} for name in tiers}
        return closed | {
            name: {"state": each.state_at(now_s).value, "opens_in_s": each.opens_in_s(now_s)}
            for name, each in known.items()
        }

    def _breaker(self, tier: Tier) -> Breaker:
        breaker = self._of.get(tier.name)
        if breaker is None or breaker.terms != tier.breaker:
            if breaker is not None:
                telemetry.TIERS_LEFT_ALONE.labels(tier.name).set(False)
            breaker = self._of[tier.name] = Breaker(tier.breaker)
        return breaker

    def _say(self, tier: str, before: State, breaker: Breaker) -> None:
        if breaker.state is before:
            return
        telemetry.TIERS_LEFT_ALONE.labels(tier).set(breaker.state is not State.CLOSED)
        if breaker.state is State.OPEN:
            log.warning("%s fails or is slow: left alone for %.0f s", tier, breaker.opens_in_s(time.monotonic()))
        elif breaker.state is State.CLOSED:
            log.info("%s is well again", tier)
