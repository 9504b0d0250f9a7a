"""Rates and quantiles between two moments, against what Prometheus' own functions say of the same numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.vitals import Window, total

BEFORE = {"calls": [({"tier": "small", "outcome": "ok"}, 10.0), ({"tier": "full", "outcome": "ok"}, 5.0)]}
NOW = {
    "calls": [
        ({"tier": "small", "outcome": "ok"}, 40.0),
        ({"tier": "full", "outcome": "ok"}, 5.0),
        ({"tier": "full", "outcome": "cut"}, 2.0),
    ]
}


def buckets(
    *counts: float, edges: tuple[str, ...] = ("0.1", "1", "+Inf")
) -> dict[str, list[tuple[dict[str, str], float]]]:
    return {"s": [({"le": edge, "tier": "x"}, count) for edge, count in zip(edges, counts, strict=True)]}


def test_a_rate_is_what_was_counted_by_the_seconds_it_took():
    window = Window(BEFORE, NOW, 10.0)
    assert window.rate("calls") == 3.2
    assert window.rate("calls", tier="small") == 3.0
    assert window.lately("calls", tier="full", outcome="cut") == 2.0
    assert window.rate("nothing") == 0.0
    assert total(NOW, "calls", outcome="ok") == 45.0


def test_a_counter_that_began_anew_is_no_negative_rate_and_no_time_no_rate():
    assert Window(NOW, BEFORE, 10.0).rate("calls") == 0.0
    assert Window(BEFORE, NOW, 0.0).rate("calls") == 0.0


@pytest.mark.parametrize(
    ("part", "wanted"),
    [(0.5, 0.1), (0.25, 0.05), (0.75, 0.1 + 0.9 * 0.625), (0.99, 1.0)],  # histogram_quantile's, of 5, 4 and 1
)
def test_quantiles_are_prometheus_own(part, wanted):
    assert Window({}, buckets(5, 9, 10), 1.0).quantiles("s", [part]) == (pytest.approx(wanted),)


def test_quantiles_are_of_the_window_where_something_came_in_it_and_of_all_time_where_not():
    was = buckets(100, 100, 100)
    assert Window(was, buckets(100, 104, 104), 1.0).quantiles("s", [0.5]) == (pytest.approx(0.1 + 0.9 * 0.5),)
    assert Window(was, was, 1.0).quantiles("s", [0.5]) == (pytest.approx(0.05),)
    assert Window({}, {}, 1.0).quantiles("s", [0.5]) == (None,)
    assert Window({}, buckets(0, 0, 0), 1.0).quantiles("s", [0.5]) == (None,)


@given(st.lists(st.integers(0, 50), min_size=3, max_size=3), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_a_higher_part_is_never_a_smaller_quantile(counts, one, other):
    cumulated = [float(sum(counts[: n + 1])) for n in range(3)]
    low, high = Window({}, buckets(*cumulated), 1.0).quantiles("s", sorted((one, other)))
    assert (low is None) == (high is None) == (sum(counts) == 0)
    assert low is None or high is None or low <= high + 1e-9
