"""From log probabilities to the share of answers that are right."""

from __future__ import annotations

import json
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.confidence import (
    Point,
    calibrate,
    curve_of,
    lowest_five,
    on_curve,
    read,
    shipped,
    told,
)

LOGPROBS = st.lists(st.floats(-12, 0), min_size=1, max_size=60)


def test_a_curve_is_a_line_between_its_points_and_level_beyond():
    curve = (Point(-2.0, 0.2), Point(-1.0, 0.4), Point(0.0, 0.9))
    told = {-9.0: 0.2, -2.0: 0.2, -1.5: 0.3, -1.0: 0.4, -0.5: 0.65, 0.0: 0.9, 1.0: 0.9}
    for statistic, right in told.items():
        assert on_curve(curve, statistic) == pytest.approx(right)


@given(LOGPROBS)
def test_the_shipped_curves_say_a_share(logprobs):
    for confidence in (shipped().confidence(logprobs), shipped().early_confidence(logprobs)):
        assert confidence is not None
        assert 0 < confidence < 1


def test_of_an_answer_without_tokens_nothing_is_known():
    assert shipped().confidence(()) is None
    assert shipped().early_confidence(()) is None


def test_the_statistic_is_the_mean_of_the_five_least_likely_tokens():
    assert lowest_five([-1.0]) == -1.0
    assert lowest_five([0.0] * 50 + [-5.0, -4.0, -3.0, -2.0, -1.0]) == -3.0


@given(st.lists(st.tuples(st.one_of(st.floats(-9, 0), st.integers(-2, 0)), st.booleans()), min_size=1, max_size=200))
def test_a_curve_rises_and_never_says_never_or_always(pairs):
    curve = curve_of([one for one, _ in pairs], [two for _, two in pairs])
    assert all(0 < point.right < 1 for point in curve)
    assert all(one.right < two.right for one, two in pairwise(curve))
    assert read(told_again(curve)).whole == tuple(curve)


def told_again(curve: tuple[Point, ...]) -> dict[str, object]:
    distinct = json.loads(json.dumps(curve))
    return {"statistic": "mean", "early_tokens": 24, "whole": distinct, "early": distinct}


def test_a_calibration_finds_the_shares_that_answers_were_drawn_by():
    rng = random.Random(5)
    answers = [[rng.uniform(-3, 0)] for _ in range(6000)]
    right = [rng.random() < 1 + each[0] / 3 for each in answers]
    made = calibrate(answers, right, "mean", 24)
    for statistic in (-2.5, -1.5, -0.5):
        assert made.confidence([statistic]) == pytest.approx(1 + statistic / 3, abs=0.05)
    assert made == read(told(made, made_of="dice"))


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("statistic", "median", "statistic: one of lowest_five, mean, total"),
        ("early_tokens", 0, "early_tokens: a number of tokens"),
        ("whole", [], "whole: must rise"),
        ("whole", [[0, 0.5], [-1, 0.7]], "whole: must rise"),
        ("early", [[-1, 0.7], [0, 0.5]], "early: must rise"),
        ("early", [[-1, 0.7], [0, 1.5]], "early: must rise"),
        ("early", [[-1]], "early: pairs"),
        ("whole", None, "whole: pairs"),
    ],
)
def test_a_file_that_is_no_calibration_is_refused_with_its_field(field, value, wanted):
    with pytest.raises(ValueError, match=wanted):
        read({**told(shipped()), field: value})
