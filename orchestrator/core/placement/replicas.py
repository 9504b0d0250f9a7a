"""How many instances a pool should have as its load shifts: quick to grow, slow to shrink.

Pure: whoever watches hands in what it saw and what was decided before. More is decided at once where calls wait or
slots run out; less only when fewer have been enough for a while.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Final

# Slots at work, as a part of all, between which nothing is changed: above, one burst fills them; below, they idle.
GROW_ABOVE: Final = 0.85
SHRINK_BELOW: Final = 0.5
AIM: Final = 0.7
# A queue is worth an instance when its calls wait longer than the instance takes to come up; never less than this.
SHORTEST_WAIT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How quickly numbers follow load: more at once, fewer only when that has been enough for a quiet while.

    What shrinks and grows again pays a model's load and a drained instance twice, so the quiet while is `quiet_s` and
    as long as `quiet_loads` loads, too. `mean_s`: what slots at work are averaged over; `look_s`: a look each;
    `again_s`: what found no room is tried again.
    """

    quiet_s: float = 300.0
    quiet_loads: float = 20.0
    mean_s: float = 60.0
    look_s: float = 2.0
    again_s: float = 60.0


def pace_of(quiet_s: float) -> Pace:
    """As the settings ask for it. What is averaged over longer than a part of the quiet while would outlast it."""
    return Pace(quiet_s=quiet_s, mean_s=min(Pace().mean_s, quiet_s / 5))


USUAL: Final = Pace()
USUAL_LOAD_S: Final = 10.0  # where nobody can tell


@dataclass(frozen=True, slots=True)
class Seen:
    """A pool at one moment. `queue_wait_s`: what a call waits for its slot; `load_s`: a new instance's start."""

    at_s: float
    busy: float  # slots at work, over the last minute
    slots: int  # that serve now
    queued: int = 0
    queue_wait_s: float = 0.0
    load_s: float = USUAL_LOAD_S
    at_work: int = 0  # slots, at this moment


@dataclass(frozen=True, slots=True)
class Decided:
    """`instances` wanted; `low_since_s`: since when fewer would do (None: they would not); `why`, for people."""

    instances: int
    low_since_s: float | None = None
    low_needs: int = 0  # the most that were needed since then
    why: str = ""


def decide(
    before: Decided, seen: Seen, *, slots_each: int, least: int, most: int | None = None, pace: Pace = USUAL
) -> Decided:
    """The instances that a pool should have from now on. `least` 0: it may go cold when nobody asks."""
    busy = max(seen.busy, seen.at_work) if seen.queued else seen.busy  # who waits does so behind these
    wanted = busy + seen.queued
    needs = _clamp(ceil(wanted / (AIM * slots_each) - 1e-9), least, most)
    have = _clamp(before.instances, least, most)
    if needs > have and _is_short(seen, have * slots_each):
        line = f", {seen.queued} waiting for {seen.queue_wait_s:.0f} s" if seen.queued else ""
        return Decided(needs, why=f"{busy:.1f} of {seen.slots} slots at work{line}")
    if have != before.instances:
        return Decided(have, why="the settings' limits changed")
    if needs >= have or wanted > SHRINK_BELOW * have * slots_each:
        return replace(before, low_since_s=None, low_needs=0)
    since = seen.at_s if before.low_since_s is None else before.low_since_s
    highest = max(needs, before.low_needs)
    quiet_s = max(pace.quiet_s, pace.quiet_loads * seen.load_s)
    if seen.at_s - since < quiet_s:
        return replace(before, low_since_s=since, low_needs=highest)
    return Decided(highest, why=f"{highest} have been enough for {seen.at_s - since:.0f} s")


def _is_short(seen: Seen, slots: int) -> bool:
    """Whether more instances are worth their start: calls wait for longer than that, or hardly a slot is free."""
    waits = seen.queued > 0 and seen.queue_wait_s >= max(SHORTEST_WAIT_S, min(seen.load_s, 10.0))
    return waits or seen.busy > GROW_ABOVE * max(slots, 1) or seen.slots == 0


def _clamp(count: int, least: int, most: int | None) -> int:
    return max(least, count if most is None else min(count, most))
