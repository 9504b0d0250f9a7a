"""Callers by token, whom no settings name: those that asked last are known to whoever tells of budgets."""

from __future__ import annotations

import time

import pytest

from orchestrator.app.counts import read_counts
from orchestrator.core.limits import DAY_MS, Need
from orchestrator.core.target import Budget
from orchestrator.store import budgets, callers
from orchestrator.store.budgets import Claim
from orchestrator.store.connection import Connection
from orchestrator.store.schema import CALLERS

NOW_MS = 1_796_083_200_000
ALICE, BOB = Budget(rpm=5, usd_month=2.5), Budget(tpd=1000)


async def test_the_last_to_ask_comes_first_with_what_it_may_use_now_and_is_forgotten_after_a_day(store: Connection):
    await callers.note(store, {})
    assert await callers.seen(store, NOW_MS) == {}
    await callers.note(store, {"key:co/alice": (BOB, NOW_MS), "key:co/bob": (BOB, NOW_MS + 1)})
    await callers.note(store, {"key:co/alice": (ALICE, NOW_MS + 2)})
    assert list((await callers.seen(store, NOW_MS + 2)).items()) == [("key:co/alice", ALICE), ("key:co/bob", BOB)]
    assert list(await callers.seen(store, NOW_MS + DAY_MS + 2)) == ["key:co/alice"]
    assert await callers.seen(store, NOW_MS + DAY_MS + 3) == {}
    assert 0 < await store.command("PTTL", CALLERS) <= DAY_MS


async def test_no_more_are_kept_than_anybody_reads(store: Connection):
    for begin in (0, 150):
        await callers.note(store, {f"key:co/{at}": (BOB, NOW_MS + at) for at in range(begin, begin + 150)})
    assert list(await callers.seen(store, NOW_MS)) == [f"key:co/{at}" for at in reversed(range(100, 300))]


async def test_what_nobody_can_read_hides_nobody(store: Connection, caplog: pytest.LogCaptureFixture):
    await callers.note(store, {"key:co/alice": (ALICE, NOW_MS)})
    await store.command("ZADD", CALLERS, NOW_MS, b'["key:co/mallory", {"rpm": "many"}]')
    assert await callers.seen(store, NOW_MS) == {"key:co/alice": ALICE}
    assert "cannot be read" in caplog.text


async def test_the_status_tells_of_them_behind_those_that_settings_name(store: Connection):
    await budgets.load(store)
    await budgets.reserve(store, "", [Claim("key:co/alice", ALICE, Need(requests=2))], 30)
    now_ms = time.time_ns() // 1_000_000
    await callers.note(store, {"key:co/alice": (ALICE, now_ms), "key:team": (BOB, now_ms)})
    told = (await read_counts(store, {"key:team": Budget(rpm=9)}))["limits"]
    assert [each["scope"] for each in told] == ["key:team", "key:co/alice"]
    assert told[0]["limits"] == {"rpm": {"used": 0, "allowed": 9}}, "as the settings say"
    assert told[1]["limits"]["rpm"] == {"used": 2, "allowed": 5}
    assert told[1]["limits"]["usd_month"]["allowed"] == 2.5
