"""Units to keep, and a look at which of their processes are alive: by a mark in the environment they hand down."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import psutil

from orchestrator.nodes.keeper import EventKind, Keeper, Unit, UnitEvent
from tests.waiting import WITHIN_S, until

TIMEOUT_S = WITHIN_S
MARK = "UNIT_MARK"

SLEEPS = "import signal; signal.pause()"
IGNORES = (
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)\nwhile True: signal.pause()"
)
# A leader with a child of its own, as Ollama has runners; neither listens to SIGTERM.
IGNORES_WITH_CHILD = (
    "import signal, subprocess; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "subprocess.Popen(['sleep', '1000']); print('up', flush=True)\nwhile True: signal.pause()"
)
WITH_CHILD = "import signal, subprocess; subprocess.Popen(['sleep', '1000']); print('up', flush=True); signal.pause()"


def python_unit(name: str, code: str, mark: Path | str = "", **fields: Any) -> Unit:
    env = {MARK: str(mark)} | fields.pop("env", {})
    return Unit(name, (sys.executable, "-S", "-c", code), env=env, **fields)


def alive(mark: Path | str) -> list[int]:
    """Pids of the processes that run, zombies not counted, and have the mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == str(mark):
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


class Kept:
    """A real keeper in a state folder, and all it told."""

    def __init__(self, state: Path, **options: Any) -> None:
        self.state, self.events = state, list[UnitEvent]()
        self.keeper = Keeper(state, self.events.append, **options)

    async def __aenter__(self) -> Kept:
        await self.keeper.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.keeper.close()
        assert alive(self.state) == []

    def unit(self, name: str, code: str, **fields: Any) -> Unit:
        return python_unit(name, code, self.state, **fields)

    async def start(self, name: str, code: str, **fields: Any) -> Unit:
        unit = self.unit(name, code, **fields)
        await self.keeper.start(unit)
        return unit

    async def start_up(self, name: str, code: str, **fields: Any) -> Unit:
        """Start it, and wait until it has printed `up`."""
        unit = await self.start(name, code, **fields)
        await until(lambda: "up" in self.log(name), f"{name} is up")
        return unit

    def log(self, name: str) -> str:
        return (self.state / "logs" / f"{name}.log").read_text()

    def pid(self, name: str) -> int:
        pid = next(each.pid for each in self.keeper.status() if each.name == name)
        assert pid is not None
        return pid

    def told(self, unit: str, *kinds: EventKind) -> list[UnitEvent]:
        return [each for each in self.events if each.unit == unit and (not kinds or each.kind in kinds)]
