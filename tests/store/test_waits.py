"""How long a slot is waited for: measured, foretold, told while it lasts, and refused where it would be for nothing."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.core.model import InstanceId, LeaseId
from orchestrator.store.admission import Ejection, Leased, Outcome, Queued, Refused, Why
from orchestrator.store.connection import Connection
from orchestrator.store.leases import Leases
from tests.store.playing import ONE, POOL, TWO, MakeGateway, look, offer, request
from tests.waiting import until

SLOTS = "olm:pool:{llama3.2:3b}:slots"


async def as_if_measured(store: Connection, samples: int = 64, **seconds: float) -> None:
    """Calls held their slots for so long: `gpu_1=2.0`."""
    for name, each in seconds.items():
        await store.command("HSET", SLOTS, f"\tp{name.replace('_', '-')}", round(each * 1e6) * 1024 + samples)


async def lease(leases: Leases, **more: object) -> Leased:
    admitted = await leases.admit(request(**more))
    assert isinstance(admitted, Leased), admitted
    return admitted


async def pass_time(store: Connection, ms: int) -> None:
    """Until so much time has passed by Redis' clock."""

    async def now_ms() -> int:
        seconds, micros = await store.command("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    ends = await now_ms() + ms

    async def is_over() -> bool:
        return await now_ms() >= ends

    await until(is_over)


# --- measured ---------------------------------------------------------------------------------------------------------


async def test_what_served_calls_take_is_measured_by_instance(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=1, gpu_2=1)
    leases = await gateway()
    held = await lease(leases, excluded=(TWO,))
    await pass_time(store, 60)
    await leases.settle(POOL, held.lease, Outcome.OK)
    one, two = (await look(store)).instances
    assert one.service_s is not None
    assert one.service_s >= 0.06
    assert two.service_s is None
    assert (await look(store)).service_s == pytest.approx(one.service_s)


async def test_a_call_that_was_not_served_says_nothing_of_an_instances_speed(
    store: Connection, gateway: MakeGateway
) -> None:
    """One that answers errors at once must not look the fastest."""
    await offer(store, gpu_1=1)
    leases = await gateway()
    for outcome in (Outcome.FAILED, Outcome.GONE, Outcome.DEAD):
        await leases.settle(POOL, (await lease(leases)).lease, outcome)
    assert (await look(store)).service_s is None


async def test_one_call_out_of_all_measure_moves_the_mean_only_so_far(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=1)
    await as_if_measured(store, gpu_1=0.001)
    leases = await gateway()
    held = await lease(leases)
    await pass_time(store, 200)
    await leases.settle(POOL, held.lease, Outcome.OK)
    (instance,) = (await look(store)).instances
    assert instance.service_s is not None
    assert instance.service_s < 0.0012


async def test_measurements_of_instances_that_vanished_are_forgotten(store: Connection) -> None:
    await offer(store, gpu_1=1, gpu_2=1)
    await as_if_measured(store, gpu_1=1.0, gpu_2=1.0)
    await offer(store, gpu_2=1)
    assert await store.command("HEXISTS", SLOTS, "\tpgpu-1") == 0
    assert await store.command("HEXISTS", SLOTS, "\tpgpu-2") == 1


# --- choosing by it ---------------------------------------------------------------------------------------------------


async def test_of_unlike_instances_the_faster_free_one_is_leased(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=1, gpu_2=1, gpu_3=1)
    await as_if_measured(store, gpu_1=2.0, gpu_2=1.0, gpu_3=4.0)
    leases = await gateway()
    assert [(await lease(leases)).instance for _ in range(3)] == [TWO, ONE, InstanceId("gpu-3")]


async def test_a_fast_instance_is_not_filled_before_a_slower_idle_one_would_be_sooner(
    store: Connection, gateway: MakeGateway
) -> None:
    await offer(store, gpu_1=4, gpu_2=4)
    await as_if_measured(store, gpu_1=1.0, gpu_2=1.4)
    leases = await gateway()
    got = [(await lease(leases)).instance for _ in range(8)]
    assert got[:2] == [ONE, ONE]  # 1.4 against 1.0 and 1.25; then against 1.5
    assert got[2] == TWO
    assert got.count(ONE) == 4


async def test_instances_that_differ_by_chance_take_turns(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=1, gpu_2=1, gpu_3=1)
    await as_if_measured(store, gpu_1=1.0, gpu_2=1.1, gpu_3=1.2)
    leases = await gateway()
    got = []
    for _ in range(3):
        held = await lease(leases)
        got.append(held.instance)
        await leases.settle(POOL, held.lease, Outcome.GONE)
    assert len(set(got)) == 3


async def test_a_slow_measurement_fades_while_the_instance_is_left_alone(
    store: Connection, gateway: MakeGateway
) -> None:
    await offer(store, gpu_1=1, gpu_2=1)
    await as_if_measured(store, 3, gpu_1=60.0)
    await as_if_measured(store, gpu_2=1.0)
    leases = await gateway()

    async def is_tried() -> bool:
        held = await lease(leases)
        await leases.settle(POOL, held.lease, Outcome.GONE)
        return held.instance == ONE

    await until(is_tried)


# --- foretold ---------------------------------------------------------------------------------------------------------


async def test_a_ticket_is_told_its_position_and_expected_wait(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=1, gpu_2=1)
    await as_if_measured(store, gpu_1=2.0, gpu_2=2.0)
    leases = await gateway()
    for _ in range(2):
        await lease(leases)
    told = [await leases.admit(request()) for _ in range(3)]
    assert [(each.position, each.expected_wait_s) for each in told if isinstance(each, Queued)] == [
        (0, 1.0),  # two slots, each free every two seconds
        (1, 2.0),
        (2, 3.0),
    ]
    load = await look(store)
    assert (load.expected_wait_s, load.queued) == (4.0, 3)


async def test_without_enough_calls_measured_no_wait_is_foretold_and_none_refused_for_it(
    store: Connection, gateway: MakeGateway
) -> None:
    await offer(store, gpu_1=1)
    await as_if_measured(store, 15, gpu_1=1000.0)
    leases = await gateway()
    await lease(leases)
    for at in range(5):
        told = await leases.admit(request(wait_s=0.5))
        assert told == Queued(at)
        assert told.expected_wait_s is None


async def test_a_call_whose_slot_would_come_far_too_late_is_refused_at_once(
    store: Connection, gateway: MakeGateway
) -> None:
    await offer(store, gpu_1=1)
    await as_if_measured(store, gpu_1=2.0)
    leases = await gateway()
    await lease(leases)
    got = [await leases.admit(request(wait_s=1.0)) for _ in range(5)]
    # Half a grant is to be expected in a second; the fourth in line has one chance in six hundred.
    assert got == [Queued(0), Queued(1), Queued(2), Refused(Why.LATE, 3), Refused(Why.LATE, 3)]
    late = got[3]
    assert isinstance(late, Refused)
    assert late.again_s == 7.0  # its slot would be there in 8
    assert await leases.admit(request(wait_s=60.0)) == Queued(3)


async def test_refusals_say_when_to_come_again(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=1)
    await as_if_measured(store, gpu_1=3.0)
    leases = await gateway(ejection=Ejection(dead_for_s=50))
    held = await lease(leases)
    busy = await leases.admit(request(may_queue=False))
    await leases.admit(request())
    full = await leases.admit(request(queue_limit=1))
    assert isinstance(busy, Refused)
    assert isinstance(full, Refused)
    assert (busy.again_s, full.again_s) == (3.0, 6.0)
    await leases.settle(POOL, held.lease, Outcome.DEAD)
    ejected = await leases.admit(request())
    assert ejected == Refused(Why.EJECTED, 1)
    assert isinstance(ejected, Refused)
    assert ejected.again_s is not None
    assert 40 < ejected.again_s <= 50


async def test_who_waits_is_told_each_time_where_its_ticket_stands(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=1)
    leases, watching = await gateway(), await gateway()
    held = await lease(leases)
    ahead, waiting = request(), request()
    await leases.admit(ahead)
    told: list[Queued] = []
    moved = asyncio.Event()

    def on_queued(place: Queued) -> None:
        told.append(place)
        if place.position == 0:
            moved.set()

    assert await watching.admit(waiting, on_queued=on_queued) == Queued(1)
    assert watching.position(waiting.lease) == Queued(1)
    await leases.settle(POOL, held.lease, Outcome.OK)
    async with asyncio.timeout(30):
        await moved.wait()
    assert watching.position(waiting.lease) == Queued(0)
    await leases.settle(POOL, ahead.lease, Outcome.OK)
    assert await watching.wait(POOL, waiting.lease, 30) is not None
    assert watching.position(waiting.lease) is None


# --- errors cost before they eject ------------------------------------------------------------------------------------


async def test_an_instance_that_failed_a_moment_ago_gets_calls_only_when_the_others_are_busier(
    store: Connection, gateway: MakeGateway
) -> None:
    await offer(store, gpu_1=2, gpu_2=2)
    leases = await gateway()
    await leases.settle(POOL, (await lease(leases, excluded=(TWO,))).lease, Outcome.FAILED)
    assert [(await lease(leases)).instance for _ in range(4)] == [TWO, TWO, ONE, ONE]


async def test_a_failure_is_forgiven_with_time(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=2, gpu_2=2)
    leases = await gateway()
    long_ago = int((await store.command("TIME"))[0]) * 1000 - 60_000
    await store.command("HSET", "olm:pool:{llama3.2:3b}:health", ONE, f"2 {long_ago} 0")
    assert {(await lease(leases)).instance for _ in range(2)} == {ONE, TWO}


async def test_a_conversation_does_not_return_to_an_instance_that_just_failed(
    store: Connection, gateway: MakeGateway
) -> None:
    await offer(store, gpu_1=2, gpu_2=2)
    leases = await gateway()
    first = await lease(leases, affinity="talk")
    await leases.settle(POOL, first.lease, Outcome.OK)
    other = TWO if first.instance == ONE else ONE
    await leases.settle(POOL, (await lease(leases, excluded=(other,))).lease, Outcome.FAILED)
    assert (await lease(leases, affinity="talk")).instance == other


async def test_after_an_ejection_one_call_at_a_time_tries_an_instance_until_one_succeeds(
    store: Connection, gateway: MakeGateway
) -> None:
    await offer(store, gpu_1=4, gpu_2=4)
    leases = await gateway(ejection=Ejection(after_failures=1, for_s=0.05))
    await leases.settle(POOL, (await lease(leases, excluded=(TWO,))).lease, Outcome.FAILED)

    async def is_back() -> bool:
        return all(each.ejected_for_s == 0 for each in (await look(store)).instances)

    await until(is_back)
    trial, waiting = await lease(leases, excluded=(TWO,)), request(excluded=(TWO,))
    assert isinstance(await leases.admit(waiting), Queued)
    await leases.settle(POOL, trial.lease, Outcome.GONE)  # proves nothing, and the next one tries
    assert await leases.wait(POOL, waiting.lease, 30) == Leased(ONE, waiting.lease)
    assert isinstance(await leases.admit(request("one too many", excluded=(TWO,))), Queued)
    await leases.settle(POOL, waiting.lease, Outcome.OK)
    assert isinstance(await leases.wait(POOL, LeaseId("one too many"), 30), Leased)
    assert (await lease(leases, excluded=(TWO,))).instance == ONE
    assert isinstance(await leases.admit(request(excluded=(TWO,))), Queued)  # two at once, until one more succeeds
