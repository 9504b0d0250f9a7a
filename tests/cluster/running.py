"""A cluster as a user runs it: `ollamactl` in a process of its own, a state folder, a port, and what is left of them.

Whose a process is, is told by what it holds open: the logs of a state folder are the output of every process that its
`up` started, and of theirs.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from orchestrator.core.errors import HostError
from orchestrator.fleet.engines import LocalEngine, find_engine
from orchestrator.nodes.weights import ollama_models_dir, pulled_weights
from orchestrator.store.embedded import find_server
from tests.nodes.simulators import NO_AUTHORITIES
from tests.ports import free_port
from tests.waiting import wait_until as until

TIMEOUT_S = 90.0
# Made once: one is made of all certificates of this machine, 30 ms of a core, and conditions are asked again and again.
TLS = httpx.create_ssl_context()
CARDS = "3x RTX 4090, 1x A100-40GB"
# What real engines serve in tests: the built-in one has it along, Ollama where it was pulled.
REAL_MODEL = "smollm2:135m"


def needs_redis() -> None:
    """Skip where this machine has not what `up` needs by itself, saying what."""
    try:
        find_server()
    except HostError as why:
        pytest.skip(str(why))


def needs_built_in_engine() -> None:
    needs_redis()
    pytest.importorskip("xllamacpp", reason="the built-in engine is not installed: `make install` brings it")


def real_engine() -> LocalEngine | str:
    """The engine that the product finds on this machine, with the small model; or what is missing, for people.

    `OLM_CHAOS_ENGINE=none`: as if there were none.
    """
    if os.environ.get("OLM_CHAOS_ENGINE") == "none":
        return "OLM_CHAOS_ENGINE=none"
    missing = []
    for wanted in ("ollama", "llama.cpp"):
        try:
            found = find_engine(wanted)
        except HostError as why:
            missing.append(str(why))
            continue
        if found.weights or (wanted == "ollama" and pulled_weights(ollama_models_dir(), REAL_MODEL)):
            return found
        missing.append(f"{wanted} has no {REAL_MODEL}")
    return "; ".join(missing)


def needs_real_engine() -> None:
    """Skip where this machine has none, saying why."""
    if isinstance(found := real_engine(), str):
        pytest.skip(f"no real engine: {found}")


def environment() -> dict[str, str]:
    """This one's, without an `ollama` on PATH and without authorities: no matter what this machine has."""
    folders = os.environ["PATH"].split(os.pathsep)
    path = os.pathsep.join(each for each in folders if shutil.which("ollama", path=each) is None)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OLLAMA")}
    return {**kept, **NO_AUTHORITIES, "PATH": path}


def ollamactl(*args: str | Path, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    argv = [sys.executable, "-m", "orchestrator.cli", *map(str, args)]
    options = {"env": environment(), "timeout": TIMEOUT_S} | options
    return subprocess.run(argv, cwd=cwd, text=True, capture_output=True, check=False, **options)


def processes_of(state: Path) -> dict[int, str]:
    """Pids of the processes that hold something of the state folder open, and the unit that each belongs to."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            files = _open_files(folder)
            if any(each.startswith(f"{state}/") for each in files.values()):
                found[int(folder.name)] = Path(files.get("1", "")).stem
    return found


def _open_files(folder: Path) -> dict[str, str]:
    files: dict[str, str] = {}
    with suppress(OSError):  # it has ended, or is another user's
        for each in (folder / "fd").iterdir():
            with suppress(OSError):
                files[each.name] = str(each.readlink())
    return files


def unit_pid(state: Path, unit: str) -> int:
    """The leader of a unit's processes; 0 while it has none."""
    for pid, name in processes_of(state).items():
        with suppress(ProcessLookupError):
            if name == unit and os.getsid(pid) == pid:
                return pid
    return 0


def is_back(state: Path, unit: str, instead_of: int) -> bool:
    """Whether another process of the unit runs, and a gateway worker takes connections again."""
    pid = unit_pid(state, unit)
    if pid in (0, instead_of):
        return False
    if not unit.startswith("gateway-"):
        return True
    with suppress(psutil.NoSuchProcess):
        return any(each.status == psutil.CONN_LISTEN for each in psutil.Process(pid).net_connections("tcp"))
    return False


class Up:
    """One `ollamactl up` in the foreground of nothing: its output goes to a file."""

    def __init__(
        self,
        state: Path,
        *args: str,
        config: Path | None = None,
        listen: str | None = None,
        env: Mapping[str, str] | None = None,
        command: str = "up",
    ) -> None:
        state.parent.mkdir(parents=True, exist_ok=True)
        self.state = state
        self.listen = listen or f"127.0.0.1:{free_port()}"
        self.endpoint = f"http://{self.listen}"
        self.ready_file = state.with_suffix(".ready.json")
        self._output = state.with_suffix(".out")
        argv = [sys.executable, "-m", "orchestrator.cli", command, "--state", str(state), "--listen", self.listen]
        argv += ["--ready-file", str(self.ready_file), *(["--config", str(config)] if config else []), *args]
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=state.parent, env=env or environment()
            )

    @property
    def screen(self) -> str:
        return self._output.read_text()

    def wait_until_ready(self) -> dict[str, Any]:
        def is_ready() -> bool:
            assert self.process.poll() is None, f"up ended with {self.process.returncode}:\n{self.screen}"
            return self.ready_file.exists() and self._ready_pid() == self.process.pid

        until(is_ready, f"up is ready:\n{self.screen}")
        self.ready: dict[str, Any] = json.loads(self.ready_file.read_text())
        return self.ready

    def _ready_pid(self) -> int:
        """Whose the file is: it may be an earlier start's until this one has taken that away."""
        with suppress(FileNotFoundError):
            return int(json.loads(self.ready_file.read_text())["pid"])
        return 0

    def end(self, number: int = signal.SIGTERM) -> int:
        """Its exit code, after the signal; nothing of it is left."""
        self.process.send_signal(number)
        code = self.process.wait(TIMEOUT_S)
        until(lambda: not processes_of(self.state), f"the processes of {self.state} end: {processes_of(self.state)}")
        return code

    def close(self) -> None:
        """The end, whatever has happened before; by force where nothing else helps."""
        try:
            if self.process.poll() is None:
                self.end()
            left = processes_of(self.state)
            assert not left, f"left running: {left}"
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            for pid in processes_of(self.state):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    # --- asking -------------------------------------------------------------------------------------------------------

    def post(self, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
        """One call on a connection of its own, without a retry."""
        return httpx.post(self.endpoint + path, json=body, headers=headers, timeout=TIMEOUT_S, verify=TLS)

    def chat(self, question: str, model: str = "auto", tokens: int = 8, **headers: str) -> httpx.Response:
        body = {"model": model, "stream": False, "options": {"num_predict": tokens, "temperature": 0}}
        return self.post("/api/chat", body | {"messages": [{"role": "user", "content": question}]}, **headers)

    def status(self) -> dict[str, Any]:
        reply = httpx.get(self.endpoint + "/status.json", timeout=TIMEOUT_S, verify=TLS)
        assert reply.status_code == 200, reply.text
        told: dict[str, Any] = reply.json()
        return told

    def instances(self) -> list[dict[str, Any]]:
        return [each for pool in self.status()["pools"] for each in pool["instances"]]

    def all_serve(self) -> bool:
        return self.status()["store"] == "up" and all(each["state"] == "serving" for each in self.instances())

    def is_idle(self) -> bool:
        """Whether everything serves, no slot is held and nobody waits."""
        is_free = not any(each["in_flight"] for each in self.instances())
        return self.all_serve() and is_free and not any(pool["queue_depth"] for pool in self.status()["pools"])


@contextmanager
def running(state: Path, *args: str, **options: Any) -> Iterator[Up]:
    """A cluster that answers; at the end nothing of it is left."""
    up = Up(state, *args, **options)
    try:
        up.wait_until_ready()
        yield up
    finally:
        up.close()
