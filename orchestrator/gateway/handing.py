"""What became of the targets that were to answer a call and did not, and when the first of them may."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from orchestrator import telemetry
from orchestrator.core.errors import CapacityError, InstanceError
from orchestrator.core.limits import Exhausted
from orchestrator.gateway.trace import Trace

# When a target that failed may be asked again, where nobody says it.
FAILED_S: Final = 5.0


class Gone:
    """The targets of one call that are out of service, in the order in which they were to be asked."""

    def __init__(self, name: str, trace: Trace) -> None:
        self._name, self._trace = name, trace
        self._of: dict[str, _Why] = {}

    def add(self, tier: str, why: str, back_in_s: float, *, more: str = "", is_keys: bool = False) -> None:
        """`why` in a word or two, `more` of it, without anything of the call: they go out in a header.

        `is_keys`: the caller's own budget is used up, whatever the tier could do.
        """
        if tier not in self._of:
            telemetry.TALLY.count(telemetry.HANDED_OVER, (tier, why))
        self._note(tier, _Why(f"{why} ({more})" if more else why, back_in_s, is_keys))

    def failed(self, tier: str, error: CapacityError | InstanceError) -> None:
        """It was asked, or waited for, in vain."""
        if isinstance(error, InstanceError):
            self.add(tier, "failed", FAILED_S)
        else:
            self.add(tier, "away" if error.is_passing else "busy", error.retry_after_s)

    def used_up(self, tier: str, why: Exhausted) -> None:
        """A budget is: the tier's, its provider's, or what the caller's key may spend."""
        whose = why.scope.partition(":")[0]
        self.add(tier, "used up", why.retry_after_s, more=f"{whose} {why.limit}", is_keys=why.is_keys)

    def doubted(self, tier: str, why: str) -> None:
        """It has answered, not well enough; it can answer again at once."""
        self._note(tier, _Why(f"doubted ({why})", 1.0))

    def _note(self, tier: str, why: _Why) -> None:
        self._of[tier] = why
        if self._trace.story is not None:
            self._trace.story.note("handed over", tier=tier, why=why.text)
        self._trace.handed_over = "; ".join(f"{each} {why.text}" for each, why in self._of.items())

    def error(self) -> CapacityError:
        """Every one is gone: what the caller is told, and when to come back."""
        if not self._of:
            return CapacityError(f"no instance serves {self._name} now", retry_after_s=5)
        whys = self._of.values()
        told = ", ".join(f"{tier} {why.text}" for tier, why in self._of.items())
        status = 429 if all(why.is_keys for why in whys) else 503
        soonest_s = max(1, math.ceil(min(why.back_in_s for why in whys)))
        return CapacityError(f"no target of {self._name} can answer now: {told}", soonest_s, status)


class _Why(NamedTuple):
    text: str
    back_in_s: float
    is_keys: bool = False
