"""What a real engine counts is looked at as it should be: each kind of bad count has its breach, a good one none."""

from __future__ import annotations

import dataclasses
import json

import pytest

from tests.chaos import checker, checker_engine
from tests.chaos.checker_engine import Look
from tests.chaos.faults import Allowed
from tests.chaos.history import Called, Framing, Piece, Sent

METRICS = """# HELP llamacpp:requests_processing Number of requests processing
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 2
llamacpp:requests_deferred 1
llamacpp:tokens_predicted_total 72
llamacpp:predicted_tokens_seconds 25.1133
"""
SENT = Sent("engine-0-1", "/api/generate", {"model": "tiny", "prompt": "Count.", "stream": False})
BODY = json.dumps({"response": "One two", "done": True}).encode()
CALM = Allowed()


def answered(number: int) -> Called:
    sent = dataclasses.replace(SENT, id=f"engine-0-{number}")
    return Called(sent, 10.0, 11.0, Framing.WHOLE, status=200, pieces=(Piece(10.5, BODY),))


def look(at_s: float, working: int, waiting: int = 0, tokens: int = 0, pid: int = 1) -> Look:
    return Look(at_s, pid, working, waiting, tokens)


def test_its_counters_are_read() -> None:
    seen = Look.of(METRICS, 5)
    assert (seen.pid, seen.working, seen.waiting, seen.tokens) == (5, 2, 1, 72)


def test_counters_that_are_not_there_are_no_zeros() -> None:
    with pytest.raises(KeyError):
        Look.of("llamacpp:requests_processing 2\n", 5)


def test_an_engine_that_has_as_many_calls_as_slots_is_not_oversold() -> None:
    assert checker_engine.oversold({"one": [look(each, 2) for each in range(9)]}, 2) == []


def test_an_engine_in_which_calls_wait_for_a_slot_is_oversold() -> None:
    [told] = checker_engine.oversold({"one": [look(1.0, 2), look(2.0, 2, 1), look(5.0, 2, 1), look(9.0, 2, 2)]}, 2)
    assert told.startswith("one had 3 calls, from 2.000")


def test_a_call_that_was_left_may_be_worked_on_to_its_end() -> None:
    seen = [look(1.0, 2, 1), look(2.0, 2, 1), look(3.0, 2), look(4.0, 2, 1), look(5.5, 2)]
    assert checker_engine.oversold({"one": seen}, 2) == []


def test_what_an_engine_wrote_is_known_of_one_process_alone() -> None:
    assert checker_engine.written(look(1.0, 0, tokens=5), look(2.0, 0, tokens=9)) == 4
    assert checker_engine.written(look(1.0, 0, tokens=5), look(2.0, 0, tokens=9, pid=2)) is None
    assert checker_engine.written(None, look(2.0, 0, tokens=9)) is None


@pytest.mark.parametrize(
    ("counted", "written", "breaches"),
    [
        ({"requests": 2, "completion_tokens": 8}, [8, 0], 0),
        ({"requests": 2, "completion_tokens": 8}, [8, None], 0),
        ({"requests": 3, "completion_tokens": 8}, [8, 0], 1),
        ({"requests": 2, "completion_tokens": 9}, [8, 0], 1),
        ({"requests": 2, "completion_tokens": 9}, [8, None], 1),
        ({"requests": 1, "completion_tokens": 4}, [8, 0], 2),
    ],
)
def test_books_that_have_more_than_was_written_or_less_than_was_had_are_found(
    counted: dict[str, int], written: list[int | None], breaches: int
) -> None:
    calls, tokens = [answered(1), answered(2)], {"engine-0-1": 4, "engine-0-2": 4}
    assert len(checker_engine.accounted(calls, tokens, written, counted, CALM)) == breaches


def test_what_a_fault_may_lose_may_be_missing_in_the_books() -> None:
    calls, tokens = [answered(1)], {"engine-0-1": 4}
    assert checker_engine.accounted(calls, tokens, [4], {}, Allowed(uncounted=True)) == []


def test_an_answer_that_is_not_what_the_engine_said_before_is_found() -> None:
    assert checker.exact([answered(1)], {}, lambda sent, model: ("One two",)) == []
    [told] = checker.exact([answered(1)], {}, lambda sent, model: ("One two three",))
    assert told.endswith("was told 'One two', not 'One two three'")
