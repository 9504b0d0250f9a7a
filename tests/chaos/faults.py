"""What may happen to a cluster, one class a fault: who is hurt, what a client is promised then, what may be lost.

A fault is injected into a running `World` under load, healed, and the world is waited for; `trial` does that and
the checker judges it. Here are the words, and the list of all faults; the faults themselves are in `faults_process`,
`faults_redis` and `faults_machine`.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from tests.chaos.world import Plan, World


@dataclass(frozen=True, slots=True)
class Allowed:
    """What calls may meet because of a fault; whatever is not named here is a failed trial.

    `cut`: connections may end in the middle of an answer (their gateway process is gone). `error_frames`: a stream that
    had begun may end in an error frame. `refused`: 503 or 429 with a Retry-After, before anything was answered.
    `garbled`: a stream may have in it what its instance said wrongly. `uncounted`: use may be missing from the books,
    as Redis or the worker lost it; it is never counted twice. `again`: an instance may have answered a call where
    nobody could hear it, and another one answers it again.
    """

    cut: bool = False
    error_frames: bool = False
    refused: bool = False
    garbled: bool = False
    uncounted: bool = False
    again: bool = False


class Fault(Protocol):
    """One thing that happens to the world.

    `inject` returns once it has happened (it may wait for a condition, as for a lease to expire); the load runs all the
    while. `heal` undoes it; nothing where the world comes back by itself, and then `heals_itself` says so.
    """

    name: str  # as in the table: "Redis killed"
    promise: str  # what a client sees, in one sentence
    allows: Allowed
    heals_itself: bool
    plan: Plan | None  # the world that it needs; None: the usual one

    def inject(self, world: World, rng: random.Random) -> None: ...

    def heal(self, world: World) -> None: ...

    def steps(self) -> Mapping[str, float]:
        """Of a fail-over: what was there how many seconds after it. Asked for once it is over."""
        ...


class ByItself:
    """What most faults have in common: nothing is allowed, and nobody has to lend a hand."""

    name: ClassVar[str]
    promise: ClassVar[str]
    allows: ClassVar[Allowed] = Allowed()
    heals_itself: ClassVar[bool] = True
    plan: Plan | None = None

    def inject(self, world: World, rng: random.Random) -> None:
        raise NotImplementedError

    def heal(self, world: World) -> None:
        """It comes back by itself."""

    def steps(self) -> Mapping[str, float]:
        """Nothing fails over."""
        return {}


def all_faults() -> list[Fault]:
    """Every fault there is, new, in the order of the table."""
    from tests.chaos.faults_process import PROCESS_FAULTS

    kinds = [*PROCESS_FAULTS]
    for module, name in (("faults_redis", "REDIS_FAULTS"), ("faults_machine", "MACHINE_FAULTS")):
        kinds += getattr(importlib.import_module(f"tests.chaos.{module}"), name)
    return [kind() for kind in kinds]
