"""What the parts of the benchmark tell each other: how instances behave, what callers do, what they saw."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

MODEL = "bench:latest"
KEY = "bench-key-0123456789abcdef"
INSTANCES = 6


@dataclass(frozen=True, slots=True)
class Setup:
    """The six instances: what each can do at once, how fast each is, which models it has.

    `load_s` is what a change of the resident model takes; with one model it is always resident.
    """

    slots: int = 64
    speeds: tuple[float, ...] = (1.0,) * INSTANCES
    models: tuple[str, ...] = (MODEL,)
    load_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Job:
    """What callers do for one cell of the table.

    Closed loop: `clients` ask one call after the other for `seconds`, or one call each where `is_once`.
    Open loop, where `arrivals_s` is given: call i begins at that time after the start, whatever became of the others.
    `works_us` and `models` are given to calls in turn.
    """

    ports: tuple[int, ...]
    prefix: str = ""  # of the contender's paths
    dialect: str = "ollama"
    clients: int = 1
    seconds: float = 0.0
    is_once: bool = False
    spread_s: float = 0.0  # over which clients begin: their frames come in turn, not in a burst
    arrivals_s: tuple[float, ...] = ()
    frames: int = 20  # of a stream, or words of a body
    gap_us: int = 0
    is_stream: bool = False
    prompt_bytes: int = 64
    works_us: tuple[int, ...] = (0,)
    models: tuple[str, ...] = (MODEL,)
    temperature: float = 0.0
    is_alike: bool = False  # all calls ask the same
    patience_s: float = 30.0  # a call without a whole answer by then has failed
    first: int = 0  # number of the first call; the answer repeats it


@dataclass(slots=True)
class Result:
    """What callers saw. `answers` has (number of the call, when it should begin, seconds to its end) of whole ones."""

    frames: int = 0
    seconds: float = 0.0
    errors: dict[str, int] = field(default_factory=dict)
    answers: list[tuple[int, float, float]] = field(default_factory=list)
    first_us: list[float] = field(default_factory=list)  # streams: to the first frame

    @property
    def failed(self) -> int:
        return sum(self.errors.values())

    @property
    def took_us(self) -> list[float]:
        return [took_s * 1e6 for _, _, took_s in self.answers]


def plain(value: Setup | Job | Result) -> dict[str, Any]:
    return asdict(value)


def setup_from(told: dict[str, Any]) -> Setup:
    return Setup(**_with_tuples(told))


def job_from(told: dict[str, Any]) -> Job:
    return Job(**_with_tuples(told))


def result_from(told: dict[str, Any]) -> Result:
    return Result(**told)


def _with_tuples(told: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}
