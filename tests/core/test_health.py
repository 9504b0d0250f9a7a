"""Up and down: one missed probe moves nothing, one good one mends everything."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.health import MISSES_UNTIL_DOWN, Health, after_probe


def after(*failures: str | None) -> Health:
    health = Health()
    for each in failures:
        health = after_probe(health, each)
    return health


def test_it_begins_up():
    assert not Health().is_down


def test_misses_in_a_row_and_not_one_of_them_bring_it_down():
    for count in range(MISSES_UNTIL_DOWN):
        assert not after(*["refused"] * count).is_down
    assert after(*["refused"] * MISSES_UNTIL_DOWN).is_down


def test_a_probe_that_went_well_forgets_all_misses():
    assert after("a", "b", None) == Health()
    assert not after(*["refused"] * 9, None).is_down


def test_the_reason_is_that_of_the_last_miss():
    assert after("refused", "no answer in 5 s").reason == "no answer in 5 s"


@given(st.lists(st.sampled_from([None, "refused"]), max_size=30))
def test_it_is_down_exactly_while_the_last_probes_all_failed(probes):
    last = probes[-MISSES_UNTIL_DOWN:]
    assert after(*probes).is_down == (len(last) == MISSES_UNTIL_DOWN and None not in last)
