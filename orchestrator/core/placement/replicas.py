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
# What shrinks and grows again pays a model's load and a drained instance twice: as many loads' time as that is kept.
QUIET_LOADS: Final = 20
QUIET_AT_LEAST_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A pool at one moment. `queue_wait_s`: of the call that has waited longest; `load_s`: a new instance's start."""

    at_s: float
    busy: float  # slots at work, over the last minute
    slots: int  # that serve now
    queued: int = 0
    queue_wait_s: float = 0.0
    load_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Decided:
    """`instances` wanted; `low_since_s`: since when fewer would do (None: they would not); `why`, for people."""

    instances: int
    low_since_s: float | None = None
    low_needs: int = 0  # the most that were needed since then
    why: str = ""


def decide(before: Decided, seen: Seen, *, slots_each: int, least: int, most: int | None = None) -> Decided:
    """The instances that a pool should have from now on. `least` 0: it may go cold when nobody asks."""
    wanted = seen.busy + seen.queued
    needs = _clamp(ceil(wanted / (AIM * slots_each) - 1e-9), least, most)
    have = _clamp(before.instances, least, most)
    if needs > have and _is_short(seen, have * slots_each):
        why = f"{seen.busy:.1f} of {seen.slots} slots at work, {seen.queued} waiting for {seen.queue_wait_s:.0f} s"
        return Decided(needs, why=why)
    if have != before.instances:
        return Decided(have, why="the settings' limits changed")
    if needs >= have or wanted > SHRINK_BELOW * have * slots_each:
        return replace(before, low_since_s=None, low_needs=0)
    since = seen.at_s if before.low_since_s is None else before.low_since_s
    highest = max(needs, before.low_needs)
    quiet_s = max(QUIET_AT_LEAST_S, QUIET_LOADS * seen.load_s)
    if seen.at_s - since < quiet_s:
        return replace(before, low_since_s=since, low_needs=highest)
    return Decided(highest, why=f"{highest} have been enough for {seen.at_s - since:.0f} s")


def _is_short(seen: Seen, slots: int) -> bool:
    """Whether more instances are worth their start: calls wait for longer than that, or hardly a slot is free."""
    waits = seen.queued > 0 and seen.queue_wait_s >= max(SHORTEST_WAIT_S, min(seen.load_s, 10.0))
    return waits or seen.busy > GROW_ABOVE * max(slots, 1) or seen.slots == 0


def _clamp(count: int, least: int, most: int | None) -> int:
    return max(least, count if most is None else min(count, most))
