"""Shares of slots while Redis is away: whatever gateways do by themselves, together they stay within the slots."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.admission import Share, choose_alone
from orchestrator.core.model import Engine, Instance, InstanceId, InstanceState, NodeName, Pool, PoolName

ALL = Share(0, 1)  # of the only gateway


def pool_of(*slots: int) -> Pool:
    instances = tuple(
        Instance(
            id=InstanceId(f"i{n}"),
            node=NodeName("n"),
            pool=PoolName("m"),
            host="127.0.0.1",
            port=1,
            engine=Engine.OLLAMA,
            upstream_model="m",
            slots=each,
            context=4096,
            state=InstanceState.SERVING,
        )
        for n, each in enumerate(slots)
    )
    return Pool(PoolName("m"), 4096, False, instances)


@given(slots=st.integers(1, 64), gateways=st.integers(1, 64), instance=st.text(min_size=1, max_size=20))
def test_the_shares_of_all_gateways_are_the_slots_no_more_and_no_less(slots, gateways, instance):
    assert sum(Share(index, gateways).of(slots, instance) for index in range(gateways)) == slots


@given(slots=st.integers(1, 64), gateways=st.integers(1, 64), instance=st.text(min_size=1, max_size=20))
def test_no_gateway_gets_two_more_than_another(slots, gateways, instance):
    shares = [Share(index, gateways).of(slots, instance) for index in range(gateways)]
    assert max(shares) - min(shares) <= 1


def test_instances_with_a_single_slot_are_spread_over_the_gateways():
    owners = Counter(next(index for index in range(4) if Share(index, 4).of(1, f"instance-{n}")) for n in range(400))
    assert set(owners) == {0, 1, 2, 3}
    assert min(owners.values()) > 50


@given(
    slots=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    gateways=st.integers(1, 4),
    calls=st.lists(st.integers(0, 3), max_size=60),
)
def test_gateways_that_know_nothing_of_each_other_never_use_more_than_the_slots(slots, gateways, calls):
    pool = pool_of(*slots)
    held = [Counter() for _ in range(gateways)]
    for caller in calls:
        mine = held[caller % gateways]
        if (chosen := choose_alone(pool, mine, mine, Share(caller % gateways, gateways))) is not None:
            mine[chosen.id] += 1
    for each in pool.instances:
        assert sum(mine[each.id] for mine in held) <= each.slots


@given(
    slots=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    gateways=st.integers(1, 4),
    before=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=30),
    calls=st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=60),
)
def test_whatever_redis_gave_to_whom_before_it_went_away_no_slot_is_used_twice(slots, gateways, before, calls):
    pool = pool_of(*slots)
    held = [Counter() for _ in range(gateways)]
    for caller, number in before:
        instance = pool.instances[number % len(slots)]
        if sum(mine[instance.id] for mine in held) < instance.slots:
            held[caller % gateways][instance.id] += 1
    for caller, is_over in calls:
        mine = held[caller % gateways]
        if is_over and +mine:
            mine[min(+mine)] -= 1
        elif (chosen := choose_alone(pool, mine, sum(held, Counter()), Share(caller % gateways, gateways))) is not None:
            mine[chosen.id] += 1
        for each in pool.instances:
            assert sum(mine[each.id] for mine in held) <= each.slots


def test_a_share_is_not_free_while_a_sibling_uses_it():
    assert choose_alone(pool_of(4), {}, {"i0": 4}, Share(0, 2)) is None
    assert choose_alone(pool_of(4), {}, {"i0": 3}, Share(0, 2)) is not None


def test_every_slot_can_be_used_by_a_gateway_on_its_own():
    pool, held = pool_of(2, 3), Counter()
    while (chosen := choose_alone(pool, held, held, ALL)) is not None:
        held[chosen.id] += 1
    assert held == {"i0": 2, "i1": 3}


def test_the_least_loaded_by_its_slots_is_chosen():
    chosen = choose_alone(pool_of(4, 2), {"i0": 1, "i1": 1}, {"i0": 1, "i1": 1}, ALL)
    assert chosen is not None
    assert chosen.id == "i0"


@pytest.mark.parametrize("state", [each for each in InstanceState if each is not InstanceState.SERVING])
def test_only_an_instance_that_serves_is_chosen(state):
    pool = pool_of(4)
    pool = replace(pool, instances=(replace(pool.instances[0], state=state),))
    assert choose_alone(pool, {}, {}, ALL) is None


def test_an_instance_that_was_tried_is_not_chosen_again():
    chosen = choose_alone(pool_of(4, 4), {}, {}, ALL, excluded=("i0",))
    assert chosen is not None
    assert chosen.id == "i1"
    assert choose_alone(pool_of(4), {}, {}, ALL, excluded=("i0",)) is None
