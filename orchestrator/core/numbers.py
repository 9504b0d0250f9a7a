"""How many instances a pool that follows its load may have, how it is asked for, and how many it has now.

What follows from it is `placement.replicas`'s to decide.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Range:
    """Between which numbers a pool follows its load. `foretold`: calls at once that the settings tell beforehand."""

    least: int = 1
    most: int | None = None
    foretold: float | None = None

    def clamp(self, count: int) -> int:
        """The number of the range that is nearest to `count`."""
        return max(self.least, count if self.most is None else min(count, self.most))

    def is_foretold_anew(self, before: Range | None) -> bool:
        """Whether something else is foretold than before: then the number begins with that, whatever there was."""
        return self.foretold is not None and (before is None or before.foretold != self.foretold)

    def go_on_with(self, before: Range | None, running: int) -> int | None:
        """The number to go on with, where so many run; None: there is none, and what is foretold is the beginning."""
        return None if not running or self.is_foretold_anew(before) else self.clamp(running)

    def words(self) -> str:
        """For people."""
        most = f"at most {self.most}" if self.most is not None else "as many as fit"
        return f"{self.least} at least, {most}"


@dataclass(frozen=True, slots=True)
class AskedFor:
    """How a pool is asked for at one moment. `waited_s`: the call that has waited longest, so far; `expected_s`: one
    that came now would wait so long (None: nobody can tell)."""

    busy: int = 0
    queued: int = 0
    waited_s: float = 0.0
    expected_s: float | None = None

    @property
    def wait_s(self) -> float:
        """What a line costs: a long one that is soon worked off is worth no instance, nor is one that just began."""
        return self.waited_s if self.expected_s is None else min(self.waited_s, self.expected_s)


@dataclass(frozen=True, slots=True)
class Followed:
    """The number that a pool's load asks for, as it is published; `why`, for people."""

    limits: Range
    instances: int
    why: str = ""
