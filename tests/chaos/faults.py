"""What may happen to a cluster, one class a fault: who is hurt, what a client is promised then, what may be lost.

A fault is injected into a running `World` under load, healed, and the world is waited for; `trial` does that and
the checker judges it. Here are the words, and the list of all faults; the faults themselves are in `faults_process`,
`faults_engine`, `faults_redis` and `faults_machine`.
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
    `uncounted`: use may be missing from the books, as Redis or the worker lost it; it is never counted twice. `again`:
    an instance may have answered a call where nobody could hear it, and another one answers it again.
    """

    cut: bool = False
    error_frames: bool = False
    refused: bool = False
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
    is_of_engine: bool  # it hurts real engines, so more of the calls are theirs

    def lacks(self) -> str:
        """What this machine lacks for it, for people; empty: nothing."""
        ...

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
    is_of_engine: ClassVar[bool] = False

    def lacks(self) -> str:
        return ""

    def inject(self, world: World, rng: random.Random) -> None:
        raise NotImplementedError

    def heal(self, world: World) -> None:
        """It comes back by itself."""

    def steps(self) -> Mapping[str, float]:
        """Nothing fails over."""
        return {}


def all_faults() -> list[Fault]:
    """Every fault there is, new, in the order of the table; also those that this machine lacks something for."""
    kinds: list[type[Fault]] = []
    for part in ("process", "engine", "redis", "machine"):
        kinds += getattr(importlib.import_module(f"tests.chaos.faults_{part}"), f"{part.upper()}_FAULTS")
    return [kind() for kind in kinds]
