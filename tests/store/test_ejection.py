"""Instances that fail are left out for a while, and never so many that nobody is left."""

from __future__ import annotations

import asyncio

from orchestrator.core.model import InstanceId
from orchestrator.store.admission import Ejection, Leased, Outcome, Queued, Refused, Why
from orchestrator.store.connection import Connection
from orchestrator.store.leases import Leases
from tests.store.playing import ONE, POOL, TWO, MakeGateway, look, now_s, offer, request
from tests.waiting import until

LONG = Ejection(after_failures=2, for_s=600, at_most_s=6000, dead_for_s=600)


async def call(leases: Leases, outcome: Outcome, instance: InstanceId = ONE) -> None:
    """One call to that very instance."""
    others = tuple(InstanceId(f"gpu-{n}") for n in range(1, 6) if f"gpu-{n}" != instance)
    admitted = await leases.admit(request(excluded=others))
    assert isinstance(admitted, Leased), admitted
    await leases.settle(POOL, admitted.lease, outcome)


async def ejected(store: Connection) -> set[str]:
    return {each.instance for each in (await look(store)).instances if each.ejected_for_s > 0}


async def test_failures_in_a_row_eject_an_instance(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=2, gpu_2=2)
    leases = await gateway(ejection=LONG)
    await call(leases, Outcome.FAILED)
    assert await ejected(store) == set()
    await call(leases, Outcome.FAILED)
    assert await ejected(store) == {ONE}
    got = [await leases.admit(request()) for _ in range(2)]
    assert [each.instance for each in got if isinstance(each, Leased)] == [TWO, TWO]


async def test_one_call_that_was_given_up_ejects_a_hung_instance(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=1, gpu_2=1)
    leases = await gateway(ejection=LONG)
    await call(leases, Outcome.HUNG)
    assert await ejected(store) == {ONE}
    await call(leases, Outcome.HUNG, TWO)
    assert await ejected(store) == {ONE}, "half of the pool stays in"


async def test_a_success_between_failures_starts_the_count_anew(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=2, gpu_2=2)
    leases = await gateway(ejection=LONG)
    for outcome in (Outcome.FAILED, Outcome.OK, Outcome.FAILED):
        await call(leases, outcome)
    assert await ejected(store) == set()


async def test_a_client_that_left_says_nothing_about_the_instance(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=2, gpu_2=2)
    leases = await gateway(ejection=LONG)
    for outcome in (Outcome.GONE, Outcome.FAILED, Outcome.GONE, Outcome.GONE):
        await call(leases, outcome)
    assert await ejected(store) == set()
    await call(leases, Outcome.FAILED)
    assert await ejected(store) == {ONE}


async def test_failures_never_eject_more_than_half_of_a_pool(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=2, gpu_2=2, gpu_3=2)
    leases = await gateway(ejection=LONG)
    for at in (1, 2, 3):
        for _ in range(4):
            if f"gpu-{at}" not in await ejected(store):
                await call(leases, Outcome.FAILED, InstanceId(f"gpu-{at}"))
    assert await ejected(store) == {ONE}


async def test_failures_never_eject_the_only_instance(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=1)
    leases = await gateway(ejection=LONG)
    for _ in range(5):
        await call(leases, Outcome.FAILED)
    assert await ejected(store) == set()


async def test_a_dead_instance_is_left_out_at_once_even_the_only_one(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=1)
    leases = await gateway(ejection=LONG)
    await call(leases, Outcome.DEAD)
    assert await leases.admit(request()) == Refused(Why.EJECTED, 0)


async def test_a_dead_instance_is_tried_again_after_a_short_time(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=1)
    leases = await gateway(ejection=Ejection(dead_for_s=0.2))
    held = await leases.admit(request())
    assert isinstance(held, Leased)
    waiting = request()
    await leases.admit(waiting)
    died_s = await now_s(store)
    await leases.settle(POOL, held.lease, Outcome.DEAD)
    assert await leases.wait(POOL, waiting.lease, 30) == Leased(ONE, waiting.lease)
    assert await now_s(store) - died_s > 0.19


async def test_an_instance_that_fails_again_after_its_return_is_left_out_for_longer(
    store: Connection, gateway: MakeGateway
) -> None:
    await offer(store, gpu_1=4, gpu_2=4)
    leases = await gateway(ejection=Ejection(after_failures=1, for_s=0.1, at_most_s=600))

    async def is_back() -> bool:
        return await ejected(store) == set()

    for _ in range(3):
        await until(is_back)
        await call(leases, Outcome.FAILED)
    times = (await store.command("HGET", "olm:pool:{llama3.2:3b}:health", ONE)).split()[2]
    assert times == b"3"
    await until(is_back)
    for _ in range(2):
        await call(leases, Outcome.OK)
    assert await store.command("HGET", "olm:pool:{llama3.2:3b}:health", ONE) is None


async def room_of_one(leases: Leases) -> int:
    """How many calls the first instance takes at once."""
    got = []
    while isinstance(each := await leases.admit(request(excluded=(TWO,), may_queue=False)), Leased):
        got.append(each)
    await asyncio.gather(*(leases.settle(POOL, each.lease, Outcome.GONE) for each in got))
    return len(got)


async def test_an_instance_that_is_back_gets_one_call_then_twice_as_many_with_each_that_succeeds(
    store: Connection, gateway: MakeGateway
) -> None:
    await offer(store, gpu_1=6, gpu_2=6)
    leases = await gateway(ejection=Ejection(after_failures=1, for_s=0.1, at_most_s=600))
    assert await room_of_one(leases) == 6
    await call(leases, Outcome.FAILED)

    async def is_back() -> bool:
        return await ejected(store) == set()

    await until(is_back)
    for room in (1, 2, 4, 6):
        assert await room_of_one(leases) == room
        await call(leases, Outcome.OK)
    assert await room_of_one(leases) == 6


async def test_one_that_fails_while_it_is_coming_back_begins_again_with_one_call(
    store: Connection, gateway: MakeGateway
) -> None:
    await offer(store, gpu_1=6, gpu_2=6)
    leases = await gateway(ejection=LONG)
    await store.command("HSET", "olm:pool:{llama3.2:3b}:health", ONE, "2 0 3")
    for outcome, room in ((Outcome.OK, 2), (Outcome.OK, 4), (Outcome.FAILED, 1)):
        await call(leases, outcome)
        assert await room_of_one(leases) == room
    assert await ejected(store) == set(), "one failure is not two"


async def test_a_busy_instance_is_left_alone_for_as_long_as_it_says_and_never_more_than_half_of_a_pool(
    store: Connection, gateway: MakeGateway
) -> None:
    await offer(store, gpu_1=2, gpu_2=2)
    leases = await gateway()
    for instance in (ONE, TWO):
        others = tuple(each for each in (ONE, TWO) if each != instance)
        admitted = await leases.admit(request(excluded=others))
        assert isinstance(admitted, Leased)
        leases.settle_soon(admitted.lease, Outcome.BUSY, 0.0, None, None, 600.0)

    async def one_is_out() -> bool:
        return await ejected(store) == {ONE}

    await until(one_is_out)
    (one, _) = (await look(store)).instances
    assert 0 < one.ejected_for_s <= Ejection().at_most_s


async def test_the_last_classes_are_turned_away_while_the_first_still_find_a_place(
    store: Connection, gateway: MakeGateway
) -> None:
    await offer(store, gpu_1=1)
    leases = await gateway()
    assert isinstance(await leases.admit(request()), Leased)
    for _ in range(6):
        await leases.admit(request(queue_limit=10))
    assert await leases.admit(request(queue_limit=10, priority=9)) == Refused(Why.FULL, 6)
    assert not isinstance(await leases.admit(request(queue_limit=10, priority=4)), Refused)
    for _ in range(3):
        assert not isinstance(await leases.admit(request(queue_limit=10)), Refused)
    assert await leases.admit(request(queue_limit=10)) == Refused(Why.FULL, 10)


async def test_ejection_is_bounded(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=4, gpu_2=4)
    leases = await gateway(ejection=Ejection(after_failures=1, for_s=50, at_most_s=60))
    await store.command("HSET", "olm:pool:{llama3.2:3b}:health", ONE, "40 0 30")
    await call(leases, Outcome.FAILED)
    (one, _) = (await look(store)).instances
    assert 0 < one.ejected_for_s <= 60


async def test_a_success_from_before_does_not_end_an_ejection(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=4, gpu_2=4)
    leases = await gateway(ejection=LONG)
    early = await leases.admit(request(excluded=(TWO,)))
    assert isinstance(early, Leased)
    await asyncio.gather(*(call(leases, Outcome.FAILED) for _ in range(2)))
    await leases.settle(POOL, early.lease, Outcome.OK)
    assert await ejected(store) == {ONE}


async def test_a_call_that_may_have_none_but_ejected_ones_is_told_so_and_files_no_ticket(
    store: Connection, gateway: MakeGateway
) -> None:
    await offer(store, gpu_1=2, gpu_2=2, gpu_3=1)
    leases = await gateway(ejection=LONG)
    for _ in range(2):
        await call(leases, Outcome.FAILED)
    three = InstanceId("gpu-3")
    refused = await leases.admit(request(excluded=(TWO, three)))
    assert isinstance(refused, Refused)
    assert (refused.why, refused.depth) == (Why.EJECTED, 0)
    assert refused.again_s is not None
    assert 500 < refused.again_s <= 600
    assert isinstance(await leases.admit(request()), Leased), "others are served"
    assert isinstance(await leases.admit(request(excluded=(TWO,))), Leased)
    assert isinstance(await leases.admit(request(excluded=(TWO,))), Queued), "one that is busy is waited for"
