"""Processes of the program, begun in milliseconds: forked from one that has imported it and does nothing else.

To import a gateway takes a second of a core, and tests begin a thousand of them. What runs is the same program, in a
process with a pid, signals, files and an exit status of its own; only its command line is another. That the program
starts as a program does is for those tests that start it so: of `ollamactl up` and its workers (tests/cluster).
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import random
import runpy
import secrets
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import FrameType
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
IMPORTED = ("orchestrator.app.gateway", "orchestrator.nodes.simulator.server")
LARGEST_ORDER = 2**18
_PR_SET_PDEATHSIG = 1  # prctl.h
DRAWN = "_LIFE"  # what tells a process' leases, requests and claims from those of all others


class Forked(subprocess.Popen[bytes]):
    """`python -m MODULE ARGV…`, with what a Popen knows of it. `output`: a file for all that it says, or two pipes."""

    def __init__(
        self,
        module: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        output: IO[bytes] | None = None,
    ) -> None:
        self.args = [sys.executable, "-m", module, *argv]
        self.stdin = self.stdout = self.stderr = None
        self.returncode = None
        # What Popen's own methods look at besides.
        self._child_created, self._communication_started, self._input = True, False, None
        self._waitpid_lock, self._sigint_wait_secs, self.text_mode = threading.Lock(), 0.25, None
        if output is None:
            (out, said), (err, complained) = os.pipe(), os.pipe()
            self.stdout, self.stderr = os.fdopen(out, "rb"), os.fdopen(err, "rb")
        else:
            said, complained = os.dup(output.fileno()), os.dup(output.fileno())
        self._ended, status = os.pipe()
        order = {"argv": [module, *argv], "env": dict(env)}
        try:
            self.pid = _nursery().begin(order, (said, complained, status))
        finally:
            for each in (said, complained, status):
                os.close(each)

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None:
            self._look(0.0)
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        if self.returncode is None and not self._look(timeout):
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        assert self.returncode is not None
        return self.returncode

    def _look(self, timeout_s: float | None) -> bool:
        """Whether it has ended by then."""
        looking = select.poll()
        looking.register(self._ended, select.POLLIN)
        if not looking.poll(None if timeout_s is None else timeout_s * 1000):
            return False
        with self._waitpid_lock:
            if self.returncode is not None:
                return True
            told = os.read(self._ended, 16)
            os.close(self._ended)
            self.returncode = int(told) if told else -signal.SIGKILL  # with the nursery all its children end
        return True

    def __del__(self, *_: Any, **__: Any) -> None:
        """Popen's warns of a process that nobody waited for; this one's end is the nursery's affair."""
        if self.returncode is None and hasattr(self, "_ended"):
            os.close(self._ended)


class _Nursery:
    """The process that forks, from here."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "tests.forking", str(theirs.fileno())]
        kept = {name: value for name, value in os.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"}
        with theirs:
            self._process = subprocess.Popen(
                command, pass_fds=(theirs.fileno(),), cwd=ROOT, env=kept, stdin=subprocess.DEVNULL
            )
        atexit.register(self._close)

    def begin(self, order: Mapping[str, Any], descriptors: Sequence[int]) -> int:
        """The pid of a child that has these as its output, its errors, and for its exit status."""
        socket.send_fds(self._control, [json.dumps(order).encode()], descriptors)
        told = self._control.recv(16)
        assert told, f"the process that forks ended with {self._process.wait()}"
        return int(told)

    def _close(self) -> None:
        self._control.close()
        self._process.wait()


@cache
def _nursery() -> _Nursery:
    return _Nursery()


# --- the process that forks -------------------------------------------------------------------------------------------


def _serve(control: socket.socket) -> dict[str, Any] | None:
    """Fork on each order, tell each end. Returns None at the end, and in each child what that was asked for."""
    lives = _imported()
    assert threading.active_count() == 1, "what was imported began threads: a fork would lack them"
    gc.collect()
    gc.freeze()  # pages that the collector writes to are copied
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest, which then ends this in order
    signal.signal(signal.SIGCHLD, lambda *_: None)
    wakes, woken = os.pipe()
    os.set_blocking(wakes, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    children: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([control.fileno(), wakes], [], [])
        if wakes in ready:
            os.read(wakes, 4096)
            _reap(children)
        if control.fileno() in ready:
            told, descriptors, _, _ = socket.recv_fds(control, LARGEST_ORDER, 3)
            if not told:
                break
            if (pid := os.fork()) == 0:
                order: dict[str, Any] = json.loads(told)
                _become(order, descriptors, (wakes, woken, control.detach(), *children.values()), lives)
                return order
            for each in descriptors[:2]:
                os.close(each)
            children[pid] = descriptors[2]
            control.send(str(pid).encode())
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return None


def _imported() -> list[str]:
    """Import the program; its modules that drew something at random meanwhile, which each child has to draw anew."""
    drew: set[str] = set()

    def noted(size: int) -> bytes:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code.co_name != "<module>":
            frame = frame.f_back
        drew.add(frame.f_globals["__name__"] if frame is not None else "")
        return draw(size)

    draw = os.urandom
    vars(os)["urandom"] = vars(random)["_urandom"] = noted  # what `uuid` and `secrets` draw from
    try:
        for module in IMPORTED:
            importlib.import_module(module)
    finally:
        vars(os)["urandom"] = vars(random)["_urandom"] = draw
    lives = [name for name, module in sys.modules.items() if DRAWN in vars(module)]
    others = {name for name in drew if name.startswith("orchestrator.")} - set(lives)
    assert not others, f"{others}: what these draw as they are imported all children would have in common"
    return lives


def _reap(children: dict[int, int]) -> None:
    """Tell of each child that has ended how it did."""
    for pid in list(children):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            ends = children.pop(pid)
            with suppress(BrokenPipeError):  # nobody asks any more
                os.write(ends, str(os.waitstatus_to_exitcode(status)).encode())
            os.close(ends)


def _become(order: dict[str, Any], descriptors: Sequence[int], others: Sequence[int], lives: Sequence[str]) -> None:
    """In the child: nothing of the nursery is left, but what it imported; it ends with the nursery."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(descriptors[0], 1)
    os.dup2(descriptors[1], 2)
    for each in (*descriptors, *others):
        os.close(each)
    os.environ.clear()
    os.environ.update(order["env"])
    sys.argv = order["argv"]
    for module in (vars(sys.modules[name]) for name in lives):
        module[DRAWN] = secrets.token_hex(len(module[DRAWN]) // 2)
    sys.modules.pop(sys.argv[0], None)  # it is run, not imported


if __name__ == "__main__":
    asked = _serve(socket.socket(fileno=int(sys.argv[1])))
    if asked is not None:
        runpy.run_module(asked["argv"][0], run_name="__main__", alter_sys=True)
