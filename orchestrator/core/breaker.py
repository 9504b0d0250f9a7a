"""When a target that fails, or answers too slowly, is left alone, and when it is tried again: a circuit breaker.

Closed, calls go through and are counted. Open, none does. Half-open, one does: it decides which of the two follows, and
each time it fails the wait until the next trial is doubled, up to a limit. Time is told by who asks.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

# The window is counted in so many parts, the oldest of which falls away.
_PARTS: Final = 10


class State(StrEnum):
    CLOSED = "closed"
    HALF_OPEN = "half-open"
    OPEN = "open"


class Ended(StrEnum):
    """What became of a call."""

    WELL = "well"
    BADLY = "badly"
    UNASKED = "unasked"  # the target had no part in it: the caller left, or no slot came free


@dataclass(frozen=True, slots=True)
class BreakerTerms:
    """`failures`: share of the calls within `window_s`, of which there are `at_least`, that opens it for `open_s`."""

    failures: float = 0.5
    at_least: int = 10
    window_s: float = 30.0
    open_s: float = 5.0
    open_most_s: float = 300.0
    slow_s: float | None = None  # an answer that begins later than this is a failure, too


class Permit(NamedTuple):
    """A call that was let through, to be given back with how it ended. `life`: what the breaker was in then."""

    life: int
    is_trial: bool


@dataclass(slots=True)
class _Part:
    number: int
    calls: int = 0
    failures: int = 0


class Breaker:
    """One target's."""

    __slots__ = ("_closed_at_s", "_is_trying", "_life", "_parts", "_strikes", "_until_s", "state", "terms")

    def __init__(self, terms: BreakerTerms) -> None:
        self.terms = terms
        self.state = State.CLOSED
        self._parts: deque[_Part] = deque()
        self._until_s = self._closed_at_s = float("-inf")
        self._strikes = 0  # how often in a row it opened
        self._life = 0
        self._is_trying = False

    def ask(self, now_s: float) -> Permit | None:
        """Whether a call may go through; None: not now."""
        if self.state_at(now_s) is not self.state:
            self._become(State.HALF_OPEN)
        if self.state is State.CLOSED:
            return Permit(self._life, False)
        if self.state is State.OPEN or self._is_trying:
            return None
        self._is_trying = True
        return Permit(self._life, True)

    def state_at(self, now_s: float) -> State:
        """The state in which the next call would find it."""
        is_over = self.state is State.OPEN and now_s >= self._until_s
        return State.HALF_OPEN if is_over else self.state

    def opens_in_s(self, now_s: float) -> float:
        """Until it may be worth asking again: 0 where it is now, a moment where a trial is under way."""
        if self.state is State.OPEN:
            return max(0.0, self._until_s - now_s)
        return self.terms.open_s if self.state is State.HALF_OPEN and self._is_trying else 0.0

    def end(self, permit: Permit, ended: Ended, now_s: float, first_byte_s: float = 0.0) -> None:
        """How a call that was let through ended. What began before the last change of state says nothing any more."""
        if permit.life != self._life:
            return
        is_slow = self.terms.slow_s is not None and first_byte_s > self.terms.slow_s
        is_bad = ended is Ended.BADLY or (ended is Ended.WELL and is_slow)
        if permit.is_trial:
            self._tried(ended, now_s, is_bad=is_bad)
        elif ended is not Ended.UNASKED:
            self._count(now_s, is_bad=is_bad)

    def _tried(self, ended: Ended, now_s: float, *, is_bad: bool) -> None:
        self._is_trying = False
        if is_bad:
            self._open(now_s)
        elif ended is Ended.WELL:
            self._become(State.CLOSED)
            self._closed_at_s = now_s

    def _count(self, now_s: float, *, is_bad: bool) -> None:
        number = int(now_s / self.terms.window_s * _PARTS)
        parts = self._parts
        if not parts or parts[-1].number < number:
            parts.append(_Part(number))
        while parts[0].number <= number - _PARTS:
            parts.popleft()
        parts[-1].calls += 1
        if not is_bad:
            return
        parts[-1].failures += 1
        calls = sum(each.calls for each in parts)
        if calls >= self.terms.at_least and sum(each.failures for each in parts) >= self.terms.failures * calls:
            self._open(now_s)

    def _open(self, now_s: float) -> None:
        """Longer than the last time, unless it was well since for as long as is looked at."""
        is_again = self.state is State.HALF_OPEN or now_s - self._closed_at_s < self.terms.window_s
        self._strikes = self._strikes + 1 if is_again else 1
        wait_s = min(self.terms.open_most_s, self.terms.open_s * 2.0 ** min(self._strikes - 1, 62))
        self._until_s = now_s + wait_s
        self._become(State.OPEN)

    def _become(self, state: State) -> None:
        self.state = state
        self._life += 1
        self._is_trying = False
        self._parts.clear()
