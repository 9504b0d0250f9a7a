"""How many calls may be asked of another instance because the first one refused: a share of all calls, no storm.

Where every instance of a pool answers errors, each call asked of three of them is three times the work for what is
overloaded already. So errors that instances answered are retried for a part of the calls only. What says nothing of
load (a connection refused or lost, a hang) is not counted: nobody loses a call because a whole host went away. Time is
told by who asks.
"""

from __future__ import annotations

from typing import Final

# Finagle's and Envoy's figure: a fifth more work at most, whatever happens.
SHARE: Final = 0.2
# A pool with few calls may still retry some: so many at once, and one a second.
FEW: Final = 10.0
# What calm times may save up.
MOST: Final = 100.0


class RetryBudget:
    """Of one pool, in one worker."""

    __slots__ = ("_at_s", "_left")

    def __init__(self, now_s: float) -> None:
        self._left, self._at_s = FEW, now_s

    def called(self) -> None:
        """A call came."""
        if self._left < MOST:
            self._left += SHARE

    def takes(self, now_s: float) -> bool:
        """Whether one more may be retried now; it is counted."""
        if self._left < FEW:
            self._left = min(FEW, self._left + now_s - self._at_s)
        self._at_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True
