"""CPU, memory and disk of this host that a process may use, and how its memory lies."""

from __future__ import annotations

import math
import os
import platform
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


def cpu_model(root: Path) -> str:
    for line in text_of(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()  # Arm's cpuinfo has no model name


def cpu_count(root: Path) -> int:
    """CPUs this process may use. Half a CPU of quota is not rounded up: threads beyond it would only be throttled."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(math.floor(each) for each in _cpu_quotas(root))]))


def _cpu_quotas(root: Path) -> Iterator[float]:
    for group in _cgroups(root, "cpu"):
        quota, _, period = text_of(group / "cpu.max").strip().partition(" ")
        if not quota:  # cgroup v1
            quota, period = text_of(group / "cpu.cfs_quota_us").strip(), text_of(group / "cpu.cfs_period_us").strip()
        if quota.isdecimal() and period.isdecimal():  # "max" and -1 are no limit
            yield int(quota) / int(period)


def ram(root: Path) -> tuple[int, int]:
    """Total and available bytes: the host's, or less where a cgroup gives this process less."""
    total, available = _memory(root)
    for limit, room in _memory_limits(root):
        total, available = min(total, limit), min(available, room)
    return total, available


def _memory(root: Path) -> tuple[int, int]:
    told = dict(line.split(":", 1) for line in text_of(root / "proc/meminfo").splitlines())
    if "MemAvailable" in told:
        return int(told["MemTotal"].split()[0]) * 1024, int(told["MemAvailable"].split()[0]) * 1024
    import psutil  # no Linux, so not a host over SSH

    memory = psutil.virtual_memory()
    return int(memory.total), int(memory.available)


def numa_nodes(root: Path) -> list[dict[str, Any]]:
    """Each node of the host's memory with its CPUs; none where the kernel does not say."""
    found = []
    for node in (root / "sys/devices/system/node").glob("node[0-9]*"):
        lines = text_of(node / "meminfo").splitlines()
        kilobytes = next((line.split()[3] for line in lines if " MemTotal:" in line), "0")
        cpus = text_of(node / "cpulist").strip()
        found.append({"node": int(node.name[4:]), "cpus": cpus, "ram_total_bytes": int(kilobytes) * 1024})
    return sorted(found, key=lambda each: each["node"])


def _memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, room left) of each cgroup that has one. File pages that nobody uses now are room: they can be dropped."""
    for group in _cgroups(root, "memory"):
        for limit_file, used_file, droppable in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, used = text_of(group / limit_file).strip(), text_of(group / used_file).strip()
            if not (limit.isdecimal() and used.isdecimal()):
                continue
            stat = dict(line.split() for line in text_of(group / "memory.stat").splitlines())
            yield int(limit), max(0, int(limit) - int(used) + int(stat.get(droppable, 0)))


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """Directories whose limits bind this process: its own cgroup and all above it, in cgroup v2 and in v1."""
    mounts = root / "sys/fs/cgroup"
    for line in text_of(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        inside = Path(path.lstrip("/"))
        mount = mounts / controller if controllers else mounts
        yield from (mount / each for each in (inside, *inside.parents))


def text_of(path: Path) -> str:
    """The file's text; empty where there is none, as kernels differ in what they offer."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def disk_free(models_dir: Path) -> tuple[int, list[str]]:
    """Free bytes where `models_dir` is or would be made, and a sentence where that cannot be read."""
    for directory in (models_dir.absolute(), *models_dir.absolute().parents):
        try:
            return shutil.disk_usage(directory).free, []
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            return 0, [f"free space for models cannot be read at {directory} ({error.strerror}): allow this user in"]
    return 0, [f"free space for models cannot be read: no directory above {models_dir} exists"]
