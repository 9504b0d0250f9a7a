"""Processes by systemd unit, read from /proc: which they are, how they were started, what they hold and listen on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterable

from orchestrator.nodes.onhost.host import text_of
from orchestrator.nodes.onhost.ollamas import sockets

PROC = Path("/proc")
_LISTENING = "0A"
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def members() -> dict[str, list[int]]:
    """The processes of each unit, those that a killed leader left behind included."""
    found: dict[str, list[int]] = {}
    for process in PROC.glob("[0-9]*"):
        unit = _unit(process)
        if unit:
            found.setdefault(unit, []).append(int(process.name))
    return found


def _unit(process: Path) -> str:
    """The innermost unit of the control group that it is in, in whichever tree systemd keeps them."""
    for line in text_of(process / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "name=systemd"):
            for part in reversed(path.split("/")):
                if part.endswith(".service"):
                    return part
    return ""


def environment(pid: int) -> dict[str, str]:
    """What the process was started with; empty where it is gone."""
    try:
        entries = (PROC / str(pid) / "environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(each.split("=", 1) for each in entries if "=" in each)


def resident_bytes(pids: Iterable[int]) -> int:
    """What would be free without them. Mapped files (weights) are left out: their pages count as free already."""
    total = 0
    for pid in pids:
        fields = text_of(PROC / str(pid) / "statm").split()
        if fields:
            total += (int(fields[1]) - int(fields[2])) * _PAGE_BYTES
    return total


def listens(pids: Iterable[int], port: int) -> bool:
    """Whether one of them listens on this TCP port."""
    return any(_listens(PROC / str(pid), port) for pid in pids)


def _listens(process: Path, port: int) -> bool:
    inodes = sockets(process)
    for table in ("net/tcp", "net/tcp6"):
        for line in text_of(process / table).splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING and fields[9] in inodes and int(fields[1].rpartition(":")[2], 16) == port:
                return True
    return False
