"""Whether a path is root's alone: nobody else can put another file, folder or link in its place, or in that of a folder
above it. Where that holds, what root looks at and what it then changes is the same thing.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from orchestrator.nodes.onhost.work import Refused

MOST_LINKS = 40  # as the kernel


def check(root: Path, path: str, uid: int = 0, *, but_itself: bool = False) -> None:
    """Raises Refused where somebody but `uid` could change what `path` leads to. Links are followed, each is checked
    where it lies; what is not there yet is checked as far as it is. `root` is where the host's paths begin.

    `but_itself`: what lies there in the end may be anybody's.
    """
    at, links = root, 0
    _check_one(at, root, uid)
    left = _parts(path)
    while left:
        part = left.pop()
        if part == "..":
            at = root if at == root else at.parent
            continue
        try:
            status = os.lstat(str(at / part))
        except FileNotFoundError:
            return
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > MOST_LINKS:
                raise Refused(f"{path} leads through too many links")
            to = os.readlink(str(at / part))
            at = root if to.startswith("/") else at
            left += _parts(to)
        else:
            at = at / part
            if left or not but_itself:
                _check_one(at, root, uid)


def _parts(path: str) -> list[str]:
    return [each for each in reversed(path.split("/")) if each not in ("", ".")]


def _check_one(at: Path, root: Path, uid: int) -> None:
    status = os.lstat(str(at))
    shown = "/" if at == root else "/" + str(at.relative_to(root))
    if status.st_uid != uid:
        raise Refused(f"{shown} is not root's: `chown root {shown}` there")
    if status.st_mode & 0o022:
        raise Refused(f"others than root may write in {shown}: `chmod go-w {shown}` there")
