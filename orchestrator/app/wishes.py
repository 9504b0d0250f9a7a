"""An operator's wishes for instances, where the controller finds them: one small file each in the state folder.

Whoever wishes writes a file and tells the controller; whoever takes it back removes it. A wish that was not yet
heard of is there after a restart, too.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from orchestrator.app.paths import StatePaths
from orchestrator.core.errors import HostError
from orchestrator.core.wishes import Wishes
from orchestrator.whole_file import write_whole

Kind = Literal["drain", "restart"]


@dataclass(frozen=True)
class _Wish:
    kind: Kind
    name: str


_WISH: TypeAdapter[_Wish] = TypeAdapter(_Wish)


def read(paths: StatePaths) -> Wishes:
    """Everything that is wished for now. Raises HostError for a damaged file."""
    wishes = [_read(each) for each in sorted(_folder(paths).glob("*.json"))]
    known = [each for each in wishes if each is not None]
    return Wishes(
        drained=frozenset(each.name for each in known if each.kind == "drain"),
        restarts=frozenset(each.name for each in known if each.kind == "restart"),
    )


def drain(paths: StatePaths, name: str) -> None:
    """From now on `name`, an instance or a node with all of its instances, gets no new calls."""
    _write(paths, _Wish("drain", name))


def undrain(paths: StatePaths, name: str) -> bool:
    """Take that back; whether there was something to take back."""
    return _forget(paths, _Wish("drain", name))


def restart(paths: StatePaths, instance: str) -> None:
    """Have an instance finish what it has, and its process start anew."""
    _write(paths, _Wish("restart", instance))


def restarted(paths: StatePaths, instance: str) -> None:
    """The wish was carried out."""
    _forget(paths, _Wish("restart", instance))


def _folder(paths: StatePaths) -> Path:
    return paths.root / "wishes"


def _path(paths: StatePaths, wish: _Wish) -> Path:
    # A name may be longer than a file's may be.
    digest = hashlib.blake2b(f"{wish.kind}\n{wish.name}".encode(), digest_size=16).hexdigest()
    return _folder(paths) / f"{wish.kind}-{digest}.json"


def _write(paths: StatePaths, wish: _Wish) -> None:
    try:
        _folder(paths).mkdir(mode=0o700, exist_ok=True)
        write_whole(_path(paths, wish), _WISH.dump_json(wish), mode=0o600)
    except OSError as why:
        raise HostError(f"{_folder(paths)} cannot be written: {why.strerror}") from why


def _forget(paths: StatePaths, wish: _Wish) -> bool:
    try:
        _path(paths, wish).unlink()
    except FileNotFoundError:
        return False
    except OSError as why:
        raise HostError(f"{_path(paths, wish)} cannot be removed: {why.strerror}") from why
    return True


def _read(path: Path) -> _Wish | None:
    try:
        return _WISH.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None  # taken back just now
    except ValidationError as why:
        raise HostError(f"{path} is damaged; remove it") from why
    except OSError as why:
        raise HostError(f"{path} cannot be read: {why.strerror}") from why
