"""The controllers of two machines on one Redis: one leads, the other does nothing until that one is gone."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest
from asking import streaming

from tests.chaos.parts import Side
from tests.chaos.world import World
from tests.cluster.running import ollamactl, until

# A world of some fifteen processes is begun first; on a machine that has much to do it takes its time.
pytestmark = pytest.mark.timeout(600)


def machine(side: Side, of: Side | None = None) -> dict[str, Any]:
    """What `side` tells of a machine, by default of itself."""
    told = side.status()["machines"]
    found: dict[str, Any] = next((each for each in told if each["name"].endswith(f":{(of or side).state}")), {})
    return found


def roles(pair: World) -> tuple[Side, Side]:
    """Who leads, and who stands by."""
    one, other = pair.sides
    until(
        lambda: {machine(one).get("controller"), machine(one, other).get("controller")} == {"leads", "stands by"},
        "one leads, the other stands by",
    )
    return (one, other) if machine(one)["controller"] == "leads" else (other, one)


def states(side: Side) -> set[str]:
    """Of the servers, as published."""
    return {each["state"] for each in side.status()["given"]}


def test_status_says_who_leads_who_stands_by_and_which_gateways_there_are(pair: World) -> None:
    leader, other = roles(pair)
    assert machine(other, leader)["gateways"] == machine(other)["gateways"] == pair.plan.workers
    told = ollamactl("status", "--state", other.state, cwd=other.state.parent, env=os.environ | {"COLUMNS": "200"})
    assert told.returncode == 0, told.stderr
    words = {line.split(" ")[1]: line for line in told.stdout.splitlines() if ":/" in line}
    told_of = {each.partition(":")[2]: line for each, line in words.items()}
    assert "leads" in told_of[str(leader.state)]
    assert "stands by" in told_of[str(other.state)]


def test_a_controller_that_was_paused_past_its_time_does_nothing_when_it_wakes(pair: World) -> None:
    leader, other = roles(pair)
    paused, said = leader.controller(), len(leader.log_of("controller"))

    def woken() -> str:
        return leader.log_of("controller")[said:]

    with streaming(other, tokens=400) as lines:
        os.kill(paused, signal.SIGSTOP)
        try:
            until(lambda: machine(other).get("controller") == "leads", "the other leads")
        finally:
            os.kill(paused, signal.SIGCONT)
        until(lambda: "leads no longer" in woken(), "it knows that it does not lead")
        until(lambda: "stands by: another controller leads" in woken(), "it stands by")
        assert '"done":true' in list(lines)[-1]
    assert leader.controller() == paused
    assert roles(pair) == (other, leader)
    assert "loaded" not in woken()


def test_a_leader_that_ends_in_order_is_followed_at_once(pair: World) -> None:
    leader, other = roles(pair)
    leader.stop()
    until(lambda: machine(other).get("controller") == "leads", "the other leads")


def test_when_a_whole_machine_dies_the_other_leads_and_looks_after_what_was_its(pair: World) -> None:
    leader, other = roles(pair)
    began_s = time.monotonic()
    leader.kill()
    until(lambda: machine(other).get("controller") == "leads", "the other leads")
    took_s = time.monotonic() - began_s
    pair.instances[0].kill()
    until(lambda: "down" in states(other), "it looks after the servers from now on")
    seen_s = time.monotonic() - began_s
    pair.instances[0].start()
    until(lambda: "down" not in states(other), "and sees them come back")
    print(f"\nanother machine led after {took_s:.1f} s, and had published what it saw after {seen_s:.1f} s")
