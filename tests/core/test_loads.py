"""What a caller is told of a load: by the model's size before there was one, and as loads took from then on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.loads import DISK_BYTES_S, START_S, Loads, first_load_s, left_s

GB = 10**9


def test_the_first_load_is_guessed_from_the_weights_and_rather_too_long():
    assert first_load_s(5 * GB) == START_S + 5 * GB / DISK_BYTES_S == 11.0
    assert Loads().expected_s("m", 5 * GB) == first_load_s(5 * GB)
    assert first_load_s(0) == START_S


def test_a_model_that_was_loaded_takes_what_its_loads_took_the_last_one_most():
    loads = Loads().after("m", 8.0, GB)
    assert loads.expected_s("m", GB) == 8.0
    assert loads.after("m", 4.0, GB).expected_s("m", GB) == 6.0


def test_a_model_that_was_not_takes_its_size_at_the_pace_of_the_others():
    loads = Loads().after("m", 2.0, 4 * GB)
    assert loads.expected_s("other", 8 * GB) == START_S + 4.0
    assert Loads().after("m", 2.0, 0).expected_s("other", 8 * GB) == first_load_s(8 * GB)  # nobody told its size


def test_who_has_waited_is_told_what_is_left_and_of_an_overdue_load_a_share_of_what_it_took():
    assert left_s(10.0, 4.0) == 6.0
    assert left_s(10.0, 40.0) == 10.0


@given(st.floats(0.0, 1e5), st.floats(0.0, 1e5), st.integers(0, 10**12))
def test_no_estimate_is_negative(load_s, waited_s, size):
    assert left_s(load_s, waited_s) >= 0
    assert Loads().after("m", load_s, size).expected_s("n", size) > 0
