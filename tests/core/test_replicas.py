"""How many instances a pool should have: at once more where calls wait, fewer only after a quiet while."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.placement.replicas import Decided, Seen, decide


def after(before: Decided, *seen: Seen, least: int = 1, most: int | None = 8) -> Decided:
    for each in seen:
        before = decide(before, each, slots_each=4, least=least, most=most)
    return before


def test_calls_that_wait_longer_than_a_start_takes_bring_instances():
    found = after(Decided(1), Seen(0, busy=4, slots=4, queued=6, queue_wait_s=12))
    assert found.instances == 4
    assert "6 waiting for 12 s" in found.why


def test_a_short_wait_brings_none_while_slots_are_free():
    assert after(Decided(2), Seen(0, busy=5, slots=8, queued=2, queue_wait_s=0.1)).instances == 2


def test_nearly_full_slots_bring_one_before_calls_wait():
    assert after(Decided(2), Seen(0, busy=7.5, slots=8)).instances == 3


def test_between_the_two_marks_nothing_changes():
    assert after(Decided(2), *(Seen(each * 100.0, busy=5, slots=8) for each in range(50))) == Decided(2)


def test_fewer_are_wanted_only_after_a_quiet_while():
    assert after(Decided(4), Seen(0, busy=1, slots=16), Seen(299, busy=1, slots=16)).instances == 4
    assert after(Decided(4), Seen(0, busy=1, slots=16), Seen(301, busy=1, slots=16)).instances == 1


def test_a_model_that_loads_slowly_is_kept_longer():
    slow = [Seen(at, busy=1, slots=16, load_s=60) for at in (0, 400, 1100)]
    assert after(Decided(4), *slow).instances == 4
    assert after(Decided(4), *slow, Seen(1300, busy=1, slots=16, load_s=60)).instances == 1


def test_the_most_that_the_quiet_while_needed_stays():
    assert after(Decided(6), *(Seen(at, busy, 24) for at, busy in ((0, 1), (100, 9), (301, 1)))).instances == 4


def test_a_burst_in_a_quiet_while_begins_it_anew():
    seen = [Seen(at, busy, 16) for at, busy in ((0, 1), (200, 9), (310, 1))]
    assert after(Decided(4), *seen).instances == 4


def test_a_pool_that_need_not_be_warm_goes_cold_and_comes_back():
    cold = after(Decided(1), Seen(0, 0, 4), Seen(400, 0, 4), least=0)
    assert cold.instances == 0
    assert after(cold, Seen(401, 0, 0, queued=1, queue_wait_s=0.1), least=0).instances == 1


@given(load=st.lists(st.tuples(st.floats(0, 40), st.integers(0, 50), st.floats(0, 60)), max_size=60))
@settings(max_examples=100)
def test_limits_hold_and_a_steady_load_ends_in_one_number(load: list[tuple[float, int, float]]):
    now = Decided(1)
    for at, (busy, queued, wait_s) in enumerate(load):
        now = after(now, Seen(at * 10.0, busy, now.instances * 4, queued, wait_s))
        assert 1 <= now.instances <= 8
    steady = [after(now, *(Seen(1e4 + at * 100.0, 6.0, 16) for at in range(count))).instances for count in (10, 20, 30)]
    assert len(set(steady)) == 1
