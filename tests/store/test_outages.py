"""Redis killed, emptied, stopped: slots stay counted, and everything is right again afterwards."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.core.errors import StoreError
from orchestrator.store.admission import Leased, Outcome, Queued, Refused, Why
from orchestrator.store.connection import Connection
from orchestrator.store.leases import Leases
from orchestrator.store.pools import publish_pool, sweep
from tests.store.playing import ONE, POOL, Connect, Server, back, look, now_s, offer, request, taken
from tests.waiting import until


async def hold(leases: Leases, n: int) -> list[Leased]:
    got = [await leases.admit(request()) for _ in range(n)]
    assert all(isinstance(each, Leased) for each in got)
    return [each for each in got if isinstance(each, Leased)]


@pytest.fixture
async def redis(own_server: Server, connect: Connect) -> Connection:
    return await connect(own_server, timeout_s=20)


async def counted(redis: Connection, n: int) -> None:
    async def is_so() -> bool:
        return await taken(redis) == {ONE: n}

    await until(is_so)


async def test_leases_that_an_emptied_redis_lost_are_counted_again(own_server: Server, redis: Connection) -> None:
    await offer(redis, gpu_1=3)
    leases = Leases(redis, "gw0.x", 30)
    await leases.start()
    held = await hold(leases, 2)
    own_server.kill()
    own_server.lose_data()
    own_server.start()
    await back(redis)
    await counted(redis, 2)  # before any controller has published
    assert await leases.admit(request()) == Refused(Why.UNKNOWN, 0)
    await offer(redis, gpu_1=3)
    (third,) = await hold(leases, 1)
    assert isinstance(await leases.admit(request()), Queued)
    for each in (*held, third):
        await leases.settle(POOL, each.lease, Outcome.OK)
    await leases.close()
    await counted(redis, 0)


async def test_no_slot_is_leased_twice_when_the_controller_comes_back_before_the_gateways(
    own_server: Server, redis: Connection
) -> None:
    await offer(redis, gpu_1=1)
    slow = Leases(redis, "gw0.slow", 3)  # not started: its renewal comes when we say so
    (held,) = await hold(slow, 1)
    own_server.kill()
    own_server.lose_data()
    own_server.start()
    await back(redis)
    for _ in range(2):
        assert await publish_pool(redis, POOL, {ONE: 1}, token=2, grace_s=600)
    quick = Leases(redis, "gw1.quick", 30)
    assert await quick.admit(request()) == Queued(0)
    await slow.start()
    await counted(redis, 1)
    await slow.settle(POOL, held.lease, Outcome.OK)
    await asyncio.gather(slow.close(), quick.close())


async def test_a_pool_opens_when_its_grace_is_over(own_server: Server, redis: Connection) -> None:
    leases = Leases(redis, "gw0.x", 30)
    await leases.start()
    began_s = await now_s(redis)
    assert await publish_pool(redis, POOL, {ONE: 1}, token=2, grace_s=0.2)
    waiting = request()
    await leases.admit(waiting)
    assert await leases.wait(POOL, waiting.lease, 30) == Leased(ONE, waiting.lease)
    assert await now_s(redis) - began_s > 0.19
    await leases.close()


async def test_after_a_kill_what_redis_kept_and_what_gateways_hold_agree_again(
    own_server: Server, redis: Connection
) -> None:
    await offer(redis, gpu_1=3)
    leases = Leases(redis, "gw0.x", 30)
    await leases.start()
    held = await hold(leases, 2)
    waiting = request()
    await hold(leases, 1)
    await leases.admit(waiting)
    own_server.kill()
    own_server.start()
    await back(redis)
    settled = [leases.settle(POOL, each.lease, Outcome.OK) for each in held]
    await asyncio.gather(*settled)
    assert await leases.wait(POOL, waiting.lease, 30) == Leased(ONE, waiting.lease)
    await counted(redis, 2)
    await leases.close()
    await counted(redis, 0)


async def test_a_ticket_that_an_emptied_redis_lost_is_filed_again_where_it_stood(
    own_server: Server, redis: Connection
) -> None:
    await offer(redis, gpu_1=1)
    leases = Leases(redis, "gw0.x", 30)
    await leases.start()
    (held,) = await hold(leases, 1)
    # By class, then by turn of the keys, then by time: the order in which they are granted before and after.
    waiting = [request(caller="a"), request(caller="b"), request(caller="a"), request(caller="a", priority=1)]
    for each in (waiting[3], waiting[0], waiting[2], waiting[1]):
        await leases.admit(each)
    own_server.kill()
    own_server.lose_data()
    own_server.start()
    await back(redis)
    await counted(redis, 1)
    await offer(redis, gpu_1=1)

    async def are_filed() -> bool:
        return (await look(redis)).queued == 4

    await until(are_filed)
    current = held.lease
    for each in waiting:
        await leases.settle(POOL, current, Outcome.OK)
        assert await leases.wait(POOL, each.lease, 30) == Leased(ONE, each.lease)
        current = each.lease
    await leases.close()


async def test_a_settlement_under_way_when_redis_dies_is_repeated_and_counts_once(
    own_server: Server, redis: Connection
) -> None:
    await offer(redis, gpu_1=1)
    leases = Leases(redis, "gw0.x", 30)
    (held,) = await hold(leases, 1)
    own_server.pause()
    settled = asyncio.create_task(leases.settle(POOL, held.lease, Outcome.FAILED))
    await asyncio.sleep(0)
    own_server.kill()
    own_server.start()
    await settled
    (instance,) = (await look(redis)).instances
    assert (instance.in_flight, instance.failures) == (0, 1)
    await leases.close()


async def test_leases_outlive_a_redis_that_was_stopped_for_longer_than_their_time(
    own_server: Server, redis: Connection
) -> None:
    """All of them are past their time at once when it goes on, and whoever asks first must not be given them."""
    await offer(redis, gpu_1=1)
    leases = Leases(redis, "gw0.x", 1.0)
    (held,) = await hold(leases, 1)
    await redis.command("HSET", "olm:pool:{llama3.2:3b}:load", "@", 1)  # as if no script had run since long ago
    await redis.command("ZADD", "olm:pool:{llama3.2:3b}:expiry", 1, held.lease)
    eager = Leases(redis, "gw1.x", 30)
    assert await eager.admit(request()) == Queued(0)
    await leases.start()
    await leases._renew()
    await sweep(redis, POOL)
    assert await taken(redis) == {ONE: 1}
    await asyncio.gather(leases.close(), eager.close())


async def test_the_log_says_what_it_means_that_redis_cannot_be_told_of_calls(
    own_server: Server, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    redis = await connect(own_server, timeout_s=1.0)
    await offer(redis, gpu_1=2)
    leases = Leases(redis, "gw0.x", 1.0)
    await leases.start()
    held = await hold(leases, 2)
    assert isinstance(await leases.admit(request()), Queued)
    own_server.kill()
    told = (
        "Redis was not told that calls are under way here (2): they run on, and it frees their slots 1 s after",
        "Redis was not asked what became of the calls that wait for a slot here (1): ",
    )

    async def are_told() -> bool:
        return all(each in caplog.text for each in told)

    await until(are_told)
    for each in held:
        leases.give_up(POOL, each.lease)
    await leases.close()


async def test_calls_fail_with_a_store_error_while_redis_is_away_and_leave_nothing_behind(
    own_server: Server, connect: Connect
) -> None:
    redis = await connect(own_server, timeout_s=1.0)
    await offer(redis, gpu_1=1)
    leases = Leases(redis, "gw0.x", 30)
    await leases.start()
    own_server.pause()
    with pytest.raises(StoreError):
        await leases.admit(request())
    own_server.go_on()
    await back(redis)
    await counted(redis, 0)
    assert not leases.held
    await leases.close()


async def test_who_is_let_go_while_redis_is_away_is_granted_nothing_when_it_is_back(
    own_server: Server, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    redis = await connect(own_server, timeout_s=1.0)
    await offer(redis, gpu_1=1)
    leases = Leases(redis, "gw0.x", 60)
    await leases.start()
    (held,) = await hold(leases, 1)
    for _ in range(3):
        assert isinstance(await leases.admit(request()), Queued)
    own_server.kill()
    leases.let_waiting_go(StoreError("Redis is away"))

    async def was_tried() -> bool:
        return "are given back later" in caplog.text

    await until(was_tried)
    own_server.start()
    await back(redis)

    async def is_empty() -> bool:
        return (await look(redis)).queued == 0

    await until(is_empty)
    await leases.settle(POOL, held.lease, Outcome.OK)
    assert isinstance(await leases.admit(request()), Leased)
    await leases.close()
