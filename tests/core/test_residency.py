"""Models are moved between servers for what it brings, and for nothing else."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.model import InstanceId
from orchestrator.core.residency import Held, Line, Mean, Move, Pressure, choose_moves, mean_over_s

LOAD_S, SERVICE_S = 1.0, 0.5


def server(name: str, resident: str = "", *, offers: str = "abc", room: int | None = 1, **more) -> Held:
    """Two slots for each model; models are letters."""
    return Held(name, dict.fromkeys(offers, 2), frozenset(resident), room=room, **more)


def line(pool: str, queued: int = 1, *, stands_s: float = 0.1, mean: Mean | None = None) -> Line:
    return Line(pool, queued, stands_s, SERVICE_S, LOAD_S, mean or Mean())


def quiet(pool: str, busy: float = 0.0) -> Line:
    return line(pool, 0, stands_s=0.0, mean=Mean(0.0, busy))


# --- a model that is in memory nowhere -------------------------------------------------------------------------------


def test_nothing_is_loaded_that_nobody_waits_for():
    assert choose_moves([server("one"), server("two", "a")], [quiet("a"), quiet("b")]) == ()


def test_a_model_that_is_nowhere_is_loaded_for_the_first_who_waits():
    assert choose_moves([server("one")], [line("a")]) == (Move("one", "a"),)


def test_it_is_loaded_where_it_takes_nothing_away():
    servers = [server("one", "b"), server("two"), server("three", "b")]
    assert choose_moves(servers, [line("a")]) == (Move("two", "a"),)


def test_otherwise_in_the_place_of_a_model_that_another_server_has_too():
    servers = [server("one", "b"), server("two", "c"), server("three", "c")]
    assert choose_moves(servers, [line("a")]) == (Move("three", "a", evicts=("c",), vacates=("c",)),)


def test_where_several_fit_into_memory_the_idle_one_goes_and_the_others_stay():
    servers = [server("one", "bc", room=2, busy={"b": 1})]
    assert choose_moves(servers, [line("a")]) == (Move("one", "a", evicts=("c",), vacates=("c",)),)


def test_a_server_of_which_nobody_knows_how_many_it_holds_is_asked_while_it_is_idle_and_decides_what_goes():
    servers = [server("one", "bc", room=None)]
    assert choose_moves(servers, [line("a")]) == (Move("one", "a", vacates=("b", "c")),)
    assert choose_moves([server("one", "bc", room=None, busy={"c": 1})], [line("a")]) == ()


def test_a_server_with_room_loads_beside_the_calls_that_it_answers():
    assert choose_moves([server("one", "b", room=2, busy={"b": 2})], [line("a")]) == (Move("one", "a"),)


def test_it_is_not_loaded_where_it_is_not():
    assert choose_moves([server("one", offers="bc")], [line("a")]) == ()


def test_one_load_is_begun_however_many_wait_and_none_while_it_is_under_way():
    servers = [server("one"), server("two")]
    assert len(choose_moves(servers, [line("a", 3)])) == 1
    assert choose_moves([server("one", loading="a"), server("two")], [line("a", 3)]) == ()


def test_a_line_that_stands_because_of_a_load_under_way_asks_for_no_other():
    waited = line("a", 5, stands_s=20.0, mean=Mean(queued=5.0))
    assert choose_moves([server("one", loading="a"), server("two")], [waited]) == ()


def test_two_models_that_are_nowhere_are_loaded_on_two_servers():
    moves = choose_moves([server("one"), server("two")], [line("a"), line("b", stands_s=1.0)])
    assert {(each.server, each.pool) for each in moves} == {("one", "b"), ("two", "a")}


def test_a_server_at_work_is_not_disturbed_at_first_and_emptied_for_who_has_waited_long():
    servers = [server("one", "b", busy={"b": 1}), server("two", "c", busy={"c": 2})]
    assert choose_moves(servers, [line("a", stands_s=3.0)]) == ()
    assert choose_moves(servers, [line("a", stands_s=5.0)]) == (
        Move("one", "a", evicts=("b",), vacates=("b",), may_wait=True),
    )


def test_two_busy_models_take_turns_on_one_server():
    lines = [line("a", 9, stands_s=5.0), line("b", 9, stands_s=9.0)]
    (move,) = choose_moves([server("one", "b", busy={"b": 2})], lines)
    assert (move.pool, move.vacates, move.may_wait) == ("a", ("b",), True)


# --- a model that has too few servers --------------------------------------------------------------------------------


def test_a_line_that_is_worked_off_sooner_than_a_load_is_left_alone():
    servers = [server("one", "a", busy={"a": 2}), server("two")]
    assert choose_moves(servers, [line("a", 7)]) == ()


def test_a_line_that_outweighs_a_load_gets_another_server():
    servers = [server("one", "a", busy={"a": 2}), server("two"), server("two more")]
    assert choose_moves(servers, [line("a", 8)]) == (Move("two", "a"),)


def test_loads_under_way_are_counted_in_for_those_behind_them():
    servers = [server("one", "a", busy={"a": 2}), server("two", loading="a"), server("three")]
    assert choose_moves(servers, [line("a", 15)]) == ()
    assert len(choose_moves(servers, [line("a", 16)])) == 1


def test_a_line_that_is_seldom_gone_gets_a_server_from_a_model_with_more_than_it_needs():
    servers = [server("one", "a", busy={"a": 2}), server("two", "b"), server("three", "b")]
    short = line("a", 1, mean=Mean(queued=1.0, busy=2.0))
    (move,) = choose_moves(servers, [short, quiet("b", busy=0.5)])
    assert (move.pool, move.vacates) == ("a", ("b",))


def test_it_gets_none_from_a_model_that_would_then_be_as_short():
    servers = [server("one", "a", busy={"a": 2}), server("two", "b"), server("three", "b")]
    short = line("a", 1, mean=Mean(queued=1.0, busy=2.0))
    assert choose_moves(servers, [short, quiet("b", busy=2.5)]) == ()


def test_the_last_place_of_a_model_is_taken_only_where_it_is_hardly_used():
    servers = [server("one", "a", busy={"a": 2}), server("two", "b")]
    short = line("a", 1, mean=Mean(queued=1.0, busy=2.0))
    assert choose_moves(servers, [short, quiet("b", busy=0.2)]) == ()
    assert len(choose_moves(servers, [short, quiet("b", busy=0.01)])) == 1


def test_nothing_goes_that_others_wait_for():
    servers = [server("one", "a", busy={"a": 2}), server("two", "b"), server("three", "b")]
    assert choose_moves(servers, [line("a", 100), line("b", 1)]) == ()


# --- by and large ----------------------------------------------------------------------------------------------------


def test_a_mean_follows_what_is_seen_and_forgets_what_was():
    seen = Pressure(4, {InstanceId("one"): 2})
    short, long = Mean().after(seen, 1, 10), Mean().after(seen, 100, 10)
    assert 0 < short.queued < 1
    assert (round(long.queued, 2), round(long.busy, 2)) == (4.0, 2.0)
    assert long.after(Pressure(), 100, 10).queued < 0.01


@pytest.mark.parametrize(("load_s", "over_s"), [(0.01, 2.0), (1.0, 10.0), (100.0, 60.0)])
def test_a_mean_is_taken_over_some_loads_within_bounds(load_s, over_s):
    assert mean_over_s(load_s) == over_s


# --- whatever there is -----------------------------------------------------------------------------------------------

models = st.sampled_from("abcd")
servers_of_any_kind = st.lists(
    st.builds(
        lambda resident, busy, room, loading: (resident, busy, room, loading),
        st.frozensets(models, max_size=3),
        st.dictionaries(models, st.integers(0, 2)),
        st.none() | st.integers(1, 3),
        st.sampled_from(["", "", "a", "b"]),
    ),
    max_size=5,
)
any_lines = st.lists(
    st.builds(
        Line,
        models,
        st.integers(0, 50),
        st.floats(0, 60),
        st.floats(0.01, 10),
        st.floats(0.1, 60),
        st.builds(Mean, st.floats(0, 50), st.floats(0, 10)),
    ),
    max_size=4,
    unique_by=lambda each: each.pool,
)


def copies(servers: Iterable[Held], pool: str) -> int:
    return sum(pool in each.resident for each in servers)


@given(servers_of_any_kind, any_lines)
def test_no_move_breaks_what_holds_for_all(kinds, lines):
    servers = [
        Held(str(n), dict.fromkeys("abcd", 2), resident - {loading}, busy, room, loading)
        for n, (resident, busy, room, loading) in enumerate(kinds)
    ]
    by_name = {each.server: each for each in servers}
    waiting = {each.pool: each.queued for each in lines}
    moves = choose_moves(servers, lines)
    assert len({each.server for each in moves}) == len(moves)
    for move in moves:
        held = by_name[move.server]
        assert waiting[move.pool] > 0
        assert move.pool not in held.resident
        assert not held.loading
        assert set(move.evicts) <= set(move.vacates) <= held.resident
        if not move.may_wait:
            assert not any(held.busy.get(each) or waiting.get(each) for each in move.vacates)
        if held.room is not None:
            assert len(held.resident) - len(move.evicts) < max(held.room, 1)
