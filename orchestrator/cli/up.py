"""`ollamactl up` and `down`: a cluster's start and end, in the foreground or from a script."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from dataclasses import replace
from io import BufferedReader
from pathlib import Path

from orchestrator.app.live_settings import Wish
from orchestrator.app.loop import run
from orchestrator.app.starting import READY_FD
from orchestrator.app.succession import become
from orchestrator.app.up import Supervisor
from orchestrator.cli.output import console, program, readable
from orchestrator.cli.screen import TerminalScreen, state_option
from orchestrator.core.errors import HostError
from orchestrator.nodes.keeper_process import open_log
from orchestrator.nodes.state_lock import read_holder

# A clean end drains the gateways (30 s) and then stops Redis.
DOWN_TIMEOUT_S = 60.0
# How soon `--detach` repeats what the cluster in the background says of its start.
REPEAT_EVERY_S = 0.2


def run_up(wish: Wish, *, detach: bool) -> int:
    """Run the cluster in the foreground, or start one that stays. Raises OrchestratorError."""
    wish = replace(wish, state=wish.state.absolute())
    if detach:
        return _detached(wish)
    screen = TerminalScreen(is_detached=READY_FD in os.environ)
    supervisor = Supervisor(replace(wish, config=wish.config.absolute() if wish.config else None), screen)
    try:
        code = run(supervisor.run)
    finally:
        screen.close()
    if supervisor.succession is not None:
        become(supervisor.program, supervisor.succession)
    return code


def run_down(state: Path) -> int:
    """End the cluster of `state`. Raises HostError where none runs there, or it does not end."""
    holder = read_holder(state)
    if holder is None:
        raise HostError(f"no cluster runs with --state {state}")
    try:
        descriptor = os.pidfd_open(holder.pid)
    except ProcessLookupError:
        return 0
    with os.fdopen(descriptor):
        os.kill(holder.pid, signal.SIGTERM)
        if not select.select([descriptor], [], [], DOWN_TIMEOUT_S)[0]:
            raise HostError(f"process {holder.pid} has not ended within {DOWN_TIMEOUT_S:g} s; see {state}/logs")
    console.print("ended")
    return 0


def _detached(wish: Wish) -> int:
    """Start it in a session of its own; return when it is ready, or has ended before; repeat what it says."""
    command = "gateway" if wish.only_balances else "up"
    argv = [sys.executable, "-P", "-m", "orchestrator.cli", command, "--state", str(wish.state)]
    given = {
        "--config": wish.config,
        "--listen": wish.listen,
        "--simulate": wish.simulate,
        "--ready-file": wish.ready_file,
        "--workers": wish.workers,
    }
    for option, value in given.items():
        argv += [option, str(value)] if value is not None else []
    argv += ["--open"] if wish.is_open else []
    path = _log_of(wish.state)
    told, tell = os.pipe()
    with path.open("rb") as said, os.fdopen(told, "rb") as ready:
        said.seek(0, os.SEEK_END)
        child = _spawn(argv, path, tell)
        try:
            is_ready = _repeat_until_ready(said, ready)
        except KeyboardInterrupt:
            child.terminate()
            child.wait()
            raise
    if not is_ready:
        return child.wait()
    console.print(
        f"runs on as process {child.pid}; end it with: {program()} down{state_option(str(wish.state))}", soft_wrap=True
    )
    return 0


def _log_of(state: Path) -> Path:
    """Where it writes what it has no screen for. Raises HostError."""
    logs = state / "logs"
    try:
        for folder in (state, logs):  # each private: a parent that mkdir makes on the way would not be
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(open_log(logs / "up.log"))
    except OSError as why:
        raise HostError(f"cannot write to {logs}: {why.strerror}; name another folder with --state") from why
    return logs / "up.log"


def _spawn(argv: list[str], path: Path, tell: int) -> subprocess.Popen[bytes]:
    log = open_log(path)
    try:
        return subprocess.Popen(  # noqa: S603 - our own program, no shell
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=(tell,),
            env={**os.environ, READY_FD: str(tell)},
        )
    finally:
        os.close(log)
        os.close(tell)


def _repeat_until_ready(said: BufferedReader, ready: BufferedReader) -> bool:
    """Whether it became ready: it says so by a byte, and its end ends the pipe."""
    while True:
        is_told = bool(select.select([ready], [], [], REPEAT_EVERY_S)[0])
        text = said.read().decode("utf-8", "replace")
        console.print(readable(text), end="", markup=False, soft_wrap=True)
        if is_told:
            return bool(ready.read(1))
