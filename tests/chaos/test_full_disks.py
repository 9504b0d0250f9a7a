"""What is mapped into memory and written there: on a full disk it costs its writer nothing but room for what is new."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.mmap_dict import MmapedDict

from orchestrator.core.model import InstanceId
from orchestrator.gateway.shared_slots import SharedSlots
from orchestrator.metric_files import FIRST_BYTES, RoomyDict
from tests.chaos.apart import fill, needs_namespaces, own_namespaces, small_disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    needs_namespaces()
    with own_namespaces():
        yield small_disk(tmp_path / "disk", "1m")


def written(path: Path) -> dict[str, float]:
    """As whoever collects the metrics of all processes reads it."""
    return {key: value for key, value, _, _ in MmapedDict.read_all_values_from_file(str(path))}


def test_a_file_of_metrics_has_its_room_from_the_start(disk: Path) -> None:
    path = disk / "counter_1.db"
    metrics = RoomyDict(str(path))
    assert path.stat().st_blocks * 512 >= FIRST_BYTES
    filler = fill(disk)
    for number in range(200):
        metrics.write_value(f"calls-{number}", number, 0.0)
    assert written(path) == {f"calls-{number}": number for number in range(200)}
    filler.unlink()
    metrics.close()


def test_what_finds_no_room_is_kept_and_written_once_there_is_some(disk: Path) -> None:
    path = disk / "counter_1.db"
    metrics = RoomyDict(str(path))
    metrics.write_value("first", 1.0, 0.0)
    filler = fill(disk)
    names = [f"{number:0100d}" for number in range(2 * FIRST_BYTES // 100)]  # twice as many as there is room for
    for name in names:
        metrics.write_value(name, 2.0, 0.0)
    assert metrics.read_value(names[-1]) == (2.0, 0.0)
    assert names[-1] not in written(path)
    assert written(path)["first"] == 1.0
    filler.unlink()
    for name in names:
        metrics.write_value(name, 3.0, 0.0)
    assert written(path) == {"first": 1.0, **dict.fromkeys(names, 3.0)}
    metrics.close()


def test_a_process_that_starts_on_a_full_disk_counts_in_memory_and_leaves_no_broken_file(disk: Path) -> None:
    filler, path = fill(disk), disk / "counter_1.db"
    metrics = RoomyDict(str(path))
    metrics.write_value("calls", 1.0, 0.0)
    assert metrics.read_value("calls") == (1.0, 0.0)
    assert not path.exists()
    filler.unlink()
    metrics.write_value("calls", 2.0, 0.0)
    assert written(path) == {"calls": 2.0}
    metrics.close()


def test_the_table_of_slots_that_has_its_room_is_used_on_a_full_disk_and_a_new_one_is_refused(disk: Path) -> None:
    SharedSlots(disk / "slots.map", 0, 2).close()
    fill(disk)
    slots = SharedSlots(disk / "slots.map", 1, 2)  # a worker that was started anew
    slots.took(InstanceId("gpu-1"))
    assert slots.everyones("gpu-1") == 1
    slots.close()
    with pytest.raises(OSError, match="No space left"):
        SharedSlots(disk / "another.map", 0, 2)
