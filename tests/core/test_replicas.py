"""How many instances a pool should have: at once more where calls wait, fewer only after a quiet while."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.numbers import AskedFor, Range
from orchestrator.core.placement.replicas import AIM, Decided, Pace, Seen, decide, pace_of


def after(before: Decided, *seen: Seen, least: int = 1, most: int | None = 8) -> Decided:
    for each in seen:
        before = decide(before, each, slots_each=4, least=least, most=most)
    return before


def test_calls_that_wait_longer_than_a_start_takes_bring_instances():
    found = after(Decided(1), Seen(0, busy=4, slots=4, queued=6, queue_wait_s=12))
    assert found.instances == 4
    assert "6 waiting for 12 s" in found.why


def test_a_burst_after_a_quiet_minute_is_counted_with_the_calls_it_waits_behind():
    burst = Seen(0, busy=0.3, slots=4, queued=6, queue_wait_s=12, at_work=4)
    assert after(Decided(1), burst).instances == 4
    assert "4.0 of 4 slots at work" in after(Decided(1), burst).why
    assert after(Decided(1), Seen(0, busy=0.3, slots=4, at_work=4)).instances == 1, "none waits"


def test_a_short_wait_brings_none_while_slots_are_free():
    assert after(Decided(2), Seen(0, busy=5, slots=8, queued=2, queue_wait_s=0.1)).instances == 2


def test_nearly_full_slots_bring_one_before_calls_wait():
    assert after(Decided(2), Seen(0, busy=7.5, slots=8)).instances == 3


def test_between_the_two_marks_nothing_changes():
    assert after(Decided(2), *(Seen(each * 100.0, busy=5, slots=8) for each in range(50))) == Decided(2)


def test_fewer_are_wanted_only_after_a_quiet_while():
    assert after(Decided(4), Seen(0, busy=1, slots=16), Seen(299, busy=1, slots=16)).instances == 4
    assert after(Decided(4), Seen(0, busy=1, slots=16), Seen(301, busy=1, slots=16)).instances == 1


def test_a_model_that_loads_slowly_is_kept_longer():
    slow = [Seen(at, busy=1, slots=16, load_s=60) for at in (0, 400, 1100)]
    assert after(Decided(4), *slow).instances == 4
    assert after(Decided(4), *slow, Seen(1300, busy=1, slots=16, load_s=60)).instances == 1


def test_the_most_that_the_quiet_while_needed_stays():
    assert after(Decided(6), *(Seen(at, busy, 24) for at, busy in ((0, 1), (100, 9), (301, 1)))).instances == 4


def test_a_burst_in_a_quiet_while_begins_it_anew():
    seen = [Seen(at, busy, 16) for at, busy in ((0, 1), (200, 9), (310, 1))]
    assert after(Decided(4), *seen).instances == 4


def test_a_pool_that_need_not_be_warm_goes_cold_and_comes_back():
    cold = after(Decided(1), Seen(0, 0, 4), Seen(400, 0, 4), least=0)
    assert cold.instances == 0
    assert after(cold, Seen(401, 0, 0, queued=1, queue_wait_s=0.1), least=0).instances == 1


@given(load=st.lists(st.tuples(st.floats(0, 40), st.integers(0, 50), st.floats(0, 60)), max_size=60))
@settings(max_examples=100)
def test_limits_hold_and_a_steady_load_ends_in_one_number(load: list[tuple[float, int, float]]):
    now = Decided(1)
    for at, (busy, queued, wait_s) in enumerate(load):
        now = after(now, Seen(at * 10.0, busy, now.instances * 4, queued, wait_s))
        assert 1 <= now.instances <= 8
    steady = [after(now, *(Seen(1e4 + at * 100.0, 6.0, 16) for at in range(count))).instances for count in (10, 20, 30)]
    assert len(set(steady)) == 1


def served(now: Decided, load: float, at_s: float, *, least: int = 1, most: int | None = None) -> Decided:
    """One look at a pool that is asked for `load` calls at once: what finds no slot waits, and ever longer."""
    slots = now.instances * 4
    queued = max(0, int(load) - slots)
    return after(now, Seen(at_s, min(load, slots), slots, queued, 30.0 if queued else 0.0), least=least, most=most)


@given(load=st.floats(0, 60), begin=st.integers(1, 20))
@settings(max_examples=100)
def test_under_a_constant_load_the_number_changes_only_towards_what_serves_it(load: float, begin: int):
    now, numbers = Decided(begin), [begin]
    for look in range(300):
        now = served(now, load, look * 10.0)
        numbers.append(now.instances)
    changes = [(one, other) for one, other in pairwise(numbers) if one != other]
    assert len(changes) <= 2
    assert len({one < other for one, other in changes}) <= 1, "never to and fro"
    assert load <= now.instances * 4 * 0.85 + 1e-9 or now.instances * 4 * AIM >= load


@given(load=st.floats(8, 200))
@settings(max_examples=50)
def test_a_pool_that_is_swamped_has_what_it_needs_at_the_first_look(load: float):
    found = served(Decided(1), load, 0.0)
    assert found.instances * 4 >= int(load)


@given(loads=st.lists(st.floats(0, 100), max_size=80), least=st.integers(1, 4), room=st.integers(0, 6))
@settings(max_examples=100)
def test_whatever_the_load_no_number_leaves_its_range(loads: list[float], least: int, room: int):
    now = Decided(least)
    for look, load in enumerate(loads):
        now = served(now, load, look * 100.0, least=least, most=least + room)
        assert least <= now.instances <= least + room


@given(loads=st.lists(st.floats(0, 40), min_size=20, max_size=120))
@settings(max_examples=50)
def test_two_changes_to_fewer_are_never_nearer_than_a_quiet_while(loads: list[float]):
    now, sank = Decided(6), []
    for look, load in enumerate(loads):
        before, now = now, served(now, load, look * 30.0)
        if now.instances < before.instances:
            sank.append(look * 30.0)
    assert all(later - sooner >= Pace().quiet_s for sooner, later in pairwise(sank))


def test_a_shorter_quiet_while_has_a_shorter_memory():
    assert pace_of(300.0) == Pace()
    assert pace_of(10.0).mean_s == 2.0


def test_another_pace_is_kept():
    quick = Pace(quiet_s=10.0, quiet_loads=1.0)
    now = decide(Decided(4), Seen(0, 1, 16), slots_each=4, least=1, pace=quick)
    assert decide(now, Seen(9, 1, 16), slots_each=4, least=1, pace=quick).instances == 4
    assert decide(now, Seen(11, 1, 16), slots_each=4, least=1, pace=quick).instances == 1


@pytest.mark.parametrize(
    ("asked", "wait_s"),
    [
        (AskedFor(4, 6, 12.0), 12.0),
        (AskedFor(4, 6, 12.0, expected_s=3.0), 3.0),  # the line is worked off before an instance would be there
        (AskedFor(4, 6, 0.2, expected_s=30.0), 0.2),  # it has just begun
    ],
)
def test_a_line_costs_what_is_left_of_it(asked: AskedFor, wait_s: float):
    assert asked.wait_s == wait_s


# --- a range ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "before", "running", "number"),
    [
        (Range(), None, 0, None),  # nothing runs: begin
        (Range(), None, 3, 3),  # it had a number of its own before
        (Range(1, 2), Range(1, 4), 3, 2),
        (Range(2, 4), Range(1, 4), 1, 2),
        (Range(foretold=8.0), Range(foretold=8.0), 3, 3),
        (Range(foretold=8.0), Range(foretold=4.0), 3, None),  # an edited forecast is a new beginning
        (Range(foretold=8.0), None, 3, None),
        (Range(), Range(foretold=8.0), 3, 3),
    ],
)
def test_a_number_goes_on_until_something_else_is_foretold(
    now: Range, before: Range | None, running: int, number: int | None
):
    assert now.go_on_with(before, running) == number
