"""A file written whole or not at all: beside its place first, then into it in one step, which a crash does not undo.

Each write waits for the disk twice, for the file and for its name. What changes by the second is not for here.
"""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

# Of file systems that keep no folder apart from what is in it: there is nothing to be waited for.
_NO_FOLDERS = (errno.EINVAL, errno.ENOTSUP)


def write_whole(path: Path, content: str | bytes, *, mode: int | None = None) -> None:
    """Write `content` as it is; who reads meanwhile reads the old file or the new one. A link stays one.

    `mode` is the file's permissions; by default those it had, 0o644 for a new one. Raises OSError: then `path` is as it
    was (or the new one, where a crash may still bring back the old one), and nothing is left beside it.
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
    have_last(target.parent)


def write_once(path: Path, content: str | bytes, *, mode: int) -> bool:
    """Write `content` unless `path` is there; whether it was written. Of several who do so at once, one does.

    Whoever finds the file finds it whole; it lasts for each who was answered. Raises OSError.
    """
    beside = _beside(path, content, mode)
    try:
        os.link(beside, path)
        is_mine = True
    except FileExistsError:
        is_mine = False
    finally:
        beside.unlink()
    have_last(path.parent)  # also of another's, who may not have come so far
    return is_mine


def have_last(folder: Path) -> None:
    """Have the names of a folder's files survive a crash of the machine, as they are now. Raises OSError.

    A folder that may be written to but not read is left to the file system: it cannot be asked.
    """
    try:
        handle = os.open(str(folder), os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    except OSError as why:
        if why.errno not in _NO_FOLDERS:
            raise
    finally:
        os.close(handle)


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
