"""A pair of machines while Sentinels make another Redis the master: calls wait for it, and go on."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest
from asking import Asking, has_store, most_at_once, streaming

from tests.chaos.world import SLOTS, Plan, world_of
from tests.cluster.running import needs_redis, until

# A world of some fifteen processes is begun first; on a machine that has much to do it takes its time.
pytestmark = pytest.mark.timeout(600)


def test_after_a_fail_over_one_controller_leads_and_every_call_is_answered(tmp_path: Path) -> None:
    needs_redis()
    with world_of(tmp_path, Plan(instances=2)) as world:
        one, (a, b) = world.instances[0], world.sides
        asking = Asking()
        with streaming(a, tokens=100) as lines:
            began_s = time.monotonic()
            world.store.master().kill()
            for side in (a, b) * 3:
                asking.ask(side)
            until(lambda: has_store(a) and has_store(b), "both machines serve with the other Redis")
            took_s = time.monotonic() - began_s
            assert '"done":true' in list(lines)[-1]
        replies = asking.end()
        assert [each.status_code if isinstance(each, httpx.Response) else repr(each) for each in replies] == [200] * 6
        assert most_at_once(one) <= SLOTS

        def roles() -> list[str]:
            return sorted(each["controller"] for each in a.status()["machines"])

        until(lambda: roles() == ["leads", "stands by"], "one of them leads")
        until(world.is_idle, "no slot is held")
        print(f"\nboth machines had the other Redis after {took_s:.1f} s")
        world.store.servers[0].start()
