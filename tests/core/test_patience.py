"""Silence is a hang only where nothing else explains it; what is done about it goes from mild to hard, and ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.model import Call, Endpoint
from orchestrator.core.patience import (
    BYTES_A_TOKEN_WRITTEN,
    CURES_WITHIN_S,
    ENOUGH,
    LATELY,
    LONGEST_WINDOW_S,
    USUAL_TIMES,
    WINDOW_PART,
    Asked,
    Cure,
    History,
    Kind,
    Means,
    Suspicion,
    allowed_silence_s,
    asked_of,
    may_be_out,
    next_cure,
    reading_s,
)

FLOOR_S = 1.5
SHORT = Asked(Kind.STREAM, 300)
LONG = Asked(Kind.STREAM, 120_000)  # some 30,000 tokens


def history(*seconds: float, of: Asked = SHORT) -> History:
    made = History()
    for each in seconds:
        made.add(of.kind, of.size, each)
    return made


def usual(seconds: float, of: Asked = SHORT, count: int = LATELY) -> History:
    return history(*[seconds] * count, of=of)


# --- how long is too long --------------------------------------------------------------------------------------------


def test_nothing_is_too_long_before_enough_was_seen_of_its_kind():
    assert usual(0.02, count=ENOUGH - 1).allows_s(SHORT, FLOOR_S) is None
    assert usual(0.02, count=ENOUGH).allows_s(SHORT, FLOOR_S) == FLOOR_S
    assert usual(0.02).allows_s(Asked(Kind.WHOLE, 300), FLOOR_S) is None


def test_it_is_many_times_what_was_usual():
    assert usual(2.0).allows_s(SHORT, FLOOR_S) == 2.0 * USUAL_TIMES


def test_one_hang_that_ended_does_not_stand_for_all_and_two_do():
    lately = [0.02] * (LATELY - 2)
    assert history(*lately, 0.02, 60.0).allows_s(SHORT, FLOOR_S) == FLOOR_S
    assert history(*lately, 60.0, 60.0).allows_s(SHORT, FLOOR_S) == 60.0 * USUAL_TIMES


def test_what_was_usual_long_ago_is_forgotten():
    made = usual(60.0)
    for _ in range(LATELY):
        made.add(SHORT.kind, SHORT.size, 0.02)
    assert made.allows_s(SHORT, FLOOR_S) == FLOOR_S


def test_a_long_prompt_after_nothing_but_short_ones_has_the_time_that_a_slow_machine_takes_for_it():
    allowed_s = usual(0.02).allows_s(LONG, FLOOR_S)
    assert allowed_s is not None
    assert allowed_s >= reading_s(LONG) > 300


def test_a_long_prompt_on_a_slow_machine_has_as_much_longer_as_it_is_longer():
    allowed_s = usual(3.0).allows_s(Asked(Kind.STREAM, 3000), FLOOR_S)
    assert allowed_s is not None
    assert allowed_s >= 3.0 * USUAL_TIMES * 8


def test_an_answer_as_a_whole_is_known_by_answers_as_a_whole():
    made = usual(0.02)
    for _ in range(ENOUGH):
        made.add(Kind.WHOLE, 300, 5.0)
    assert made.allows_s(SHORT, FLOOR_S) == FLOOR_S
    assert made.allows_s(Asked(Kind.WHOLE, 300), FLOOR_S) == 5.0 * USUAL_TIMES


def test_a_call_that_failed_before_has_twice_the_time():
    again = SHORT._replace(times=2.0)
    assert usual(0.02).allows_s(again, FLOOR_S) == 2 * FLOOR_S


def test_a_short_call_behind_a_long_prompt_waits_for_both():
    both = allowed_silence_s(usual(0.02), [SHORT, LONG], FLOOR_S)
    assert both is not None
    assert both >= reading_s(LONG)
    assert allowed_silence_s(usual(0.02), [SHORT, Asked(Kind.WHOLE, 300)], FLOOR_S) is None


def test_others_answer_while_one_did_within_what_a_first_byte_takes():
    assert History().window_s(FLOOR_S) == usual(0.02).window_s(FLOOR_S) == FLOOR_S * WINDOW_PART
    assert usual(12.0).window_s(FLOOR_S) == 12.0
    assert usual(500.0).window_s(FLOOR_S) == LONGEST_WINDOW_S


sizes = st.integers(min_value=1, max_value=2**24)
seconds = st.floats(min_value=0.001, max_value=600)


@given(st.lists(st.tuples(sizes, seconds), min_size=ENOUGH, max_size=200), sizes, st.floats(0.1, 10))
def test_no_limit_is_below_the_floor_nor_below_what_a_slow_machine_takes_nor_below_the_like(seen, size, at_least_s):
    made = History()
    for each, took_s in seen:
        made.add(Kind.STREAM, each, took_s)
    asked = Asked(Kind.STREAM, size)
    allowed_s = made.allows_s(asked, at_least_s)
    assert allowed_s is not None
    assert allowed_s >= max(at_least_s, reading_s(asked))
    like = [took_s for each, took_s in seen if each.bit_length() == size.bit_length()]
    if 0 < len(like) < LATELY // 2:
        assert allowed_s >= max(like) * USUAL_TIMES * 0.999
    together = allowed_silence_s(made, [asked, *(Asked(Kind.STREAM, each) for each, _ in seen[:3])], at_least_s)
    assert together is not None
    assert together >= allowed_s


@pytest.mark.parametrize(
    ("endpoint", "body", "expected"),
    [
        (Endpoint.OLLAMA_CHAT, {}, Asked(Kind.WHOLE, 500)),
        (Endpoint.OLLAMA_CHAT, {"options": {"num_predict": 10}}, Asked(Kind.BOUNDED, 500 + 10 * BYTES_A_TOKEN_WRITTEN)),
        (Endpoint.OLLAMA_CHAT, {"options": {"num_predict": -1}}, Asked(Kind.WHOLE, 500)),
        (Endpoint.OLLAMA_CHAT, {"options": {"num_predict": "10"}}, Asked(Kind.WHOLE, 500)),
        (Endpoint.OLLAMA_CHAT, {"options": None}, Asked(Kind.WHOLE, 500)),
        (Endpoint.OPENAI_CHAT, {"max_tokens": 10}, Asked(Kind.BOUNDED, 500 + 10 * BYTES_A_TOKEN_WRITTEN)),
        (Endpoint.OPENAI_RESPONSES, {"max_output_tokens": 1}, Asked(Kind.BOUNDED, 500 + BYTES_A_TOKEN_WRITTEN)),
    ],
)
def test_an_answer_as_a_whole_is_as_large_as_it_may_become(endpoint, body, expected):
    assert asked_of(Call(endpoint, "m", False, body), 500) == expected
    assert asked_of(Call(endpoint, "m", True, body), 500) == Asked(Kind.STREAM, 500)


# --- what is done ----------------------------------------------------------------------------------------------------

OURS, GIVEN, LLAMA = Means(True, True), Means(True, False), Means(False, True)


def test_the_mildest_is_tried_first_then_the_process():
    assert next_cure(OURS, [], [], 0, 4)[0] is Cure.UNLOAD
    assert next_cure(OURS, [Cure.UNLOAD], [0], 1, 4)[0] is Cure.RESTART
    assert next_cure(LLAMA, [], [], 0, 4)[0] is Cure.RESTART


def test_a_process_that_is_not_ours_is_left_alone_with_a_word_to_its_owner():
    cure, why = next_cure(GIVEN, [Cure.UNLOAD], [0], 1, 4)
    assert cure is Cure.NONE
    assert "not ours to restart" in why
    assert next_cure(Means(False, False), [], [], 0, 4)[0] is Cure.NONE


def test_an_instance_has_so_many_cures_within_an_hour_and_then_more():
    times = [0.0, 10.0, 20.0, 30.0]
    cure, why = next_cure(OURS, [], times, 31, 4)
    assert cure is Cure.NONE
    assert "cures_an_hour" in why
    assert next_cure(OURS, [], times, CURES_WITHIN_S + 1, 4)[0] is Cure.UNLOAD
    assert next_cure(OURS, [], [], 0, 0)[0] is Cure.NONE


@pytest.mark.parametrize(("out", "members", "expected"), [(0, 1, True), (1, 1, False), (0, 2, True), (1, 2, False),
                                                          (0, 3, True), (1, 3, False), (1, 4, True),
                                                          (2, 4, False)])  # fmt: skip
def test_never_more_than_half_of_a_pool_is_out_but_for_the_only_one(out, members, expected):
    assert may_be_out(out, members) is expected


def test_a_suspicion_says_what_was_seen():
    told = str(Suspicion(12.34, 1.5, 2))
    assert "silent for 12.3 s to 2 calls while others answered" in told
    assert "1.5 s" in told
    assert "to 1 call, the only one of its pool" in str(Suspicion(12.34, 1.5, 1, is_lone=True))
