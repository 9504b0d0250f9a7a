"""What a budget allows: minutes that slide, days and months of the calendar, parts for gateways by themselves."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.admission import Share
from orchestrator.core.limits import (
    DAY_MS,
    HELD_WAIT_MS,
    Counts,
    Exhausted,
    Kind,
    Need,
    Refusal,
    Reserved,
    Used,
    heeded,
    nano_of,
    prompt_tokens,
    refusal_of,
    reserved,
    settled,
    share_of,
    used_of,
    usual_answer,
)
from orchestrator.core.target import Budget
from orchestrator.core.told import LONGEST_S, Told, told_from

NOON_MS = int(datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp() * 1000)
ONE = Need(requests=1)
TTL_MS = 30_000


def after(calls: Iterable[tuple[int, Need]], counts: Counts | None = None) -> Counts:
    """Counts after calls that were made so many ms after noon."""
    counts = counts or Counts()
    for at, (later_ms, need) in enumerate(calls):
        counts = reserved(counts, f"call-{at}", need, NOON_MS + later_ms, TTL_MS)
    return counts


# --- minutes ----------------------------------------------------------------------------------------------------------


def test_a_call_is_counted_until_a_whole_minute_has_passed():
    counts, budget = after([(0, ONE)]), Budget(rpm=1)
    assert refusal_of(counts, budget, ONE, NOON_MS + 59_999) is not None
    assert refusal_of(counts, budget, ONE, NOON_MS + 60_999) is not None
    assert refusal_of(counts, budget, ONE, NOON_MS + 61_000) is None


def test_the_wait_told_is_the_wait_until_enough_of_the_minute_is_over():
    counts = after([(0, Need(1, 100)), (10_000, Need(1, 500)), (20_000, Need(1, 300))])
    budget = Budget(tpm=1000)
    assert refusal_of(counts, budget, Need(1, 100), NOON_MS + 30_000) is None
    assert refusal_of(counts, budget, Need(1, 200), NOON_MS + 30_000) == Refusal(Kind.TPM, 31_000)
    assert refusal_of(counts, budget, Need(1, 300), NOON_MS + 30_000) == Refusal(Kind.TPM, 41_000)
    assert refusal_of(counts, budget, Need(1, 5000), NOON_MS + 30_000) == Refusal(Kind.TPM, 51_000)


@given(st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 400)), max_size=60), st.integers(200, 1000))
def test_in_no_minute_wherever_it_begins_is_more_used_than_the_limit(calls, limit):
    counts, now_ms, budget = Counts(), NOON_MS, Budget(tpm=limit)
    granted: list[tuple[int, int]] = []
    for waited_ms, tokens in calls:
        now_ms += waited_ms
        need = Need(1, tokens)
        if refusal_of(counts, budget, need, now_ms) is None:
            counts = reserved(counts, "", need, now_ms, TTL_MS)
            granted.append((now_ms, tokens))
    for at_ms, _ in granted:
        within = [tokens for then_ms, tokens in granted if at_ms <= then_ms < at_ms + 60_000]
        assert sum(within) <= limit or len(within) == 1


@given(st.lists(st.tuples(st.integers(0, 30_000), st.integers(1, 900)), max_size=20), st.integers(1, 900))
def test_who_comes_back_when_told_to_is_let_in_and_not_a_millisecond_before(calls, tokens):
    counts, now_ms, budget, need = Counts(), NOON_MS, Budget(rpm=5, tpm=1000), Need(1, tokens)
    for waited_ms, used in calls:
        now_ms += waited_ms
        counts = reserved(counts, "", Need(1, used), now_ms, TTL_MS)
    refusal = refusal_of(counts, budget, need, now_ms)
    if refusal is not None:
        assert refusal_of(counts, budget, need, now_ms + refusal.wait_ms) is None
        assert refusal_of(counts, budget, need, now_ms + refusal.wait_ms - 1) is not None


# --- days, months, money ----------------------------------------------------------------------------------------------


def test_days_and_months_are_those_of_utc():
    counts = after([(0, Need(1, 100, nano_of(1.5)))])
    tomorrow_ms = NOON_MS + 12 * 3_600_000
    for budget in (Budget(rpd=1), Budget(tpd=100), Budget(usd_day=1.5), Budget(usd_month=1.5)):
        refusal = refusal_of(counts, budget, Need(1, 100, 1), NOON_MS + 120_000)
        assert refusal is not None
        assert refusal.wait_ms == tomorrow_ms - NOON_MS - 120_000
        assert refusal_of(counts, budget, Need(1, 100, 1), tomorrow_ms) is None


@pytest.mark.parametrize(("month", "days"), [(1, 31), (2, 28), (4, 30), (12, 31)])
def test_a_month_is_over_when_the_next_one_begins(month, days):
    first_ms = int(datetime(2026, month, 1, tzinfo=UTC).timestamp() * 1000)
    counts = reserved(Counts(), "", Need(1, 0, 5), first_ms, TTL_MS)
    assert used_of(counts, first_ms + days * DAY_MS - 1).nano_month == 5
    assert used_of(counts, first_ms + days * DAY_MS).nano_month == 0


def test_a_call_that_costs_more_than_is_left_is_refused_even_if_nothing_was_spent():
    assert refusal_of(Counts(), Budget(usd_day=1.0), Need(1, 10, nano_of(1.01)), NOON_MS) is not None
    assert refusal_of(Counts(), Budget(usd_day=1.0), Need(1, 10, nano_of(1.0)), NOON_MS) is None


def test_a_call_that_costs_nothing_needs_no_money():
    spent = after([(0, Need(1, 10, nano_of(9.0)))])
    assert refusal_of(spent, Budget(usd_month=1.0), Need(1, 10, 0), NOON_MS) is None


def test_a_call_larger_than_the_limit_waits_until_nothing_is_counted():
    large, budget = Need(1, 50_000), Budget(tpm=8000)
    assert refusal_of(Counts(), budget, large, NOON_MS) is None
    assert refusal_of(after([(0, Need(1, 1))]), budget, large, NOON_MS) is not None


def test_of_several_limits_the_one_that_lasts_longest_is_told():
    counts = after([(0, ONE)])
    assert refusal_of(counts, Budget(rpm=1), ONE, NOON_MS) == Refusal(Kind.RPM, 61_000)
    assert refusal_of(counts, Budget(rpm=1, rpd=1), ONE, NOON_MS) == Refusal(Kind.RPD, 12 * 3_600_000)


# --- under way, settled, released -------------------------------------------------------------------------------------


def test_a_call_under_way_is_counted_until_it_is_settled_or_nobody_holds_it_any_more():
    need, budget = Need(1, holds=True), Budget(concurrent=1)
    counts = after([(0, need)])
    assert refusal_of(counts, budget, need, NOON_MS) == Refusal(Kind.CONCURRENT, HELD_WAIT_MS)
    assert refusal_of(counts, budget, need, NOON_MS + TTL_MS) is None
    over = settled(counts, Reserved("call-0", NOON_MS // 1000, need), need, NOON_MS + 10)
    assert refusal_of(over, budget, need, NOON_MS + 10) is None


def test_true_counts_replace_the_estimate_in_the_windows_that_are_not_over():
    need = Need(1, 400, 70)
    counts = after([(0, need)])
    taken, used = Reserved("call-0", NOON_MS // 1000, need), need.settled(150, 20)
    assert used_of(settled(counts, taken, used, NOON_MS), NOON_MS) == Used(1, 150, 0, 1, 150, 20, 20)
    later_ms = NOON_MS + 90_000
    assert used_of(settled(counts, taken, used, later_ms), later_ms) == Used(0, 0, 0, 1, 150, 20, 20)
    next_day_ms = NOON_MS + DAY_MS
    assert used_of(settled(counts, taken, used, next_day_ms), next_day_ms) == Used()


def test_what_did_not_happen_is_not_counted():
    need = Need(1, 400, 70, holds=True)
    over = settled(after([(0, need)]), Reserved("call-0", NOON_MS // 1000, need), need.released, NOON_MS)
    assert not any(used_of(over, NOON_MS))


# --- a provider's word ------------------------------------------------------------------------------------------------


def test_a_provider_may_forbid_what_the_settings_allow():
    counts = heeded(Counts(), Told(retry_after_s=7.5), NOON_MS)
    assert refusal_of(counts, Budget(), ONE, NOON_MS) == Refusal(Kind.TOLD, 7500)
    assert refusal_of(counts, Budget(), ONE, NOON_MS + 7500) is None


def test_a_shorter_wait_does_not_end_a_longer_one():
    counts = heeded(heeded(Counts(), Told(retry_after_s=60), NOON_MS), Told(retry_after_s=1), NOON_MS)
    assert refusal_of(counts, Budget(), ONE, NOON_MS + 2000) == Refusal(Kind.TOLD, 58_000)


def test_what_a_provider_says_is_left_is_used_up_by_calls_until_it_is_over():
    counts = heeded(Counts(), Told(remaining_requests=1, reset_requests_s=10), NOON_MS)
    counts = reserved(counts, "", ONE, NOON_MS, TTL_MS)
    assert refusal_of(counts, Budget(), ONE, NOON_MS) == Refusal(Kind.TOLD, 10_000)
    assert refusal_of(counts, Budget(), ONE, NOON_MS + 10_000) is None


NOW_S = 1_796_000_000.0


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({}, Told()),
        ({"retry-after": "12"}, Told(12.0)),
        ({"retry-after": "Mon, 30 Nov 2026 00:53:30 GMT"}, Told(10.0)),
        ({"retry-after-ms": "250", "retry-after": "1"}, Told(0.25)),
        ({"retry-after": "999999999"}, Told(LONGEST_S)),
        ({"retry-after": "soon"}, Told()),
        (
            {"x-ratelimit-remaining-requests": "59", "x-ratelimit-reset-requests": "6m0s"},
            Told(remaining_requests=59, reset_requests_s=360.0),
        ),
        (
            {"x-ratelimit-remaining-tokens": "149984", "x-ratelimit-reset-tokens": "7.66s"},
            Told(remaining_tokens=149_984, reset_tokens_s=7.66),
        ),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "340ms"}, Told(None, None, 0, 60.0, 0.34)),
        (
            {"x-ratelimit-remaining": "3", "x-ratelimit-reset": "1796000030000"},
            Told(remaining_requests=3, reset_requests_s=30.0),
        ),
        (
            {"anthropic-ratelimit-tokens-remaining": "90", "anthropic-ratelimit-tokens-reset": "2026-11-30T00:53:40Z"},
            Told(remaining_tokens=90, reset_tokens_s=20.0),
        ),
        (
            {"x-ratelimit-remaining-req-minute": "0", "x-ratelimit-remaining-tokens-minute": "47196"},
            Told(remaining_requests=0, remaining_tokens=47_196),
        ),
        ({"x-ratelimit-remaining-requests": "-1", "x-ratelimit-reset-requests": "0xff"}, Told()),
    ],
)
def test_headers_of_providers_are_read_in_their_own_spellings(headers, told):
    assert told_from(headers, NOW_S) == pytest.approx(told)


@given(
    st.dictionaries(
        st.sampled_from(("retry-after", "retry-after-ms", "x-ratelimit-reset", "x-ratelimit-remaining")), st.text()
    )
)
def test_whatever_a_provider_writes_it_forbids_a_day_at_most(headers):
    told = told_from(headers, NOW_S)
    assert told.retry_after_s is None or 0 <= told.retry_after_s <= LONGEST_S
    assert 0 <= told.reset_requests_s <= LONGEST_S


# --- estimates, parts, words ------------------------------------------------------------------------------------------


def test_a_prompt_has_a_token_for_four_bytes_and_one_at_least():
    assert [prompt_tokens(each) for each in (0, 3, 4, 4000)] == [1, 1, 1, 1000]


def test_the_usual_answer_follows_what_answers_are():
    usual = 256.0
    for _ in range(200):
        usual = usual_answer(usual, 40)
    assert usual == pytest.approx(40, abs=1)


@given(
    budget=st.builds(
        Budget, *(st.one_of(st.none(), st.integers(1, 10**6)) for _ in range(5)), *(st.floats(0.01, 1e3),) * 2
    ),
    gateways=st.integers(1, 8),
    seen=st.builds(Used, *(st.integers(0, 10**6) for _ in range(7))),
)
def test_the_parts_of_all_gateways_are_no_more_than_what_was_left(budget, gateways, seen):
    parts = [share_of(budget, seen, NOON_MS, NOON_MS, Share(at, gateways), "key:ops") for at in range(gateways)]
    for name, used in (("rpm", seen.rpm), ("rpd", seen.rpd), ("tpm", seen.tpm), ("tpd", seen.tpd), ("concurrent", 0)):
        limit = getattr(budget, name)
        left = None if limit is None else max(0, limit - used)
        assert left is None or sum(getattr(each, name) for each in parts) == left
    assert sum(nano_of(each.usd_day) for each in parts) <= max(0, nano_of(budget.usd_day) - seen.nano_day)


def test_what_was_used_before_a_window_began_anew_is_used_no_more():
    budget, seen = Budget(rpm=10, rpd=100, usd_month=4.0), Used(rpm=10, rpd=100, nano_month=nano_of(4.0))
    share = Share(0, 2)
    assert share_of(budget, seen, NOON_MS, NOON_MS, share, "") == Budget(rpm=0, rpd=0, usd_month=0.0)
    assert share_of(budget, seen, NOON_MS, NOON_MS + 62_000, share, "") == Budget(rpm=5, rpd=0, usd_month=0.0)
    assert share_of(budget, seen, NOON_MS, NOON_MS + DAY_MS, share, "") == Budget(rpm=5, rpd=50, usd_month=2.0)


def test_a_gateway_without_a_part_asks_nothing():
    refusal = refusal_of(Counts(), Budget(rpm=0), ONE, NOON_MS)
    assert refusal is not None


@pytest.mark.parametrize(
    ("exhausted", "status", "text"),
    [
        (
            Exhausted("key:support", "rpm", 12.2, 60),
            429,
            "API key support has used its 60 requests a minute (`limits.rpm`)",
        ),
        (
            Exhausted("tier:deep", "tpd", 3600.0, 200_000),
            503,
            "tier deep has used its 200,000 tokens a day (`limits.tpd`)",
        ),
        (
            Exhausted("provider:groq", "usd_month", 9.0, 12.5),
            503,
            "provider groq has used its 12.50 dollars a month (`limits.usd_month`)",
        ),
        (
            Exhausted("key:web", "usd_day", 9.0, 0.0005),
            429,
            "API key web has used its 0.0005 dollars a day (`limits.usd_day`)",
        ),
        (Exhausted("target:groq:llama", "told", 9.0), 503, "target groq:llama is asked to wait by its provider"),
    ],
)
def test_who_is_refused_is_told_whose_limit_it_was_and_when_to_come_back(exhausted, status, text):
    error = exhausted.as_error()
    assert (error.status, str(error)) == (status, text)
    assert error.retry_after_s == -(-exhausted.retry_after_s // 1)


def test_a_key_without_dollars_may_still_ask_what_costs_nothing():
    assert Exhausted("key:support", "tpd", 1.0, 5).ends_call
    assert not Exhausted("key:support", "usd_day", 1.0, 5).ends_call
    assert not Exhausted("tier:deep", "rpm", 1.0, 5).ends_call
