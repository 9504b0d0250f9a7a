"""Sums in a text are read as written and recomputed; what is no sum is left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.difficulty_sums import calculate, numbers, sums


@pytest.mark.parametrize(
    ("text", "stated", "is_right"),
    [
        ("3 + 4 = 7", 7, True),
        ("3 + 4 = 8", 8, False),
        ("5 x 15 = $75", 75, True),
        ("2 × (3 + 4) = 14.", 14, True),
        ("20 * .8 = 16", 16, True),
        ("1,200 / 3 = 400", 400, True),
        ("20% * 50 = 10", 10, True),
        ("10 / 3 = 3.33", 3.33, True),
        ("2 - 5 = -3", -3, True),
        ("$<<15*2000=30000>>30,000", 30000, True),
        ("73 / 8 = 9", 9, False),
        ("She sold 2. 5 + 7 = 12", 12, True),
    ],
)
def test_a_sum_is_read_as_people_write_it(text, stated, is_right):
    (found,) = sums(text)
    assert (found.stated, found.is_right) == (stated, is_right)


@pytest.mark.parametrize(
    "text", ["", "x = 5", "5 = 5", "a + b = c", "1 / 0 = 1", "2 + = 3", "=", "3 + 4 =", "(1 + 2 = 3"]
)
def test_what_cannot_be_read_is_passed_over(text):
    assert list(sums(text)) == []


def test_a_chain_is_checked_where_it_calculates():
    assert [each.stated for each in sums("2 + 3 = 5 + 4 = 9")] == [9]


def test_a_sum_says_what_it_reckons_with():
    (told,) = sums("2 x (1,000 + .5) = 2001")
    assert told.operands == [2, 1000, 0.5]


def test_numbers_come_without_their_commas():
    assert numbers("1,200 of 3.5 and 7") == [1200.0, 3.5, 7.0]


@given(st.integers(0, 999), st.integers(0, 999), st.integers(1, 999), st.sampled_from("+-*/"), st.sampled_from("+-*/"))
def test_signs_bind_as_in_arithmetic(one, two, three, first, second):
    if first == "/" and two == 0:
        two = 1
    written = f"{one}{first}{two}{second}{three}"
    assert calculate(written) == pytest.approx(eval(written))


@given(st.text(alphabet="0123456789.+-*/()=, x$%\n"))
def test_no_text_breaks_it(text):
    for each in sums(text):
        assert each.text
