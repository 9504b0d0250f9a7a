"""The table of slots in use: what one worker writes the others read, and it outlives whoever wrote it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from orchestrator.core.model import InstanceId
from orchestrator.gateway.shared_slots import COLUMNS, SharedSlots
from tests.waiting import until

ONE, TWO = InstanceId("gpu-1"), InstanceId("gpu-2")

WORKER = """
import sys
from pathlib import Path
from orchestrator.gateway.shared_slots import SharedSlots
slots = SharedSlots(Path(sys.argv[1]), index=1, gateways=2)
for _ in range(3):
    slots.took("gpu-1")
with slots.locked() as is_ours:
    print("took", is_ours, flush=True)
    sys.stdin.readline()
slots.gave("gpu-1")
print("gave", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "slots.map"


def test_what_one_worker_uses_the_others_see(path):
    first, second = SharedSlots(path, 0, 2), SharedSlots(path, 1, 2)
    first.took(ONE)
    first.took(ONE)
    second.took(ONE)
    second.took(TWO)
    assert (first.own(ONE), first.everyones(ONE), first.everyones(TWO)) == (2, 3, 1)
    first.gave(ONE)
    assert (second.own(ONE), second.everyones(ONE)) == (1, 2)


def test_the_row_of_another_process_is_seen_outlives_it_and_ends_with_its_next_life(path):
    slots = SharedSlots(path, 0, 2)
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    try:
        assert worker.stdout is not None
        assert worker.stdin is not None
        assert worker.stdout.readline() == "took True\n"
        assert slots.everyones(ONE) == 3
        with slots.locked() as is_ours:
            assert not is_ours, "two workers had the lock"
        worker.stdin.write("go on\n")
        worker.stdin.flush()
        assert worker.stdout.readline() == "gave\n"
        assert slots.everyones(ONE) == 2
        with slots.locked() as is_ours:
            assert is_ours
    finally:
        worker.kill()
        worker.communicate()
    assert slots.everyones(ONE) == 2
    SharedSlots(path, 1, 2)
    assert slots.everyones(ONE) == 0


def test_a_lock_whose_holder_was_killed_is_free(path):
    slots = SharedSlots(path, 0, 2)
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[2],
    )
    try:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"took True\n"
    finally:
        worker.kill()
        worker.communicate()
    with slots.locked() as is_ours:
        assert is_ours


async def test_a_slot_on_which_the_instance_works_on_is_taken_until_that_is_over(path):
    slots = SharedSlots(path, 0, 1)
    slots.took(ONE)
    slots.gave(ONE, 0.05)
    assert slots.own(ONE) == 1
    await until(lambda: not slots.own(ONE))


async def test_a_worker_that_ends_before_such_a_slot_is_free_leaves_it_taken(path):
    slots, sibling = SharedSlots(path, 0, 2), SharedSlots(path, 1, 2)
    slots.took(ONE)
    slots.gave(ONE, 0.01)
    slots.close()
    await asyncio.sleep(0.03)
    assert sibling.everyones(ONE) == 1


def test_rows_of_workers_that_are_no_longer_wanted_do_not_count(path):
    for index in range(3):
        SharedSlots(path, index, 3).took(ONE)
    fewer = [SharedSlots(path, index, 2) for index in range(2)]
    assert fewer[0].everyones(ONE) == 0
    assert path.stat().st_size == 3 * 2 * (COLUMNS + 1)


def test_instances_that_meet_in_a_column_count_each_others_calls_and_never_fewer_than_their_own(path):
    column = zlib.crc32(b"gpu-1") % COLUMNS
    other = next(f"x-{n}" for n in range(10**6) if zlib.crc32(f"x-{n}".encode()) % COLUMNS == column)
    slots = SharedSlots(path, 0, 1)
    slots.took(ONE)
    slots.took(InstanceId(other))
    assert slots.everyones(ONE) == slots.everyones(other) == 2


def test_that_a_worker_uses_slots_that_redis_does_not_know_of_is_seen_by_all_until_it_says_otherwise(path):
    first, second = SharedSlots(path, 0, 2), SharedSlots(path, 1, 2)
    assert not second.is_somebody_untold
    first.mark_untold(True)
    assert second.is_somebody_untold
    assert first.is_somebody_untold
    first.mark_untold(False)
    assert not second.is_somebody_untold


def test_only_its_owner_may_read_it(path):
    SharedSlots(path, 0, 1)
    assert path.stat().st_mode & 0o777 == 0o600
