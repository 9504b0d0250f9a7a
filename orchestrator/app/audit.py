"""Who had what done to the cluster: one line of JSON an act in the state folder, written before it is done."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson
from pydantic import TypeAdapter, ValidationError

from orchestrator.core.errors import HostError


@dataclass(frozen=True, slots=True)
class Act:
    """`who`: an API key's name, or a user of this machine; `by`: the page or the command."""

    at_ms: int
    who: str
    by: str
    act: str
    what: str


_ACT: TypeAdapter[Act] = TypeAdapter(Act)


def record(path: Path, who: str, by: str, act: str, what: str) -> None:
    """Add one line. Raises HostError where it cannot be written: what nobody could account for is not done."""
    line = orjson.dumps(asdict(Act(int(time.time() * 1e3), who, by, act, what)), option=orjson.OPT_APPEND_NEWLINE)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)
    except OSError as why:
        raise HostError(f"{path} cannot be written, and nothing is done without it: {why.strerror}") from why


def read(path: Path) -> list[Act]:
    """All of them, the oldest first. Raises HostError for a damaged file."""
    try:
        return [_ACT.validate_json(line) for line in path.read_bytes().splitlines()]
    except FileNotFoundError:
        return []
    except (OSError, ValidationError) as why:
        raise HostError(f"{path} cannot be read: {why}") from why
