"""Faults of real engines, as far as a process can be hurt from outside: ended, stopped, slowed, cut off.

What they answer wrongly is played by instances that can be told to (`faults_process`).
"""

from __future__ import annotations

import random
import time
from typing import ClassVar

from tests.chaos.faults import Allowed, ByItself, Fault
from tests.chaos.faults_machine import Walled
from tests.chaos.parts import Stutter
from tests.chaos.real_engine import RealEngine
from tests.chaos.world import LEASE_TTL_S, World
from tests.cluster.running import real_engine

# It works for one of ten parts of each turn.
STOPPED_S, WORKING_S = 0.18, 0.02


class OfEngine(ByItself):
    """One real engine is hurt, while it works on a call, until its owner sees to it."""

    heals_itself = False
    is_of_engine: ClassVar[bool] = True
    _hurt: RealEngine

    def lacks(self) -> str:
        return found if isinstance(found := real_engine(), str) else ""

    def inject(self, world: World, rng: random.Random) -> None:
        self._hurt = rng.choice(world.engines)
        world.until(self._hurt.works, f"{self._hurt.name} has a call to work on")
        self.hurt(world, self._hurt)

    def hurt(self, world: World, engine: RealEngine) -> None:
        raise NotImplementedError


class EngineKilled(OfEngine):
    name = "Real engine killed"
    promise = "Nothing: another one answers, and goes on with its streams word for word."

    def hurt(self, world: World, engine: RealEngine) -> None:
        engine.kill()

    def heal(self, world: World) -> None:
        self._hurt.start()


class EnginesKilled(OfEngine):
    name = "All real engines killed"
    promise = (
        "Their streams end in an error frame; calls wait in line until one is back, or are told when to come back."
    )
    allows = Allowed(error_frames=True, refused=True)

    def hurt(self, world: World, engine: RealEngine) -> None:
        for each in world.engines:
            each.kill()

    def heal(self, world: World) -> None:
        for each in world.engines:
            each.start()


class EngineFrozen(OfEngine):
    name = "Real engine hangs (SIGSTOP)"
    promise = "Another one answers; streams under way pause, then another one goes on with them, word for word."

    def hurt(self, world: World, engine: RealEngine) -> None:
        engine.pause()

    def heal(self, world: World) -> None:
        self._hurt.go_on()


class EnginePaused(OfEngine):
    name = "Real engine paused past its calls' leases, and continued"
    promise = "A pause; gateways renew what they hold, so it gets no more calls than it has slots."
    heals_itself = True

    def hurt(self, world: World, engine: RealEngine) -> None:
        engine.pause()
        world.at_end(engine.go_on)
        over_s = time.monotonic() + LEASE_TTL_S + 1.0
        world.until(lambda: time.monotonic() > over_s, "the leases would have ended")
        engine.go_on()


class EngineSlow(OfEngine):
    name = "Real engine ten times slower"
    promise = "Answers take longer there; the other one gets more of the calls."

    def hurt(self, world: World, engine: RealEngine) -> None:
        self._stutter = Stutter(engine, STOPPED_S, WORKING_S)
        world.at_end(self._stutter.end)

    def heal(self, world: World) -> None:
        self._stutter.end()


class EngineCutOff(Walled):
    name = "Real engine cut off: every packet dropped, no connection closed"
    promise = "The other one answers; its streams are gone on with once they were silent for too long."
    is_of_engine: ClassVar[bool] = True

    def lacks(self) -> str:
        return super().lacks() or (found if isinstance(found := real_engine(), str) else "")

    def port(self, world: World, rng: random.Random) -> int:
        return rng.choice(world.engines).port


ENGINE_FAULTS: tuple[type[Fault], ...] = (
    EngineKilled,
    EnginesKilled,
    EngineFrozen,
    EnginePaused,
    EngineSlow,
    EngineCutOff,
)
