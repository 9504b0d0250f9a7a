"""A file written whole or not at all: beside its place first, then into it in one step."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_whole(path: Path, content: str | bytes, *, mode: int | None = None) -> None:
    """Write `content` as it is; who reads meanwhile reads the old file or the new one. A link stays one.

    `mode` is the file's permissions; by default those it had, 0o644 for a new one. Raises OSError: then `path` is as it
    was, and nothing is left beside it.
    """
    target = path.resolve()
    if mode is None:
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o644
    beside = _beside(target, content, mode)
    try:
        beside.replace(target)
    except BaseException:
        beside.unlink()
        raise


def write_once(path: Path, content: str | bytes, *, mode: int) -> bool:
    """Write `content` unless `path` is there; whether it was written. Of several who do so at once, one does.

    Whoever finds the file finds it whole. Raises OSError.
    """
    beside = _beside(path, content, mode)
    try:
        os.link(beside, path)
    except FileExistsError:
        return False
    finally:
        beside.unlink()
    return True


def _beside(target: Path, content: str | bytes, mode: int) -> Path:
    """A file in `target`'s folder with all of `content`, on the disk."""
    data = content.encode() if isinstance(content, str) else content
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        Path(name).unlink()
        raise
    return Path(name)
