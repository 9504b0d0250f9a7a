"""The deployments of a state folder: the one that the controller keeps, those before it, and who is making the next.

A file each, whole or not there. One `deploy` at a time: whoever makes the next deployment holds a lock, which the
kernel gives back however its holder ends.
"""

from __future__ import annotations

import fcntl
import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from orchestrator.app.paths import StatePaths
from orchestrator.app.resized import as_followed
from orchestrator.core.deployment import Deployment
from orchestrator.core.errors import HostError
from orchestrator.whole_file import write_whole

KEPT = 10
# The lock's file says who holds it, in one write that is always this long.
_LENGTH_BYTES = 512

_DEPLOYMENT: TypeAdapter[Deployment] = TypeAdapter(Deployment)


def current(paths: StatePaths) -> Deployment | None:
    """The deployment in force, with as many instances as pools that follow their load have by now; None before the
    first. Raises HostError where a file is damaged."""
    newest = max(_files(paths), default=None)
    return None if newest is None else as_followed(paths, _read(newest[1]))


def history(paths: StatePaths) -> tuple[Deployment, ...]:
    """Those that are kept, the oldest first. Raises HostError where a file is damaged."""
    return tuple(_read(path) for _, path in sorted(_files(paths)))


def write(paths: StatePaths, deployment: Deployment) -> None:
    """Put a deployment in force. Raises HostError for one that is not newer, and where it cannot be written."""
    numbers = [number for number, _ in _files(paths)]
    if deployment.number <= max(numbers, default=0):
        raise HostError(
            f"deployment {deployment.number} is older than {max(numbers)}, which is in force in {_folder(paths)}"
        )
    _put(paths, deployment)
    for number, path in sorted(_files(paths))[:-KEPT]:
        if number < deployment.number:
            path.unlink(missing_ok=True)


def mark_good(paths: StatePaths, number: int) -> None:
    """Remember that every instance of it has served. Raises HostError."""
    path = _folder(paths) / _name(number)
    if path.exists():
        _put(paths, replace(_read(path), is_good=True))


@contextmanager
def deploying(paths: StatePaths) -> Iterator[None]:
    """The right to make the next deployment, while the block runs. Raises HostError that names who has it."""
    try:
        paths.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _folder(paths).mkdir(mode=0o700, exist_ok=True)
        handle = os.open(_folder(paths) / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as why:
        raise _unusable(_folder(paths), why) from why
    with os.fdopen(handle, "r+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as why:
            held = os.pread(handle, _LENGTH_BYTES, 0).decode(errors="replace").strip("\0 \n")
            raise HostError(
                f"{held or 'another process'} is deploying from {paths.root}; wait for it, or end it"
            ) from why
        os.pwrite(handle, f"{who()}, process {os.getpid()},".encode()[:_LENGTH_BYTES].ljust(_LENGTH_BYTES), 0)
        yield


def who() -> str:
    """Who this is, for people: user and host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a uid without a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _folder(paths: StatePaths) -> Path:
    return paths.root / "deployments"


def _name(number: int) -> str:
    return f"{number:08}.json"


def _files(paths: StatePaths) -> list[tuple[int, Path]]:
    return [(int(each.stem), each) for each in _folder(paths).glob("*.json") if each.stem.isdecimal()]


def _put(paths: StatePaths, deployment: Deployment) -> None:
    try:
        paths.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _folder(paths).mkdir(mode=0o700, exist_ok=True)
        write_whole(_folder(paths) / _name(deployment.number), _DEPLOYMENT.dump_json(deployment, indent=1), mode=0o600)
    except OSError as why:
        raise _unusable(_folder(paths), why) from why


def _read(path: Path) -> Deployment:
    try:
        return _DEPLOYMENT.validate_json(path.read_bytes())
    except ValidationError as why:
        raise HostError(f"{path} is damaged; restore it, or remove it to go on from the deployment before it") from why
    except OSError as why:
        raise _unusable(path, why) from why


def _unusable(path: Path, why: OSError) -> HostError:
    return HostError(f"{path} cannot be used: {why.strerror}; name another --state")
