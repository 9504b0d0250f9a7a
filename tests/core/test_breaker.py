"""A target that fails is left alone for longer and longer, tried by one call at a time, and comes back by itself."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.breaker import Breaker, BreakerTerms, Ended, State

TERMS = BreakerTerms(failures=0.5, at_least=4, window_s=30, open_s=5, open_most_s=60, slow_s=2.0)


def call(breaker, now_s, ended=Ended.WELL, first_byte_s=0.0):
    permit = breaker.ask(now_s)
    assert permit is not None
    breaker.end(permit, ended, now_s, first_byte_s)


def opened(now_s=100.0):
    breaker = Breaker(TERMS)
    for _ in range(4):
        call(breaker, now_s, Ended.BADLY)
    assert breaker.state is State.OPEN
    return breaker


def test_it_opens_once_enough_calls_have_failed_and_not_before():
    breaker = Breaker(TERMS)
    for _ in range(3):
        call(breaker, 0.0, Ended.BADLY)
        assert breaker.state is State.CLOSED
    call(breaker, 0.0, Ended.BADLY)
    assert breaker.state is State.OPEN
    assert breaker.ask(4.9) is None
    assert breaker.opens_in_s(1.0) == pytest.approx(4.0)


def test_less_than_the_share_of_failures_opens_nothing():
    breaker = Breaker(TERMS)
    for _ in range(20):
        for ended in (Ended.WELL, Ended.WELL, Ended.BADLY):
            call(breaker, 1.0, ended)
    assert breaker.state is State.CLOSED


def test_failures_of_long_ago_do_not_count():
    breaker = Breaker(TERMS)
    for _ in range(3):
        call(breaker, 0.0, Ended.BADLY)
    call(breaker, 40.0, Ended.BADLY)
    assert breaker.state is State.CLOSED


def test_an_answer_that_begins_too_late_counts_as_failed():
    breaker = Breaker(TERMS)
    for _ in range(4):
        call(breaker, 0.0, Ended.WELL, first_byte_s=2.5)
    assert breaker.state is State.OPEN


def test_a_call_in_which_the_target_had_no_part_says_nothing():
    breaker = Breaker(TERMS)
    for _ in range(9):
        call(breaker, 0.0, Ended.UNASKED)
    assert breaker.state is State.CLOSED


def test_half_open_one_call_tries_and_the_others_wait_for_what_comes_of_it():
    breaker = opened(100.0)
    trial = breaker.ask(105.0)
    assert trial is not None
    assert trial.is_trial
    assert breaker.state is State.HALF_OPEN
    assert breaker.ask(105.0) is None
    breaker.end(trial, Ended.WELL, 106.0)
    assert breaker.state is State.CLOSED
    call(breaker, 106.0)


def test_what_the_next_call_will_find_is_told_before_it_comes():
    breaker = opened(100.0)
    assert (breaker.state_at(104.0), breaker.state_at(105.0)) == (State.OPEN, State.HALF_OPEN)
    assert breaker.opens_in_s(105.0) == 0
    assert breaker.ask(105.0) is not None
    assert breaker.opens_in_s(105.0) > 0


def test_a_trial_that_ends_without_a_verdict_is_anothers():
    breaker = opened(100.0)
    trial = breaker.ask(105.0)
    assert trial is not None
    breaker.end(trial, Ended.UNASKED, 105.0)
    following = breaker.ask(105.0)
    assert following is not None
    assert following.is_trial


def test_each_trial_that_fails_doubles_the_wait_up_to_the_longest():
    breaker, now_s = opened(0.0), 0.0
    for wait_s in (5, 10, 20, 40, 60, 60):
        assert breaker.opens_in_s(now_s) == pytest.approx(wait_s)
        now_s += wait_s
        call(breaker, now_s, Ended.BADLY)


def test_one_that_fails_again_soon_after_it_came_back_is_left_alone_for_longer():
    breaker = opened(0.0)
    call(breaker, 5.0)
    for _ in range(4):
        call(breaker, 6.0, Ended.BADLY)
    assert breaker.opens_in_s(6.0) == pytest.approx(10.0)
    call(breaker, 16.0)
    for _ in range(4):
        call(breaker, 100.0, Ended.BADLY)
    assert breaker.opens_in_s(100.0) == pytest.approx(5.0)


def test_calls_that_began_before_it_opened_change_nothing_when_they_end():
    breaker = Breaker(TERMS)
    late = [breaker.ask(0.0) for _ in range(3)]
    for _ in range(4):
        call(breaker, 0.0, Ended.BADLY)
    trial = breaker.ask(5.0)
    assert trial is not None
    for permit in late:
        assert permit is not None
        breaker.end(permit, Ended.WELL, 5.0)
    assert breaker.state is State.HALF_OPEN
    assert breaker.ask(5.0) is None


STEPS = st.lists(st.tuples(st.floats(0, 20), st.sampled_from([*Ended]), st.integers(0, 3), st.booleans()), max_size=120)


@given(STEPS)
@settings(max_examples=200)
def test_whatever_happens_there_is_one_trial_at_most_nothing_goes_through_while_open_and_it_comes_back(steps):
    breaker, now_s, under_way = Breaker(TERMS), 0.0, []
    for wait_s, ended, which, asks in steps:
        now_s += wait_s
        if asks:
            was_open = breaker.state is State.OPEN and breaker.opens_in_s(now_s) > 0
            permit = breaker.ask(now_s)
            assert not (was_open and permit)
            if permit is not None:
                under_way.append(permit)
        elif under_way:
            permit = under_way.pop(which % len(under_way))
            breaker.end(permit, ended, now_s)
        trials = [each for each in under_way if each.is_trial and each.life == breaker._life]
        assert len(trials) <= 1
        assert breaker.opens_in_s(now_s) <= TERMS.open_most_s
    for permit in under_way:
        breaker.end(permit, Ended.WELL, now_s)
    now_s += TERMS.open_most_s + 1
    call(breaker, now_s)
    assert breaker.state is State.CLOSED
