"""The gateway workers of a supervisor, as units: started, and succeeded one after the other without a call lost.

Each accepts on a socket that the supervisor keeps open. A worker's two lives take turns: while one finishes its calls,
the other is told apart from it by its number.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orchestrator.app.listening import Listeners
from orchestrator.app.paths import StatePaths
from orchestrator.gateway.shared_slots import SharedSlots
from orchestrator.nodes.keeper import EventKind, Keeper, Unit, UnitEvent

PREFIX = "gateway-"
# A worker ends its answers within 30 s, and what it writes down then takes a moment.
STOP_TIMEOUT_S = 35.0
# On a machine that is busy, and where Redis does not answer at once.
READY_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Workers:
    """`environment`: what each gets besides what the keeper gives to all."""

    keeper: Keeper
    listeners: Listeners
    paths: StatePaths
    number: int
    environment: Mapping[str, str]

    async def start(self) -> None:
        self.paths.slots.unlink(missing_ok=True)  # rows of a run that was killed: nobody would take its calls off
        for index in range(self.number):
            await self.keeper.start(self._unit(index, 0))

    async def roll(self, leaves_within_s: float, tell: Callable[[str], None]) -> None:
        """Have each worker succeeded by one of the code on disk, then wait for those that finish. Raises HostError.

        Where one does not become ready, its predecessor and those behind it stay; a second run goes on from there.
        """
        ended = []
        for index in range(self.number):
            name = f"{PREFIX}{index}"
            life = _life_of(self.keeper.unit(name))
            tell(f"{name}: a new worker starts …")
            await self.keeper.succeed(self._unit(index, 1 - life), leaves_within_s)
            self._read_settings(name)  # they may have changed while it started
            ended.append((index, life))
        tell("new workers serve; the old ones finish what they have …")
        await self.keeper.until_all_left()
        for index, life in ended:
            # One that was ended at its deadline had no time to take its calls off the table.
            SharedSlots(self.paths.slots, index + life * self.number, 2 * self.number).close()

    def on_unit(self, event: UnitEvent) -> None:
        """One that dies again and again keeps nobody waiting: its socket is closed until it is started again."""
        if event.unit.startswith(PREFIX) and event.kind in (EventKind.EXITED, EventKind.FAILED) and event.retry_in_s:
            self.listeners.drop(event.unit)

    def _unit(self, index: int, life: int) -> Unit:
        argv = (sys.executable, "-P", "-m", "orchestrator.app.gateway", "--state", str(self.paths.root))
        place = ("--listen", self.listeners.address, "--index", str(index), "--workers", str(self.number))
        return Unit(
            name=f"{PREFIX}{index}",
            argv=(*argv, *place, "--life", str(life)),
            env=self.environment,
            leave_signal=signal.SIGUSR2,
            stop_timeout_s=STOP_TIMEOUT_S,
            listens=f"{PREFIX}{index}",
            says_ready=True,
            holds_hangup=True,
            ready_timeout_s=READY_TIMEOUT_S,
        )

    def _read_settings(self, name: str) -> None:
        for each in self.keeper.status():
            if each.name == name and each.pid is not None:
                os.kill(each.pid, signal.SIGHUP)


def _life_of(unit: Unit | None) -> int:
    """Which of its two lives a worker is in; of one that an older version started, the first."""
    argv = unit.argv if unit is not None else ()
    return int(argv[argv.index("--life") + 1]) if "--life" in argv else 0
