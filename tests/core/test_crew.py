"""The places that share one Redis: who counts, for how long, and how the slots are divided among them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.members import FORGOTTEN_AFTER_S, Crew, Member

ONE, TWO = Member("a", "one:/srv", 2), Member("b", "two:/srv", 3)


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 4), min_size=1), st.integers(0, 64))
def test_the_shares_of_all_places_add_up_to_the_slots_of_each_instance(workers: dict[str, int], slots: int) -> None:
    members = [Member(place, place, count) for place, count in workers.items()]
    crew = Crew().after(members, 0.0)
    shares = [crew.share(each, index) for each in members for index in range(each.workers)]
    assert sum(each.of(slots, "gpu-1") for each in shares) == slots
    assert {each.index for each in shares} == set(range(len(shares)))
    assert {each.elsewhere for each in shares} == {len(shares) - each.workers for each in members}


def test_a_place_counts_itself_also_where_nobody_told_of_it() -> None:
    assert Crew().share(ONE, 1).gateways == 2
    assert Crew().after([TWO], 0.0).share(ONE, 1).gateways == 5


def test_who_is_silent_is_counted_until_it_is_gone_for_good() -> None:
    crew = Crew().after([ONE, TWO], 0.0).after([ONE], 10.0)
    assert crew.share(ONE, 0).elsewhere == TWO.workers
    assert crew.after([ONE], 9.9 + FORGOTTEN_AFTER_S).share(ONE, 0).elsewhere == TWO.workers
    assert crew.after([ONE], 10.0 + FORGOTTEN_AFTER_S).share(ONE, 0).elsewhere == 0


def test_who_is_heard_of_again_has_all_of_the_time_again() -> None:
    crew = Crew().after([ONE, TWO], 0.0).after([ONE], 10.0).after([ONE, TWO], 50.0).after([ONE], 60.0)
    assert crew.after([ONE], 100.0).share(ONE, 0).elsewhere == TWO.workers


def test_a_redis_that_comes_back_empty_makes_nobody_gone() -> None:
    crew = Crew().after([ONE, TWO], 0.0).after([ONE], 10.0)
    late = 11.0 + FORGOTTEN_AFTER_S
    assert crew.anew().after([ONE], late).share(ONE, 0).elsewhere == TWO.workers


def test_a_place_that_starts_with_other_workers_is_counted_as_it_is_now() -> None:
    crew = Crew().after([ONE, TWO], 0.0).after([ONE, Member("b", "two:/srv", 1)], 2.0)
    assert crew.share(ONE, 0).gateways == 3
