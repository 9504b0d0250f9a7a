"""From what runs to what is wanted: a table of changes, and what holds on every way."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.model import Footprint, InstanceId, NodeName, Placement, PoolName
from orchestrator.fleet.apply import Change, Running, Steps, held_bytes, silenced

CARD = "GPU-0"


def placed(
    name: str, pool: str = "small", card: str = CARD, size: int = 6, context: int = 4096, node: str = "n"
) -> Placement:
    footprint = Footprint(size, 0, 0, 0, 0)
    return Placement(InstanceId(name), PoolName(pool), NodeName(node), (card,), 2, context, footprint, "")


def running(*placements: Placement, serving: bool = True, terms: str = "f16") -> dict[str, Running]:
    return {each.instance: Running(each, terms, serving) for each in placements}


def change(
    *wanted: Placement, began: dict[str, Running], terms: str = "f16", usable: int = 0, at_once: float = 0.0
) -> Change:
    return Change(wanted, {"small": terms, "full": terms}, began, {CARD: usable}, at_once)


def test_what_runs_as_wanted_is_left_alone() -> None:
    now = running(placed("a"), placed("b"))
    assert change(placed("a"), placed("b"), began=now).steps(now).is_empty


def test_another_context_slots_card_or_cache_type_is_another_instance() -> None:
    now = running(placed("a"))
    for wanted, terms in ((placed("a", context=1), "f16"), (placed("a", card="GPU-1"), "f16"), (placed("a"), "q8_0")):
        steps = change(wanted, began=now, terms=terms).steps(now)
        assert (steps.start, steps.stop) == ((wanted,), (InstanceId("a"),))


def test_terms_that_nobody_knows_any_more_are_no_reason_to_restart() -> None:
    now = running(placed("a"), terms="")
    assert change(placed("a"), began=now).steps(now).is_empty


def test_the_instances_of_a_pool_are_replaced_one_by_one() -> None:
    old, new = (placed("a"), placed("b")), (placed("a", context=1), placed("b", context=1))
    now = running(*old)
    way = change(*new, began=now)
    assert way.wave(now) == Steps((), (InstanceId("a"),))
    assert way.wave({**now, "a": Running(old[0], "f16", False, True)}) == Steps((), ())
    assert way.wave(running(old[1])) == Steps((new[0],), ())
    assert way.wave({**running(old[1]), **running(new[0], serving=False)}).is_empty
    assert way.wave({**running(old[1]), **running(new[0])}) == Steps((), (InstanceId("b"),))


def test_a_new_instance_that_does_not_come_up_leaves_the_old_ones_serving() -> None:
    now = {**running(placed("b")), **running(placed("a", context=1), serving=False)}
    assert change(placed("a", context=1), placed("b", context=1), began=now).wave(now).is_empty


def test_a_share_of_a_pool_is_replaced_at_the_same_time_and_never_all_of_it() -> None:
    names = ("a", "b", "c", "d")
    now = running(*map(placed, names))
    new = [placed(each, context=1) for each in names]
    assert change(*new, began=now, at_once=0.5).wave(now).stop == ("a", "b")
    assert change(*new, began=now, at_once=0.7).wave(now).stop == ("a", "b")
    assert len(change(*new, began=now, at_once=1.0).wave(now).stop) == 3
    assert change(*new, began=now, at_once=0.1).wave(now).stop == ("a",)
    two_gone = running(placed("c"), placed("d"))
    coming = {**two_gone, **running(new[0], new[1], serving=False)}
    assert change(*new, began=now, at_once=0.5).wave(coming).is_empty


def test_what_is_on_a_host_that_is_away_is_left_alone_and_the_others_go_on() -> None:
    here, there = placed("a", node="here"), placed("b", card="GPU-9", node="there")
    third = placed("c", node="here")
    now = {**running(here, third), **running(there, serving=False)}
    wanted = [
        placed(each.instance, card=each.accelerators[0], context=1, node=each.node) for each in (here, there, third)
    ]
    way = change(*wanted, began=now)
    assert way.wave(now, {"there"}) == Steps((), (InstanceId("a"),))
    changed = {**running(wanted[0], wanted[2]), **running(there, serving=False)}
    assert way.wave(changed, {"there"}).is_empty
    assert way.steps(changed, {"there"}).is_empty
    assert not way.steps(changed).is_empty


def test_the_last_that_serves_of_a_pool_stays_while_the_others_are_on_a_host_that_is_away() -> None:
    here, there = placed("a", node="here"), placed("b", card="GPU-9", node="there")
    now = {**running(here), **running(there, serving=False)}
    way = change(placed("a", context=1, node="here"), there, began=now)
    assert way.wave(now, {"there"}).is_empty
    assert way.wave(now, set()).is_empty, "the other is on its way up"
    assert way.wave({**now, **running(there)}, set()).stop == ("a",)


def test_one_that_its_operator_keeps_from_calls_holds_nothing_up() -> None:
    old = placed("a"), placed("b")
    now = {**running(old[0]), "b": Running(old[1], "f16", is_serving=False, is_resting=True)}
    assert change(placed("a", context=1), old[1], began=now).wave(now).stop == ("a",)


def test_what_serves_nobody_is_stopped_at_once() -> None:
    now = running(placed("a"), placed("b"), serving=False)
    assert set(change(placed("c"), began=now, usable=0).wave(now).stop) == {"a", "b"}


def test_a_pool_no_longer_asked_for_goes_at_once_and_the_room_it_held_is_taken_afterwards() -> None:
    now = running(placed("a"), placed("b"))
    way = change(placed("f", "full", size=12), began=now)
    assert way.wave(now) == Steps((), (InstanceId("a"), InstanceId("b")))
    assert way.wave({}) == Steps((placed("f", "full", size=12),), ())


def test_where_there_is_room_for_both_the_new_one_comes_first() -> None:
    now = running(placed("a"))
    way = change(placed("f", "full"), placed("b"), began=now, usable=24)
    assert way.wave(now) == Steps((placed("f", "full"), placed("b")), ())


def test_a_pool_that_would_lose_its_last_instance_is_named_unless_nobody_asks_for_it() -> None:
    now = running(placed("a"), placed("f", "full"))
    assert silenced([placed("a")], ["small", "full"], now) == ("full",)
    assert silenced([placed("a")], ["small"], now) == ()


plans = st.lists(
    st.builds(
        lambda name, pool, card, context: placed(f"{pool}-{name}", pool, f"GPU-{card}", 6, context),
        st.integers(0, 3),
        st.sampled_from(["small", "full"]),
        st.integers(0, 1),
        st.sampled_from([1024, 4096]),
    ),
    max_size=6,
    unique_by=lambda each: each.instance,
)


@given(old=plans, new=plans, at_once=st.sampled_from([0.0, 0.5, 1.0]))
def test_every_change_comes_to_its_end_and_no_wave_takes_more_than_either_plan(
    old: list[Placement], new: list[Placement], at_once: float
) -> None:
    now = running(*old)
    way = Change(new, {"small": "f16", "full": "f16"}, now, at_once=at_once)
    most = held_bytes(old) | held_bytes(new)
    for _ in range(2 * (len(old) + len(new)) + 1):
        wave = way.wave(now)
        now = {name: each for name, each in now.items() if name not in wave.stop}
        now |= {each.instance: Running(each, "f16", True) for each in wave.start}
        assert held_bytes(each.placement for each in now.values()) <= most
    assert way.steps(now).is_empty
    assert {each.placement for each in now.values()} == set(new)


@given(old=plans, new=plans, at_once=st.sampled_from([0.0, 0.5, 1.0]))
def test_a_pool_with_two_instances_keeps_one_through_any_change_that_leaves_it_one(
    old: list[Placement], new: list[Placement], at_once: float
) -> None:
    now = running(*old)
    way = Change(new, {"small": "f16", "full": "f16"}, now, {"GPU-0": 10**9, "GPU-1": 10**9}, at_once)
    lasting = {each for each, count in Counter(one.pool for one in old).items() if count >= 2}
    lasting &= {each.pool for each in new}
    while not (wave := way.wave(now)).is_empty:
        now = {name: each for name, each in now.items() if name not in wave.stop}
        assert lasting <= {each.placement.pool for each in now.values() if each.is_serving}
        now |= {each.instance: Running(each, "f16", True) for each in wave.start}
