"""How long calls wait for a slot, from how often they come and how long answers take. Knows numbers only.

A pool is one queue before all its slots, a slot takes the next call when it is free (late binding), and each answer
takes longer while more slots are at work. As a chain over the number of calls in the pool, with arrivals at random
(exponential gaps) and answers of exponential length, this is exact, a birth-death process (L. Kleinrock, "Queueing
Systems", vol. 1, 1975, chapter 3): with one rate it is M/M/c, whose chance to wait is Erlang's C formula; with as many
users as calls can come from it is the machine-repair model. For answers and gaps of other spread the mean wait is
multiplied by half the sum of their squared coefficients of variation: Allen and Cunneen's approximation (A. O. Allen,
"Probability, Statistics, and Queueing Theory", 2nd ed. 1990, chapter 5). The wait of those who wait is taken as
exponential, as it is in M/M/c, an answer's time as lognormal, of the spread of its length and of the pool's speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import exp, log, log1p, sqrt
from statistics import NormalDist
from typing import Final

_POINTS: Final = 200  # of a length's distribution, each as likely
_HALVINGS: Final = 40
_NEGLIGIBLE: Final = 50.0  # e to the minus this is no chance any more
_NORMAL: Final = tuple(NormalDist().inv_cdf((point + 0.5) / _POINTS) for point in range(_POINTS))


@dataclass(frozen=True, slots=True)
class Queue:
    """A pool in its steady state. `waits`: the chance that a call must wait. Not `is_stable`: the queue only grows.

    `speed_scv`: squared variation of an answer's mean time over the states of the pool in which answers end.
    """

    calls_s: float
    waits: float
    wait_s: float
    answer_s: float
    utilisation: float
    is_stable: bool = True
    speed_scv: float = 0.0

    @property
    def response_s(self) -> float:
        return self.wait_s + self.answer_s


def open_queue(calls_s: float, times_s: Sequence[float], scv: float = 1.0, arrival_scv: float = 1.0) -> Queue:
    """Calls that come at `calls_s` whatever happens. `times_s`: mean seconds an answer, by slots at work (1, 2, …)."""
    servers = len(times_s)
    load = calls_s * times_s[-1] / servers
    if load >= 1:
        return Queue(servers / times_s[-1], 1.0, float("inf"), times_s[-1], 1.0, is_stable=False)
    if calls_s <= 0:
        return Queue(0.0, 0.0, 0.0, times_s[0], 0.0)
    chances = _normalised([log(calls_s * times_s[busy - 1] / busy) for busy in range(1, servers + 1)], load)
    busy_mean = sum(min(count, servers) * chance for count, chance in enumerate(chances))
    full = chances[-1]  # all slots at work, and any number waiting
    busy_mean += servers * full * load / (1 - load)
    waiting = full * load / (1 - load) ** 2
    factor = (scv + arrival_scv) / 2
    return Queue(
        calls_s,
        full / (1 - load),
        waiting / calls_s * factor,
        busy_mean / calls_s,
        min(1.0, busy_mean / servers),
        speed_scv=_speed_scv([*chances[:-1], full / (1 - load)], times_s),
    )


def _normalised(steps: Sequence[float], tail: float | None = None) -> list[float]:
    """Chances of states whose logarithms rise by `steps`; behind the last a geometric tail of ratio `tail`."""
    logs = [0.0]
    for step in steps:
        logs.append(logs[-1] + step)
    top = max(logs)
    weights = [exp(each - top) for each in logs]
    behind = 0.0 if tail is None else weights[-1] * tail / (1 - tail)
    total = sum(weights) + behind
    return [each / total for each in weights]


def closed_queue(
    users: int, away_s: float, times_s: Sequence[float], scv: float = 1.0, arrival_scv: float = 1.0
) -> Queue:
    """Calls from `users` who each come back `away_s` after their answer, on average.

    A call finds the pool as it is with one user fewer (the arrival theorem); mean times by Little's law.
    """
    servers = len(times_s)
    steps = _closed_steps(users, away_s, times_s)
    chances = _normalised(steps)
    busy = sum(min(count, servers) * chance for count, chance in enumerate(chances))
    waiting = sum((count - servers) * chance for count, chance in enumerate(chances) if count > servers)
    calls_s = sum((users - count) * chance for count, chance in enumerate(chances)) / away_s
    waits = _finds_full(steps, users, servers)
    factor = (scv + arrival_scv) / 2
    spread = _speed_scv([*chances[:servers], sum(chances[servers:])], times_s)
    return Queue(calls_s, waits, waiting / calls_s * factor, busy / calls_s, min(1.0, busy / servers), speed_scv=spread)


def _speed_scv(chances: Sequence[float], times_s: Sequence[float]) -> float:
    """The spread of an answer's mean time, states counted by the answers that end in them. `chances`: by slots busy."""
    ends = [chance * busy / times_s[busy - 1] for busy, chance in enumerate(chances) if busy]
    total = sum(ends)
    mean = sum(end * time_s for end, time_s in zip(ends, times_s, strict=False)) / total
    square = sum(end * time_s * time_s for end, time_s in zip(ends, times_s, strict=False)) / total
    return max(0.0, square / (mean * mean) - 1)


def _closed_steps(users: int, away_s: float, times_s: Sequence[float]) -> list[float]:
    """How the logarithm of the chance rises from each number of calls to the next, as far as chances matter.

    Once all slots are at work the steps only fall: far enough below the top nothing comes any more.
    """
    servers = len(times_s)
    steps: list[float] = []
    height = top = 0.0
    for count in range(users):
        busy = min(count + 1, servers)
        steps.append(log((users - count) / away_s * times_s[busy - 1] / busy))
        height += steps[-1]
        top = max(top, height)
        if count >= servers and steps[-1] < 0 and height < top - _NEGLIGIBLE:
            break
    return steps


def _finds_full(steps: Sequence[float], users: int, servers: int) -> float:
    """The chance that all slots are at work for the other `users` - 1."""
    if users <= servers:
        return 0.0
    fewer = [step + log1p(-1 / (users - count + 1)) for count, step in enumerate(steps[: users - 1], start=1)]
    return sum(_normalised(fewer)[servers:])


@lru_cache(maxsize=256)
def _lengths(scv: float) -> tuple[float, ...]:
    """Equally likely points of a lognormal distribution of mean one."""
    if scv <= 0:
        return (1.0,)
    spread = sqrt(log1p(scv))
    return tuple(exp(spread * (point - spread / 2)) for point in _NORMAL)


def response_quantile_s(queue: Queue, quantile: float, scv: float) -> float:
    """Seconds within which `quantile` of the answers are whole, wait included; infinite where the queue only grows."""
    if not queue.is_stable:
        return float("inf")
    low, high = 0.0, queue.answer_s
    while late_share(queue, high, scv) > 1 - quantile:
        low, high = high, high * 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if late_share(queue, middle, scv) > 1 - quantile else (low, middle)
    return high


def late_share(queue: Queue, limit_s: float, scv: float) -> float:
    """The part of the answers that take longer than `limit_s`, wait included. `scv`: of the answers' lengths."""
    if not queue.is_stable:
        return 1.0
    mean_wait = queue.wait_s / queue.waits if queue.waits > 0 else 0.0
    lengths = _lengths((1 + scv) * (1 + queue.speed_scv) - 1)
    return sum(_is_late(limit_s - queue.answer_s * each, queue.waits, mean_wait) for each in lengths) / len(lengths)


def _is_late(left_s: float, waits: float, mean_wait_s: float) -> float:
    """The chance that the wait is longer than what the answer itself leaves of the limit."""
    if left_s < 0:
        return 1.0
    return waits * exp(-left_s / mean_wait_s) if mean_wait_s > 0 else 0.0
