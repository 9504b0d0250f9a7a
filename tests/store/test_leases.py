"""Admission, queue and settlement, as gateways live them."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.core.model import InstanceId, LeaseId
from orchestrator.store import scripts
from orchestrator.store.admission import Cached, Ejection, Kept, Leased, Outcome, Queued, Refused, Usage, Why
from orchestrator.store.batch import Batch, Held, terms
from orchestrator.store.connection import Connection
from orchestrator.store.leases import Leases
from orchestrator.store.pools import publish_pool, sweep
from orchestrator.store.schema import grants, pool_keys
from orchestrator.store.usage import fields, read
from tests.store.playing import ONE, POOL, TWO, MakeGateway, all_keys, look, now_s, offer, request, taken
from tests.waiting import until


async def lease(leases: Leases, name: str = "", **more: object) -> Leased:
    admitted = await leases.admit(request(name, **more))
    assert isinstance(admitted, Leased), admitted
    return admitted


async def test_ten_gateways_never_hold_more_slots_than_the_instance_has(
    store: Connection, gateway: MakeGateway
) -> None:
    await offer(store, gpu_1=4)
    gateways = [await gateway() for _ in range(10)]
    got = await asyncio.gather(*(each.admit(request()) for each in gateways))
    assert sum(isinstance(each, Leased) for each in got) == 4
    assert await taken(store) == {ONE: 4}


async def test_a_repeated_admit_is_answered_the_same_and_takes_no_second_slot(
    store: Connection, gateway: MakeGateway
) -> None:
    await offer(store, gpu_1=2, gpu_2=2)
    leases = await gateway()
    first = await lease(leases, "a")
    assert await leases.admit(request("a")) == first
    assert sum((await taken(store)).values()) == 1


async def test_what_a_version_before_has_ended_stays_so_and_is_forgotten_in_its_time(
    store: Connection, gateway: MakeGateway
) -> None:
    await offer(store, gpu_1=2)
    leases = await gateway()
    records, ended = pool_keys(POOL)[3], pool_keys(POOL)[6]
    for name, since_s in (("late", 0), ("old", 31)):
        await store.command("HSET", records, name, "X")
        await store.command("ZADD", ended, (await now_s(store) - since_s) * 1000, name)
    assert await leases.admit(request("late")) == Refused(Why.ENDED, 0)
    await look(store)  # nothing contradicts itself
    await sweep(store, POOL)
    assert await store.command("HKEYS", records) == [b"late"]


async def test_a_repeated_settle_releases_counts_and_judges_once(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=2)
    leases = await gateway()
    await lease(leases, "a")
    await lease(leases, "b")
    by = terms("gw0.x", 30, priority_weight_s=0, ejection=Ejection(3, 1, 1, 1), affinity_ttl_s=0)
    batch = Batch(POOL, by)
    usage = Usage("2026-11-21", {"small\t\t\trequests": 1})
    batch.settle(LeaseId("a"), Held(POOL, ONE), Outcome.FAILED, 0, None, usage)
    assert [await store.script(scripts.CALLS, *batch.asked()) for _ in range(3)] == [[], [], []]
    (instance,) = (await look(store)).instances
    assert (instance.in_flight, instance.failures) == (1, 1)
    assert await read(store, "2026-11-21") == {POOL: {"tier:small:requests": 1}}


async def test_a_lease_settled_is_not_admitted_again_by_a_late_repeat(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=1)
    leases = await gateway()
    await lease(leases, "a")
    await leases.settle(POOL, request("a").lease, Outcome.OK)
    assert await leases.admit(request("a")) == Refused(Why.ENDED, 0)
    assert await taken(store) == {ONE: 0}


async def test_settling_what_is_not_held_changes_nothing(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=1)
    leases = await gateway()
    held = await lease(leases)
    await leases.settle(POOL, held.lease, Outcome.OK)
    await leases.settle(POOL, held.lease, Outcome.FAILED, hold_s=60)
    assert await taken(store) == {ONE: 0}


async def test_the_least_loaded_instance_is_leased_by_share_of_its_slots(
    store: Connection, gateway: MakeGateway
) -> None:
    await offer(store, gpu_1=2, gpu_2=4)
    leases = await gateway()
    got = [(await lease(leases)).instance for _ in range(6)]
    assert got.count(ONE) == 2
    assert got[:2] == [TWO, ONE]  # 0/2 against 0/4: the one with more room; then 0/2 against 1/4
    assert got[2:4].count(TWO) == 2  # 1/2 against 1/4, then a tie at 1/2 that more room decides


async def test_equal_instances_take_turns(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=2, gpu_2=2, gpu_3=2)
    leases = await gateway()
    got = []
    for _ in range(6):
        held = await lease(leases)
        got.append(held.instance)
        await leases.settle(POOL, held.lease, Outcome.OK)
    assert len(set(got[:3])) == 3
    assert got[:3] == got[3:]


async def test_a_conversation_returns_to_its_instance_while_that_has_a_slot(
    store: Connection, gateway: MakeGateway
) -> None:
    await offer(store, gpu_1=1, gpu_2=1, gpu_3=1)
    leases = await gateway()
    first = await lease(leases, affinity="talk")
    await leases.settle(POOL, first.lease, Outcome.OK)
    for _ in range(4):
        again = await lease(leases, affinity="talk")
        assert again.instance == first.instance
        await leases.settle(POOL, again.lease, Outcome.OK)
    await lease(leases, affinity="talk")
    assert (await lease(leases, affinity="talk")).instance != first.instance


async def test_an_instance_is_found_under_what_its_last_call_is_remembered_by(
    store: Connection, gateway: MakeGateway
) -> None:
    await offer(store, gpu_1=1, gpu_2=1, gpu_3=1)
    leases = await gateway()
    one = await lease(leases, affinity="q1", remembered="q1 q2")
    other = await lease(leases, affinity="q1", remembered="q1 p2")
    assert one.instance != other.instance
    for each in (one, other):
        await leases.settle(POOL, each.lease, Outcome.OK)
    for _ in range(3):
        for talk, first in (("q1 q2", one), ("q1 p2", other)):
            again = await lease(leases, affinity=talk)
            assert again.instance == first.instance
            await leases.settle(POOL, again.lease, Outcome.OK)


async def test_a_retry_goes_to_an_instance_not_tried_yet(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=4, gpu_2=1)
    leases = await gateway()
    assert (await lease(leases, excluded=(ONE,))).instance == TWO
    assert isinstance(await leases.admit(request(excluded=(ONE,))), Queued)
    assert await leases.admit(request(excluded=(ONE, TWO))) == Refused(Why.EXCLUDED, 1)


async def test_a_refusal_says_whether_the_pool_is_unknown_or_empty(store: Connection, gateway: MakeGateway) -> None:
    leases = await gateway()
    assert await leases.admit(request()) == Refused(Why.UNKNOWN, 0)
    await offer(store)
    assert await leases.admit(request()) == Refused(Why.EMPTY, 0)


async def test_a_queue_holds_no_more_tickets_than_its_limit(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=1)
    leases = await gateway()
    await lease(leases)
    got = [await leases.admit(request(queue_limit=2)) for _ in range(4)]
    assert got == [Queued(0), Queued(1), Refused(Why.FULL, 2), Refused(Why.FULL, 2)]
    assert await leases.admit(request(may_queue=False)) == Refused(Why.BUSY, 2)


async def test_a_waiting_ticket_is_told_of_its_slot_at_release(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=1)
    holds, waits = await gateway(), await gateway()
    held = await lease(holds)
    waiting = request()
    assert await waits.admit(waiting) == Queued(0)
    asked = asyncio.create_task(waits.wait(POOL, waiting.lease, 60))
    await holds.settle(POOL, held.lease, Outcome.OK)
    assert await asked == Leased(ONE, waiting.lease)
    assert waiting.lease in waits.held


async def test_a_waiting_ticket_gets_its_slot_also_when_the_message_is_lost(
    store: Connection, gateway: MakeGateway
) -> None:
    await offer(store, gpu_1=1)
    holds, waits = await gateway(), await gateway("gw9.deaf")
    held = await lease(holds)
    waiting = request()
    await waits.admit(waiting)
    await store.unsubscribe(grants("gw9.deaf"))
    await holds.settle(POOL, held.lease, Outcome.OK)
    assert await waits.wait(POOL, waiting.lease, 60) == Leased(ONE, waiting.lease)


async def test_tickets_are_granted_in_order_and_nobody_overtakes(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=1)
    leases = await gateway()
    held = await lease(leases)
    waiting = [request() for _ in range(5)]
    for at, each in enumerate(waiting):
        assert await leases.admit(each) == Queued(at)
    current = held.lease
    for each in waiting:
        # The slot comes free and somebody new asks in the same moment: the one who waited longest has it.
        settled = leases.settle(POOL, current, Outcome.OK)
        new = leases.admit(request())
        _, admitted = await asyncio.gather(settled, new)
        assert isinstance(admitted, Queued)
        assert await leases.wait(POOL, each.lease, 30) is not None
        current = each.lease


async def test_a_lower_priority_number_goes_first_until_the_other_has_waited_long_enough(
    store: Connection, gateway: MakeGateway
) -> None:
    await offer(store, gpu_1=1)
    leases = await gateway(priority_weight_s=60.0)
    quick = await gateway(priority_weight_s=0.000001)
    await lease(leases)
    batch, person, aged = request(priority=1), request(priority=0), request(priority=0)
    assert await leases.admit(batch) == Queued(0)
    assert await leases.admit(person) == Queued(0)
    late = request(priority=1)
    assert await quick.admit(late) == Queued(1)  # its handicap is a microsecond, so it stands by its time
    assert await quick.admit(aged) == Queued(2)


async def test_a_ticket_that_may_not_use_the_free_slot_does_not_hold_up_the_next(
    store: Connection, gateway: MakeGateway
) -> None:
    await offer(store, gpu_1=1, gpu_2=1)
    leases = await gateway()
    both = {each.instance: each.lease for each in (await lease(leases), await lease(leases))}
    picky, plain = request(excluded=(ONE,)), request()
    await leases.admit(picky)
    await leases.admit(plain)
    await leases.settle(POOL, both[ONE], Outcome.OK)
    assert await leases.wait(POOL, plain.lease, 30) == Leased(ONE, plain.lease)
    await leases.settle(POOL, both[TWO], Outcome.OK)
    assert await leases.wait(POOL, picky.lease, 30) == Leased(TWO, picky.lease)


async def test_a_wait_that_ends_without_a_slot_leaves_no_ticket(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=1)
    leases = await gateway()
    await lease(leases)
    waiting = request()
    await leases.admit(waiting)
    assert await leases.wait(POOL, waiting.lease, 0.05) is None

    async def is_empty() -> bool:
        return (await look(store)).queued == 0

    await until(is_empty)


async def test_a_cancelled_wait_leaves_no_ticket_and_no_lease(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=1)
    leases = await gateway()
    held = await lease(leases)
    waiting = request()
    await leases.admit(waiting)
    asked = asyncio.create_task(leases.wait(POOL, waiting.lease, 60))
    await asyncio.sleep(0)
    # Granted and cancelled at the same time: the grant is on its way when the caller leaves.
    settled = asyncio.create_task(leases.settle(POOL, held.lease, Outcome.OK))
    await asyncio.sleep(0)
    asked.cancel()
    await settled
    with pytest.raises(asyncio.CancelledError):
        await asked

    async def is_idle() -> bool:
        return await taken(store) == {ONE: 0} and (await look(store)).queued == 0

    await until(is_idle)
    assert not leases.held


async def test_a_cancelled_admit_leaves_no_lease(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=1)
    leases = await gateway()
    asked = asyncio.create_task(leases.admit(request()))
    await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked

    async def is_idle() -> bool:
        return await taken(store) == {ONE: 0}

    await until(is_idle)
    assert not leases.held


async def test_cancelling_a_ticket_that_was_granted_meanwhile_gives_the_slot_onward(
    store: Connection, gateway: MakeGateway
) -> None:
    await offer(store, gpu_1=1)
    leases = await gateway()
    held = await lease(leases)
    first, second = request(), request()
    await leases.admit(first)
    await leases.admit(second)
    await leases.settle(POOL, held.lease, Outcome.OK)
    await leases.cancel(POOL, first.lease)
    assert await leases.wait(POOL, second.lease, 30) == Leased(ONE, second.lease)
    await leases.cancel(POOL, first.lease)
    assert await taken(store) == {ONE: 1}


async def test_an_admit_that_arrives_after_its_cancel_takes_nothing(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=1)
    leases = await gateway()
    late = request()
    await leases.cancel(POOL, late.lease)
    assert await leases.admit(late) == Refused(Why.ENDED, 0)
    assert await taken(store) == {ONE: 0}


async def test_a_dead_gateways_slot_returns_after_its_time_and_goes_to_who_waits(
    store: Connection, gateway: MakeGateway
) -> None:
    await offer(store, gpu_1=1)
    dead = Leases(store, "gw7.dead", 0.3)  # never started: renews nothing, hears nothing
    alive = await gateway()
    began_s = await now_s(store)
    await lease(dead)
    waiting = request()
    await alive.admit(waiting)
    assert await alive.wait(POOL, waiting.lease, 30) == Leased(ONE, waiting.lease)
    assert await now_s(store) - began_s > 0.29


async def test_a_living_gateways_lease_outlives_its_time_by_renewal(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=1)
    leases = await gateway(ttl_s=1.0)
    held = await lease(leases)
    other = await gateway()
    waiting = request()
    await other.admit(waiting)
    assert await other.wait(POOL, waiting.lease, 1.5) is None
    assert await taken(store) == {ONE: 1}
    await leases.settle(POOL, held.lease, Outcome.OK)


async def test_a_dead_gateways_ticket_is_dropped_before_it_is_granted(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=1)
    leases = await gateway()
    await lease(leases)
    dead = Leases(store, "gw7.dead", 0.1)
    await dead.admit(request(wait_s=600))

    async def is_gone() -> bool:
        await sweep(store, POOL)
        return (await look(store)).queued == 0

    await until(is_gone)


async def test_a_ticket_past_its_time_is_not_granted_the_slot_that_comes_free_then(
    store: Connection, gateway: MakeGateway
) -> None:
    await offer(store, gpu_1=1)
    leases = await gateway()
    held = await lease(leases)
    impatient, patient = request(wait_s=0.02), request()
    await leases.admit(impatient)
    await leases.admit(patient)
    await asyncio.sleep(0.05)  # by Redis' clock, which nobody can be asked to wind
    await leases.cancel(POOL, held.lease)
    assert await leases.wait(POOL, patient.lease, 30) == Leased(ONE, patient.lease)


async def test_earlier_lives_of_a_gateway_give_everything_back_at_once(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=2)
    earlier = Leases(store, "gw0.before", 600)
    await lease(earlier)
    now, other = await gateway("gw0.now"), await gateway("gw1.before")
    await lease(other)
    assert isinstance(await earlier.admit(request()), Queued)
    waiting = request()
    await now.admit(waiting)
    assert await now.drop_earlier_lives(POOL, "gw0.") == (1, 1)
    assert await now.wait(POOL, waiting.lease, 30) == Leased(ONE, waiting.lease)
    assert await taken(store) == {ONE: 2}


async def test_a_slot_is_held_while_the_engine_still_works_for_a_client_that_left(
    store: Connection, gateway: MakeGateway
) -> None:
    await offer(store, gpu_1=1)
    leases = await gateway()
    held = await lease(leases)
    waiting = request()
    await leases.admit(waiting)
    left_s = await now_s(store)
    await leases.settle(POOL, held.lease, Outcome.GONE, hold_s=0.5)
    assert await leases.wait(POOL, waiting.lease, 30) == Leased(ONE, waiting.lease)
    assert await now_s(store) - left_s > 0.49


async def test_new_instances_go_to_who_waits_and_vanished_ones_get_nothing_new(
    store: Connection, gateway: MakeGateway
) -> None:
    await offer(store, gpu_1=1)
    leases = await gateway()
    held = await lease(leases)
    waiting = request()
    await leases.admit(waiting)
    await offer(store, gpu_2=1)
    assert await leases.wait(POOL, waiting.lease, 30) == Leased(TWO, waiting.lease)
    assert await taken(store) == {ONE: 1, TWO: 1}
    await leases.settle(POOL, held.lease, Outcome.OK)
    assert isinstance(await leases.admit(request()), Queued)
    await offer(store, gpu_2=1)
    assert await taken(store) == {TWO: 1}


async def test_a_controller_that_lost_its_lead_cannot_publish_a_pool(store: Connection) -> None:
    assert await publish_pool(store, POOL, {ONE: 2}, token=8)
    assert not await publish_pool(store, POOL, {TWO: 2}, token=7)
    assert await taken(store) == {ONE: 0}


async def test_an_answer_kept_at_settlement_is_given_without_a_slot(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=1)
    leases = await gateway()
    day = "2026-11-21"
    held = await lease(leases, answer_key="digest", day=day)
    await leases.settle(
        POOL,
        held.lease,
        Outcome.OK,
        answer=Kept("digest", b"\x00\xff 50 km/h", 60),
        usage=Usage(day, fields(tier="small", prompt_tokens=7, completion_tokens=3)),
    )
    await lease(leases)
    for _ in range(2):
        assert await leases.admit(request(answer_key="digest", day=day)) == Cached(b"\x00\xff 50 km/h")
    assert (await read(store, day))[POOL] == {
        "cache_hits": 2,
        "cache_misses": 1,
        "tier:small:requests": 1,
        "tier:small:prompt_tokens": 7,
        "tier:small:completion_tokens": 3,
    }


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.GONE, Outcome.DEAD])
async def test_only_whole_answers_are_kept(store: Connection, gateway: MakeGateway, outcome: Outcome) -> None:
    await offer(store, gpu_1=1, gpu_2=1)
    leases = await gateway()
    held = await lease(leases)
    await leases.settle(POOL, held.lease, outcome, answer=Kept("digest", b"half", 60))
    assert isinstance(await leases.admit(request(answer_key="digest", day="2026-11-21")), Leased)


async def test_closing_gives_everything_back(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=2)
    leases = await gateway()
    for _ in range(4):
        await leases.admit(request())
    await leases.close()
    load = await look(store)
    assert (load.queued, [each.in_flight for each in load.instances]) == (0, [0])


async def test_a_pools_keys_share_one_hash_tag(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=1)
    leases = await gateway()
    held = await lease(leases, affinity="talk", answer_key="digest", day="2026-11-21")
    await leases.admit(request())
    await leases.settle(
        POOL, held.lease, Outcome.OK, answer=Kept("digest", b"x", 60), usage=Usage("2026-11-21", {"n": 1})
    )
    keys = await all_keys(store) - {"olm:pools"}
    assert len(keys) >= 6
    assert all("{llama3.2:3b}" in key and key.startswith("olm:") for key in keys)


async def test_instances_may_be_called_anything_a_host_is_called(store: Connection, gateway: MakeGateway) -> None:
    name = InstanceId("node_1.example.org/llama3.2:3b-instruct%#0 (ş)")
    assert await publish_pool(store, POOL, {name: 1}, token=1)
    leases = await gateway()
    assert (await lease(leases)).instance == name
    assert isinstance(await leases.admit(request(excluded=(InstanceId("node"),))), Queued)
    assert await leases.admit(request(excluded=(name,))) == Refused(Why.EXCLUDED, 1)
