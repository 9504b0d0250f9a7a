"""The controller over two real hosts: what is deployed serves there, and is brought back whatever happens to it."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from orchestrator.core.model import InstanceState, Moment
from tests.hosts.conftest import CARDS, TWO_4090
from tests.hosts.fleets import SMALL, Fleet, fleet_of, pid_of
from tests.store.playing import Server, own_server


@pytest.fixture
def server() -> Iterator[Server]:
    with own_server() as server:
        yield server


@pytest.fixture
async def fleet(hosts, server: Server) -> AsyncIterator[Fleet]:
    with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
        async with fleet_of(hosts, Path(folder), server, hosts.machines.values()) as made:
            yield made


def machine_of(fleet: Fleet, instance):
    return fleet.net.machines[instance.node]


async def test_what_is_deployed_serves_and_is_back_after_a_kill_a_stop_and_the_controllers_own_end(fleet: Fleet):
    await fleet.begin(small={"replicas": 2, "hosts": 2})
    await fleet.until(lambda: fleet.now and "ollamactl deploy" in " ".join(fleet.now.notes), "that nothing is deployed")
    assert fleet.instances == ()
    await fleet.deploy()
    await fleet.until(lambda: fleet.serve(2, deployment=1), "both")
    assert {each.node for each in fleet.instances} == {each.node for each in fleet.now.nodes} == {"gpu-1", "gpu-2"}
    assert {each.host for each in fleet.instances} == {each.address for each in fleet.net.machines.values()}
    assert all(11500 <= each.port <= 11599 and not each.is_simulated for each in fleet.instances)
    await fleet.until(lambda: fleet.told(Moment.DEPLOYMENT_FINISHED), "that it serves whole")
    one, other = fleet.instances
    machine = machine_of(fleet, one)
    was = pid_of(machine, one.id)
    machine.run("kill", "-9", str(was))
    await fleet.until(lambda: fleet.told(Moment.RESTARTED), "that it ended")
    await fleet.until(lambda: fleet.serve(2, deployment=1) and pid_of(machine, one.id) != was, "the killed one")
    served = fleet.times_served(other.id)
    machine_of(fleet, other).run("systemctl", "stop", f"ollama@{other.id}")
    await fleet.until(lambda: fleet.times_served(other.id) > served, "that it was stopped, and serves again")
    await fleet.until(lambda: fleet.serve(2, deployment=1), "the stopped one")
    pids = {each.id: pid_of(machine_of(fleet, each), each.id) for each in fleet.instances}
    controller, seen = fleet.controller_pid(), len(fleet.published)
    os.kill(controller, signal.SIGKILL)
    await fleet.until(lambda: fleet.controller_pid() not in (None, controller), "another controller")
    await fleet.until(lambda: len(fleet.published) > seen + 2, "published by it")
    assert all(each.pool(SMALL).slots_serving == 4 for each in fleet.published[seen:])
    assert pids == {each.id: pid_of(machine_of(fleet, each), each.id) for each in fleet.instances}


async def test_a_host_that_another_place_took_over_is_left_to_it(fleet: Fleet, gpu_1):
    await fleet.begin(small={"on_nodes": ["gpu-1"]})
    await fleet.deploy()
    await fleet.until(lambda: fleet.serve(1, deployment=1), "it")
    (one,) = fleet.instances
    await fleet.taken_over(gpu_1, by="elsewhere")
    gpu_1.run("systemctl", "stop", f"ollama@{one.id}")
    await fleet.until(lambda: "elsewhere" in fleet.one(one.id).reason, "whose the host is")
    assert fleet.one(one.id).state is InstanceState.DOWN
    assert gpu_1.run("systemctl", "is-active", f"ollama@{one.id}", check=False) == "inactive\n"


async def test_a_host_without_power_keeps_nobody_from_a_new_deployment_and_comes_back_to_it(fleet: Fleet, gpu_2):
    await fleet.begin(small={"replicas": 3, "hosts": 2})
    await fleet.deploy()
    await fleet.until(lambda: fleet.serve(3, deployment=1), "all three")
    lost = [each.id for each in fleet.instances if each.node == "gpu-2"]
    seen = len(fleet.published)
    gpu_2.power_off()
    await fleet.until(lambda: fleet.now.unreachable.keys() == {"gpu-2"}, "that it cannot be reached")
    await fleet.until(lambda: all("gpu-2 cannot be reached" in fleet.one(each).reason for each in lost), "why")
    assert {fleet.one(each).state for each in lost} == {InstanceState.DOWN}
    made = await fleet.redeploy(context=8192)
    here = {each.instance for each in made.placements if each.node == "gpu-1"}

    def serves_here() -> bool:
        return here == {each.id for each in fleet.instances if each.context == 8192 and each.slots_offered}

    assert len(here) == 2, "the last of a pool would be left as it is"
    await fleet.until(serves_here, "those of gpu-1")
    gpu_2.power_on()
    await fleet.until(lambda: not fleet.now.unreachable and fleet.serve(3, deployment=2), "all of it")
    assert {each.context for each in fleet.instances} == {8192}
    assert all(each.pool(SMALL).slots_serving for each in fleet.published[seen:])
    assert [each.node for each in fleet.told(Moment.HOST_LOST)] == ["gpu-2"]
    assert [each.node for each in fleet.told(Moment.HOST_BACK)] == ["gpu-2"]


async def test_a_changed_deployment_rolls_and_a_controller_killed_on_the_way_is_finished_by_the_next(fleet: Fleet):
    await fleet.begin(small={"replicas": 2})
    await fleet.deploy()
    await fleet.until(lambda: fleet.serve(2, deployment=1), "the first")
    await fleet.until(lambda: fleet.told(Moment.DEPLOYMENT_FINISHED), "that it serves whole")
    seen = len(fleet.published)
    await fleet.deploy({SMALL: {"replicas": 2, "context": 8192}})
    await fleet.until(lambda: any(each.context == 8192 for each in fleet.instances), "the first of the new")
    os.kill(fleet.controller_pid(), signal.SIGKILL)
    await fleet.until(lambda: fleet.serve(2, deployment=2), "the second")
    assert {each.context for each in fleet.instances} == {8192}
    assert all(each.pool(SMALL).slots_serving > 0 for each in fleet.published[seen:])
    await fleet.until(lambda: len(fleet.told(Moment.DEPLOYMENT_FINISHED)) == 2, "that both have finished")


async def test_the_instances_of_a_lost_card_go_elsewhere_and_stay_there_when_it_is_back(fleet: Fleet, gpu_1):
    await fleet.begin(small={"replicas": 2, "hosts": 2, "instances_per_gpu": 1})
    await fleet.deploy()
    await fleet.until(lambda: fleet.serve(2, deployment=1), "both")
    one = next(each for each in fleet.instances if each.node == "gpu-1")
    index = 0 if one.accelerators == ("GPU-4090-a",) else 1
    gpu_1.play(f"{TWO_4090}fault gpu={index} answer=15\n")
    await fleet.until(lambda: fleet.told(Moment.MOVED), "that it moves")
    await fleet.until(lambda: fleet.one(one.id) is None and fleet.serve(2, deployment=1), "served elsewhere")
    gone = {one.accelerators}
    assert not gone & {each.accelerators for each in fleet.instances}
    gpu_1.play(TWO_4090)
    await fleet.until(lambda: fleet.told(Moment.CARD_BACK), "that it is back")
    names = {each.id for each in fleet.instances}
    seen = len(fleet.published)
    await fleet.until(lambda: len(fleet.published) > seen + 1, "published again")
    assert {each.id for each in fleet.instances} == names
    assert fleet.serve(2, deployment=1)


async def test_memory_that_others_take_is_told_and_an_instance_that_no_longer_loads_goes_elsewhere(fleet: Fleet):
    await fleet.begin(small={})
    await fleet.deploy()
    await fleet.until(lambda: fleet.serve(1, deployment=1), "it")
    (one,) = fleet.instances
    machine = machine_of(fleet, one)
    cards = CARDS[one.node]
    uuids = [each.uuid for node in fleet.now.nodes if node.node == one.node for each in node.accelerators]
    machine.play(cards + "".join(f"process on={each} pid=1 used=23000 as=compute\n" for each in uuids))
    await fleet.until(lambda: fleet.told(Moment.VRAM_TAKEN), "that it is taken")
    assert "pid 1 of root" in fleet.told(Moment.VRAM_TAKEN)[0].text
    assert fleet.serve(1, deployment=1)
    machine.stand_in(load_error="cudaMalloc failed: out of memory")
    machine.run("kill", "-9", str(pid_of(machine, one.id)))
    await fleet.until(lambda: fleet.told(Moment.MOVED), "that it moves")
    await fleet.until(lambda: fleet.one(one.id) is None and fleet.serve(1, deployment=1), "served elsewhere")
    assert {each.node for each in fleet.instances} == {"gpu-1", "gpu-2"} - {one.node}
