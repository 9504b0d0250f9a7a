"""The life of a cluster: begun, ended in order, ended by force, begun again. Nothing outlives its `up`."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from running import TIMEOUT_S, Up, environment, free_port, needs_built_in_engine, ollamactl, processes_of, until

from orchestrator.app.paths import StatePaths

UNITS = {"redis", "guardian", "controller", "gateway-0", "gateway-1"}
ENGINES = {"engine-local-cpu-smollm2-135m-0", "engine-local-cpu-smollm2-8k-135m-0"}


@pytest.fixture
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    needs_built_in_engine()
    folder = tmp_path_factory.mktemp("life") / "state"
    yield folder
    left = processes_of(folder)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def all_of(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def are_over(processes: list[psutil.Process]) -> bool:
    return not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes)


def test_down_ends_everything_and_the_next_start_remembers_what_was_answered(state: Path) -> None:
    first = Up(state)
    first.wait_until_ready()
    told = first.chat("Tell me about mountains.")
    assert told.headers["X-Cache"] == "miss"
    everything = all_of(first.process.pid)
    assert {name for name in processes_of(state).values() if name} >= UNITS | ENGINES
    ended = ollamactl("down", "--state", state, cwd=state.parent)
    assert (ended.returncode, ended.stdout) == (0, "ended\n")
    assert first.process.wait(TIMEOUT_S) == 0
    assert are_over(everything)
    assert not processes_of(state)
    second = Up(state)
    try:
        second.wait_until_ready()
        again = second.chat("Tell me about mountains.")
        assert again.headers["X-Cache"].startswith("hit; layer=exact; age=")
        assert again.json()["message"] == told.json()["message"]
    finally:
        second.close()


def test_ctrl_c_of_a_cluster_that_answers_is_its_proper_end(state: Path) -> None:
    up = Up(state)
    up.wait_until_ready()
    everything = all_of(up.process.pid)
    assert up.end(signal.SIGINT) == 0
    assert are_over(everything)
    assert "Traceback" not in up.screen
    assert "exited" not in up.screen, "what is told to end is not told of as a failure"


def test_ctrl_c_during_the_start_ends_it_with_130(state: Path) -> None:
    state.with_suffix(".ready.json").write_text('{"pid": 0}')
    up = Up(state)
    until(lambda: len(processes_of(state)) >= 4, "it has begun")
    assert up.end(signal.SIGINT) == 130
    assert not up.ready_file.exists(), "an earlier start's file says nothing of this one"
    assert "Traceback" not in up.screen


def test_kill_9_of_the_supervisor_ends_all_it_started(state: Path) -> None:
    up = Up(state)
    up.wait_until_ready()
    everything = all_of(up.process.pid)
    assert len(everything) >= 1 + len(UNITS) + len(ENGINES)
    up.process.kill()
    up.process.wait()
    until(lambda: are_over(everything), "what it started ends")
    until(lambda: not processes_of(state), "what it started ends")


@pytest.mark.parametrize("started", [1, 2, 3, 5, 8])
def test_kill_9_half_way_through_the_start_leaves_nothing(state: Path, started: int) -> None:
    up = Up(state)
    until(lambda: len(processes_of(state)) >= started, f"{started} processes run")
    everything = all_of(up.process.pid)
    up.process.kill()
    up.process.wait()
    until(lambda: are_over(everything), "what it started ends")
    until(lambda: not processes_of(state), "what it started ends")
    with_nothing_in_the_way = Up(state)
    until(lambda: len(processes_of(state)) >= 4, "the next one starts")
    assert with_nothing_in_the_way.end(signal.SIGTERM) == 130


def read_away(terminal: int) -> bool:
    """What was printed is read, as a terminal would: who prints is not kept waiting."""
    while select.select([terminal], [], [], 0)[0]:
        os.read(terminal, 65536)
    return True


def test_a_terminal_that_is_closed_ends_its_cluster_in_order(state: Path) -> None:
    """As when a window is closed, or a connection by SSH lost."""
    state.parent.mkdir(exist_ok=True)
    ready = state.with_suffix(".json")
    command = ["-m", "orchestrator.cli", "up", "--state", str(state), "--ready-file", str(ready)]
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(state.parent)
        os.execve(sys.executable, [sys.executable, *command, "--listen", f"127.0.0.1:{free_port()}"], environment())
    until(lambda: read_away(terminal) and ready.exists(), "it answers")
    everything = all_of(pid)
    os.close(terminal)
    until(lambda: not processes_of(state), "it ends")
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert are_over(everything)


def test_a_pipe_that_nobody_reads_any_more_does_not_end_it(state: Path) -> None:
    state.parent.mkdir(exist_ok=True)
    ready = state.with_suffix(".json")
    argv = [sys.executable, "-m", "orchestrator.cli", "up", "--state", str(state), "--ready-file", str(ready)]
    process = subprocess.Popen(
        [*argv, "--listen", f"127.0.0.1:{free_port()}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=state.parent,
        env=environment(),
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    until(ready.exists, "it answers")
    process.terminate()
    assert process.wait(TIMEOUT_S) == 0


def test_detached_it_stays_refuses_a_second_one_and_ends_with_down(state: Path) -> None:
    state.parent.mkdir(exist_ok=True)
    listen = f"127.0.0.1:{free_port()}"
    begun = ollamactl("up", "--detach", "--state", state, "--listen", listen, cwd=state.parent)
    assert begun.returncode == 0, begun.stderr
    assert f"endpoint     http://{listen}" in begun.stdout
    assert "Ctrl-C" not in begun.stdout
    [pid] = [int(word) for word in begun.stdout.partition("runs on as process ")[2].split(";")[:1]]
    everything = all_of(pid)
    assert begun.stdout.rstrip().endswith(f"down --state {state}")
    said = (state / "logs" / "up.log").read_text()

    for how in ([], ["--detach"]):
        second = ollamactl("up", *how, "--state", state, cwd=state.parent)
        assert second.returncode == 1
        told = second.stdout + second.stderr
        assert f"{state} is in use by pid {pid} since 20" in told
        assert f"answering on {listen}" in told
        assert f"ollamactl down --state {state}" in told
    assert (state / "logs" / "up.log").read_text().startswith(said)
    as_json = ollamactl("status", "--json", "--state", state, cwd=state.parent)
    assert len(json.loads(as_json.stdout)["pools"]) == 2

    assert ollamactl("down", "--state", state, cwd=state.parent).returncode == 0
    assert are_over(everything)
    assert not processes_of(state)
    assert ollamactl("down", "--state", state, cwd=state.parent).returncode == 1


def test_a_deep_state_folder_serves_too_and_leaves_no_socket_elsewhere(state: Path) -> None:
    up = Up(state.parent / ("a-folder-with-a-long-name-" * 5) / "state")
    elsewhere = StatePaths(up.state).keeper_socket.parent
    try:
        up.wait_until_ready()
        assert up.chat("Tell me about islands.").status_code == 200
        assert "is too long for a socket" in up.screen
        assert list(elsewhere.iterdir())
    finally:
        up.close()
    assert not elsewhere.exists()
