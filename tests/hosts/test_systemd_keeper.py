"""Instances as units of a host's systemd, over SSH: kept running, seen, and told of in one line where they are not."""

from __future__ import annotations

import asyncio
import base64
import socket

import orjson
import pytest

from orchestrator.core.errors import HostError
from orchestrator.nodes import systemd, systemd_link
from orchestrator.nodes.keeper_units import EventKind, Exit, UnitState
from orchestrator.nodes.onhost.ollamas import MARK
from tests.hosts.instances import FOLDER, MODELS, PORT, PROGRAM, furnished, heard, inside, kept, put, unit
from tests.hosts.machines import Machine
from tests.waiting import until

A = "engine-a"
ODD = {
    "QUOTES": """it's "so" `so` $HOME ${HOME} $$ %i %% %H \\ \\\\ \\" \\n""",
    "LINES": "one\n two \\\n\tthree # not a comment\r\n;four\n",
    "SPACES": "  around  ",
    "EMPTY": "",
    "LETTERS": "şehir içi 🚗 \x01\x1b[0m",
    "LAST": "\\",
}


@pytest.fixture
def host(gpu_1: Machine):
    with furnished(gpu_1):
        yield gpu_1


async def running(keeper, name=A):
    """The unit once it runs."""
    seen = await until(keeper.list, f"{name} runs", holds=lambda units: state(units, name) is UnitState.RUNNING)
    return next(each for each in seen if each.name == name)


def state(units, name=A):
    return next((each.state for each in units if each.name == name), None)


# --- started, seen, stopped ------------------------------------------------------------------------------------------


async def test_a_started_instance_listens_is_listed_and_says_what_it_is(hosts, host, tmp_path):
    async with kept(hosts, host, tmp_path) as keeper, heard(keeper) as events:
        assert await keeper.list() == ()
        await keeper.start(unit(host, **{MARK: '{"a": "\\"b\\""}'}))
        assert await keeper.listens(A, PORT)
        assert not await keeper.listens(A, PORT + 1)
        socket.create_connection((host.address, PORT), timeout=5).close()
        seen = await running(keeper)
        assert (seen.restarts, seen.last_exit) == (0, None)
        assert await keeper.marks() == {A: '{"a": "\\"b\\""}'}
        held = (await keeper.held_bytes())[A]
        assert held.pids == set(inside(host, "a"))
        assert len(held.pids) >= 2
        assert held.ram_bytes > 2**20
        [started] = await until(lambda: events, "an event", holds=len)
        assert (started.unit, started.kind, started.pid) == (A, EventKind.STARTED, seen.pid)
    assert host.run("stat", "-c", "%U %a", FOLDER, f"{FOLDER}/a.env") == "root 700\nroot 600\n"
    assert host.run("ps", "-o", "user=", "-p", str(seen.pid)).strip() == "ollama"


async def test_an_environment_arrives_as_it_is_whatever_is_in_it(hosts, host, tmp_path):
    async with kept(hosts, host, tmp_path) as keeper:
        await keeper.start(unit(host, **ODD))
        pid = (await running(keeper)).pid
        raw = base64.b64decode(host.run("base64", f"/proc/{pid}/environ")).decode()
        environment = dict(each.split("=", 1) for each in raw.split("\0") if each)
        assert {name: environment.get(name) for name in ODD} == ODD
        await keeper.start(unit(host, **ODD))
        assert (await running(keeper)).pid == pid


async def test_the_same_start_again_changes_nothing_and_another_one_restarts(hosts, host, tmp_path):
    async with kept(hosts, host, tmp_path) as keeper:
        await keeper.start(unit(host, SIZE="1"))
        first = await running(keeper)
        await keeper.start(unit(host, SIZE="1"))
        assert (await running(keeper)).pid == first.pid
        await keeper.start(unit(host, SIZE="2"))
        second = await running(keeper)
        assert second.pid != first.pid
        assert inside(host, "a")[0] == second.pid  # nothing of the first is left
        # As it would be had somebody died between writing the file and restarting.
        put(host, f"{FOLDER}/a.env", (host.files / FOLDER[1:] / "a.env").read_text().replace('"2"', '"3"'), 0o600)
        await keeper.start(unit(host, SIZE="3"))
        assert (await running(keeper)).pid != second.pid


async def test_eight_instances_are_seen_by_what_is_there_already(hosts, host, tmp_path, monkeypatch):
    async with kept(hosts, host, tmp_path) as keeper:
        units = [unit(host, f"gpu-1-gpu{each}-m+1", PORT + each, **{MARK: str(each)}) for each in range(8)]
        await asyncio.gather(*(keeper.start(each) for each in units))
        names = {each.name for each in units}
        monkeypatch.setattr(keeper._link.host, "_process", None)  # no command is run any more
        assert {each.name for each in await keeper.list() if each.state is UnitState.RUNNING} == names
        assert await keeper.marks() == {each.name: each.env[MARK] for each in units}


@pytest.mark.parametrize("more", [{}, {"DEAF": "1"}], ids=["", "deaf"])
async def test_a_stopped_instance_leaves_no_process_and_no_file(hosts, host, tmp_path, more):
    put(host, "/etc/systemd/system/ollama@.service.d/quick.conf", "[Service]\nTimeoutStopSec=1\n")
    host.run("systemctl", "daemon-reload")
    async with kept(hosts, host, tmp_path) as keeper, heard(keeper) as events:
        await keeper.start(unit(host, **more))
        pids = inside(host, "a")
        await keeper.stop(A)
        assert len(pids) >= 2
        assert [pid for pid in pids if (host.files / f"proc/{pid}").exists()] == inside(host, "a") == []
        assert await keeper.list() == ()
        assert not list((host.files / FOLDER[1:]).iterdir())
        assert "ollama@" not in host.run("ls", "/etc/systemd/system/multi-user.target.wants")
        await until(lambda: [each.kind for each in events], "its end", holds=["started", "stopped"].__eq__)
        await keeper.stop(A)  # once more is no matter
    host.run("rm", "-r", "/etc/systemd/system/ollama@.service.d")


async def test_an_instance_may_use_gpus_and_its_folders_and_nothing_else(hosts, host, tmp_path):
    host.run("sh", "-c", "[ -e /dev/nvidiactl ] || mknod -m 666 /dev/nvidiactl c 1 3")
    host.run("sh", "-c", "touch /home/ops/secret && chmod 644 /home/ops/secret && chmod 755 /home/ops")
    may, may_not = (
        ["/dev/nvidiactl", f"{MODELS}/new", "/var/lib/ollamactl-host/home/new", "/tmp/of-an-instance"],
        ["/home/ops/secret", "/opt/ollamactl/new", f"{FOLDER}/a.env", "/etc/new", "/var/tmp/../lib/new"],
    )
    async with kept(hosts, host, tmp_path) as keeper:
        await keeper.start(unit(host, TRY=" ".join(may + may_not)))
        seen = await until(lambda: lines(keeper, 100, False), "its last line", holds=lambda seen: "listening" in seen)
    told = dict(each.split(" ", 1) for each in seen if each.startswith("/"))
    assert {path for path, how in told.items() if how == "opened"} == set(may)
    assert told.keys() == set(may) | set(may_not)
    host.run("test", "!", "-e", "/tmp/of-an-instance")


async def test_a_restart_gives_another_process_with_the_same_environment(hosts, host, tmp_path):
    async with kept(hosts, host, tmp_path) as keeper:
        await keeper.start(unit(host, **{MARK: "{}"}))
        before = (await running(keeper)).pid
        await keeper.restart(A)
        assert (await running(keeper)).pid != before
        assert await keeper.marks() == {A: "{}"}
        with pytest.raises(HostError, match=r"^gpu-1: there is no ollama@b\.service$"):
            await keeper.restart("engine-b")


# --- what happens by itself -------------------------------------------------------------------------------------------


async def test_a_killed_instance_is_told_with_its_last_lines_and_started_again_without_its_runners(
    hosts, host, tmp_path
):
    async with kept(hosts, host, tmp_path) as keeper, heard(keeper) as events:
        await keeper.start(unit(host))
        before = inside(host, "a")
        pid = (await running(keeper)).pid
        host.run("kill", "-9", str(pid))
        await until(lambda: events, "its end and its new start", holds=lambda seen: len(seen) == 3)
        _, ended, again = events
        assert (ended.kind, ended.exit, ended.pid, ended.retry_in_s) == (EventKind.EXITED, Exit(signal=9), pid, 2)
        assert ended.lines == ("starting", "listening")
        assert (again.kind, again.pid) == (EventKind.STARTED, (await running(keeper)).pid)
        seen = await running(keeper)
        assert (seen.restarts, seen.last_exit) == (1, Exit(signal=9))
        assert not set(before) & set(inside(host, "a"))


async def test_an_instance_stopped_by_hand_is_seen_and_may_be_started_again(hosts, host, tmp_path):
    async with kept(hosts, host, tmp_path) as keeper, heard(keeper) as events:
        await keeper.start(unit(host))
        host.run("systemctl", "stop", "ollama@a")
        await until(lambda: events, "its end", holds=lambda seen: seen and seen[-1].kind is EventKind.STOPPED)
        assert [(each.state, each.pid) for each in await keeper.list()] == [(UnitState.EXITED, None)]
        assert await keeper.marks() == {}
        await keeper.start(unit(host))
        await running(keeper)


async def test_instances_run_again_after_the_power_failed_and_nobody_else_noticed(hosts, host, gpu_2, tmp_path):
    with furnished(gpu_2):
        async with kept(hosts, host, tmp_path) as keeper, kept(hosts, gpu_2, tmp_path / "2") as other:
            await keeper.start(unit(host, **{MARK: "{}"}))
            await other.start(unit(gpu_2))
            there = (await running(other)).pid
            async with heard(keeper) as events:
                host.power_off()
                await until(lambda: events, "the loss", holds=len)
                assert isinstance(events[0], HostError)
            with pytest.raises(HostError, match=r"^gpu-1: [^\n]*$"):
                await keeper.list()
            assert keeper.problem.startswith("gpu-1: ")
            assert (await running(other)).pid == there
            await asyncio.to_thread(host.power_on)
            await until(lambda: keeper.problem, "a connection", holds=lambda problem: not problem)
            await running(keeper)
            assert await keeper.marks() == {A: "{}"}


async def test_what_happened_while_the_cable_was_out_is_told_when_it_is_in_again(hosts, host, tmp_path, monkeypatch):
    monkeypatch.setattr(systemd_link, "PING_EVERY_S", 0.2)
    async with kept(hosts, host, tmp_path) as keeper:
        await keeper.start(unit(host))
        pid = (await running(keeper)).pid
        async with heard(keeper) as events:
            with monkeypatch.context() as impatient:  # only now: a busy host is silent for a while, too
                impatient.setattr(systemd_link, "PONG_WITHIN_S", 2.0)
                host.cut()
                await until(lambda: events, "the loss", holds=len)
            assert str(events[0]) == "gpu-1: the host was silent for 2 s"
        async with asyncio.TaskGroup() as group:
            again = group.create_task(anext(aiter(keeper.events())))
            host.run("kill", "-9", str(pid))
            host.mend()
            event = await again
        assert (event.kind, event.exit, event.pid) == (EventKind.EXITED, Exit(signal=9), pid)
        await running(keeper)


# --- what goes wrong is one line --------------------------------------------------------------------------------------


def break_program(host):
    host.run("rm", PROGRAM)


def break_user(host):
    host.run("userdel", "ollama")


def break_owner(host):
    host.run("sed", "-i", "s/^User=.*/User=ops/", "/etc/systemd/system/ollama@.service")
    host.run("systemctl", "daemon-reload")


def break_models(host):
    host.run("rm", "-r", MODELS)


def break_template(host):
    host.run("rm", "/etc/systemd/system/ollama@.service")
    host.run("systemctl", "daemon-reload")


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        (break_program, f"ollama@a.service does not start: Failed to locate executable {PROGRAM}: No such file"),
        (break_user, "ollama@a.service does not start: Failed to determine user credentials: No such process"),
        (break_owner, "/etc/systemd/system/ollama@.service has User=ops and not ollama: `ollamactl deploy` writes it"),
        (break_models, f"ollama@a.service does not start: Failed to set up mount namespacing: {MODELS}: No such file"),
        (break_template, "/etc/systemd/system/ollama@.service is not there: `ollamactl deploy` puts it there"),
    ],
    ids=["program", "user", "owner", "models", "template"],
)
async def test_an_instance_that_cannot_start_is_told_with_the_cause_and_is_not_there(
    hosts, host, tmp_path, broken, line
):
    broken(host)
    async with kept(hosts, host, tmp_path) as keeper:
        with pytest.raises(HostError) as told:
            await keeper.start(unit(host))
        assert str(told.value).startswith(f"gpu-1: {line}")
        assert "\n" not in str(told.value)
        assert await keeper.list() == ()


async def test_a_taken_port_is_told_as_the_instance_said_it(hosts, host, tmp_path):
    async with kept(hosts, host, tmp_path) as keeper:
        await keeper.start(unit(host, "b"))
        with pytest.raises(HostError, match=rf"^gpu-1: ollama@a\.service ended before it listened on port {PORT}: "):
            await keeper.start(unit(host))
        assert [each.name for each in await keeper.list()] == ["engine-b"]


async def test_a_full_disk_is_told_and_what_ran_runs_on_as_it_was(hosts, host, tmp_path):
    async with kept(hosts, host, tmp_path) as keeper:
        host.run("install", "-d", "-m", "700", FOLDER)
        host.run("mount", "-t", "tmpfs", "-o", "size=8k,mode=700", "tmpfs", FOLDER)
        try:
            await keeper.start(unit(host))
            pid = (await running(keeper)).pid
            with pytest.raises(
                HostError, match=rf"^gpu-1: {FOLDER}/a\.env cannot be written: No space left on device$"
            ):
                await keeper.start(unit(host, LARGE="x" * 20_000))
            assert (await running(keeper)).pid == pid
            assert host.run("ls", "-A", FOLDER) == "a.env\n"
        finally:
            await keeper.stop(A)
            host.run("umount", FOLDER)


async def test_who_may_not_sudo_is_told_so(hosts, host, tmp_path):
    async with kept(hosts, host, tmp_path, user="guest") as keeper:
        with pytest.raises(HostError, match=r"^gpu-1: no sudo without a password for guest: add [^\n]*$"):
            await keeper.start(unit(host))


async def test_a_host_without_python_is_told_so(hosts, host, tmp_path):
    python = host.files / "usr/bin/python3"
    python.rename(python.with_name("python3.away"))
    try:
        async with kept(hosts, host, tmp_path) as keeper:
            with pytest.raises(HostError, match=r"^gpu-1: no python3 there: install it"):
                await keeper.list()
    finally:
        python.with_name("python3.away").rename(python)


async def test_what_is_no_instance_is_not_started(hosts, host, tmp_path):
    async with kept(hosts, host, tmp_path) as keeper:
        with pytest.raises(HostError, match=r"^gpu-1: 'redis' is no unit of an instance"):
            await keeper.stop("redis")


# --- logs, and what stays ---------------------------------------------------------------------------------------------


async def test_logs_are_the_instances_own_and_go_on_where_they_are_followed(hosts, host, tmp_path):
    async with kept(hosts, host, tmp_path) as keeper:
        await keeper.start(unit(host))
        await until(lambda: lines(keeper, 100, False), "its last line", holds=lambda seen: "listening" in seen)
        assert len(await lines(keeper, 2, False)) == 2
        following = asyncio.create_task(lines(keeper, 0, True, until="Stopped"))
        await until(lambda: "--follow" in host.run("ps", "-eo", "args"))
        await keeper.stop(A)
        assert any("Stopped" in each for each in await following)


async def lines(keeper, count, follow, until=None):
    found = []
    async for line in keeper.logs(A, lines=count, follow=follow):
        found.append(line)
        if until is not None and until in line:
            break
    return found


async def test_a_keeper_that_ends_leaves_nothing_of_itself_and_instances_running(hosts, host, tmp_path):
    async with kept(hosts, host, tmp_path) as keeper:
        await keeper.start(unit(host))
        pid = (await running(keeper)).pid
        assert "sent = json.loads" in host.run("ps", "-eo", "args")
    host.run("timeout", "60", "sh", "-c", "while pgrep -f 'sent = json.load[s]' >/dev/null; do sleep 0.05; done")
    assert pid in inside(host, "a")
    async with kept(hosts, host, tmp_path) as keeper:
        assert (await running(keeper)).pid == pid
        assert orjson.loads(orjson.dumps(dict(await keeper.marks()))) == {}


async def test_who_asks_while_nobody_holds_the_connection_waits_no_longer_than_it_may(
    hosts, host, tmp_path, monkeypatch
):
    async with kept(hosts, host, tmp_path) as keeper:
        assert await keeper.list() == ()
    monkeypatch.setattr(systemd, "LINK_WITHIN_S", 0.2)
    with pytest.raises(HostError, match=r"^gpu-1: no connection within 0\.2 s$"):
        await keeper.list()
