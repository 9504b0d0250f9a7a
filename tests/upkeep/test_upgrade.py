"""A running cluster becomes the code on disk: nobody is refused, no connection is reset, no answer is cut."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from orchestrator.nodes.keeper_client import About, KeeperClient
from tests.cluster.running import Up, is_back, needs_redis, ollamactl, unit_pid, until
from tests.fleet.given_world import Played, model
from tests.upkeep.new_code import UPGRADE_S, change_the_code, checked, copy_the_code, its_own, upgraded
from tests.upkeep.storm import Storm

MODEL = "llama3:8b"
WORKERS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the cluster is started, with a copy of the program."""
    needs_redis()
    made = tmp_path_factory.mktemp("upgrade")
    copy_the_code(made)
    return made


@pytest.fixture(scope="module")
def gateway(folder: Path) -> Iterator[Up]:
    """Two workers before two servers that somebody else runs."""
    servers = [Played(folder, model(MODEL, slots=4), speed=1.0) for _ in range(2)]
    for each in servers:
        each.start()
    config = folder / "cluster.yaml"
    config.write_text(yaml.safe_dump({"instances": [{"url": each.url, "slots": 4} for each in servers]}))
    up = Up(folder / "state", "--workers", str(WORKERS), config=config, command="gateway", env=its_own(folder))
    try:
        up.wait_until_ready()
        yield up
    finally:
        up.close()
        for each in servers:
            each.kill()


def about(up: Up) -> About:
    return asyncio.run(KeeperClient(up.state / "keeper.sock").about())


def calls(up: Up) -> int:
    """How many Redis has counted today."""
    return sum(each["calls"] for each in up.status()["usage"].values())


def roll(up: Up, drain_s: float = 60.0) -> None:
    asyncio.run(KeeperClient(up.state / "keeper.sock").roll(drain_s))


def workers(up: Up) -> list[int]:
    return [unit_pid(up.state, f"gateway-{index}") for index in range(WORKERS)]


def test_workers_are_replaced_again_and_again_and_no_caller_notices(gateway):
    storm = Storm(gateway.listen, MODEL)
    with storm.raging():
        for _ in range(2):
            before = workers(gateway)
            roll(gateway)
            assert not set(before) & set(workers(gateway))
    assert storm.failed == []
    assert storm.done["told to come again"] > 0


# --- by the command ---------------------------------------------------------------------------------------------------


PARTS = {"supervisor", "controller", "redis", *(f"gateway-{index}" for index in range(WORKERS))}


def test_a_new_version_on_disk_runs_after_an_upgrade_and_no_caller_notices(gateway, folder):
    assert checked(gateway) == dict.fromkeys(PARTS, False)
    change_the_code(folder, "7.7.7")
    assert checked(gateway) == dict.fromkeys(PARTS, True) | {"redis": False}
    before, redis = about(gateway), unit_pid(gateway.state, "redis")
    storm = Storm(gateway.listen, MODEL)
    with storm.raging():
        said = upgraded(gateway)
    assert storm.failed == []
    assert "started anew: supervisor, controller, gateway-0, gateway-1" in said
    after = about(gateway)
    assert (after.times, after.build.partition("+")[0]) == (before.times + 1, "7.7.7")
    assert gateway.process.poll() is None
    assert unit_pid(gateway.state, "redis") == redis
    assert checked(gateway) == dict.fromkeys(PARTS, False)
    of_then = workers(gateway)
    assert "everything runs what is on disk" in upgraded(gateway)  # a second one changes nothing
    assert (workers(gateway), about(gateway)) == (of_then, after)


def test_what_the_supervisor_keeps_is_kept_after_it_became_new_code(gateway):
    before, redis, counted = about(gateway), unit_pid(gateway.state, "redis"), calls(gateway)
    storm = Storm(gateway.listen, MODEL)
    with storm.raging():
        assert "gateway-1, redis" in upgraded(gateway, "--force")
    assert storm.failed == []
    assert about(gateway).times == before.times + 1
    assert unit_pid(gateway.state, "redis") != redis
    assert calls(gateway) > counted > 0  # Redis went on with its data
    worker, controller = unit_pid(gateway.state, "gateway-0"), unit_pid(gateway.state, "controller")
    for pid in (worker, controller):
        os.kill(pid, signal.SIGKILL)
    until(lambda: is_back(gateway.state, "gateway-0", worker), "the worker is started again")
    until(lambda: is_back(gateway.state, "controller", controller), "the controller is started again")
    assert gateway.chat("still there?", MODEL).status_code == 200


def test_a_redis_that_is_kept_by_nobody_is_brought_back_by_the_supervisors_next_code(gateway, folder):
    asyncio.run(KeeperClient(gateway.state / "keeper.sock").stop("redis"))
    change_the_code(folder, "7.7.8")
    assert "started anew: supervisor, controller, gateway-0, gateway-1" in upgraded(gateway)
    until(lambda: gateway.status()["store"] == "up", "Redis answers")
    redis = unit_pid(gateway.state, "redis")
    os.kill(redis, signal.SIGKILL)
    until(lambda: is_back(gateway.state, "redis", redis), "and is kept from then on")


def test_a_redis_that_is_down_is_said_to_be_and_started(gateway, folder):
    asyncio.run(KeeperClient(gateway.state / "keeper.sock").stop("redis"))
    looked = ollamactl("upgrade", "--check", "--state", gateway.state, cwd=folder, env=its_own(folder))
    assert looked.returncode == 1
    assert "Redis does not run" in looked.stdout
    assert "everything runs" not in looked.stdout
    assert "started anew: redis" in upgraded(gateway)
    assert "redis" in checked(gateway)
    until(lambda: gateway.status()["store"] == "up", "Redis answers")


def test_where_no_redis_is_on_disk_any_more_the_cluster_goes_on_with_the_one_that_runs(gateway, folder):
    place = folder / "orchestrator" / "store" / "embedded.py"
    good, before = place.read_text(), about(gateway)
    gone = good.replace('"""The server program', 'raise HostError("no Redis server here")\n    """The server program')
    redis = unit_pid(gateway.state, "redis")
    place.write_text(gone)
    try:
        done = ollamactl("upgrade", "--state", gateway.state, cwd=folder, env=its_own(folder), timeout=UPGRADE_S)
        assert "started anew: supervisor, controller, gateway-0, gateway-1" in done.stdout
        assert (done.returncode, "redis was left as it is: no Redis server here" in done.stderr) == (1, True)
        assert about(gateway).times == before.times + 1
        assert unit_pid(gateway.state, "redis") == redis
        assert gateway.chat("still there?", MODEL).status_code == 200
    finally:
        place.write_text(good)
    assert "started anew" in upgraded(gateway)


def test_code_that_does_not_start_changes_nothing(gateway, folder):
    place = folder / "orchestrator" / "app" / "gateway.py"
    good, before, runs = place.read_text(), workers(gateway), about(gateway)
    place.write_text("raise RuntimeError('not finished')\n")
    try:
        done = ollamactl("upgrade", "--state", gateway.state, cwd=folder, env=its_own(folder))
        assert done.returncode == 1
        assert "the program on disk does not start, nothing was changed: RuntimeError: not finished" in done.stderr
        assert (workers(gateway), about(gateway)) == (before, runs)
        assert gateway.chat("still there?", MODEL).status_code == 200
    finally:
        place.write_text(good)
    assert "everything runs what is on disk" in upgraded(gateway)
