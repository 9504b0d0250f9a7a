"""What a process runs is told apart from what lies on disk by now; and a cluster's own instances are started anew."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from orchestrator.app.running_code import Kind, Running, of_unit, of_units
from orchestrator.nodes.keeper_units import UnitState, UnitStatus
from tests.cluster.running import needs_redis, running, unit_pid, until
from tests.upkeep.new_code import change_the_code, checked, copy_the_code, its_own, upgraded
from tests.upkeep.storm import Storm

SMALL = "llama3.2:3b"


@contextmanager
def started(program: Path) -> Iterator[UnitStatus]:
    process = subprocess.Popen([program, "1000"])
    until(lambda: psutil.Process(process.pid).cmdline(), "it has its words")
    try:
        yield UnitStatus("engine-one", process.pid, UnitState.RUNNING, 0, 0, None, Path("log"))
    finally:
        process.kill()
        process.wait()


def seen(unit: UnitStatus) -> Running:
    found = of_unit(unit, "1.0+abc")
    assert found is not None
    assert (found.kind, found.name) == (Kind.INSTANCE, "one")
    return found


def newer(place: Path) -> None:
    """As an installer does it: a new file in the old one's place."""
    fresh = place.with_suffix(".new")
    shutil.copy("/bin/sleep", fresh)
    fresh.replace(place)


def test_an_engine_whose_file_was_replaced_is_old(tmp_path):
    engine = tmp_path / "ollama"
    newer(engine)
    with started(engine) as unit:
        assert not seen(unit).is_old
        newer(engine)
        assert seen(unit).is_old
        assert seen(unit).on_disk == str(engine)


def test_an_engine_whose_link_points_elsewhere_is_old(tmp_path):
    for version in ("1", "2"):
        newer(tmp_path / version)
    link = tmp_path / "ollama"
    link.symlink_to(tmp_path / "1")
    with started(link) as unit:
        assert not seen(unit).is_old
        link.unlink()
        link.symlink_to(tmp_path / "2")
        assert seen(unit).is_old
        assert seen(unit).on_disk == str(tmp_path / "2")


def test_a_process_that_has_ended_is_nothing_to_start_anew():
    with started(Path("/bin/sleep")) as unit:
        pass
    assert of_unit(unit, "1.0+abc") is None


def test_a_redis_of_its_own_that_is_down_is_a_problem_and_not_what_is_on_disk():
    dead = UnitStatus("redis", None, UnitState.WAITING, 3, 0, None, Path("log"))
    for units in ([dead], []):
        (down,) = of_units(units, "1.0+abc", has_store=True)
        assert (down.kind, down.name, down.is_down, down.is_old) == (Kind.STORE, "redis", True, False)
        assert "Redis does not run" in down.problem
        assert of_units(units, "1.0+abc", has_store=False) == []


@pytest.mark.timeout(600)
def test_instances_are_drained_and_started_anew_and_no_caller_notices(tmp_path):
    needs_redis()
    copy_the_code(tmp_path)
    (tmp_path / "cluster.yaml").write_text(
        f"models: {{'{SMALL}': {{replicas: 2, slots: 4}}}}\ngateway: {{workers: 1}}\n"
    )
    simulated = ("--simulate", "1x RTX 4090")
    with running(tmp_path / "state", *simulated, config=tmp_path / "cluster.yaml", env=its_own(tmp_path)) as up:
        units = [f"engine-{each['id']}" for each in up.instances()]
        before = {each: unit_pid(up.state, each) for each in units}
        assert len(before) == 2
        change_the_code(tmp_path, "7.7.7")
        assert all(checked(up)[each.removeprefix("engine-")] for each in units)
        storm = Storm(up.listen, SMALL, fresh=1, kept=1, streams=2)
        with storm.raging():
            upgraded(up)
        assert storm.failed == []
        assert not any(checked(up).values())
        assert not set(before.values()) & {unit_pid(up.state, each) for each in units}
