"""Whether a rate is still what it was: of routed calls that were escalated, of answers that were rated bad.

Two CUSUM charts (Page, Biometrika 41, 1954), one for a rise and one for a fall, over calls that either count or do not.
Of all ways to watch for a given shift with a given rate of false alarms this one takes the fewest calls (Moustakides,
Annals of Statistics 14, 1986): who wants fewer must take more false alarms (docs/decisions/0034-drift.md).
Where calls come from, and who is told, is left to others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Literal

Alarm = Literal["", "rise", "fall"]

# Calls that the reference is not learnt from yet: a shift shall not become what is usual before it is noticed.
_HELD_BACK: Final = 2_000
_BLOCK: Final = 200  # calls that are held back, and let go, together
_STEPS: Final = 4_096  # of one batch at most; beyond, several calls are one step
_LEAST: Final = 1e-4  # a rate below is none, and one so near to 1 is all


@dataclass(frozen=True, slots=True)
class Aims:
    """What is to be noticed, and how rarely in vain."""

    shift: float = 0.05  # of the rate, in either direction
    quiet_calls: int = 100_000  # between two false alarms, in the mean, of both charts together
    learn_calls: int = 2_000  # before anything is said, where no rate is given
    rate: float | None = None  # what is usual; None: as learnt


@dataclass(frozen=True, slots=True)
class Chart:
    """One direction: each call adds `step` less than it counts, up to the alarm at `limit`; in calls that count."""

    step: float
    limit: float


@dataclass(frozen=True, slots=True)
class Drift:
    """What is known of one rate; kept between batches, and between lives of who keeps it."""

    calls: int = 0  # the reference's
    counted: int = 0
    held_back: tuple[tuple[int, int], ...] = ()  # calls and those that counted, the oldest first
    rise: float = 0.0  # how far each chart is
    fall: float = 0.0
    alarm: Alarm = ""

    def usual(self, aims: Aims) -> float | None:
        """The rate that is held to be usual; None while it is being learnt."""
        if aims.rate is not None:
            return aims.rate
        return (self.counted + 0.5) / (self.calls + 1) if self.calls >= aims.learn_calls else None


def seen(drift: Drift, calls: int, counted: int, aims: Aims) -> Drift:
    """After a batch of calls, `counted` of which count, spread over it evenly.

    An alarm stands until the rate is for so long what it was that its chart is back at nothing.
    """
    usual = drift.usual(aims)
    if usual is None:
        return replace(drift, calls=drift.calls + calls, counted=drift.counted + counted)
    rising, falling = charts(usual, 0 if aims.rate is not None else drift.calls, aims)
    rise, fall, alarm = drift.rise, drift.fall, drift.alarm
    for amount, many in _spread(calls, counted):
        rise = min(rising.limit, max(0.0, rise + many - amount * rising.step))
        fall = min(falling.limit, max(0.0, fall + amount * falling.step - many))
        if alarm == "":
            alarm = "rise" if rise >= rising.limit else "fall" if fall >= falling.limit else ""
        elif (alarm == "rise" and rise == 0.0) or (alarm == "fall" and fall == 0.0):
            alarm = ""
    after = replace(drift, rise=rise, fall=fall, alarm=alarm)
    is_doubtful = alarm != "" or rise > rising.limit / 2 or fall > falling.limit / 2
    return _learnt(after, calls, counted, is_doubtful=is_doubtful) if aims.rate is None else after


@dataclass(frozen=True, slots=True)
class Counted:
    """One day's counters, as far as they have come."""

    day: str
    calls: int = 0
    counted: int = 0


@dataclass(frozen=True, slots=True)
class Watched:
    """A rate that is followed by counters which begin anew each day."""

    seen: Counted = Counted("")
    drift: Drift = Drift()


def follow(watched: Watched, days: Sequence[Counted], aims: Aims) -> Watched:
    """After the counters stand so; `days` in their order. What was lost of them is not made up for."""
    for now in days:
        before = watched.seen
        if now.day < before.day:
            continue
        if now.day > before.day or now.calls < before.calls or now.counted < before.counted:
            before = Counted(now.day)
        calls, counted = now.calls - before.calls, now.counted - before.counted
        drift = seen(watched.drift, calls, min(calls, counted), aims) if calls else watched.drift
        watched = Watched(now, drift)
    return watched


def charts(usual: float, learnt_from: int, aims: Aims) -> tuple[Chart, Chart]:
    """For a rise and for a fall. `learnt_from`: calls that `usual` was learnt from; 0: it is known.

    What was learnt is off by a standard error or so; each chart looks from there, or a rate that is as it always was
    would set it off.
    """
    off = math.sqrt(usual * (1 - usual) / learnt_from) if learnt_from else 0.0
    above, below = round(min(1.0, usual + off), 3), round(max(0.0, usual - off), 3)
    return _rising(above, aims.shift, aims.quiet_calls), _falling(below, aims.shift, aims.quiet_calls)


def expected_calls(usual: float, aims: Aims) -> tuple[float, float]:
    """How many calls a rise and a fall by `aims.shift` take to be noticed, in the mean; inf: it cannot be.

    As for normal steps (Siegmund, "Sequential Analysis", 1985), from a chart at nothing, without the overshoot.
    """
    rising, falling = charts(usual, 0, aims)
    more, less = usual + aims.shift, max(0.0, usual - aims.shift)
    return _delay(rising, more, more - rising.step), _delay(falling, less, falling.step - less)


def _delay(chart: Chart, rate: float, drift: float) -> float:
    if math.isinf(chart.limit):
        return math.inf
    if rate <= _LEAST:
        return chart.limit / drift
    spread = 2 * drift / (rate * (1 - rate))  # the root of the chart's steps, as if they were normal
    return (chart.limit - (1 - math.exp(-spread * chart.limit)) / spread) / drift


@lru_cache(maxsize=256)
def _rising(rate: float, shift: float, quiet_calls: int) -> Chart:
    rate = max(rate, _LEAST)
    return _chart(rate, rate + shift, quiet_calls) if rate + shift < 1 else Chart(1.0, math.inf)


@lru_cache(maxsize=256)
def _falling(rate: float, shift: float, quiet_calls: int) -> Chart:
    """A rate that is less than the shift falls to a fifth: at nothing at all one call would say everything."""
    rate = min(rate, 1 - _LEAST)
    return _chart(rate, max(rate - shift, rate / 5), quiet_calls) if rate > _LEAST else Chart(0.0, math.inf)


def _chart(rate: float, to: float, quiet_calls: int) -> Chart:
    """The likelihood ratio's chart, divided by what it weighs a call that counts more than one that does not.

    Its limit h is where exp(h) - h - 1 is the calls between false alarms times what a steady call takes off (Siegmund,
    as above), for half of the alarms: the other chart has the rest. The overshoot is left out, so there are fewer.
    """
    counts, others = math.log(to / rate), math.log((1 - rate) / (1 - to))
    weight = abs(counts + others)
    between = 2 * quiet_calls * abs(rate * counts - (1 - rate) * others)
    limit = math.log1p(between)
    for _ in range(50):  # a fixed point that each step comes nearer to by a factor of exp(-limit)
        limit = math.log(between + limit + 1)
    return Chart(others / (counts + others), limit / weight)


def _spread(calls: int, counted: int) -> Iterator[tuple[int, int]]:
    """The batch in steps: calls, and how many of them count."""
    steps = min(calls, _STEPS)
    done_calls = done = 0
    for step in range(1, steps + 1):
        upto_calls, upto = calls * step // steps, (2 * counted * step + steps) // (2 * steps)
        yield upto_calls - done_calls, upto - done
        done_calls, done = upto_calls, upto


def _learnt(drift: Drift, calls: int, counted: int, *, is_doubtful: bool) -> Drift:
    """The batch is held back; what has been for long enough is learnt from, while nothing is in doubt."""
    held = list(drift.held_back)
    if held and held[-1][0] < _BLOCK:
        last_calls, last = held.pop()
        calls, counted = calls + last_calls, counted + last
    held.append((calls, counted))
    learnt_calls, learnt = drift.calls, drift.counted
    if is_doubtful:
        del held[: -_HELD_BACK // _BLOCK]  # forgotten: neither usual nor known not to be
    while len(held) > 1 and sum(each for each, _ in held[1:]) >= _HELD_BACK:
        first_calls, first = held.pop(0)
        learnt_calls, learnt = learnt_calls + first_calls, learnt + first
    return replace(drift, calls=learnt_calls, counted=learnt, held_back=tuple(held))
