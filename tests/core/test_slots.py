"""How many calls a server works on at once, told from how answers come that were asked for together."""

from __future__ import annotations

from heapq import heapify, heapreplace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.slots import ANSWER_TOKENS, FEWEST_TOKENS, Told, worked_on_at_once


def served(count: int, slots: int, *, late_s: float = 0.0, step_s: float = 0.01) -> list[Told]:
    """`count` answers by a server of so many slots, read `late_s` late at random ends of it."""
    free = [0.0] * slots
    heapify(free)
    answers = []
    for number in range(count):
        begins_s = free[0]
        ends_s = begins_s + step_s * ANSWER_TOKENS
        heapreplace(free, ends_s)
        answers.append(Told(begins_s + step_s + (late_s if number % 2 else 0.0), ends_s, ANSWER_TOKENS))
    return answers


@pytest.mark.parametrize("slots", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("count", [2, 4, 8, 16])
def test_those_that_begin_before_the_first_has_ended_are_worked_on_at_once(count, slots):
    assert worked_on_at_once(served(count, slots)) == min(count, slots)


@given(st.integers(1, 16), st.integers(2, 16), st.floats(0.0, 10.0))
def test_who_reads_late_counts_fewer_and_never_more(slots, count, late_s):
    found = worked_on_at_once(served(count, slots, late_s=late_s))
    assert found is not None
    assert 1 <= found <= slots


def test_an_end_that_is_read_after_the_next_ones_beginning_counts_for_nothing():
    first, second = served(2, 1)
    assert worked_on_at_once([first._replace(end_s=second.first_s + 0.01), second]) == 1


def test_an_answer_that_ends_at_once_tells_nothing():
    short = Told(0.0, 0.01, FEWEST_TOKENS - 1)
    assert worked_on_at_once([short, *served(3, 4)]) is None
