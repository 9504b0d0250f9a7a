"""What a unit is, what happens to one and how one stands: the keeper's words, and their JSON on its control socket."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError

from orchestrator.core.errors import HostError

# A name is also a log file's: no path in it, nothing hidden. An instance's name holds what a model's may hold.
UNIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+-]{0,399}")
READY_ADDRESS = re.compile(r"unix:/.+|tcp:.+:[0-9]+")
# Where a unit finds what it was handed: the socket to accept on, and the pipe to say that it can work.
LISTEN_FD, SAY_READY_FD = "OLLAMACTL_LISTEN_FD", "OLLAMACTL_SAY_READY_FD"
# Longer than any unit's command and environment; a peer that sends more is not ours.
LONGEST_LINE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Unit:
    """One process to keep. `env` is added to a minimal inherited one and may hold secrets: it is never shown.

    `ready` is where the unit accepts connections once it can work: `unix:/path` or `tcp:host:port`. `log` None is
    `logs/<name>.log` in the state folder. `listens` names a socket of the keeper's owner that it is handed, `LISTEN_FD`
    says which descriptor that is. One that `says_ready` is handed a pipe, too, for a byte once it can work.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    cwd: Path | None = None
    log: Path | None = None
    stop_signal: int = signal.SIGTERM
    leave_signal: int = signal.SIGTERM  # another has taken its place: it may take longer to finish
    stop_timeout_s: float = 10.0
    restart: bool = True
    ready: str | None = None
    ready_timeout_s: float = 30.0
    listens: str = ""
    says_ready: bool = False
    holds_hangup: bool = False  # SIGHUP waits until the process takes it (pthread_sigmask(3))

    def __post_init__(self) -> None:
        if not UNIT_NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no unit's name: letters, digits and . _ : @ + -, 400 at most")
        if not self.argv:
            raise ValueError(f"{self.name}: a unit needs a command")
        if self.ready is not None and not READY_ADDRESS.fullmatch(self.ready):
            raise ValueError(f"{self.name}: ready is unix:/path or tcp:host:port")


class UnitState(StrEnum):
    STARTING = "starting"  # runs, and does not accept connections at `ready` yet
    RUNNING = "running"
    WAITING = "waiting"  # died; started again after a pause
    STOPPING = "stopping"  # was told to end
    EXITED = "exited"  # ended, and is not to be restarted


class EventKind(StrEnum):
    STARTED = "started"
    READY = "ready"
    EXITED = "exited"  # ended, without being told to
    STOPPED = "stopped"  # ended, as it was told to
    FAILED = "failed"  # could not be started


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: with an exit code, or by a signal."""

    code: int | None = None
    signal: int | None = None

    def __str__(self) -> str:
        if self.signal is None:
            return f"exit code {self.code}"
        known = {each.value: each.name for each in signal.Signals}
        return f"signal {self.signal} ({known.get(self.signal, 'real-time')})"


@dataclass(frozen=True, slots=True)
class UnitEvent:
    """Something that happened to a unit. `lines` are the last ones of its log; `retry_in_s` None: no further try."""

    unit: str
    kind: EventKind
    at_unix_ms: int
    pid: int | None = None
    exit: Exit | None = None
    why: str = ""
    retry_in_s: float | None = None
    lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One sentence for people, without the lines of the log."""
        text = f"{self.unit} {self.kind}"
        if self.pid is not None:
            text += f" (pid {self.pid})"
        if self.exit is not None:
            text += f" with {self.exit}"
        if self.why:
            text += f": {self.why}"
        if self.retry_in_s is not None:
            text += f"; restarting {f'in {self.retry_in_s:g} s' if self.retry_in_s else 'at once'}"
        return text


@dataclass(frozen=True, slots=True)
class UnitStatus:
    """How a unit stands. `since_unix_ms` is when its state began, `restarts` how often it was restarted unasked."""

    name: str
    pid: int | None
    state: UnitState
    restarts: int
    since_unix_ms: int
    last_exit: Exit | None
    log: Path


class Request(BaseModel):
    """One line of a client's: a verb, and what it is about."""

    verb: str
    unit: Unit | None = None
    name: str | None = None
    drain_s: float = 0.0
    program: str = ""


_EVENT, _STATUSES = TypeAdapter(UnitEvent), TypeAdapter(tuple[UnitStatus, ...])


def to_line(value: Any) -> bytes:
    """Any of these values, or a dict of them, as one line of JSON."""
    return orjson.dumps(value, default=str, option=orjson.OPT_APPEND_NEWLINE)


def read_request(line: bytes) -> Request:
    """Raises HostError that says what is wrong with the line, and nothing of its values: they may be secrets."""
    try:
        return Request.model_validate_json(line)
    except ValidationError as why:
        first = why.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(each) for each in first["loc"]) or "the line"
        raise HostError(f"not a request to the keeper: {where}: {first['msg']}") from None


def read_event(line: bytes) -> UnitEvent:
    return _EVENT.validate_json(line)


def read_statuses(value: Any) -> tuple[UnitStatus, ...]:
    return _STATUSES.validate_python(value)


def read_answer(line: bytes) -> dict[str, Any]:
    """The keeper's answer. Raises HostError with the keeper's own words where it refused."""
    answer = cast(dict[str, Any], orjson.loads(line))
    if "error" in answer:
        raise HostError(answer["error"])
    return answer
