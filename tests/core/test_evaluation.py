"""Answers are graded as a teacher would, and the trade-off between two models is what RouteLLM's definitions say."""

from __future__ import annotations

import json

import pytest

from orchestrator.core.evaluation.grading import grade
from orchestrator.core.evaluation.questions import Question, Scorer, SetError, read_set
from orchestrator.core.evaluation.report import Outcome, Price, report
from orchestrator.core.evaluation.tradeoff import curve, interval, mean_interval, measure


def graded(scorer: str, answer: str | tuple[str, ...], text: str) -> bool:
    answers = (answer,) if isinstance(answer, str) else answer
    return grade(Question("q", "?", Scorer(scorer), answers), text)


@pytest.mark.parametrize(
    ("scorer", "answer", "right", "wrong"),
    [
        ("exact", "Ankara", "  ankara.\n", "Ankara'dır"),
        ("exact", "İzmir", "İZMİR!", "Izmit"),
        ("choice", "B", "The answer is (B) because A is wrong.", "The answer is A, not B."),
        ("choice", "C", "C) H2O", "A) CO2 değil"),
        ("choice", "D", "Cevap: **D**", "Cevap: **E**"),
        ("choice", "A", "Both fail, so I choose A.", "Both fail."),
        ("numeric", "14", "50 - 36 = 14 dollars", "14 - 50 = -36"),
        ("numeric", "1234.5", "1.234,5 TL", "1.234,6 TL"),
        ("numeric", "1234.5", "$1,234.50", "$1,234"),
        ("numeric", "7", "so it is 9\n#### 7", "#### 9"),
        ("contains", ("Paris", "France"), "PARIS is in France", "Paris is in Texas"),
        ("regex", r"(?i)\bfoo\d", "a Foo1", "a foo"),
    ],
)
def test_an_answer_is_right_however_it_is_dressed(
    scorer: str, answer: str | tuple[str, ...], right: str, wrong: str
) -> None:
    assert graded(scorer, answer, right)
    assert not graded(scorer, answer, wrong)


def test_json_fits_its_schema_inside_a_fence_too() -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    question = Question("q", "?", Scorer.JSON_SCHEMA, schema=schema)
    assert grade(question, '{"age": 3}')
    assert grade(question, 'Here:\n```json\n{"age": 3}\n```')
    assert not grade(question, '{"age": "3"}')
    assert not grade(question, "age is 3")
    with pytest.raises(ValueError, match="q: 'schema' is none"):
        grade(Question("q", "?", Scorer.JSON_SCHEMA, schema={"type": "nonsense"}), "{}")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "an object is wanted"),
        ('{"prompt": "x"}', "'id' is missing"),
        ('{"id": "a", "prompt": "x", "scorer": "vibes"}', "'scorer' is one of exact, choice"),
        ('{"id": "a", "prompt": "x", "scorer": "exact"}', "exact compares with 'answer', which is missing"),
        ('{"id": "a", "prompt": "x", "scorer": "regex", "answer": "("}', "is no regular expression"),
        ('{"id": "a", "prompt": "x", "scorer": "json_schema"}', "json_schema compares with 'schema'"),
        ('{"id": "a", "prompt": "x", "scorer": "exact", "anwser": "y"}', "unknown field 'anwser'"),
    ],
)
def test_a_line_that_is_no_question_is_named_with_what_it_lacks(line: str, said: str) -> None:
    with pytest.raises(SetError, match=rf"^set\.jsonl:2: .*{said}"):
        read_set(["", line], "set.jsonl")


def test_an_id_twice_and_an_empty_set_are_errors() -> None:
    line = json.dumps({"id": "a", "prompt": "x", "scorer": "exact", "answer": "y"})
    with pytest.raises(SetError, match=r"set:2: the id 'a' is there twice"):
        read_set([line, line], "set")
    with pytest.raises(SetError, match="no question in it"):
        read_set([""], "set")


ALL = range(100)


def test_scores_that_know_which_questions_need_the_dear_model_win_back_more_than_a_coin() -> None:
    """The dear model is right everywhere, the cheap one on the easy half."""
    knowing = [(float(each), float(each < 50), 1.0) for each in ALL]
    blind = [(1.0, float(each < 50), 1.0) for each in ALL]
    assert curve(knowing)[5] == pytest.approx(1.0)
    told, coin = measure(knowing), measure(blind)
    assert told is not None
    assert coin is not None
    assert (told.apgr, told.cpt50, told.cpt80) == pytest.approx((0.75, 25.0, 40.0))
    assert (coin.apgr, coin.cpt50, coin.cpt80) == pytest.approx((0.5, 50.0, 80.0))


def test_without_a_gap_there_is_nothing_to_win_back() -> None:
    assert measure([(1.0, 1.0, 1.0), (2.0, 1.0, 0.0)]) is None


def test_intervals_hold_what_they_are_of() -> None:
    items = [(float(each), float(each % 3 == 0), 1.0) for each in ALL]
    draws = [[(place * step) % 100 for place in ALL] for step in (1, 3, 7, 9, 11, 13)]
    between = interval(items, draws)
    told = measure(items)
    assert between is not None
    assert told is not None
    assert between[0].apgr <= told.apgr <= between[1].apgr
    mean, low, high = mean_interval([1.0] * 8 + [0.0] * 2)  # Wilson's for 8 of 10: .490 to .943
    assert (mean, round(low, 3), round(high, 3)) == (0.8, 0.490, 0.943)


def test_a_report_compares_the_two_cheapest_fixed_targets_and_counts_what_a_route_chose() -> None:
    def outcome(question: str, target: str, is_right: bool, chosen: str = "") -> Outcome:
        return Outcome(question, target, is_right, 1.0, 10, 5, chosen)

    outcomes = [
        *(outcome(f"q{each}", "small", each < 5) for each in range(10)),
        *(outcome(f"q{each}", "auto", True, "small" if each < 7 else "full") for each in range(10)),
        *(outcome(f"q{each}", "full", True) for each in range(10)),
    ]
    points = {f"q{each}": float(each) for each in range(10)}
    found = report(outcomes, ["small", "auto", "full"], points, {"small": Price(1.0, 2.0)}, lambda n: [range(n)])
    small, auto, _ = found.targets
    assert (small.accuracy, small.dollars, auto.dollars) == (0.5, pytest.approx(2e-4), None)
    assert auto.chosen == {"small": 7, "full": 3}
    assert found.trade_off is not None
    assert (found.trade_off.small, found.trade_off.full, found.trade_off.questions) == ("small", "full", 10)
    assert found.trade_off.measures is not None
