"""What a machine does to a small cluster under load: disks, names, files, packets, clocks. All with OLM_CHAOS=full."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.chaos import trial
from tests.chaos.apart import fill, needs_namespaces, own_namespaces, small_disk
from tests.chaos.clock import needs_compiler
from tests.chaos.faults import Fault
from tests.chaos.faults_machine import MACHINE_FAULTS, PLAN, DiskFull, NamesUnknown
from tests.chaos.schedule import SHORT_SIZE
from tests.chaos.world import World, world_of
from tests.cluster.running import Up, needs_redis, running, until
from tests.fleet.given_world import Played, model

IS_FULL = os.environ.get("OLM_CHAOS") == "full"
QUICK = (NamesUnknown, DiskFull)
PARTS = PLAN if IS_FULL else replace(PLAN, sides=1, instances=2, engines=0, sentinels=0)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    needs_redis()
    needs_namespaces()
    needs_compiler()
    with world_of(tmp_path_factory.mktemp("machine") / "world", PARTS) as made:
        yield made


@pytest.mark.parametrize("kind", MACHINE_FAULTS if IS_FULL else QUICK, ids=lambda each: each.name)
def test_whatever_the_machine_does_every_call_is_answered(world: World, kind: type[Fault]) -> None:
    result = trial.run(world, kind(), kind.__name__, SHORT_SIZE)
    assert result.breaches == ()


@pytest.fixture
def on_small_disk(tmp_path: Path) -> Iterator[Up]:
    """A gateway with a Redis of its own, whose state folder has a disk that can be filled."""
    needs_redis()
    needs_namespaces()
    with ExitStack() as stack:
        stack.enter_context(own_namespaces())
        played = Played(tmp_path, model("llama3.2:3b", slots=2))
        stack.callback(played.kill)
        instances = [{"url": played.start().url, "slots": 2}]
        (tmp_path / "cluster.yaml").write_text(yaml.safe_dump({"instances": instances}))
        disk = small_disk(tmp_path / "disk")
        yield stack.enter_context(
            running(disk / "state", "--workers", "2", config=tmp_path / "cluster.yaml", command="gateway")
        )


@pytest.mark.long
def test_a_redis_whose_disk_is_full_is_done_without_and_said(on_small_disk: Up) -> None:
    assert on_small_disk.chat("before", "llama3.2:3b").status_code == 200
    filler = fill(on_small_disk.state.parent)
    until(lambda: _is_answered_without_redis(on_small_disk), "the status says that Redis takes no writes")
    assert on_small_disk.chat("meanwhile", "llama3.2:3b").status_code == 200
    filler.unlink()
    until(lambda: on_small_disk.status()["store"] == "up", "Redis is back by itself")
    until(on_small_disk.is_idle, "no slot is held and nobody waits")


def _is_answered_without_redis(up: Up) -> bool:
    assert up.chat("what Redis has to write down", "llama3.2:3b").status_code == 200
    return "takes no writes: MISCONF" in up.status()["store"]
