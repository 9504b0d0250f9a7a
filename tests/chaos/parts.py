"""What a world is made of: processes with a name, each started, killed, paused and continued by itself."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from orchestrator.app.paths import StatePaths
from orchestrator.app.settings_in_use import place
from orchestrator.nodes.simulator.config import SimulatedModel, SimulatorConfig, write_config
from tests.cluster.running import TIMEOUT_S, environment, free_port, processes_of, until

ROOT = Path(__file__).resolve().parents[2]
Launch = Callable[[str, list[str]], list[str]]


class Process:
    """One process, which may be started again after its end. What `launch` puts before it must exec it."""

    def __init__(self, name: str, argv: list[str], folder: Path, launch: Launch) -> None:
        self.name, self.folder = name, folder
        self._argv, self._launch = argv, launch
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} does not run"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def screen(self) -> str:
        return self._output.read_text()

    @property
    def _output(self) -> Path:
        return self.folder.parent / f"{self.name}.out"

    def start(self) -> None:
        """Begin it; it is not waited for."""
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                self._launch(self.name, list(self._argv)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env=environment() | {"PYTHONPATH": str(ROOT)},
            )

    def signal(self, number: int) -> None:
        if self.is_running:
            os.kill(self.pid, number)

    def pause(self) -> None:
        self.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL; it has ended when this returns."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM; it has ended when this returns."""
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        if self._process is not None:
            self.signal(number)
            self.go_on()
            self._process.wait(TIMEOUT_S)


class Stutter:
    """Makes a process slow from now on: it is stopped and works by turns. `end()`: it works on; twice is harmless."""

    def __init__(self, process: Process, stopped_s: float, working_s: float) -> None:
        self._process, self._stopped_s, self._working_s = process, stopped_s, working_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._turn, name=f"slow {process.name}")
        self._thread.start()

    def _turn(self) -> None:
        while not self._ended.is_set():
            self._process.pause()
            self._ended.wait(self._stopped_s)
            self._process.go_on()
            self._ended.wait(self._working_s)

    def end(self) -> None:
        self._ended.set()
        self._thread.join()


class Instance(Process):
    """A played instance (`engine`). `journal`: what it counted itself, over all its lives."""

    def __init__(
        self, name: str, folder: Path, models: tuple[SimulatedModel, ...], speed: float, launch: Launch
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.models = models
        self.slots = models[0].slots
        self.journal = folder / f"{name}.journal"
        self.journal.touch()
        config = folder / f"{name}.json"
        played = {"card": "RTX 4090", "speed": speed, "keep_alive_s": 1e9, "load_bandwidth_bytes_s": 1e11}
        write_config(config, SimulatorConfig(name, "127.0.0.1", self.port, models, **played))  # type: ignore[arg-type]
        argv = [sys.executable, "-m", "tests.chaos.engine", str(config), str(self.journal)]
        super().__init__(name, argv, folder / name, launch)

    def start(self) -> None:
        """Begin it and have its models in memory, as its owner would."""
        self.begin()
        self.wait_until_loaded()

    def begin(self) -> None:
        super().start()

    def wait_until_loaded(self) -> None:
        until(self.answers, f"{self.name} answers")
        self._load()

    def _load(self, **more: Any) -> None:
        for each in self.models:
            body = {"model": each.name, "messages": [], **more}
            httpx.post(f"{self.url}/api/chat", json=body, timeout=TIMEOUT_S).raise_for_status()

    def answers(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/api/version", timeout=5):
            return True
        return False

    def behave(self, what: str = "", **more: Any) -> None:
        """What it does wrong from now on (`engine.Wrong`); without a word: nothing."""
        httpx.post(
            f"{self.url}/chaos", content=json.dumps({"what": what, **more}), timeout=TIMEOUT_S
        ).raise_for_status()

    def unload(self) -> None:
        """As its owner can at any time: the model leaves its memory once it is idle."""
        self._load(keep_alive=0)

    def events(self) -> list[dict[str, Any]]:
        """Its journal so far."""
        return [json.loads(line) for line in self.journal.read_text().splitlines()]


class Side(Process):
    """One machine of the pair: supervisor, controller and gateway workers on one state folder; on played `cards`,
    where there are some, instances that it deploys itself."""

    def __init__(self, name: str, state: Path, config: Path, workers: int, launch: Launch, cards: str = "") -> None:
        self.state, self.config = state, config
        self.listen = f"127.0.0.1:{free_port()}"
        self.endpoint = f"http://{self.listen}"
        self.ready_file = state.parent / f"{name}.ready.json"
        self.names = {"controller", *(f"gateway-{n}" for n in range(workers))}  # of what it always has
        command = ["up", "--simulate", cards] if cards else ["gateway", "--workers", str(workers)]
        argv = [sys.executable, "-m", "orchestrator.cli", *command, "--state", str(state), "--config", str(config)]
        argv += ["--listen", self.listen, "--ready-file", str(self.ready_file)]
        super().__init__(name, argv, state, launch)

    def start(self) -> None:
        self.ready_file.unlink(missing_ok=True)
        super().start()

    def wait_until_ready(self) -> None:
        def is_ready() -> bool:
            assert self.is_running, f"{self.name} ended:\n{self.screen}"
            return self.ready_file.exists()

        until(is_ready, f"{self.name} is ready")

    def units(self) -> dict[str, int]:
        """The process of each unit that runs: gateway-0, controller and so on; the leader of its session."""
        logs, found = f"{self.state}/logs/", {}
        for pid in psutil.pids():
            with suppress(OSError):  # it has ended meanwhile
                output = os.readlink(f"/proc/{pid}/fd/1")  # noqa: PTH115 - of each process of the machine, often
                if output.startswith(logs) and os.getsid(pid) == pid:
                    found[Path(output).stem] = pid
        return found

    def workers(self) -> list[int]:
        """Pids of its gateway workers that run."""
        return [pid for name, pid in sorted(self.units().items()) if name.startswith("gateway-")]

    def controller(self) -> int:
        """Its controller's pid; 0 while there is none."""
        return self.units().get("controller", 0)

    def leads_as(self, holder: str) -> bool:
        """Whether Redis has this side's controller as the leader of that name."""
        return holder == place(StatePaths(self.state))

    def pids(self) -> dict[int, str]:
        """Every process that has something of its state folder open, with the unit that it belongs to."""
        return processes_of(self.state)

    def status(self) -> dict[str, Any]:
        """/status.json. Raises OSError while it does not answer."""
        with urllib.request.urlopen(f"{self.endpoint}/status.json", timeout=10) as reply:
            told: dict[str, Any] = json.load(reply)
        return told

    def is_ready(self) -> bool:
        """Whether it says that whatever it should serve is served."""
        with suppress(OSError, http.client.HTTPException):
            urllib.request.urlopen(f"{self.endpoint}/readyz", timeout=10).close()
            return True
        return False

    def signal_all(self, number: int) -> None:
        """To all its processes, the supervisor first, so that it does not see the others go."""
        self.signal(number)
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def pause(self) -> None:
        self.signal_all(signal.SIGSTOP)

    def go_on(self) -> None:
        self.signal_all(signal.SIGCONT)

    def kill(self) -> None:
        """All of it at once, as when the machine's power goes."""
        pids = [psutil.Process(each) for each in self.pids() if psutil.pid_exists(each)]
        self.signal_all(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(TIMEOUT_S)
        psutil.wait_procs(pids, TIMEOUT_S)
        until(lambda: not self.pids(), f"all of {self.name} ended")

    def close(self) -> None:
        """An orderly end; by force where that does not come about."""
        try:
            self.go_on()
            self.stop()
        finally:
            self.kill()

    def log_of(self, unit: str) -> str:
        return "".join(each.read_text(errors="replace") for each in sorted((self.state / "logs").glob(f"{unit}*")))
