"""The controller against a real keeper, a real Valkey and simulated instances that are real processes."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace

import aiohttp
import pytest

from orchestrator.core.errors import HostError
from orchestrator.core.model import InstanceId, InstanceState, LeaseId, Moment, PoolName
from orchestrator.core.wishes import Wishes
from orchestrator.store.admission import AdmitRequest, Leased, Outcome
from orchestrator.store.leases import Leases
from tests.fleet.world import FULL, SMALL, World, kill, never_silent, offered_slots, settings_of, states, until


async def test_what_the_settings_ask_for_is_started_loaded_and_offered(world: World) -> None:
    controller = await world.serving(4)
    pool = controller.store.snapshots[-1].pool(SMALL)
    assert pool is not None
    assert {each.accelerators for each in pool.instances} == {("SIM-sim-0",), ("SIM-sim-1",)}
    assert all(each.is_simulated and each.engine_version for each in pool.instances)
    assert pool.details["ps"]["model"] == SMALL
    assert "model_info" in pool.details["show"]
    assert sorted((await world.offered()).values()) == [2, 2]


async def test_a_second_run_with_nothing_changed_changes_nothing(world: World) -> None:
    controller = await world.serving(4)
    pids = world.pids()
    version = controller.store.snapshots[-1].version
    controller.steward.replan()
    await until(lambda: controller.store.snapshots[-1].version > version + 2, "published again", controller)
    assert world.pids() == pids
    assert controller.slots() == 4


async def test_a_restarted_controller_adopts_what_runs_and_no_pool_falls_silent(world: World) -> None:
    first = await world.serving(4)
    pids = world.pids()
    await first.kill()
    second = await world.controller()
    await until(lambda: len(second.store.snapshots) > 3, "published by the next one", second)
    assert world.pids() == pids
    assert all(each.pool(SMALL) and second.slots() == 4 for each in second.store.snapshots)
    assert never_silent(second.store.snapshots)
    assert second.store.snapshots[-1].version > first.store.snapshots[-1].version


async def test_a_controller_finds_its_instances_also_when_redis_lost_everything(world: World) -> None:
    first = await world.serving(4)
    pids = world.pids()
    await first.kill()
    await world.connection.command("FLUSHALL")
    second = await world.serving(4)
    assert world.pids() == pids
    assert second.store.snapshots[-1].pool(SMALL)


async def test_an_instance_that_died_while_no_controller_ran_is_not_offered_as_serving(world: World) -> None:
    first = await world.serving(4)
    died = sorted(world.pids())[0]
    await first.kill()
    was = world.pids()[died]
    kill(was)
    await until(lambda: world.pids()[died] not in (None, was), "the keeper has it back")
    second = await world.controller()
    await until(lambda: second.store.snapshots, "published", second)
    pool = second.store.snapshots[0].pool(SMALL)
    assert pool is not None
    assert {each.id: each.state for each in pool.instances}[InstanceId(died)] is InstanceState.STARTING
    assert pool.slots_serving == 2
    await until(lambda: second.slots() == 4, "both serve", second)


async def test_an_instance_whose_process_dies_is_taken_out_at_once_loaded_again_and_serves(world: World) -> None:
    controller = await world.serving(4)
    seen = len(controller.store.snapshots)
    died, pid = sorted(world.pids().items())[0]
    kill(pid)
    await until(lambda: any(offered_slots(each) == 2 for each in controller.store.snapshots[seen:]), "out")
    await until(lambda: controller.slots() == 4, "back", controller)
    after = [each.pool(SMALL) for each in controller.store.snapshots[seen:]]
    path = [one.state for pool in after if pool for one in pool.instances if one.id == died]
    assert InstanceState.LOADING in path
    assert path[-1] is InstanceState.SERVING
    assert never_silent(controller.store.snapshots[seen:])
    assert world.pids()[died] != pid


async def test_an_added_pool_is_started_and_a_removed_one_drained_and_stopped(world: World) -> None:
    controller = await world.serving(4)
    pids = world.pids()
    world.settings = settings_of(small={"replicas": 2}, full={})
    controller.steward.replan()
    await until(lambda: controller.slots(FULL) == 2, "the new pool", controller)
    assert {name: pid for name, pid in world.pids().items() if name in pids} == pids
    world.settings = settings_of(full={})
    controller.steward.replan()
    await until(lambda: len(world.pids()) == 1, "the old pool's instances are gone", controller)
    await until(lambda: controller.store.snapshots[-1].pool(SMALL) is None, "and the pool", controller)
    assert await world.offered() == {}
    assert controller.slots(FULL) == 2


async def test_a_changed_context_restarts_one_instance_after_the_other(world: World) -> None:
    controller = await world.serving(4)
    pids, seen = world.pids(), len(controller.store.snapshots)
    world.settings = settings_of(small={"replicas": 2, "context": 8192})
    controller.steward.replan()

    def is_changed() -> bool:
        pool = controller.store.snapshots[-1].pool(SMALL)
        assert pool is not None
        return pool.slots_serving == 4 and all(each.context == 8192 for each in pool.instances)

    await until(is_changed, "both with the new context", controller)
    assert never_silent(controller.store.snapshots[seen:])
    assert not set(pids.values()) & set(world.pids().values())


async def test_another_cache_type_restarts_what_else_is_the_same(world: World) -> None:
    controller = await world.serving(4)
    pids = world.pids()
    world.settings = settings_of(small={"replicas": 2, "kv_cache": "q8_0"})
    controller.steward.replan()
    await until(lambda: not set(pids.values()) & set(world.pids().values()), "all new", controller)
    await until(lambda: controller.slots() == 4, "serving", controller)


async def test_an_instance_with_a_call_in_flight_is_stopped_only_when_that_has_ended(world: World) -> None:
    controller = await world.serving(4)
    leases = Leases(world.connection, "gateway.1", 30.0)
    await leases.start()
    call = LeaseId("call-1")
    admitted = await leases.admit(AdmitRequest(PoolName(SMALL), call))
    assert isinstance(admitted, Leased)
    pids = world.pids()
    world.settings = settings_of(full={})
    controller.steward.replan()
    await until(lambda: len(world.pids()) == 2 and controller.slots(FULL) == 2, "the idle one is gone", controller)
    held = admitted.instance
    assert world.pids()[held] == pids[held]
    assert states(controller) == {InstanceState.DRAINING}
    await leases.settle(PoolName(SMALL), call, Outcome.OK)
    await until(lambda: held not in world.pids(), "stopped", controller)
    await leases.close()


@pytest.mark.parametrize("ends", ["stopped", "restarted"])
async def test_a_call_that_no_gateway_made_is_waited_for_as_well(world: World, ends: str) -> None:
    world.speed = 2.0
    world.settings = settings_of(small={})
    controller = await world.serving(2)
    (one,) = controller.store.snapshots[-1].pool(SMALL).instances  # type: ignore[union-attr]
    pid = world.pids()[one.id]
    body = {"model": SMALL, "prompt": "go on", "options": {"num_predict": 1000}}
    async with aiohttp.ClientSession() as http:
        async with http.post(f"http://{one.host}:{one.port}/api/generate", json=body) as reply:
            await reply.content.readline()
            if ends == "stopped":
                world.settings = settings_of(full={})
            else:
                world.wishes = Wishes(restarts=frozenset((one.id,)))
            controller.steward.replan()
            await until(lambda: states(controller) == {InstanceState.DRAINING}, "leaves", controller)
            answer = await reply.content.read()
        assert answer.splitlines()[-1].endswith(b"}")
        assert b'"done":true' in answer
    await until(lambda: world.pids().get(one.id) != pid, "ended", controller)
    world.wishes = Wishes()
    serves = FULL if ends == "stopped" else SMALL
    await until(lambda: controller.slots(serves) == 2, "serves", controller)


async def test_a_call_that_no_gateway_made_is_waited_for_no_longer_than_a_drain(world: World) -> None:
    world.speed, world.drain_s = 2.0, 0.2
    world.settings = settings_of(small={})
    controller = await world.serving(2)
    (one,) = controller.store.snapshots[-1].pool(SMALL).instances  # type: ignore[union-attr]
    body = {"model": SMALL, "prompt": "go on", "options": {"num_predict": 1000}}
    url = f"http://{one.host}:{one.port}/api/generate"
    async with aiohttp.ClientSession() as http, http.post(url, json=body) as reply:
        await reply.content.readline()
        world.settings = settings_of(full={})
        controller.steward.replan()
        with pytest.raises(aiohttp.ClientPayloadError):
            await reply.content.read()
    await until(lambda: controller.slots(FULL) == 2, "the other serves", controller)


async def test_settings_that_would_leave_a_pool_without_a_place_change_nothing_at_all(world: World) -> None:
    controller = await world.serving(4)
    pids = world.pids()
    world.settings = settings_of(small={"replicas": 2, "context": 131_072, "slots": 64}, full={})
    controller.steward.replan()
    await until(lambda: "stay as they are" in " ".join(controller.store.snapshots[-1].notes), "said", controller)
    assert world.pids() == pids
    assert controller.slots() == 4


async def test_settings_that_cannot_be_planned_leave_the_old_ones(world: World) -> None:
    controller = await world.serving(4)
    pids = world.pids()
    world.settings = settings_of(small={"replicas": 2}, unheard_of={})
    controller.steward.replan()
    await until(lambda: "unheard_of" in " ".join(controller.store.snapshots[-1].notes), "said", controller)
    assert world.pids() == pids
    assert controller.slots() == 4
    world.settings = settings_of(small={"replicas": 2})
    controller.steward.replan()
    await until(lambda: "unheard_of" not in " ".join(controller.store.snapshots[-1].notes), "forgotten", controller)


async def test_without_anything_to_keep_a_plan_that_fails_ends_the_controller_with_its_reason(world: World) -> None:
    world.settings = settings_of(unheard_of={})
    controller = await world.controller()
    with pytest.raises(Exception, match="unheard_of: its size is not known"):
        await asyncio.wait_for(controller.task, 30)  # type: ignore[arg-type]


async def test_a_sick_driver_moves_nothing(world: World) -> None:
    controller = await world.serving(4)
    pids = world.pids()
    _, facts = await world.want(())
    world.facts = (replace(facts[0], accelerators=(), problems=("the driver did not answer",)),)
    controller.steward.replan()
    await until(lambda: "nothing is moved" in " ".join(controller.store.snapshots[-1].notes), "said", controller)
    assert world.pids() == pids
    assert controller.slots() == 4


async def test_an_instance_whose_port_is_taken_before_it_binds_gets_another(world: World) -> None:
    world.settings = settings_of(small={})
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        world.ports = {"sim-gpu0-llama3.2-3b-0": stranger.getsockname()[1]}
        controller = await world.serving(2)
        assert controller.slots() == 2
    assert world.ports == {}


async def test_an_emptied_redis_is_filled_again(world: World) -> None:
    controller = await world.serving(4)
    await world.connection.command("FLUSHALL")
    seen = len(controller.store.snapshots)
    await until(lambda: len(controller.store.snapshots) > seen + 1, "published again", controller)
    assert sorted((await world.offered()).values()) == [2, 2]


async def test_a_controller_outlives_redis_and_fills_it_when_it_is_back(world: World) -> None:
    controller = await world.serving(4)
    pids = world.pids()
    world.server.kill()
    world.server.lose_data()
    seen = len(controller.store.snapshots)
    world.server.start()
    await until(lambda: len(controller.store.snapshots) > seen + 1, "published again", controller)
    assert sorted((await world.offered()).values()) == [2, 2]
    assert world.pids() == pids


async def test_a_second_controller_publishes_and_changes_nothing_while_another_leads(world: World) -> None:
    leader = await world.serving(4)
    pids = world.pids()
    other = await world.controller("another machine")
    world.settings = settings_of(full={})
    other.steward.replan()
    seen = len(leader.store.snapshots)
    await until(lambda: len(leader.store.snapshots) > seen + 2, "the leader goes on", leader)
    assert other.store.snapshots == []
    assert world.pids() == pids


async def test_without_its_keeper_the_controller_ends(world: World) -> None:
    controller = await world.serving(4)
    await world.keeper.close()
    with pytest.raises(HostError):
        await asyncio.wait_for(controller.task, 30)  # type: ignore[arg-type]


async def test_a_model_that_is_not_there_is_pulled_and_its_progress_is_said(world: World) -> None:
    world.is_pulled, world.speed = False, 20.0
    world.settings = settings_of(small={})
    controller = await world.serving(2)
    reasons = [one.reason for each in controller.store.snapshots for pool in each.pools for one in pool.instances]
    assert any("pulling llama3.2:3b" in each for each in reasons)
    assert any("loading llama3.2:3b" in each for each in reasons)


async def test_a_unit_that_nobody_knows_is_stopped(world: World) -> None:
    from orchestrator.nodes.keeper_units import Unit

    await world.client.start(Unit("engine-stray", ("sleep", "1000")))
    await world.serving(4)
    assert "stray" not in world.pids()


async def test_an_instance_that_its_operator_drains_keeps_its_process_and_gets_no_calls(world: World) -> None:
    controller = await world.serving(4)
    pids = world.pids()
    name = sorted(pids)[0]
    world.wishes = Wishes(drained=frozenset({name}))
    controller.steward.replan()
    await until(lambda: controller.slots() == 2, "drained", controller)
    assert states(controller) == {InstanceState.DRAINING, InstanceState.SERVING}
    assert world.pids() == pids
    world.wishes = Wishes()
    controller.steward.replan()
    await until(lambda: controller.slots() == 4, "serves again", controller)
    assert world.pids() == pids


async def test_instances_that_are_to_start_anew_do_one_after_the_other_and_the_pool_never_falls_silent(
    world: World,
) -> None:
    controller = await world.serving(4)
    pids, seen = world.pids(), len(controller.store.snapshots)
    world.wishes = Wishes(restarts=frozenset(pids))
    controller.steward.replan()
    await until(lambda: len(world.restarted) == 2, "both restarted", controller)
    world.wishes = Wishes()
    await until(lambda: controller.slots() == 4, "both serve", controller)
    assert not set(pids.values()) & set(world.pids().values())
    assert never_silent(controller.store.snapshots[seen:])


async def test_what_happened_is_told_in_its_order(world: World) -> None:
    controller = await world.serving(4)
    name, pid = sorted(world.pids().items())[0]
    kill(pid)
    await until(lambda: controller.slots() == 2, "out", controller)
    await until(lambda: controller.slots() == 4, "back", controller)
    kinds = [each.kind for each in world.happened if each.instance == name]
    assert kinds == [Moment.STARTED, Moment.SERVING, Moment.RESTARTED, Moment.SERVING]
