"""A unit succeeded by another life of it, a socket that outlives units, a keeper that goes on in another's place."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from orchestrator.app.listening import Listeners, reserve
from orchestrator.core.errors import HostError
from orchestrator.nodes.keeper import EventKind, HandedOver, Keeper, Unit, UnitState
from tests.nodes.keeping import MARK, Kept, alive, is_alive, python_unit
from tests.waiting import until

# Says that it is ready, and leaves (SIGUSR2) once a file is there.
LEAVES = """
import os, pathlib, signal, time
def leave(*_):
    print('leaves', flush=True)
    while not pathlib.Path(os.environ['MAY_END']).exists(): time.sleep(0.01)
    os._exit(0)
signal.signal(signal.SIGUSR2, leave)
os.write(int(os.environ['OLLAMACTL_SAY_READY_FD']), b'1')
print('up', flush=True)
while True: signal.pause()
"""
ENDS = "print('no such module')"
ANSWERS = """
import os, socket
listening = socket.socket(fileno=int(os.environ['OLLAMACTL_LISTEN_FD']))
print('up', flush=True)
while True:
    peer, _ = listening.accept()
    peer.sendall(str(os.getpid()).encode())
    peer.close()
"""


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Kept]:
    async with Kept(tmp_path) as opened:
        yield opened


def life(kept: Kept, code: str = LEAVES, number: int = 0) -> Unit:
    more = {"MAY_END": str(kept.state / "may-end"), "LIFE": str(number)}
    return kept.unit("unit", code, says_ready=True, leave_signal=signal.SIGUSR2, env=more)


async def test_the_old_life_goes_on_until_the_new_one_is_ready_and_then_finishes_what_it_has(kept):
    await kept.keeper.start(life(kept))
    await until(lambda: "up" in kept.log("unit"), "it is up")
    first = kept.pid("unit")
    await kept.keeper.succeed(life(kept, number=1), 60.0)
    second = kept.keeper.status()[0].pid
    assert second not in (first, None)
    await until(lambda: "leaves" in kept.log("unit"), "it was told to leave")
    assert is_alive(first)
    assert [(each.pid, each.state) for each in kept.keeper.status()] == [
        (second, UnitState.RUNNING),
        (first, UnitState.STOPPING),
    ]
    (kept.state / "may-end").touch()
    await kept.keeper.until_all_left()
    assert alive(kept.state) == [second]
    assert kept.told("unit", EventKind.EXITED) == []


async def test_a_successor_that_does_not_become_ready_changes_nothing(kept):
    await kept.keeper.start(life(kept))
    await until(lambda: "up" in kept.log("unit"), "it is up")
    first = kept.pid("unit")
    with pytest.raises(HostError, match=r"(?s)ended before it was ready.*no such module"):
        await kept.keeper.succeed(life(kept, ENDS, number=1), 60.0)
    assert alive(kept.state) == [first]
    assert kept.keeper.unit("unit") == life(kept)
    assert "leaves" not in kept.log("unit")


async def test_one_that_does_not_finish_in_time_is_ended(kept):
    await kept.keeper.start(life(kept))
    await until(lambda: "up" in kept.log("unit"), "it is up")
    first = kept.pid("unit")
    await kept.keeper.succeed(life(kept, number=1), 0.1)
    await kept.keeper.until_all_left()
    assert not is_alive(first)


async def test_the_end_of_the_keeper_ends_both_lives(kept):
    await kept.keeper.start(life(kept))
    await until(lambda: "up" in kept.log("unit"), "it is up")
    await kept.keeper.succeed(life(kept, number=1), 600.0)
    await kept.keeper.stop_all()
    assert alive(kept.state) == []


# --- a socket ---------------------------------------------------------------------------------------------------------


async def asked(address: str) -> bytes:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        return await reader.read()
    finally:
        writer.close()


async def test_who_connects_while_a_unit_is_started_again_waits_and_is_answered(tmp_path):
    with Listeners(reserve("127.0.0.1:0")) as listeners:
        async with Kept(tmp_path, listeners=listeners.descriptor) as kept:
            await kept.start_up("unit", ANSWERS, listens="unit")
            first = kept.pid("unit")
            assert await asked(listeners.address) == str(first).encode()
            os.kill(first, signal.SIGSTOP)
            await until(lambda: psutil.Process(first).status() == psutil.STATUS_STOPPED, "it takes nobody in any more")
            waiting = [asyncio.create_task(asked(listeners.address)) for _ in range(20)]
            await until(lambda: sum(each.done() for each in waiting) == 0, "they wait")
            os.kill(first, signal.SIGKILL)
            answers = await asyncio.gather(*waiting, return_exceptions=True)
            assert set(answers) == {str(kept.pid("unit")).encode()}


async def test_a_socket_that_was_dropped_takes_nobody_in_and_is_made_anew(tmp_path):
    with Listeners(reserve("127.0.0.1:0")) as listeners:
        async with Kept(tmp_path, listeners=listeners.descriptor) as kept:
            listeners.descriptor("unit")
            listeners.drop("unit")
            with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
                probe.connect(("127.0.0.1", int(listeners.address.rpartition(":")[2])))
            await kept.start_up("unit", ANSWERS, listens="unit")
            assert await asked(listeners.address) == str(kept.pid("unit")).encode()


# --- a keeper ---------------------------------------------------------------------------------------------------------


async def test_what_one_keeper_hands_over_the_next_one_keeps(tmp_path):
    first = Keeper(tmp_path, lambda _: None)
    await first.open()
    await first.start(python_unit("stays", "import signal; signal.pause()", tmp_path))
    await first.start(python_unit("ends", "import signal; signal.pause()", tmp_path))
    pids = {each.name: each.pid for each in first.status()}
    handed = await first.hand_over()
    ends, stays = pids["ends"], pids["stays"]
    assert ends is not None
    assert stays is not None
    os.kill(ends, signal.SIGKILL)  # in between nobody looks
    await until(lambda: not is_alive(ends), "it has ended")
    again = Kept(tmp_path)
    try:
        await again.keeper.open(handed)
        await until(lambda: again.told("ends", EventKind.STARTED), "it is started again")
        assert {each.name: each.restarts for each in again.keeper.status()} == {"stays": 0, "ends": 1}
        assert again.pid("stays") == stays
        os.kill(stays, signal.SIGKILL)
        await until(lambda: again.told("stays", EventKind.STARTED), "it is started again")
        guardian = handed.guardian
        assert guardian is not None
        assert guardian.pid is not None
        assert is_alive(guardian.pid)
    finally:
        await again.keeper.close()
    assert alive(tmp_path) == []
    assert not is_alive(guardian.pid)


async def test_a_life_that_is_leaving_goes_on_leaving(tmp_path):
    (tmp_path / "logs").mkdir()
    async with Kept(tmp_path) as kept:
        await kept.keeper.start(life(kept))
        await until(lambda: "up" in kept.log("unit"), "it is up")
        first = kept.pid("unit")
        await kept.keeper.succeed(life(kept, number=1), 600.0)
        handed = await kept.keeper.hand_over()
        assert [each.leaves_within_s is None for each in handed.units] == [True, False]
        kept.keeper = Keeper(tmp_path, kept.events.append)
        await kept.keeper.open(handed)
        assert {each.pid for each in kept.keeper.status()} >= {first}
        (tmp_path / "may-end").touch()
        await kept.keeper.until_all_left()
        assert not is_alive(first)
        assert len(alive(tmp_path)) == 1


def test_what_is_handed_over_can_be_read_by_the_next_program(tmp_path):
    from orchestrator.app.succession import _SUCCESSION, Succession
    from orchestrator.nodes.keeper_life import Kept as KeptLife

    unit = python_unit("unit", "pass", "mark", env={"SECRET": "s"}, listens="unit")
    handed = HandedOver((KeptLife(unit, 12, tmp_path / "log", 7, 2, 99, None),), None, 3, 4)
    succession = Succession(handed, 5, 1_000, 6, {"unit": 8}, 1)
    read = _SUCCESSION.validate_json(_SUCCESSION.dump_json(succession))
    assert read == succession
    assert read.keeper.units[0].unit.env == {MARK: "mark", "SECRET": "s"}
