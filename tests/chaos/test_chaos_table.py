"""The page of faults: of every fault, by what was measured, and nothing else."""

from __future__ import annotations

from tests.chaos import table
from tests.chaos.faults import all_faults
from tests.chaos.schedule import SHORT, drawn, shuffled


def test_the_page_is_what_was_measured() -> None:
    assert table.PAGE.read_text() == table.page(table.load(), all_faults())


def test_every_fault_was_measured() -> None:
    assert set(table.load()) == {each.name for each in all_faults()}


def test_no_two_faults_have_one_name() -> None:
    names = [each.name for each in all_faults()]
    assert len(names) == len(set(names))


def test_a_promise_that_was_not_kept_is_on_the_page() -> None:
    name = all_faults()[0].name
    told = {"ends": {"whole": 3}, "usual_s": 1.0, "slowest_s": 2.0, "back_s": 0.5, "breaches": ["c-1 never ended"]}
    assert f"- {name}: c-1 never ended\n" in table.page({name: told}, all_faults())


def test_the_page_says_whether_a_real_engine_was_there_and_what_became_of_its_calls() -> None:
    name = all_faults()[0].name
    told = {"ends": {"whole": 3}, "usual_s": 1.0, "slowest_s": 2.0, "back_s": 0.5, "breaches": []}
    without = table.page({name: told}, all_faults())
    assert "No real engine was there" in without
    assert "| 3 whole |" in without
    beside = {"engine": "llama.cpp with a model", "engine_ends": {"whole": 1}}
    page = table.page({name: told | beside}, all_faults())
    assert "**real engine** (llama.cpp with a model)" in page
    assert "| 3 whole (of them the real engine's: 1 whole) |" in page


def test_a_seed_is_a_schedule() -> None:
    for several in ([drawn("1"), drawn("1")], [shuffled("1", all_faults()), shuffled("1", all_faults())]):
        first, again = ([each.name for each in faults] for faults in several)
        assert first == again
    assert {tuple(each.name for each in drawn(str(seed))) for seed in range(20)} != {tuple(each[0] for each in SHORT)}
