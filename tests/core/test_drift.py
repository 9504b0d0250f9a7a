"""A rate's drift: noticed soon where that is possible at all, and hardly ever where there is none."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from statistics import fmean

import pytest

from orchestrator.core.drift import Aims, Counted, Drift, Watched, charts, expected_calls, follow, seen

RATES = (0.05, 0.1, 0.2, 0.35, 0.5)
QUIET_CALLS, QUIET_RUNS = 100_000, 4


def batches(rate: float, calls: int, size: int, rng: Random) -> Iterator[tuple[int, int]]:
    """Calls of which each counts by chance."""
    for _ in range(calls // size):
        yield size, sum(rng.random() < rate for _ in range(size))


def after(drift: Drift, told: Iterator[tuple[int, int]], aims: Aims) -> Drift:
    for calls, counted in told:
        drift = seen(drift, calls, counted, aims)
    return drift


def noticed_after(drift: Drift, rate: float, aims: Aims, rng: Random) -> int:
    """Calls at `rate` until the alarm."""
    for count in itertools.count(1):
        drift = seen(drift, 10, sum(rng.random() < rate for _ in range(10)), aims)
        if drift.alarm:
            return 10 * count
    raise AssertionError


def steady(rate: float, aims: Aims, rng: Random) -> Drift:
    """What 20,000 calls leave behind, the charts at nothing."""
    return replace(after(Drift(), batches(rate, 20_000, 100, rng), aims), rise=0.0, fall=0.0, alarm="")


@pytest.mark.parametrize("is_known", [True, False], ids=["known", "learnt"])
def test_over_two_million_steady_calls_there_are_fewer_false_alarms_than_one_in_100_000(is_known: bool) -> None:
    alarms = 0
    for rate in RATES:
        aims = Aims(rate=rate if is_known else None)
        for run in range(QUIET_RUNS):
            drift, was = Drift(), ""
            for calls, counted in batches(rate, QUIET_CALLS, 50, Random(f"{rate} {run}")):
                drift = seen(drift, calls, counted, aims)
                alarms += bool(drift.alarm) and not was
                was = drift.alarm
    assert alarms < len(RATES) * QUIET_RUNS


@pytest.mark.parametrize("is_known", [True, False], ids=["known", "learnt"])
@pytest.mark.parametrize(("rate", "shift"), [(0.02, 0.05), (0.05, 0.05), (0.05, -0.05), (0.08, -0.05)])
def test_five_points_are_noticed_within_500_calls_where_the_rate_is_low(
    rate: float, shift: float, is_known: bool
) -> None:
    aims = Aims(rate=rate if is_known else None)
    rng = Random(f"{rate} {shift}")
    before = [steady(rate, aims, rng) for _ in range(5)]
    assert fmean(noticed_after(each, rate + shift, aims, rng) for each in before for _ in range(8)) <= 500


@pytest.mark.parametrize("rate", RATES)
def test_twelve_points_are_noticed_within_500_calls_at_every_rate(rate: float) -> None:
    """Five cannot be at a rate of a fifth or a half, by anything: docs/decisions/0034-drift.md."""
    aims, rng = Aims(shift=0.12), Random(f"{rate}")
    before = [steady(rate, aims, rng) for _ in range(4)]
    assert fmean(noticed_after(each, rate + 0.12, aims, rng) for each in before for _ in range(8)) <= 500


@pytest.mark.parametrize("rate", RATES)
def test_what_is_said_of_how_soon_a_shift_is_noticed_is_so(rate: float) -> None:
    aims, rng = Aims(rate=rate), Random(f"{rate}")
    rise, fall = expected_calls(rate, aims)
    for expected, to in ((rise, rate + 0.05), (fall, rate - 0.05)):
        measured = fmean(noticed_after(Drift(), to, aims, rng) for _ in range(60))
        assert measured == pytest.approx(expected, rel=0.25)


def test_a_batch_tells_what_its_calls_tell_one_by_one() -> None:
    aims, rng = Aims(rate=0.2), Random(4)
    drawn = [sum(rng.random() < 0.25 for _ in range(60)) for _ in range(40)]
    batched = one_by_one = Drift()
    for counted in drawn:
        batched = seen(batched, 60, counted, aims)
        places = set(rng.sample(range(60), counted))
        for place in range(60):
            one_by_one = seen(one_by_one, 1, int(place in places), aims)
        limit = charts(0.2, 0, aims)[0].limit
        assert batched.rise == pytest.approx(one_by_one.rise, abs=0.15 * limit)
    assert batched.alarm == one_by_one.alarm == "rise"


def test_a_huge_batch_is_taken_at_once_and_tells_the_same() -> None:
    aims = Aims(rate=0.1)
    assert seen(Drift(), 1_000_000, 100_000, aims).alarm == ""
    assert seen(Drift(), 1_000_000, 150_000, aims).alarm == "rise"
    assert seen(Drift(), 1_000_000, 50_000, aims).alarm == "fall"


def test_an_alarm_stands_until_the_rate_is_what_it_was() -> None:
    aims, rng = Aims(rate=0.1), Random(2)
    gone = after(Drift(), batches(0.3, 2_000, 20, rng), aims)
    assert gone.alarm == "rise"
    assert after(gone, batches(0.3, 50_000, 20, rng), aims).alarm == "rise"
    assert after(gone, batches(0.1, 3_000, 20, rng), aims).alarm == ""


def test_nothing_is_said_before_enough_is_learnt_and_a_shift_is_not_learnt_from() -> None:
    aims, rng = Aims(), Random(3)
    learning = after(Drift(), batches(0.1, 1_500, 50, rng), aims)
    assert (learning.usual(aims), learning.alarm) == (None, "")
    learnt = after(learning, batches(0.1, 30_000, 50, rng), aims)
    gone = after(learnt, batches(0.25, 50_000, 50, rng), aims)
    assert gone.alarm == "rise"
    assert gone.usual(aims) == pytest.approx(0.1, abs=0.01)


def test_a_slow_drift_is_noticed_though_what_is_usual_is_learnt_on() -> None:
    aims, rng = Aims(), Random(5)
    drift = after(Drift(), batches(0.1, 20_000, 100, rng), aims)
    for step in range(100):
        drift = after(drift, batches(0.1 + 0.15 * step / 100, 1_000, 100, rng), aims)
    assert drift.alarm == "rise"


def test_rates_at_their_ends_are_followed() -> None:
    rng = Random(6)
    never = after(Drift(), batches(0.0, 50_000, 100, rng), Aims())
    assert never.alarm == ""
    assert after(never, batches(0.05, 1_000, 10, rng), Aims()).alarm == "rise"
    always = after(Drift(), batches(1.0, 50_000, 100, rng), Aims())
    assert always.alarm == ""
    assert after(always, batches(0.9, 1_000, 10, rng), Aims()).alarm == "fall"
    assert math.isinf(expected_calls(0.98, Aims(rate=0.98))[0])
    assert math.isinf(expected_calls(0.0, Aims(rate=0.0))[1])


def test_counters_that_begin_anew_each_day_are_followed_and_lost_ones_not_made_up_for() -> None:
    aims = Aims(rate=0.1)
    first = follow(Watched(), [Counted("2026-11-20", 90, 9), Counted("2026-11-21", 10, 1)], aims)
    assert first.seen == Counted("2026-11-21", 10, 1)
    again = follow(first, [Counted("2026-11-20", 90, 9), Counted("2026-11-21", 10, 1)], aims)
    assert again == first
    more = follow(first, [Counted("2026-11-21", 30, 3), Counted("2026-11-22", 5, 5)], aims)
    one_by_one = seen(seen(first.drift, 20, 2, aims), 5, 5, aims)
    assert more == Watched(Counted("2026-11-22", 5, 5), one_by_one)
    lost = follow(more, [Counted("2026-11-22", 2, 0)], aims)
    assert lost == Watched(Counted("2026-11-22", 2, 0), seen(more.drift, 2, 0, aims))
