"""What gateways suspect is there for the controller to read, for a while, and as long as nobody has seen to it."""

from __future__ import annotations

from orchestrator.core.model import InstanceId, PoolName
from orchestrator.core.patience import Suspicion
from orchestrator.store.schema import pool_suspect
from orchestrator.store.suspicion import KEPT_MS, acquit, suspect, suspected
from tests.store.playing import ONE, POOL, TWO

SEEN = Suspicion(12.5, 1.5, 3)
OTHER = PoolName("other")


async def test_a_suspicion_is_read_as_it_was_said_and_of_no_other_instance(store):
    suspect(store, POOL, ONE, SEEN)
    assert await suspected(store, {POOL: [TWO, ONE], OTHER: [InstanceId("x")]}) == {ONE: SEEN}
    assert await suspected(store, {POOL: [], OTHER: [ONE]}) == {}


async def test_it_ends_by_itself_and_when_it_was_seen_to(store):
    suspect(store, POOL, ONE, SEEN)
    left_ms = await store.command(b"PTTL", pool_suspect(POOL, ONE))
    assert 0 < left_ms <= KEPT_MS
    await acquit(store, POOL, ONE)
    assert await suspected(store, {POOL: [ONE]}) == {}
