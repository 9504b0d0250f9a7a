"""No process of a supervisor's outlives it, however it ends: real supervisors, killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.nodes import guardian
from tests.nodes.keeping import IGNORES, IGNORES_WITH_CHILD, MARK, SLEEPS, TIMEOUT_S, WITH_CHILD, Kept, alive
from tests.waiting import until, wait_until

REPO = Path(__file__).parents[2]
GRACE_S = 0.3

# Keeps the units named on its command line, prints every event, and lives until its end is asked for.
SUPERVISOR = """
import asyncio, json, os, signal, sys
from dataclasses import asdict
from pathlib import Path
import uvloop
from orchestrator.nodes import keeper_process
from orchestrator.nodes.keeper import Keeper, Unit

_, state, loop, hook, grace_s, units = sys.argv
started = 0

def on_event(event):
    global started
    print(json.dumps(asdict(event)), flush=True)
    started += event.unit != "guardian"
    if hook == "killed as its second unit starts" and started == 2:
        os.kill(os.getpid(), signal.SIGKILL)

real = keeper_process._bound_to_keeper
def killed_between_fork_and_exec(guardian, *more):
    bind, keeper = real(guardian, *more), os.getpid()
    def preexec():
        if hook == "killed before its child is bound":
            os.kill(keeper, signal.SIGKILL)
            while os.getppid() == keeper: pass
        bind()
        if hook == "killed when its child is bound":
            os.kill(keeper, signal.SIGKILL)
    return preexec
keeper_process._bound_to_keeper = killed_between_fork_and_exec

async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    keeper = Keeper(Path(state), on_event, guardian_grace_s=float(grace_s))
    await keeper.open()
    for unit in json.loads(units):
        await keeper.start(Unit(unit["name"], tuple(unit["argv"]), env=unit["env"]))
    print("{}", flush=True)
    if hook == "fails":
        raise RuntimeError("a bug")
    await stop.wait()
    await keeper.close()

with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop == "uvloop" else None) as runner:
    runner.run(main())
"""

UNITS = {"obeys": WITH_CHILD, "ignores": IGNORES_WITH_CHILD}


class Supervisor:
    def __init__(self, state: Path, units: dict[str, str], *, loop: str, hook: str, grace_s: float) -> None:
        self.state = state
        described = [
            {"name": name, "argv": [sys.executable, "-S", "-c", code], "env": {MARK: str(state)}}
            for name, code in units.items()
        ]
        self.process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, str(state), loop, hook, str(grace_s), json.dumps(described)],
            cwd=REPO,
            stdout=subprocess.PIPE,
            text=True,
        )

    def events(self) -> Iterator[dict[str, Any]]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line == "{}\n":
                return
            yield json.loads(line)

    def guardian_pid(self) -> int:
        """The guardian's, read from the events up to where all units run."""
        return [each["pid"] for each in self.events() if each["unit"] == "guardian"][-1]

    def units_alive(self) -> list[int]:
        return alive(self.state)

    def logs_are_up(self) -> bool:
        return all("up" in each.read_text() for each in (self.state / "logs").glob("*[!n].log"))


Supervise = Callable[..., Supervisor]


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Supervise]:
    made: list[Supervisor] = []

    def make(units: dict[str, str], *, loop: str = "asyncio", hook: str = "", grace_s: float = GRACE_S) -> Supervisor:
        made.append(Supervisor(tmp_path, units, loop=loop, hook=hook, grace_s=grace_s))
        return made[-1]

    yield make
    for each in made:
        each.process.kill()
        each.process.wait()
        assert each.process.stdout is not None
        each.process.stdout.close()
    left = alive(tmp_path)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


def guardian_is_gone(pid: int) -> bool:
    try:
        return "guardian.py" not in " ".join(psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_no_unit_and_no_child_of_one_outlives_a_killed_supervisor(supervise: Supervise, loop: str) -> None:
    supervisor = supervise(UNITS, loop=loop)
    guardian_pid = supervisor.guardian_pid()
    await until(lambda: len(supervisor.units_alive()) == 4 and supervisor.logs_are_up(), "all run")
    supervisor.process.kill()
    await until(lambda: not supervisor.units_alive(), "all units are gone")
    await until(lambda: guardian_is_gone(guardian_pid), "the guardian is gone")


@pytest.mark.parametrize(
    "hook",
    ["killed as its second unit starts", "killed before its child is bound", "killed when its child is bound"],
)
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_supervisor_killed_in_the_middle_of_a_start_leaves_nothing(
    supervise: Supervise, loop: str, hook: str
) -> None:
    supervisor = supervise({"first": IGNORES, "second": IGNORES}, loop=loop, hook=hook)
    assert await asyncio.to_thread(supervisor.process.wait) == -signal.SIGKILL
    await until(lambda: not supervisor.units_alive(), "all units are gone")


async def test_a_unit_whose_first_act_is_to_kill_its_supervisor_is_ended_too(supervise: Supervise) -> None:
    kills = "import os, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.kill(os.getppid(), signal.SIGKILL)"
    supervisor = supervise({"kills": f"{kills}\nwhile True: signal.pause()"})
    assert await asyncio.to_thread(supervisor.process.wait) == -signal.SIGKILL
    await until(lambda: not supervisor.units_alive(), "the unit is gone")


async def test_no_unit_outlives_a_supervisor_that_ends_by_a_bug(supervise: Supervise) -> None:
    supervisor = supervise(UNITS, hook="fails")
    guardian_pid = supervisor.guardian_pid()
    assert await asyncio.to_thread(supervisor.process.wait) == 1
    await until(lambda: not supervisor.units_alive(), "all units are gone")
    await until(lambda: guardian_is_gone(guardian_pid), "the guardian is gone")


async def test_a_supervisor_that_ends_in_order_leaves_no_guardian(supervise: Supervise) -> None:
    supervisor = supervise({"unit": SLEEPS})
    guardian_pid = supervisor.guardian_pid()
    supervisor.process.terminate()
    assert await asyncio.to_thread(supervisor.process.wait) == 0
    assert supervisor.units_alive() == []
    assert guardian_is_gone(guardian_pid)


async def test_a_guardian_that_dies_is_replaced_by_one_that_knows_every_unit(supervise: Supervise) -> None:
    supervisor = supervise(UNITS)
    first = supervisor.guardian_pid()
    await until(supervisor.logs_are_up, "all run")
    os.kill(first, signal.SIGKILL)
    told = supervisor.events()
    died, replaced = next(told), next(told)
    assert (died["unit"], died["kind"], died["exit"]["signal"]) == ("guardian", "exited", signal.SIGKILL)
    assert (replaced["unit"], replaced["kind"]) == ("guardian", "started")
    assert len(supervisor.units_alive()) == 4
    supervisor.process.kill()
    await until(lambda: not supervisor.units_alive(), "all units are gone")


async def test_units_end_even_where_supervisor_and_guardian_are_killed_together(supervise: Supervise) -> None:
    supervisor = supervise({"first": SLEEPS, "second": SLEEPS})
    guardian_pid = supervisor.guardian_pid()
    supervisor.process.send_signal(signal.SIGSTOP)  # it must not start another guardian
    os.kill(guardian_pid, signal.SIGKILL)
    assert len(supervisor.units_alive()) == 2
    supervisor.process.kill()
    await until(lambda: not supervisor.units_alive(), "the kernel told all units to end")


async def test_a_ctrl_c_or_a_sigterm_does_not_end_the_guardian(tmp_path: Path) -> None:
    async with Kept(tmp_path) as kept:
        pid = kept.told("guardian")[0].pid
        assert pid is not None
        await until(lambda: not psutil.Process(pid).terminal() and _ignores(pid, signal.SIGTERM), "it is set up")
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, each)
        await kept.start("unit", SLEEPS)
        assert [each.kind for each in kept.told("guardian")] == ["started"]


def _ignores(pid: int, number: int) -> bool:
    [line] = [each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith("SigIgn")]
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)


# --- the guardian alone ---------------------------------------------------------------------------------------------


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Starts leaders of groups of their own, and returns when they have said `up`."""
    made: list[subprocess.Popen[bytes]] = []

    def make(code: str) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-S", "-c", f"{code}"]
        env = os.environ | {MARK: str(tmp_path)}
        made.append(subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, start_new_session=True))
        assert made[-1].stdout is not None
        assert made[-1].stdout.readline() == b"up\n"
        return made[-1]

    yield make
    for each in made:
        each.kill()
        each.wait()
        assert each.stdout is not None
        each.stdout.close()
    for pid in alive(tmp_path):
        os.kill(pid, signal.SIGKILL)


UP = f"print('up', flush=True); {SLEEPS}"


def test_the_guardian_ends_what_was_added_and_not_what_was_removed(group: Any) -> None:
    mine, freed = group(UP), group(UP)
    reads, writes = os.pipe()
    argv = [sys.executable, "-I", "-S", guardian.__file__, str(reads), "1"]
    with subprocess.Popen(argv, pass_fds=(reads,)) as process:
        os.close(reads)
        for sign, child in (("+", mine), ("+", freed), ("-", freed)):
            os.write(writes, guardian.record(sign, child.pid))
        assert freed.poll() is None
        os.close(writes)
        assert process.wait(TIMEOUT_S) == 0
    assert mine.wait(TIMEOUT_S) == -signal.SIGTERM
    assert freed.poll() is None


def test_a_stranger_that_was_given_the_number_of_a_unit_lives(group: Any) -> None:
    stranger = group(UP)
    guardian.end({stranger.pid: "12345"}, GRACE_S)
    assert stranger.poll() is None


def test_children_whose_leader_is_gone_already_are_ended(group: Any, tmp_path: Path) -> None:
    leader = group("import subprocess; subprocess.Popen(['sleep', '1000']); print('up', flush=True)")
    leader.wait()
    assert len(alive(tmp_path)) == 1
    guardian.end({leader.pid: "12345"}, GRACE_S)
    wait_until(lambda: not alive(tmp_path), "nothing of it is left")


@pytest.mark.parametrize("has_pidfds", [True, False])
def test_a_group_gets_its_grace_and_no_more(group: Any, monkeypatch: pytest.MonkeyPatch, has_pidfds: bool) -> None:
    if not has_pidfds:
        monkeypatch.delattr(os, "pidfd_open")
    cleans_up = (
        "import signal, sys, time\n"
        "def end(*_): print('cleaned', flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end); print('up', flush=True)\nwhile True: signal.pause()"
    )
    obeys, ignores = group(cleans_up), group(IGNORES)
    guardian.end({obeys.pid: guardian._born(obeys.pid)}, TIMEOUT_S)  # returns as soon as nothing is left
    assert obeys.wait(TIMEOUT_S) == 0
    assert obeys.stdout.readline() == b"cleaned\n"
    guardian.end({ignores.pid: guardian._born(ignores.pid)}, GRACE_S)
    assert ignores.wait(TIMEOUT_S) == -signal.SIGKILL


def test_a_group_that_is_gone_is_no_error(group: Any) -> None:
    gone = group("print('up', flush=True)")
    gone.wait()
    guardian.end({gone.pid: None}, GRACE_S)
