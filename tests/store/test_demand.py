"""Calls wait for a model that is to be loaded, and whoever loads sees them waiting."""

from __future__ import annotations

from orchestrator.core.model import InstanceId, LeaseId, PoolName
from orchestrator.core.residency import Pressure
from orchestrator.store.admission import Leased, Outcome, Queued, Refused, Why
from orchestrator.store.demand import asked_for, pressure, queued
from tests.store.playing import ONE, POOL, look, offer, request

GONE = PoolName("never published")


async def test_a_call_waits_for_an_instance_without_slots_and_is_granted_one_when_it_has_some(store, gateway):
    leases = await gateway()
    await offer(store, gpu_1=0)
    admitted = await leases.admit(request("waits"))
    assert isinstance(admitted, Queued)
    assert await queued(store, [POOL, GONE]) == {POOL: 1, GONE: 0}
    await offer(store, gpu_1=1)
    granted = await leases.wait(POOL, LeaseId("waits"), 10)
    assert isinstance(granted, Leased)
    assert granted.instance == ONE
    await leases.settle(POOL, LeaseId("waits"), Outcome.OK)


async def test_nobody_waits_for_a_pool_in_which_nothing_can_be_loaded(store, gateway):
    leases = await gateway()
    await offer(store)
    admitted = await leases.admit(request())
    assert isinstance(admitted, Refused)
    assert admitted.why is Why.EMPTY


async def test_a_slot_that_is_taken_away_stays_counted_until_its_call_has_ended(store, gateway):
    leases = await gateway()
    await offer(store, gpu_1=2)
    assert isinstance(await leases.admit(request("runs")), Leased)
    await offer(store, gpu_1=0)
    assert isinstance(await leases.admit(request("waits")), Queued)
    seen = (await pressure(store, {POOL: [ONE]}))[POOL]
    assert (seen.queued, seen.in_flight) == (1, {ONE: 1})
    await leases.settle(POOL, LeaseId("runs"), Outcome.OK)
    seen = (await pressure(store, {POOL: [ONE]}))[POOL]
    assert (seen.queued, seen.in_flight) == (1, {ONE: 0})
    await leases.cancel(POOL, LeaseId("waits"))
    assert (await look(store)).queued == 0


async def test_how_long_a_call_takes_is_told_once_one_was_served(store, gateway):
    leases = await gateway()
    await offer(store, gpu_1=1)
    nobody = InstanceId("never seen")
    assert await pressure(store, {POOL: [ONE, nobody], GONE: []}) == {
        POOL: Pressure(0, {ONE: 0, nobody: 0}, None),
        GONE: Pressure(),
    }
    assert isinstance(await leases.admit(request("one")), Leased)
    await leases.settle(POOL, LeaseId("one"), Outcome.OK)
    service_s = (await pressure(store, {POOL: [ONE]}))[POOL].service_s
    assert service_s is not None
    assert 0 <= service_s < 10


async def test_who_follows_the_load_sees_calls_at_work_and_how_long_the_first_one_waits(store, gateway):
    leases = await gateway()
    await offer(store, gpu_1=1)
    assert isinstance(await leases.admit(request("runs")), Leased)
    assert isinstance(await leases.admit(request("waits")), Queued)
    told = await asked_for(store, [POOL, GONE])
    assert told.keys() == {POOL}
    assert (told[POOL].busy, told[POOL].queued, told[POOL].expected_s) == (1, 1, None)
    sooner, told = told[POOL].waited_s, await asked_for(store, [POOL])
    assert told[POOL].waited_s >= sooner >= 0
    await leases.cancel(POOL, LeaseId("waits"))
    await leases.settle(POOL, LeaseId("runs"), Outcome.OK)
    told = await asked_for(store, [POOL])
    assert (told[POOL].busy, told[POOL].queued, told[POOL].waited_s) == (0, 0, 0.0)
