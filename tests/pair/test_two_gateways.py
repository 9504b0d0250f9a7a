"""The gateways of two machines on one Redis: each gives back what was its own, and both keep to the slots."""

from __future__ import annotations

import os
import signal

import httpx
import pytest
from asking import Asking, most_at_once, streaming, taken

from tests.chaos.world import SLOTS, World

# A world of some fifteen processes is begun first; on a machine that has much to do it takes its time.
pytestmark = pytest.mark.timeout(600)


def in_flight(pair: World, name: str) -> int:
    return sum(each.in_flight for load in pair.loads() for each in load.instances if each.instance.startswith(name))


def test_workers_that_start_give_back_what_their_own_earlier_lives_held_and_nothing_of_the_other_machine(
    pair: World,
) -> None:
    one, (a, b) = pair.instances[0], pair.sides
    one.behave(slower=20.0)
    with streaming(a) as of_a, streaming(b):
        pair.until(lambda: in_flight(pair, one.name) == SLOTS, "both hold a slot")
        before = b.workers()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        pair.until(lambda: len(set(b.workers()) - set(before)) == len(before), "other workers run")
        pair.until(lambda: in_flight(pair, one.name) < SLOTS, "they gave back what was theirs")
        assert in_flight(pair, one.name) == 1
        one.behave()
        assert '"done":true' in list(of_a)[-1]


def test_without_redis_both_machines_together_keep_to_the_slots(pair: World) -> None:
    one, (a, b) = pair.instances[0], pair.sides
    one.behave(slower=20.0)  # so that both are under way until it is told otherwise
    with streaming(a, tokens=40), streaming(a, tokens=40):
        pair.until(lambda: in_flight(pair, one.name) == SLOTS, "one machine has all slots")
        pair.store.servers[0].kill()
        asking = Asking()
        before = taken(one)
        for side in (a, b) * 6:
            asking.ask(side)
        one.behave()
        pair.until(lambda: taken(one) >= before + 4, "they are served without Redis")
        pair.store.servers[0].start()
        replies = asking.end()
    statuses = [each.status_code if isinstance(each, httpx.Response) else repr(each) for each in replies]
    assert statuses == [200] * 12
    assert most_at_once(one) <= SLOTS
