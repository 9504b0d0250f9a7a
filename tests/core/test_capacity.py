"""Capacity: queues that agree with textbooks, plans that keep their goals, and no more users by fewer cards."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import exp, factorial, log1p, sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.capacity.carrying import Plan, carry, users_carried
from orchestrator.core.capacity.demand import Goals, Load, Mix, recorded_load, summarise
from orchestrator.core.capacity.documents import PROMISES, figures, judge
from orchestrator.core.capacity.planning import Wish, candidates, cheapest, fewest_cards, what_ifs
from orchestrator.core.capacity.prices import HOURS_A_MONTH, Basis, Terms, monthly_usd, prices
from orchestrator.core.capacity.queueing import Queue, closed_queue, open_queue, response_quantile_s
from orchestrator.core.capacity.service import answer_s, instance_bytes, instances_that_fit, service_times
from orchestrator.core.cards import CARDS, find_card
from orchestrator.core.sizing import GIB
from tests.core.capacity_plans import FULL, SMALL, model, pool

LOAD = Load()
TWO_CARDS = Wish(SMALL, FULL, cards=(find_card("RTX 4080"), find_card("L4")), slots=(2, 8))


def wish_for(*cards: str) -> Wish:
    return Wish(SMALL, FULL, cards=tuple(map(find_card, cards)))


# --- queues ----------------------------------------------------------------------------------------------------------


def erlang_c_by_its_sum(servers: int, offered: float) -> float:
    waiting = offered**servers / factorial(servers) * servers / (servers - offered)
    return waiting / (sum(offered**busy / factorial(busy) for busy in range(servers)) + waiting)


def test_two_servers_half_loaded_make_one_call_in_three_wait():
    assert open_queue(1.0, [1.0, 1.0]).waits == pytest.approx(1 / 3)


@given(servers=st.integers(1, 40), load=st.floats(0.01, 0.97), time_s=st.floats(0.01, 60))
def test_a_pool_of_one_rate_is_m_m_c_exactly(servers, load, time_s):
    queue = open_queue(servers * load / time_s, [time_s] * servers)
    waits = erlang_c_by_its_sum(servers, servers * load)
    assert queue.waits == pytest.approx(waits, rel=1e-9)
    assert queue.wait_s == pytest.approx(waits * time_s / (servers - servers * load), rel=1e-9)
    assert queue.utilisation == pytest.approx(load, rel=1e-9)
    assert queue.answer_s == pytest.approx(time_s, rel=1e-9)


@given(load=st.floats(0.05, 0.95), scv=st.floats(0, 10))
def test_one_server_of_any_spread_waits_by_pollaczek_and_khinchine(load, scv):
    queue = open_queue(load, [1.0], scv)
    assert queue.wait_s == pytest.approx(load / (1 - load) * (1 + scv) / 2, rel=1e-9)


def test_more_calls_than_slots_can_answer_only_grow_a_queue():
    queue = open_queue(5.0, [1.0, 1.0])
    assert not queue.is_stable
    assert response_quantile_s(queue, 0.95, 1.0) == float("inf")


def test_no_calls_wait_for_nothing():
    assert open_queue(0.0, [2.0]) == Queue(0.0, 0.0, 0.0, 2.0, 0.0)


def test_a_great_many_users_are_as_an_open_stream():
    times = [1.0, 1.3, 1.6, 1.9]
    opened = open_queue(1.5, times)
    closed = closed_queue(20_000, 20_000 / 1.5 - opened.response_s, times)
    assert closed.calls_s == pytest.approx(opened.calls_s, rel=1e-3)
    assert closed.wait_s == pytest.approx(opened.wait_s, rel=1e-2)
    assert closed.waits == pytest.approx(opened.waits, rel=1e-2)


@given(users=st.integers(1, 60), servers=st.integers(1, 20), away_s=st.floats(0.1, 100))
def test_users_are_thinking_waiting_or_served(users, servers, away_s):
    times = [1 + 0.2 * busy for busy in range(servers)]
    queue = closed_queue(users, away_s, times)
    assert queue.calls_s * (away_s + queue.response_s) == pytest.approx(users, rel=1e-6)
    assert queue.calls_s * queue.answer_s == pytest.approx(queue.utilisation * servers, rel=1e-6)


def test_nobody_waits_where_there_are_as_many_slots_as_users():
    queue = closed_queue(4, 10.0, [1.0] * 4)
    assert (queue.waits, queue.wait_s) == (0.0, 0.0)


def test_two_users_of_one_slot_are_the_textbooks_machine_repair():
    # States 0, 1, 2 with births 2, 1 and deaths 1, 1: chances 1/5, 2/5, 2/5.
    queue = closed_queue(2, 1.0, [1.0])
    assert queue.utilisation == pytest.approx(4 / 5)
    assert queue.wait_s == pytest.approx((2 / 5) / (4 / 5))
    assert queue.waits == pytest.approx(1 / 2)


def test_without_a_wait_the_quantile_is_that_of_the_lengths():
    spread = sqrt(log1p(0.5))
    expected = 2.0 * exp(-spread * spread / 2 + 1.6449 * spread)
    assert response_quantile_s(Queue(1, 0.0, 0.0, 2.0, 0.5), 0.95, 0.5) == pytest.approx(expected, rel=0.02)


def test_answers_of_one_length_are_late_by_their_wait_alone():
    # One in five waits, 3 s on average: one in twenty waits more than 3 x ln 4.
    assert response_quantile_s(Queue(1, 0.2, 0.6, 1.0, 0.5), 0.95, 0.0) == pytest.approx(1 + 3 * 1.38629, rel=1e-4)


# --- what a card does ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("slots", "published"), [(1, 157), (2, 280), (4, 470), (8, 584)])
def test_a_card_writes_for_several_slots_about_what_was_measured_and_not_more(slots, published):
    card = pool(model("llama3.1:8b-instruct-q4_0"), "RTX 3090", slots=slots)
    assert 0.75 * published < slots / answer_s(card, slots, 0, 1) <= published


@pytest.mark.parametrize("instances", [1, 2, 4])
def test_more_calls_at_work_take_longer_each_and_are_more_together(instances):
    busy = pool(card="A100-80GB", cards=2, slots=8, instances=instances)
    times = service_times(busy, 300, 100)
    assert len(times) == busy.servers
    assert list(times) == sorted(times)
    rates = [count / time_s for count, time_s in enumerate(times, start=1)]
    assert all(later >= earlier * 0.999 for earlier, later in pairwise(rates))


def test_several_instances_of_a_card_are_slower_than_one_with_their_slots():
    assert answer_s(pool(slots=4, instances=2), 8, 300, 100) > answer_s(pool(slots=8), 8, 300, 100)


def test_a_3b_instance_is_not_one_gigabyte():
    assert instance_bytes(SMALL.shape, 4096, 2) / GIB == pytest.approx(3.4, abs=0.05)


def test_as_many_instances_fit_as_their_bytes_and_the_headroom_allow():
    card = find_card("RTX 4080")
    held = instances_that_fit(card, FULL.shape, 4096, 4)
    each = instance_bytes(FULL.shape, 4096, 4)
    assert held * each < card.vram_bytes < (held + 1) * each + GIB


# --- users and plans -------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(users=st.integers(1, 400), more=st.integers(1, 100), think_s=st.floats(1, 60), slots=st.sampled_from([1, 4, 8]))
def test_more_users_never_lower_the_utilisation(users, more, think_s, slots):
    plan = Plan("two", pool(SMALL, slots=slots), pool(FULL, slots=slots))
    load = replace(LOAD, think_s=think_s)
    before, after = (carry(plan, load.with_users(count)) for count in (users, users + more))
    assert after.utilisation >= before.utilisation - 1e-4
    assert after.calls_s >= before.calls_s - 1e-4


@settings(max_examples=12)
@given(rates=st.tuples(st.floats(0, 1), st.floats(0, 1)), users=st.integers(10, 800))
def test_a_better_hit_rate_never_costs_more(rates, users):
    low, high = sorted(rates)
    asked = [replace(LOAD, users=users, mix=LOAD.mix.with_hit_rate(rate)) for rate in (low, high)]
    dear, cheap = (cheapest(TWO_CARDS, each) for each in asked)
    assert dear is not None
    assert cheap is not None
    assert cheap.usd <= dear.usd + 1e-9


@settings(max_examples=12)
@given(users=st.integers(1, 600), more=st.integers(1, 300))
def test_more_users_never_cost_less(users, more):
    few, many = (cheapest(TWO_CARDS, LOAD.with_users(count)) for count in (users, users + more))
    assert few is not None
    assert many is not None
    assert few.usd <= many.usd + 1e-9


def test_users_carried_are_the_last_that_keep_the_goals():
    plan = Plan("two", pool(SMALL), pool(FULL))
    most = users_carried(plan, LOAD)
    assert carry(plan, LOAD.with_users(most)).is_within
    assert not carry(plan, LOAD.with_users(most + 1)).is_within


def test_tiers_share_the_users_by_the_mix():
    outcome = carry(Plan("two", pool(SMALL, cards=2), pool(FULL)), LOAD)
    assert [each.tier for each in outcome.tiers] == ["cache", "small", "full"]
    for tier, share in zip(outcome.tiers, (0.6, 0.3, 0.1), strict=True):
        assert tier.calls_s == pytest.approx(outcome.calls_s * share, rel=1e-3)
    assert outcome.users == pytest.approx(outcome.calls_s * LOAD.think_s + outcome.at_once, rel=1e-3)


def test_without_small_cards_the_full_model_answers_its_questions_too():
    outcome = carry(Plan("full", None, pool(FULL, cards=4)), LOAD)
    assert [(each.tier, each.share) for each in outcome.tiers] == [("cache", 0.6), ("full", pytest.approx(0.4))]


def test_a_plan_of_no_cards_serves_the_cache_alone():
    assert carry(Plan("none", None, None), replace(LOAD, mix=Mix(1, 0, 0))).is_within
    with pytest.raises(ValueError, match="has no pool"):
        carry(Plan("none", None, None), LOAD)


def test_the_fewest_cards_are_enough_and_one_fewer_is_not():
    load = replace(LOAD, users=3000, mix=Mix(0, 0, 1))
    enough = fewest_cards(pool(slots=8), load, 1.0, 5.0)
    assert enough is not None
    assert enough.cards > 2
    assert carry(Plan("full", None, enough), load).is_within
    assert not carry(Plan("full", None, replace(enough, cards=enough.cards - 1)), load).is_within


def test_every_plan_offered_keeps_its_goals_and_the_cheapest_is_first():
    found = candidates(wish_for("RTX 3090", "RTX 4090", "L4"), LOAD)
    assert all(each.outcome.is_within for each in found)
    assert [each.usd for each in found] == sorted(each.usd for each in found)
    assert len({each.plan for each in found}) == len(found)


def test_goals_that_no_card_can_keep_have_no_plan():
    impossible = replace(LOAD, goals=Goals(small_s=0.01))
    assert cheapest(TWO_CARDS, impossible) is None
    assert not candidates(TWO_CARDS, replace(LOAD, goals=Goals(small_s=0.01, full_s=0.01)))


def test_a_card_without_a_price_is_in_no_plan():
    assert monthly_usd(find_card("A10"), Basis.RENT) is None
    assert not candidates(wish_for("A10"), LOAD)


def test_what_ifs_change_one_thing_each_and_begin_with_what_was_asked():
    told = what_ifs(TWO_CARDS, replace(LOAD, users=100), [("fp16", SMALL, FULL)])
    words = [each.change for each in told]
    assert words[0] == "as asked"
    assert {"hit rate 0%", "fp16", "2 slots an instance", "context 8192", "think time halved"} <= set(words)
    assert len(set(words)) == len(words)


# --- demand, prices, documents ---------------------------------------------------------------------------------------


def test_a_hit_rate_leaves_the_router_as_it_is():
    mix = Mix(0.6, 0.3, 0.1).with_hit_rate(0.2)
    assert (mix.cache, mix.small, mix.full) == (0.2, pytest.approx(0.6), pytest.approx(0.2))
    assert Mix(1, 0, 0).with_hit_rate(0.5) == Mix(0.5, 0.0, 0.5)


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.5), (-0.1, 1.0, 0.1)])
def test_shares_that_are_not_a_whole_are_refused(shares):
    with pytest.raises(ValueError, match="together one"):
        Mix(*shares)


def test_a_recording_is_its_rate_lengths_and_spread():
    recorded = summarise([(0, 100, 50), (4, 300, 150), (2, 9000, 100)], context=4096)
    assert recorded.calls_s == pytest.approx(0.5)
    assert recorded.prompt_tokens == pytest.approx((100 + 300 + 2050) / 3)
    assert recorded.answer_tokens == 100
    assert recorded.answer_scv == pytest.approx(5000 / 3 / 100**2)
    assert recorded.arrival_scv == 0
    assert recorded.cut == pytest.approx(1 / 3)
    assert recorded_load(recorded, LOAD).answer_tokens == 100


@pytest.mark.parametrize("rows", [[], [(0, 1, 1), (1, 1, 1)], [(5, 1, 1)] * 3])
def test_a_recording_of_nothing_is_refused(rows):
    with pytest.raises(ValueError, match="three calls"):
        summarise(rows, context=4096)


def test_every_card_has_prices_with_day_and_source_or_none():
    assert [each.card for each in prices()] == list(CARDS)
    for each in prices():
        assert (each.rent_usd_h is None) == (each.rent_source is None) == (each.rent_on is None)
        assert (each.buy_usd is None) == (each.buy_on is None)
        assert 50 <= each.power_w <= 1000


def test_a_bought_card_is_written_off_and_fed():
    terms = Terms(months=10, usd_kwh=0.2, host_usd=401, host_w=50)
    expected = (1599 + 401) / 10 + 0.5 * HOURS_A_MONTH * 0.2
    assert monthly_usd(find_card("RTX 4090"), Basis.BUY, terms) == pytest.approx(expected)
    assert monthly_usd(find_card("H200"), Basis.BUY) is None


@pytest.mark.parametrize("promise", PROMISES, ids=lambda each: each.name)
def test_a_verdict_holds_what_the_cards_hold(promise):
    verdict = judge(promise, LOAD, SMALL, FULL)
    for each in verdict.plan.pools:
        assert each.instances <= instances_that_fit(each.card, each.shape, each.context, each.slots)
    assert verdict.at_once <= verdict.carried <= verdict.better_carried
    assert verdict.at_once <= sum(each.servers for each in verdict.plan.pools)
    assert any("GiB an instance" in reason for reason in verdict.reasons)


def test_promises_of_calls_at_once_are_told_from_users_who_think():
    pool_of_three = next(each for each in PROMISES if each.name == "pool")
    verdict = judge(pool_of_three, LOAD, SMALL, FULL)
    assert verdict.carried > 96 > verdict.at_once
    assert any(reason.startswith("96 at once promised") for reason in verdict.reasons)


def test_the_documents_gigabyte_is_put_right():
    told = {each.what: each for each in figures(LOAD, SMALL, FULL)}
    assert "3.4 GiB with 2" in told["VRAM of a small instance"].found
