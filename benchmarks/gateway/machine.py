"""What a tree of processes costs, as the kernel counts it: CPU time and memory; and which machine it is."""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Iterator
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def tree(root: int) -> Iterator[int]:
    """`root` and its descendants."""
    yield root
    for task in Path(f"/proc/{root}/task").iterdir():
        try:
            children = (task / "children").read_text().split()
        except FileNotFoundError:
            continue  # a thread that ended meanwhile
        for child in children:
            yield from tree(int(child))


def cpu_s(pid: int) -> float:
    """User and system time of a process, all its threads, and its children that ended.

    The process's own CPU clock counts nanoseconds; /proc/PID/stat has the same in ticks of 10 ms, too coarse for a cell
    of one second. What its ended children took stands there alone.
    """
    own_s = time.clock_gettime((~pid << 3) | 2)  # clock_getcpuclockid(3) of another process
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return own_s + (int(fields[13]) + int(fields[14])) / _TICKS_PER_S


def pss_mib(pid: int) -> float:
    """Its memory, pages that it shares counted by share."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def described() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    cores = len(os.sched_getaffinity(0))
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{cores} cores of {cpu}, {system}; load before: {load}"


def raise_file_limit() -> None:
    """As many connections as the system lets one process have; children inherit it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
