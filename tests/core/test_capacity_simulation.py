"""The simulated cluster: agrees with queueing theory, loses no call, sells no slot twice, and checks predictions."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.capacity.asking import Asked, AsRecorded, ByMix, drawn, mix_of_questions
from orchestrator.core.capacity.carrying import Plan, carry, users_carried
from orchestrator.core.capacity.comparing import MARGIN, Play, compare, curve, is_beyond, users_played
from orchestrator.core.capacity.demand import Goals, Load, Mix
from orchestrator.core.capacity.leasing import choose_leased
from orchestrator.core.capacity.placed import placed
from orchestrator.core.capacity.queueing import closed_queue, open_queue
from orchestrator.core.capacity.service import further_slots_s
from orchestrator.core.capacity.simulation import Arrival, Hour, simulate
from orchestrator.core.cards import find_card
from orchestrator.core.physics import decode_step_s, kv_bytes_per_token, prefill_s
from tests.core.capacity_plans import FULL, SMALL, pool

ALL_FULL = Mix(0.0, 0.0, 1.0)
LOAD = Load(users=200)


def of_full(**more: int) -> Plan:
    return Plan("full", None, pool(**more))


def exponential(mean: float):
    """Questions without a prompt, whose answers have lengths without a memory: what closed forms are about."""

    def ask(rng: Random) -> Asked:
        return Asked("full", 0.0, rng.expovariate(1 / mean))

    return ask


def token_s(slots: int = 1, held: float = 10.0) -> float:
    """A token's time where `slots` of an instance alone on its card write, each with so many tokens in its cache."""
    one = pool()
    live = slots * held * kv_bytes_per_token(one.shape)
    return decode_step_s(one.card, one.shape, live, slots=slots) + (further_slots_s(one, slots) if slots > 1 else 0)


def one_call(plan: Plan, asked: Asked) -> float:
    """How long a call alone takes."""
    seen = simulate(plan, LOAD, Random(1), hour=Hour(1000.0, 0.0), arrivals=[Arrival(1.0, asked)])
    return seen.tiers[0].p50_s


# --- against closed forms --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("servers", "load"), [(1, 0.6), (4, 0.8), (8, 0.9)])
def test_slots_of_one_pace_with_random_calls_are_m_m_c(servers, load):
    tokens = 20.0
    service_s = tokens * token_s()
    rate = servers * load / service_s
    rng, at_s, calls = Random(5), 0.0, []
    for _ in range(40_000):
        at_s += rng.expovariate(rate)
        calls.append(Arrival(at_s, exponential(tokens)(rng)))
    hour = Hour(at_s * 0.95, at_s * 0.05)
    seen = simulate(of_full(cards=servers, slots=1), LOAD, rng, hour=hour, arrivals=calls).tiers[0]
    expected = open_queue(rate, [service_s] * servers)
    assert seen.waits == pytest.approx(expected.waits, rel=0.06)
    assert seen.wait_s == pytest.approx(expected.wait_s, rel=0.15)
    assert seen.utilisation == pytest.approx(load, rel=0.03)


def test_slots_that_slow_each_other_down_before_few_users_are_the_birth_death_chain():
    tokens, think_s, users = 20.0, 1.0, 12
    load = replace(LOAD, users=users, think_s=think_s, mix=ALL_FULL)
    seen = simulate(of_full(slots=4), load, Random(3), hour=Hour(4000.0, 20.0), asking=exponential(tokens))
    times = [tokens * token_s(slots) for slots in (1, 2, 3, 4)]
    expected = closed_queue(users, think_s, times)
    assert seen.calls_s == pytest.approx(expected.calls_s, rel=0.02)
    assert seen.tiers[0].utilisation == pytest.approx(expected.utilisation, rel=0.02)
    assert seen.tiers[0].wait_s == pytest.approx(expected.wait_s, rel=0.1, abs=0.002)


def test_users_are_thinking_waiting_or_served():
    load = replace(LOAD, users=300, think_s=10.0)
    plan = Plan("two", pool(SMALL, slots=8), pool(slots=8))
    seen = simulate(plan, load, Random(2), hour=Hour(1800.0, 100.0))
    response_s = sum(each.share * each.mean_s for each in seen.tiers)
    assert seen.calls_s * (load.think_s + response_s) == pytest.approx(load.users, rel=0.02)


# --- one call on one card --------------------------------------------------------------------------------------------


def test_a_call_alone_takes_what_physics_says():
    expected = prefill_s(find_card("RTX 4080"), FULL.shape, 300) + 100 * token_s(held=350)
    assert one_call(of_full(), Asked("full", 300, 100)) == pytest.approx(expected, rel=0.01)


def test_a_long_prompt_is_read_in_steps_and_one_beyond_the_context_is_cut():
    card = find_card("RTX 4080")
    long = one_call(of_full(), Asked("full", 2000, 1))
    assert long == pytest.approx(prefill_s(card, FULL.shape, 2000) + 4 * token_s(held=0), rel=0.02)
    assert one_call(of_full(), Asked("full", 9000, 1)) < 1.05 * one_call(of_full(), Asked("full", 2050, 1))


def test_after_months_a_call_still_ends_when_it_is_due():
    late = [Arrival(3e7 + n, Asked("full", 300, 100.1)) for n in range(20)]
    seen = simulate(of_full(), LOAD, Random(1), hour=Hour(4e7, 0.0), arrivals=late)
    assert seen.answered == 20
    assert seen.tiers[0].p50_s == pytest.approx(one_call(of_full(), Asked("full", 300, 100.1)), rel=0.2)


def test_calls_on_one_card_slow_each_other_down_and_on_two_cards_do_not():
    both = [Arrival(1.0, Asked("full", 0, 100)), Arrival(1.0, Asked("full", 0, 100))]
    hour = Hour(100.0, 0.0)
    alone = one_call(of_full(), Asked("full", 0, 100))
    shared = simulate(of_full(slots=1, instances=2), LOAD, Random(1), hour=hour, arrivals=both)
    apart = simulate(of_full(slots=1, cards=2), LOAD, Random(1), hour=hour, arrivals=both)
    assert apart.tiers[0].p50_s == pytest.approx(alone)
    assert shared.tiers[0].p50_s > 1.8 * alone


def test_as_the_simulated_engines_play_it_further_slots_cost_memory_reads_alone():
    both = [Arrival(1.0, Asked("full", 0, 100))] * 4
    played = [
        simulate(of_full(slots=4), LOAD, Random(1), hour=Hour(100.0, 0.0), arrivals=both, is_batch_free=free)
        for free in (False, True)
    ]
    real, batch_free = (each.tiers[0].p50_s for each in played)
    assert batch_free < real
    assert batch_free == pytest.approx(one_call(of_full(), Asked("full", 0, 100)), rel=0.05)


# --- what always holds -----------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(
    users=st.integers(1, 120),
    think_s=st.floats(0.1, 30),
    slots=st.integers(1, 6),
    cards=st.integers(1, 3),
    instances=st.integers(1, 2),
    hit=st.floats(0, 1),
    seed=st.integers(0, 9),
)
def test_no_slot_is_sold_twice_and_no_call_is_lost(users, think_s, slots, cards, instances, hit, seed):
    load = replace(LOAD, users=users, think_s=think_s, mix=Mix().with_hit_rate(hit))
    full = pool(card="A100-40GB", slots=slots, cards=cards, instances=instances)
    plan = Plan("two", pool(SMALL, slots=slots, cards=cards), full)
    there = placed(plan)
    seen = simulate(there, load, Random(seed), hour=Hour(30.0, 5.0))
    assert not there.refused
    offered = {each.id: each.slots for tier in there.tiers for each in tier.serving.instances}
    assert all(most <= offered[name] for name, most in seen.most_used.items())
    assert seen.asked == seen.answered + seen.under_way
    assert 0 <= seen.under_way <= users
    assert all(0 <= each.utilisation <= 1 + 1e-9 for each in seen.tiers)
    assert all(each.p50_s <= each.p95_s <= each.p99_s for each in seen.tiers)


def test_one_seed_is_one_hour_and_another_is_another():
    plan = Plan("two", pool(SMALL), pool())
    hour = Hour(300.0, 30.0)
    one, again, other = (simulate(plan, LOAD, Random(seed), hour=hour) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_the_mix_is_drawn_and_a_hit_takes_no_slot():
    seen = simulate(Plan("two", pool(SMALL, cards=2), pool()), LOAD, Random(1))
    for tier, share in (("cache", 0.6), ("small", 0.3), ("full", 0.1)):
        told = seen.tier(tier)
        assert told is not None
        assert told.share == pytest.approx(share, rel=0.05)
    assert seen.tiers[0].p99_s == pytest.approx(LOAD.cache_s)


def test_a_tier_without_a_pool_is_answered_by_the_other():
    seen = simulate(of_full(cards=2), LOAD, Random(1), hour=Hour(300.0, 30.0))
    assert {each.tier for each in seen.tiers} == {"cache", "full"}


def test_where_no_instance_is_it_is_said_with_placements_words():
    with pytest.raises(ValueError, match="no instance answers"):
        simulate(Plan("none", None, None), LOAD, Random(1))
    too_much = of_full(slots=64, card="RTX 3060")
    with pytest.raises(ValueError, match=r"no instance answers .*full: "):
        simulate(too_much, LOAD, Random(1))


def test_placement_puts_what_a_plan_promises_on_cards_of_its_tier():
    there = placed(Plan("two", pool(SMALL, cards=2, instances=3), pool(cards=1, instances=2)))
    small, full = there.tiers
    assert Counter(each.node for each in small.serving.instances) == {"small-0": 3, "small-1": 3}
    assert Counter(each.node for each in full.serving.instances) == {"full-0": 2}
    assert (small.slots, full.slots) == (24, 8)


# --- which instance --------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 8)), min_size=1, max_size=8), st.integers(0, 99))
def test_the_instance_leased_has_room_and_is_the_least_loaded(seats, turn):
    slots, used = [each for each, _ in seats], [min(each) for each in seats]
    chosen = choose_leased(slots, used, turn)
    free = [at for at in range(len(slots)) if used[at] < slots[at]]
    assert (chosen is None) == (not free)
    if chosen is not None:
        assert chosen in free
        assert used[chosen] / slots[chosen] == min(used[at] / slots[at] for at in free)


def test_idle_instances_take_turns():
    assert [choose_leased([2, 2, 2], [0, 0, 0], turn) for turn in range(4)] == [0, 1, 2, 0]


# --- what is asked ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scv", [0.0, 0.5, 1.0, 3.0])
def test_lengths_have_their_mean_and_spread(scv):
    rng = Random(4)
    values = [drawn(100.0, scv, rng) for _ in range(60_000)]
    mean = sum(values) / len(values)
    assert mean == pytest.approx(100, rel=0.03)
    assert sum((each - mean) ** 2 for each in values) / len(values) / mean**2 == pytest.approx(scv, rel=0.2, abs=1e-9)


def test_recorded_questions_keep_their_answers():
    ask = AsRecorded(ALL_FULL, [(10, 1000), (1000, 10)])
    rng = Random(1)
    assert {ask(rng) for _ in range(50)} == {Asked("full", 10, 1000), Asked("full", 1000, 10)}
    assert ByMix(replace(LOAD, answer_scv=0.0, mix=ALL_FULL))(rng) == Asked("full", 300.0, 100.0)


def test_the_mix_of_questions_is_what_the_router_makes_of_them():
    mix = mix_of_questions(["hi", "prove it", "hi", "hello"], lambda text: "full" if "prove" in text else "small")
    assert (mix.cache, mix.small, mix.full) == (0.25, 0.5, 0.25)
    with pytest.raises(ValueError, match="no question"):
        mix_of_questions([], lambda text: "small")


# --- beside the prediction -------------------------------------------------------------------------------------------


def test_one_instance_a_card_does_as_predicted():
    plan = Plan("two", pool(SMALL, slots=8), pool(slots=8))
    load = LOAD.with_users(users_carried(plan, LOAD))
    found = compare(plan, load, Play(Random))
    for tier in found.predicted.tiers:
        seen = found.played.tier(tier.tier)
        assert seen is not None
        assert seen.p95_s == pytest.approx(tier.p95_s, rel=0.12)
        assert seen.utilisation == pytest.approx(tier.utilisation, abs=0.04)


def test_instances_that_share_cards_are_said_to_do_worse_than_predicted():
    plan = of_full(card="A100-40GB", cards=4, instances=6, slots=2)
    found = compare(plan, replace(LOAD, users=96, mix=ALL_FULL), Play(Random))
    (said,) = found.differs
    assert said.startswith("full p95: predicted ")
    assert "6 instances share a card" in said


def test_what_placement_would_not_start_is_told():
    found = compare(of_full(instances=3, slots=4), LOAD.with_users(5), Play(Random, hour=Hour(60.0, 5.0)))
    assert any(said.startswith("placement would not start all of it: full: ") for said in found.differs)


def test_users_carried_when_played_keep_the_goals_and_many_more_do_not():
    plan, play = of_full(slots=8), Play(Random, hour=Hour(600.0, 60.0))
    load = replace(LOAD, mix=ALL_FULL)
    carried = users_played(plan, load, users_carried(plan, load), play)
    assert play.of(plan, load.with_users(carried)).is_within
    assert not play.of(plan, load.with_users(round(carried * 1.3))).is_within
    assert users_played(plan, replace(load, goals=Goals(full_s=0.01)), 10, play) == 0


def test_few_users_are_watched_for_longer_and_a_recording_for_its_own_time():
    play = Play(Random, hour=Hour(600.0, 60.0))
    assert play.hour_for(LOAD.with_users(10_000)).seconds == 600
    assert play.hour_for(LOAD.with_users(1)).seconds == pytest.approx(2000 / 0.1 * LOAD.think_s)
    assert replace(play, arrivals=()).hour_for(LOAD.with_users(1)) == play.hour


def test_a_curve_has_both_numbers_for_every_tier():
    plan = Plan("two", pool(SMALL), pool())
    drawn_points = curve(plan, LOAD, (10, 60), Play(Random, hour=Hour(120.0, 10.0)))
    assert [(each.users, each.tier) for each in drawn_points] == [
        (count, tier) for count in (10, 60) for tier in ("small", "full")
    ]
    assert all(each.played_s is not None for each in drawn_points)
    assert drawn_points[0].predicted_s == carry(plan, LOAD.with_users(10)).tiers[1].p95_s
    assert all(each.played_s is None for each in curve(plan, LOAD, (10,), None))


@pytest.mark.parametrize(("predicted", "played", "beyond"), [(1.0, 1.09, False), (1.0, 1.2, True), (100, 80, True)])
def test_the_margin_is_a_part_of_the_prediction(predicted, played, beyond):
    assert MARGIN == 0.10
    assert is_beyond(predicted, played) is beyond
