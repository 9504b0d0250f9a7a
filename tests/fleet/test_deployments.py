"""What a state folder keeps of deployments and wishes, and how far a published cluster has come with one."""

from __future__ import annotations

import multiprocessing
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.app import deployments, wishes
from orchestrator.app.deployments import KEPT
from orchestrator.app.paths import StatePaths
from orchestrator.core.course import course_of
from orchestrator.core.deployment import Deployment
from orchestrator.core.errors import HostError
from orchestrator.core.model import (
    Engine,
    Footprint,
    Instance,
    InstanceId,
    InstanceState,
    ModelShape,
    NodeName,
    Placement,
    Pool,
    PoolName,
    Snapshot,
)
from orchestrator.core.wishes import Wishes

SHAPE = ModelShape("llama", 8, 32, 32, 8, 128, 4096, 128_256, 131_072, 2**32, "Q4_K_M")
PLACED = Placement(
    InstanceId("gpu-1-gpu0-small-0"), PoolName("small"), NodeName("gpu-1"), ("GPU-a",), 2, 4096,
    Footprint(1, 2, 3, 4, 5), "fits",
)  # fmt: skip


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return StatePaths(tmp_path / "state")


def deployment(number: int) -> Deployment:
    return Deployment(number, 1000, "ops@desk", (PLACED,), {"small": SHAPE}, {"small": "ollama f16"}, {"small": "f16"})


def test_a_deployment_is_read_as_it_was_written_and_by_its_owner_alone(paths: StatePaths):
    assert deployments.current(paths) is None
    assert deployments.history(paths) == ()
    deployments.write(paths, deployment(1))
    assert deployments.current(paths) == deployment(1)
    (file,) = (paths.root / "deployments").glob("*.json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_numbers_grow_and_the_last_ten_are_kept(paths: StatePaths):
    for number in range(1, KEPT + 4):
        deployments.write(paths, deployment(number))
    assert [each.number for each in deployments.history(paths)] == list(range(4, KEPT + 4))
    for older in (KEPT + 3, 2):
        with pytest.raises(HostError, match=f"deployment {older} is older than {KEPT + 3}"):
            deployments.write(paths, deployment(older))


def test_a_good_deployment_is_remembered_as_one(paths: StatePaths):
    deployments.write(paths, deployment(1))
    deployments.mark_good(paths, 1)
    deployments.mark_good(paths, 7)
    assert deployments.current(paths) == replace(deployment(1), is_good=True)


def test_a_damaged_file_is_named_in_one_line(paths: StatePaths):
    deployments.write(paths, deployment(1))
    file = paths.root / "deployments" / "00000001.json"
    file.write_text('{"number": 1}')
    with pytest.raises(HostError, match=r"00000001\.json is damaged") as told:
        deployments.current(paths)
    assert "\n" not in str(told.value)


def _hold(root: Path, has: multiprocessing.synchronize.Event, until: multiprocessing.synchronize.Event) -> None:
    with deployments.deploying(StatePaths(root)):
        has.set()
        until.wait(30)


def test_of_two_who_deploy_the_second_is_told_who_is_first_and_gets_its_turn_when_that_one_is_killed(paths: StatePaths):
    fork = multiprocessing.get_context("fork")
    has, until = fork.Event(), fork.Event()
    first = fork.Process(target=_hold, args=(paths.root, has, until))
    first.start()
    try:
        assert has.wait(30)
        told = f"{deployments.who()}, process {first.pid}, is deploying from"
        with pytest.raises(HostError, match=told), deployments.deploying(paths):
            pass
    finally:
        first.kill()
        first.join()
    with deployments.deploying(paths):
        assert str(os.getpid()) in (paths.root / "deployments" / "lock").read_text()


# --- wishes ----------------------------------------------------------------------------------------------------------


def test_wishes_are_kept_until_they_are_taken_back_or_done(paths: StatePaths):
    paths.root.mkdir()
    assert wishes.read(paths) == Wishes()
    long = "gpu-1-gpu0-" + "x" * 300
    for name in ("gpu-1-gpu0-small-0", "gpu-2", long):
        wishes.drain(paths, name)
    wishes.restart(paths, "gpu-1-gpu0-small-0")
    told = wishes.read(paths)
    assert told == Wishes(frozenset({"gpu-1-gpu0-small-0", "gpu-2", long}), frozenset({"gpu-1-gpu0-small-0"}))
    assert told.is_drained("gpu-2-gpu0-small-0", "gpu-2")
    assert not told.is_drained("gpu-3-gpu0-small-0", "gpu-3")
    assert wishes.undrain(paths, long)
    assert not wishes.undrain(paths, long)
    wishes.restarted(paths, "gpu-1-gpu0-small-0")
    assert wishes.read(paths) == Wishes(frozenset({"gpu-1-gpu0-small-0", "gpu-2"}))


# --- how far it has come ---------------------------------------------------------------------------------------------


def published(*states: InstanceState, deployment: int = 2, is_settled: bool = True, **more) -> Snapshot:
    def instance(index: int, state: InstanceState) -> Instance:
        node = NodeName(f"gpu-{index}")
        reason = "" if state is InstanceState.SERVING else "pulling"
        return Instance(
            InstanceId(f"{node}-0"), node, PoolName("small"), "10.0.0.1", 1, Engine.OLLAMA, "small", 2, 4096,
            state=state, reason=reason,
        )  # fmt: skip

    pool = Pool(PoolName("small"), 4096, False, tuple(instance(*each) for each in enumerate(states)))
    return Snapshot(1, 1, (pool,), deployment=deployment, is_settled=is_settled, **more)


SERVING, LOADING, DRAINING = InstanceState.SERVING, InstanceState.LOADING, InstanceState.DRAINING


@pytest.mark.parametrize(
    ("snapshot", "is_whole", "is_whole_elsewhere", "sentence"),
    [
        (published(SERVING, SERVING), True, False, "2 of 2 instances serve"),
        (
            published(SERVING, deployment=1),
            False,
            False,
            "1 of 1 instances serve; the controller takes the deployment up",
        ),
        (published(SERVING, is_settled=False), False, False, "1 of 1 instances serve"),
        (published(SERVING, LOADING), False, False, "1 of 2 instances serve; gpu-1-0 is loading: pulling"),
        (
            published(SERVING, LOADING, unreachable={NodeName("gpu-1"): "gpu-1: no answer"}),
            False,
            True,
            "1 of 2 instances serve; gpu-1: no answer",
        ),
        (
            published(SERVING, unreachable={NodeName("gpu-9"): "gpu-9: no answer"}),
            True,
            False,
            "1 of 1 instances serve",
        ),
        (published(SERVING, SERVING, unreachable={NodeName("gpu-1"): "no answer"}), False, True, "2 of 2 instances"),
        (published(SERVING, unreachable={NodeName("gpu-1"): "no answer"}), False, True, "1 of 2 instances serve"),
    ],
)
def test_how_far_a_deployment_has_come(snapshot, is_whole, is_whole_elsewhere, sentence):
    names = {each.id: each.node for pool in snapshot.pools for each in pool.instances}
    names |= {f"{node}-0": node for node in snapshot.unreachable if node == "gpu-1"}
    placements = [replace(PLACED, instance=name, node=node) for name, node in names.items()]
    course = course_of(snapshot, 2, placements, Wishes())
    assert (course.is_whole, course.is_whole_elsewhere) == (is_whole, is_whole_elsewhere)
    assert course.sentence().startswith(sentence)


def test_what_an_operator_has_drained_is_where_it_should_be():
    snapshot = published(SERVING, DRAINING)
    assert not course_of(snapshot, 2, (), Wishes()).is_whole
    assert course_of(snapshot, 2, (), Wishes(drained=frozenset({"gpu-1"}))).is_whole
