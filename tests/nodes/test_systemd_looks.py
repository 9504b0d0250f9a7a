"""What happened to units, from two looks at a host."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.nodes.keeper_units import EventKind, Exit, UnitState
from orchestrator.nodes.systemd_looks import End, Look, happened, read_looks, settled, status_of

RUNS = Look("active", "running", 100, 0, 0, 0, "run-1", "success", 5.0)
WAITS = replace(RUNS, active="activating", sub="auto-restart", pid=0, code=2, status=9, result="signal")
AGAIN = replace(RUNS, pid=101, restarts=1, run="run-2")
COMING = replace(AGAIN, active="activating", sub="start-pre", pid=0)
ENDING = replace(RUNS, active="deactivating", sub="final-sigterm", pid=0, code=2, status=9)
STOPPED = replace(RUNS, active="inactive", sub="dead", pid=0, code=2, status=15)
TIMED_OUT = replace(STOPPED, active="failed", sub="failed", status=9, result="timeout")
GAVE_UP = replace(STOPPED, active="failed", sub="failed", code=1, status=1, result="start-limit-hit")
UNSTARTED = replace(WAITS, run="run-2", code=0, status=0, result="resources")


def events(before, now, **ends):
    looks = [{} if each is None else {"a": each} for each in (before, now)]
    return [(each.kind.value, each.pid, each.exit) for each in happened(*looks, ends, 1000)]


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (RUNS, RUNS, []),
        (None, RUNS, [("started", 100, None)]),
        (STOPPED, RUNS, [("started", 100, None)]),
        (RUNS, WAITS, [("exited", 100, Exit(signal=9))]),
        (WAITS, AGAIN, [("started", 101, None)]),
        (WAITS, COMING, []),
        (COMING, AGAIN, [("started", 101, None)]),
        (RUNS, COMING, [("exited", 100, None)]),
        (RUNS, AGAIN, [("exited", 100, None), ("started", 101, None)]),
        (RUNS, replace(AGAIN, restarts=0), [("stopped", 100, None), ("started", 101, None)]),
        (RUNS, STOPPED, [("stopped", 100, Exit(signal=15))]),
        (RUNS, TIMED_OUT, [("stopped", 100, Exit(signal=9))]),
        (RUNS, GAVE_UP, [("exited", 100, Exit(code=1))]),
        (WAITS, GAVE_UP, [("exited", None, Exit(code=1))]),
        (WAITS, UNSTARTED, [("exited", None, None)]),
        (RUNS, None, [("stopped", 100, None)]),
        (STOPPED, None, []),
        (RUNS, ENDING, []),
    ],
)
def test_two_looks_tell_what_happened_between_them(before, now, expected):
    assert events(before, now) == expected


def test_a_unit_on_its_way_down_is_judged_by_where_it_arrives():
    kept = settled({"a": RUNS}, {"a": ENDING})
    assert kept == {"a": RUNS}
    assert [each.kind for each in happened(kept, {"a": WAITS}, {}, 0)] == [EventKind.EXITED]


def test_an_end_that_two_looks_missed_is_the_journals():
    end = End(1, 3, ("listening", "out of memory"), "")
    [exited, _] = happened({"a": RUNS}, {"a": AGAIN}, {"a": end}, 7)
    assert (exited.exit, exited.lines, exited.at_unix_ms) == (Exit(code=3), end.lines, 7)


def test_how_a_unit_stands_is_told_by_our_own_clock():
    assert status_of("gpu-1-a", RUNS, Exit(code=1), 10_000).since_unix_ms == 5_000
    seen = status_of("gpu-1-a", WAITS, None, 10_000)
    assert (seen.name, seen.pid, seen.state, seen.last_exit) == (
        "engine-gpu-1-a",
        None,
        UnitState.WAITING,
        Exit(signal=9),
    )


def test_what_is_no_look_is_refused():
    with pytest.raises(ValueError, match="pid"):
        read_looks({"a": {"active": "active"}})
