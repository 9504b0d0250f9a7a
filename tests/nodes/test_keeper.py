"""The keeper with real processes, and its control socket."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop

from orchestrator.core.errors import HostError
from orchestrator.nodes import keeper_life
from orchestrator.nodes.keeper import EventKind, Unit, UnitEvent, UnitState
from orchestrator.nodes.keeper_client import KeeperClient
from orchestrator.nodes.keeper_life import pause_s
from orchestrator.nodes.keeper_process import ROTATE_BYTES
from tests.nodes.keeping import IGNORES_WITH_CHILD, SLEEPS, WITH_CHILD, Kept, alive, is_alive
from tests.waiting import until

STARTED, READY, EXITED = EventKind.STARTED, EventKind.READY, EventKind.EXITED
STOPPED, FAILED = EventKind.STOPPED, EventKind.FAILED

LISTENS = (
    "import socket, signal, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); signal.pause()"
)


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Kept]:
    tasks = asyncio.all_tasks()
    async with Kept(tmp_path) as opened:
        yield opened
    assert asyncio.all_tasks() - tasks - {asyncio.current_task()} == set()
    assert list(tmp_path.glob("*.sock")) == []


@pytest.fixture
def client(kept: Kept) -> KeeperClient:
    return KeeperClient(kept.state / "keeper.sock")


# --- how a unit runs ------------------------------------------------------------------------------------------------


async def test_a_unit_gets_its_own_environment_and_only_the_keepers_basics(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASSWORD_OF_THE_KEEPER", "hunter2")
    code = "import os; print(sorted(os.environ), os.environ['OWN'])\nprint('up')"
    await kept.start_up("unit", code, env={"OWN": "mine"}, restart=False)
    assert "PASSWORD_OF_THE_KEEPER" not in kept.log("unit")
    assert "'PATH'" in kept.log("unit")
    assert "mine" in kept.log("unit")


async def test_a_unit_has_no_input_no_file_of_the_keepers_and_a_session_of_its_own(kept: Kept) -> None:
    code = (
        "import os, sys; fds = sorted(os.listdir('/proc/self/fd'))[:-1]\n"
        "print([sys.stdin.read(), fds, os.getsid(0) == os.getpid() == os.getpgid(0)])\nprint('up')"
    )
    await kept.start_up("unit", code, restart=False)
    assert kept.log("unit").startswith("['', ['0', '1', '2'], True]")


async def test_what_a_unit_says_is_in_a_log_that_only_its_owner_reads(kept: Kept) -> None:
    code = "import sys; print('out', flush=True); print('err', file=sys.stderr); print('up')"
    await kept.start_up("unit", code, restart=False)
    log = kept.state / "logs" / "unit.log"
    assert log.read_text().splitlines() == ["out", "err", "up"]
    assert log.stat().st_mode & 0o777 == 0o600
    assert log.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("failures", [0, 2])
async def test_a_unit_that_is_to_be_kept_is_tried_until_it_serves_and_nobody_waits_for_it(
    kept: Kept, failures: int
) -> None:
    socket, may = kept.state / "unit.sock", kept.state / "may"
    code = f"import os, sys; os.path.exists({str(may)!r}) or sys.exit(1)\n{LISTENS}"
    unit = Unit("unit", (sys.executable, "-S", "-c", code, str(socket)), ready=f"unix:{socket}")
    if not failures:
        may.touch()
    kept.keeper.keep(unit)
    await until(lambda: [each.kind for each in kept.events].count(EXITED) >= failures, "it has failed so often")
    may.touch()
    await until(lambda: {each.state for each in kept.keeper.status()} == {UnitState.RUNNING}, "it is seen to serve")
    pids = [each.pid for each in kept.keeper.status()]
    kept.keeper.keep(unit)
    await kept.keeper.start(unit)
    assert [each.pid for each in kept.keeper.status()] == pids, "it is there"
    socket.unlink()


async def test_a_log_that_has_grown_is_put_aside_at_the_next_start(kept: Kept) -> None:
    log = kept.state / "logs" / "unit.log"
    log.touch()
    os.truncate(log, ROTATE_BYTES + 1)
    await kept.start_up("unit", "print('up')", restart=False)
    assert log.read_text() == "up\n"
    assert log.with_name("unit.log.1").stat().st_size == ROTATE_BYTES + 1


async def test_a_unit_whose_name_is_longer_than_a_files_may_be_has_a_log_too(kept: Kept) -> None:
    await kept.start("engine-" + "m" * 300, SLEEPS)
    [status] = kept.keeper.status()
    assert status.log.exists()


async def test_a_units_secrets_are_in_no_text_about_it(kept: Kept) -> None:
    unit = await kept.start("unit", SLEEPS, env={"KEY": "hunter2"})
    assert "hunter2" not in repr(unit)
    assert "hunter2" not in repr(kept.events)
    assert "hunter2" not in repr(kept.keeper.status())


# --- start, stop ----------------------------------------------------------------------------------------------------


async def test_a_unit_that_runs_as_defined_is_not_started_again(kept: Kept) -> None:
    unit = await kept.start("unit", SLEEPS)
    pid = kept.pid("unit")
    await kept.keeper.start(replace(unit, env=dict(unit.env)))
    assert kept.pid("unit") == pid
    assert len(kept.told("unit", STARTED)) == 1


async def test_a_changed_definition_replaces_the_process(kept: Kept) -> None:
    unit = await kept.start("unit", SLEEPS)
    pid = kept.pid("unit")
    await kept.keeper.start(replace(unit, env={**unit.env, "NEW": "1"}))
    assert not is_alive(pid)
    assert len(alive(kept.state)) == 1


async def test_starting_one_unit_twice_at_once_runs_one_process(kept: Kept) -> None:
    unit = kept.unit("unit", SLEEPS)
    await asyncio.gather(*(kept.keeper.start(unit) for _ in range(5)))
    assert len(kept.told("unit", STARTED)) == 1


async def test_stop_lets_a_unit_end_by_itself(kept: Kept) -> None:
    ends = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); print('up', flush=True)"
    await kept.start_up("unit", f"{ends}; signal.pause()")
    await kept.keeper.stop("unit")
    [event] = kept.told("unit", STOPPED)
    assert event.exit is not None
    assert event.exit.code == 7
    assert kept.keeper.status() == ()


async def test_stop_uses_the_units_own_signal(kept: Kept) -> None:
    await kept.start("unit", SLEEPS, stop_signal=signal.SIGINT)
    await kept.keeper.stop("unit")
    [event] = kept.told("unit", STOPPED)
    assert str(event.exit) == "signal 2 (SIGINT)"


async def test_a_unit_that_ignores_its_stop_signal_is_killed_with_all_its_children(kept: Kept) -> None:
    await kept.start_up("unit", IGNORES_WITH_CHILD, stop_timeout_s=0.1)
    assert len(alive(kept.state)) == 2
    await kept.keeper.stop("unit")
    await until(lambda: not alive(kept.state), "leader and child are gone")
    [event] = kept.told("unit", STOPPED)
    assert str(event.exit) == "signal 9 (SIGKILL)"


async def test_stopping_what_is_not_there_is_no_error(kept: Kept) -> None:
    await kept.keeper.stop("nothing")


async def test_restarting_what_is_not_there_is_an_error_that_names_what_is(kept: Kept) -> None:
    await kept.start("unit", SLEEPS)
    with pytest.raises(HostError, match="'nothing'; there is unit"):
        await kept.keeper.restart("nothing")


async def test_all_units_stop_in_the_reverse_order_of_their_starts(kept: Kept) -> None:
    for name in ("redis", "controller", "gateway-0"):
        await kept.start(name, SLEEPS)
    await kept.keeper.stop_all()
    assert [each.unit for each in kept.events if each.kind is STOPPED] == ["gateway-0", "controller", "redis"]


async def test_nothing_is_started_once_the_keeper_closes(tmp_path: Path) -> None:
    async with Kept(tmp_path) as kept:
        unit = kept.unit("unit", SLEEPS)
    with pytest.raises(HostError, match="shutting down"):
        await kept.keeper.start(unit)


async def test_a_command_that_is_not_there_is_an_error_and_leaves_no_unit(kept: Kept) -> None:
    with pytest.raises(HostError, match="/no/such/command"):
        await kept.keeper.start(Unit("unit", ("/no/such/command",), env={"KEY": "hunter2"}))
    assert kept.keeper.status() == ()


@pytest.mark.parametrize("name", ["../escape", "", "a/b", ".hidden", "a b"])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no unit's name"):
        Unit(name, ("true",))


# --- ready ----------------------------------------------------------------------------------------------------------


async def test_start_returns_once_the_unit_accepts_connections(kept: Kept) -> None:
    path = kept.state / "unit.socket"
    unit = kept.unit("unit", LISTENS, ready=f"unix:{path}")
    await kept.keeper.start(replace(unit, argv=(*unit.argv, str(path))))
    assert path.is_socket()
    assert [each.kind for each in kept.told("unit")] == [STARTED, READY]
    assert kept.keeper.status()[0].state is UnitState.RUNNING


async def test_a_unit_that_ends_before_it_is_ready_is_an_error_with_its_last_lines(kept: Kept) -> None:
    with pytest.raises(HostError, match=r"ended before it was ready\nwrong version"):
        await kept.start("unit", "print('wrong version'); raise SystemExit(3)", ready="unix:/nowhere")
    assert kept.keeper.status() == ()
    assert [each.kind for each in kept.told("unit")] == [STARTED, EXITED]


async def test_a_unit_that_ends_while_another_listens_at_its_path_is_an_error_with_its_last_lines(kept: Kept) -> None:
    path, fails = kept.state / "taken", "print('address in use'); raise SystemExit(1)"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(HostError, match=r"ended before it was ready\naddress in use"):
            await kept.start("unit", fails, ready=f"unix:{path}")
    assert kept.keeper.status() == ()


async def test_a_unit_that_takes_the_path_of_another_is_ready_when_it_listens_itself(kept: Kept) -> None:
    path = kept.state / "taken"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        unit = kept.unit("unit", f"import os, sys; os.unlink(sys.argv[1])\n{LISTENS}", ready=f"unix:{path}")
        await kept.keeper.start(replace(unit, argv=(*unit.argv, str(path))))
        with socket.socket(socket.AF_UNIX) as asked:
            asked.connect(str(path))
            pid, *_ = struct.unpack("iII", asked.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    assert pid == kept.pid("unit")


async def test_a_unit_that_ends_as_it_accepts_connections_has_not_begun(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def accepted_and_ended(address: str, session: int) -> bool:
        await until(lambda: not is_alive(session), "it has ended")
        return True

    monkeypatch.setattr(keeper_life, "_accepts", accepted_and_ended)
    with pytest.raises(HostError, match=r"unit ended as soon as it accepted connections\nbad data"):
        await kept.start("unit", "print('bad data'); raise SystemExit(4)", ready="unix:/nowhere")
    assert kept.keeper.status() == ()
    assert [each.kind for each in kept.told("unit")] == [STARTED, EXITED]


async def test_a_unit_that_is_not_ready_in_time_is_an_error_and_is_ended(kept: Kept) -> None:
    with pytest.raises(HostError, match=r"not ready after 0\.1 s"):
        await kept.start("unit", SLEEPS, ready="unix:/nowhere", ready_timeout_s=0.1)
    assert alive(kept.state) == []


async def test_a_unit_can_be_stopped_while_its_start_waits(kept: Kept) -> None:
    starting = asyncio.create_task(kept.start("unit", SLEEPS, ready="unix:/nowhere"))
    await until(lambda: kept.told("unit", STARTED), "it runs")
    await kept.keeper.stop("unit")
    with pytest.raises(HostError):
        await starting
    assert kept.keeper.status() == ()


async def test_a_start_that_is_cancelled_leaves_nothing(kept: Kept) -> None:
    starting = asyncio.create_task(kept.start("unit", SLEEPS, ready="unix:/nowhere"))
    await until(lambda: kept.told("unit", STARTED), "it runs")
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert alive(kept.state) == []
    assert kept.keeper.status() == ()


# --- when a unit dies -----------------------------------------------------------------------------------------------


async def test_a_unit_that_dies_is_restarted_at_once_and_told_of(kept: Kept) -> None:
    await kept.start_up("unit", WITH_CHILD)
    pid = kept.pid("unit")
    os.kill(pid, signal.SIGKILL)
    await until(lambda: len(kept.told("unit", STARTED)) == 2, "it is restarted")
    [event] = kept.told("unit", EXITED)
    assert str(event) == f"unit exited (pid {pid}) with signal 9 (SIGKILL); restarting at once"
    assert event.lines == ("up",)
    assert kept.pid("unit") != pid
    [status] = kept.keeper.status()
    assert (status.restarts, str(status.last_exit)) == (1, "signal 9 (SIGKILL)")


async def test_children_of_a_unit_that_dies_die_with_it(kept: Kept) -> None:
    await kept.start_up("unit", WITH_CHILD, restart=False)
    assert len(alive(kept.state)) == 2
    os.kill(kept.pid("unit"), signal.SIGKILL)
    await until(lambda: not alive(kept.state), "the child is gone")


async def test_a_unit_that_keeps_dying_is_restarted_after_longer_and_longer_pauses(kept: Kept) -> None:
    await kept.start("unit", "print('no luck'); raise SystemExit(3)")
    await until(lambda: len(kept.told("unit", EXITED)) >= 4, "it died four times")
    deaths = kept.told("unit", EXITED)[:4]
    assert [each.retry_in_s for each in deaths] == [0.0, 0.1, 0.2, 0.4]
    # Only what the process itself wrote: not the same line of those before it.
    assert {(str(each.exit), each.lines) for each in deaths} == {("exit code 3", ("no luck",))}


def test_pauses_double_up_to_ten_seconds() -> None:
    assert [pause_s(deaths) for deaths in (0, 1, 2, 7, 8, 1000)] == [0, 0.1, 0.2, 6.4, 10, 10]


async def test_a_unit_that_was_healthy_for_a_while_is_restarted_at_once_again(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_life, "HEALTHY_AFTER_S", 0.0)
    await kept.start("unit", "raise SystemExit(3)")
    await until(lambda: len(kept.told("unit", EXITED)) >= 3, "it died three times")
    assert {each.retry_in_s for each in kept.told("unit", EXITED)} == {0.0}


async def test_a_unit_can_be_stopped_in_the_pause_before_its_restart(kept: Kept) -> None:
    await kept.start("unit", "raise SystemExit(3)")
    await until(lambda: kept.keeper.status()[0].state is UnitState.WAITING, "it waits")
    await kept.keeper.stop("unit")
    assert kept.told("unit")[-1].kind is STOPPED
    assert kept.keeper.status() == ()


async def test_a_command_that_vanished_is_tried_again_until_it_is_back(kept: Kept) -> None:
    command = kept.state / "command"
    command.write_text("#!/bin/sh\nexec sleep 1000\n")
    command.chmod(0o700)
    await kept.keeper.start(replace(kept.unit("unit", ""), argv=(str(command),)))
    command.rename(command.with_name("away"))
    os.kill(kept.pid("unit"), signal.SIGKILL)
    await until(lambda: kept.told("unit", FAILED), "a start failed")
    command.with_name("away").rename(command)
    await until(lambda: len(kept.told("unit", STARTED)) == 2, "it runs again")
    assert str(command) in kept.told("unit", FAILED)[0].why


async def test_a_unit_that_is_not_to_be_restarted_stays_ended_until_it_is_started(kept: Kept) -> None:
    unit = await kept.start("unit", "raise SystemExit(3)", restart=False)
    await until(lambda: kept.told("unit", EXITED), "it ended")
    [status] = kept.keeper.status()
    assert (status.state, status.pid, str(status.last_exit)) == (UnitState.EXITED, None, "exit code 3")
    assert kept.told("unit", EXITED)[0].retry_in_s is None
    await kept.keeper.start(unit)
    assert len(kept.told("unit", STARTED)) == 2


async def test_a_listener_that_fails_stops_no_unit(tmp_path: Path) -> None:
    async with Kept(tmp_path) as kept:

        def fail(event: UnitEvent) -> None:
            raise RuntimeError("the screen is gone")

        kept.keeper.subscribe(fail)
        await kept.start("unit", SLEEPS)
        os.kill(kept.pid("unit"), signal.SIGKILL)
        await until(lambda: len(kept.told("unit", STARTED)) == 2, "it is restarted")


async def test_units_are_watched_without_pidfds_too(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    await kept.start("unit", SLEEPS)
    os.kill(kept.pid("unit"), signal.SIGKILL)
    await until(lambda: len(kept.told("unit", STARTED)) == 2, "it is restarted")
    await kept.keeper.stop("unit")
    assert [each.kind for each in kept.told("unit")] == [STARTED, EXITED, STARTED, STOPPED]


def test_all_of_it_works_on_uvloop_too(tmp_path: Path) -> None:
    async def live() -> list[EventKind]:
        async with Kept(tmp_path) as kept:
            client = KeeperClient(tmp_path / "keeper.sock")
            await client.start(kept.unit("unit", SLEEPS))
            os.kill(kept.pid("unit"), signal.SIGKILL)
            await until(lambda: len(kept.told("unit", STARTED)) == 2, "it is restarted")
            assert [each.restarts for each in await client.list()] == [1]
            await client.stop("unit")
            return [each.kind for each in kept.told("unit")]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(live()) == [STARTED, EXITED, STARTED, STOPPED]


# --- the control socket ---------------------------------------------------------------------------------------------


async def test_a_unit_lives_its_life_over_the_socket(kept: Kept, client: KeeperClient) -> None:
    unit = kept.unit("unit", SLEEPS, cwd=kept.state, stop_signal=signal.SIGINT)
    await client.start(unit)
    [first] = await client.list()
    assert (first.name, first.state, first.pid) == ("unit", UnitState.RUNNING, kept.pid("unit"))
    await kept.keeper.start(unit)  # the same unit, as the socket understood it
    assert kept.pid("unit") == first.pid
    await client.restart("unit")
    [second] = await client.list()
    assert second.pid != first.pid
    await client.stop("unit")
    assert await client.list() == ()
    assert alive(kept.state) == []


async def test_events_are_told_over_the_socket_until_the_keeper_ends(tmp_path: Path) -> None:
    seen: list[UnitEvent] = []

    async def follow(client: KeeperClient) -> None:
        async for event in client.events():
            seen.append(event)

    async with Kept(tmp_path) as kept:
        following = asyncio.create_task(follow(KeeperClient(tmp_path / "keeper.sock")))
        started = 0
        while not seen:  # the subscription is taken some time after it was asked for
            started += 1
            await kept.start(f"unit-{started}", "print('bye'); raise SystemExit(3)", restart=False)
            await until(lambda: kept.told(f"unit-{started}", EXITED), "it ended")  # noqa: B023
        await until(lambda: seen[-1] == kept.events[-1], "all were told")
    with pytest.raises(HostError, match="has ended"):
        await following
    assert seen == kept.events[-len(seen) :]


async def test_a_refusal_reaches_the_client_in_the_keepers_words(client: KeeperClient) -> None:
    with pytest.raises(HostError, match="cannot start /no/such/command"):
        await client.start(Unit("unit", ("/no/such/command",)))


async def test_only_the_owner_may_open_the_socket(kept: Kept) -> None:
    assert (kept.state / "keeper.sock").stat().st_mode & 0o777 == 0o600


async def talk(state: Path, *lines: bytes) -> list[dict[str, object]]:
    reader, writer = await asyncio.open_unix_connection(state / "keeper.sock", limit=2**24)
    writer.writelines(line + b"\n" for line in lines)
    answers = [json.loads(await reader.readline()) for _ in lines]
    writer.close()
    return answers


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{nope", "Invalid JSON"),
        (b"[]", "not a request"),
        (b'{"verb": "dance"}', "'dance'; it knows start"),
        (b'{"verb": "start"}', "start (unit)"),
        (b'{"verb": "stop"}', "stop (name)"),
        (b'{"verb": "start", "unit": {"name": "u", "argv": []}}', "needs a command"),
        (b'{"verb": "start", "unit": {"name": "../u", "argv": ["true"]}}', "no unit's name"),
        (b'{"verb": "start", "unit": {"name": "u", "argv": ["true"], "env": {"KEY": ["hunter2"]}}}', "unit.env.KEY"),
    ],
)
async def test_a_line_that_is_no_request_is_answered_with_what_is_wrong(kept: Kept, line: bytes, said: str) -> None:
    refused, listed = await talk(kept.state, line, b'{"verb": "list"}')
    assert said in str(refused["error"])
    assert "hunter2" not in str(refused["error"])
    assert listed == {"units": []}


async def test_a_line_without_end_is_refused_and_the_keeper_lives_on(kept: Kept, client: KeeperClient) -> None:
    [refused] = await talk(kept.state, b"x" * (2**20 + 1))
    assert "longer than" in str(refused["error"])
    assert await client.list() == ()


async def test_a_client_that_leaves_in_the_middle_leaves_the_keeper_as_it_was(kept: Kept, client: KeeperClient) -> None:
    _, writer = await asyncio.open_unix_connection(kept.state / "keeper.sock")
    writer.write(b'{"verb": "li')
    writer.transport.abort()
    assert await client.list() == ()


async def test_a_subscriber_that_does_not_read_is_cut_off(kept: Kept, client: KeeperClient) -> None:
    _, writer = await asyncio.open_unix_connection(kept.state / "keeper.sock")
    writer.write(b'{"verb": "events"}\n')
    reading = asyncio.create_task(anext(client.events()))
    event = UnitEvent("unit", FAILED, 0, why="x" * 100_000)
    while not reading.done():
        kept.keeper._tell(event)
        await asyncio.sleep(0)
    for _ in range(100):
        kept.keeper._tell(event)
    await until(lambda: len(kept.keeper._listeners) == 1, "both subscribers are gone")
    writer.close()


async def test_shutdown_asks_the_supervisor_to_end_and_returns_when_all_has_ended(tmp_path: Path) -> None:
    asked = asyncio.Event()
    kept = Kept(tmp_path, on_shutdown=asked.set)
    async with kept:
        await kept.start("unit", SLEEPS)
        ending = asyncio.create_task(KeeperClient(tmp_path / "keeper.sock").shutdown())
        await asked.wait()
        assert not ending.done()
    await ending
    assert kept.events[-1].unit == "guardian"


async def test_where_nobody_listens_the_client_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="start one with `ollamactl up`"):
        await KeeperClient(tmp_path / "keeper.sock").list()


async def test_a_socket_left_by_a_dead_keeper_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "keeper.sock").touch()
    async with Kept(tmp_path):
        assert await KeeperClient(tmp_path / "keeper.sock").list() == ()


async def test_a_path_too_long_for_a_socket_can_be_given_another(tmp_path: Path) -> None:
    state = tmp_path / ("deep" * 30)
    state.mkdir()
    with pytest.raises(HostError, match="shorter --state"):
        await Kept(state).keeper.open()
    async with Kept(state, socket_path=tmp_path / "k"):
        assert await KeeperClient(tmp_path / "k").list() == ()


async def test_a_state_folder_that_cannot_hold_logs_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "logs").touch()
    with pytest.raises(HostError, match="logs"):
        await Kept(tmp_path).keeper.open()
