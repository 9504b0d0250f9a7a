"""What an ideal queue would have done with the same calls: no network, no clock, every speed known from the start."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple


class Call(NamedTuple):
    at_s: float  # of its arrival
    work_s: float  # on an instance of speed 1


class Slot(NamedTuple):
    instance: str
    speed: float


def late_bound(calls: Sequence[Call], slots: Sequence[Slot]) -> list[float]:
    """Seconds from arrival to end of each call: one line, the first in it takes the fastest slot that is free."""
    free = [(-slot.speed, number) for number, slot in enumerate(slots)]
    heapq.heapify(free)
    busy: list[tuple[float, int]] = []
    took = []
    for call in calls:
        while busy and busy[0][0] <= call.at_s:
            _, number = heapq.heappop(busy)
            heapq.heappush(free, (-slots[number].speed, number))
        # In the order of arrival: by the time of this call all before it have begun.
        begins_s = call.at_s
        if not free:
            begins_s, number = heapq.heappop(busy)
        else:
            _, number = heapq.heappop(free)
        ends_s = begins_s + call.work_s / slots[number].speed
        heapq.heappush(busy, (ends_s, number))
        took.append(ends_s - call.at_s)
    return took


def bound_early(calls: Sequence[Call], slots: Sequence[Slot]) -> list[float]:
    """The same where each call goes at once to the instance with the fewest calls for its slots, and waits there."""
    at = {name: [slot for slot in slots if slot.instance == name] for name in dict.fromkeys(each[0] for each in slots)}
    ends: dict[str, list[float]] = {name: [] for name in at}  # of all its calls, those that wait included
    took = []
    for call in calls:
        for name in ends:
            ends[name] = [each for each in ends[name] if each > call.at_s]
        name = min(at, key=lambda name: (len(ends[name]) / len(at[name]), name))
        ahead = sorted(ends[name], reverse=True)
        # Its slot is free when all but slots - 1 of those before it have ended.
        begins_s = call.at_s if len(ahead) < len(at[name]) else ahead[len(at[name]) - 1]
        ends_s = begins_s + call.work_s / at[name][0].speed
        ends[name].append(ends_s)
        took.append(ends_s - call.at_s)
    return took


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def p99(values: Sequence[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]
