"""The inventory of this host as `NodeFacts`: CPU, memory and disk it may use, and its GPUs by way of `nvml`.

`python -m orchestrator.nodes.probe NODE MODELS_DIR` prints the facts as JSON, so that another host can ask over SSH.
What the facts are good for is decided elsewhere.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import psutil
from pydantic import TypeAdapter, ValidationError

from orchestrator.core.errors import HostError
from orchestrator.core.model import NodeFacts, NodeName
from orchestrator.nodes.nvml import GpuFacts

# Without persistence mode the driver wakes every card at each start of NVML, one to two seconds a card: eight cards
# are slow, not sick.
NVML_WAIT_S = 30.0
# A killed process is gone at once, except one that is stuck inside the driver.
KILL_WAIT_S = 1.0

_NODE_FACTS = TypeAdapter(NodeFacts)
_GPU_FACTS = TypeAdapter(GpuFacts)

# Readers that outlived their kill, stuck in a call into the driver that no signal ends. Until they are gone, another
# would only get stuck beside them.
_stuck: list[subprocess.Popen[bytes]] = []


def probe(node: NodeName, models_dir: Path, *, root: Path = Path("/"), nvml_wait_s: float = NVML_WAIT_S) -> NodeFacts:
    """Everything `NodeFacts` asks, read now; a sick driver is a sentence in `problems`, after `nvml_wait_s` at most.

    Blocks: call it in a thread. `root` is where `proc`, `sys` and `dev` are looked for.
    """
    gpus = _read_gpus_apart(root, nvml_wait_s)
    disk_free_bytes, disk_problems = _disk_free(models_dir)
    total, available = _ram(root)
    return NodeFacts(
        node=node,
        hostname=socket.gethostname(),
        cpu_model=_cpu_model(root),
        cpu_count=_cpu_count(root),
        ram_total_bytes=total,
        ram_free_bytes=available,
        disk_free_bytes=disk_free_bytes,
        accelerators=gpus.accelerators,
        driver_version=gpus.driver_version,
        cuda_version=gpus.cuda_version,
        problems=(*gpus.problems, *disk_problems),
    )


def facts_to_json(facts: NodeFacts) -> bytes:
    """One line of JSON that `facts_from_json` reads back to the same value."""
    return orjson.dumps(facts)


def facts_from_json(text: bytes | str) -> NodeFacts:
    """The facts that another probe printed. Raises HostError for anything else."""
    try:
        return _NODE_FACTS.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(each) for each in first["loc"]) or "the text"
        raise HostError(
            f"what the host printed is no inventory ({where}: {first['msg']}): install the same version of "
            "ollama-orchestrator there as here"
        ) from error


# --- GPUs, at arm's length -----------------------------------------------------------------------------------------


def _read_gpus_apart(root: Path, wait_s: float) -> GpuFacts:
    """`nvml.read_gpus` in a process of its own, whose blocking, crash or nonsense costs the GPUs and nothing else.

    A fresh process also sees a driver that was updated, where one that had loaded the old library never would.
    """
    _stuck[:] = [each for each in _stuck if each.poll() is None]
    if _stuck:
        return _no_gpus(f"the NVIDIA driver still holds process {_stuck[0].pid}, which asked it and got no answer")
    try:
        reader = subprocess.Popen(  # noqa: S603 our own module
            [sys.executable, "-m", "orchestrator.nodes.nvml", str(root)],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except OSError as error:
        return _no_gpus(f"no process could be started to read the GPUs ({error}): free memory or raise its limits")
    try:
        printed, complaint = reader.communicate(timeout=wait_s)
    except subprocess.TimeoutExpired:
        return _no_gpus(f"the NVIDIA driver did not answer within {wait_s:g} s")
    finally:
        _end(reader)
    try:
        return _GPU_FACTS.validate_json(printed.strip().rpartition(b"\n")[2])  # the library may print, too
    except ValidationError:
        return _no_gpus(_how_it_ended(reader.returncode, complaint))


def _no_gpus(why: str) -> GpuFacts:
    way_out = "its GPUs are left out; `dmesg | grep -iE 'nvrm|xid'` says more, and a reboot loads the driver anew"
    return GpuFacts(problems=(f"{why}; {way_out}",))


def _how_it_ended(returncode: int, complaint: bytes) -> str:
    if returncode < 0:
        return f"the NVIDIA library ended the process that asked it ({signal.strsignal(-returncode)})"
    last = complaint.decode(errors="replace").strip().rpartition("\n")[2]
    return f"the process that reads the GPUs failed with status {returncode} ({last or 'no message'})"


def _end(reader: subprocess.Popen[bytes]) -> None:
    """Leave no process behind, nor wait for one that cannot end."""
    if reader.poll() is not None:
        return
    reader.kill()
    try:
        reader.communicate(timeout=KILL_WAIT_S)
    except subprocess.TimeoutExpired:
        _stuck.append(reader)


# --- CPU, memory, disk ---------------------------------------------------------------------------------------------


def _cpu_model(root: Path) -> str:
    for line in _text(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()  # Arm's cpuinfo has no model name


def _cpu_count(root: Path) -> int:
    """CPUs this process may use. Half a CPU of quota is not rounded up: threads beyond it would only be throttled."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(math.floor(each) for each in _cpu_quotas(root))]))


def _cpu_quotas(root: Path) -> Iterator[float]:
    for group in _cgroups(root, "cpu"):
        quota, _, period = _text(group / "cpu.max").strip().partition(" ")
        if not quota:  # cgroup v1
            quota, period = _text(group / "cpu.cfs_quota_us").strip(), _text(group / "cpu.cfs_period_us").strip()
        if quota.isdecimal() and period.isdecimal():  # "max" and -1 are no limit
            yield int(quota) / int(period)


def _ram(root: Path) -> tuple[int, int]:
    """Total and available bytes: the host's, or less where a cgroup gives this process less."""
    memory = psutil.virtual_memory()
    total, available = int(memory.total), int(memory.available)
    for limit, room in _memory_limits(root):
        total, available = min(total, limit), min(available, room)
    return total, available


def _memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, room left) of each cgroup that has one. File pages that nobody uses now are room: they can be dropped."""
    for group in _cgroups(root, "memory"):
        for limit_file, used_file, droppable in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, used = _text(group / limit_file).strip(), _text(group / used_file).strip()
            if not (limit.isdecimal() and used.isdecimal()):
                continue
            stat = dict(line.split() for line in _text(group / "memory.stat").splitlines())
            yield int(limit), max(0, int(limit) - int(used) + int(stat.get(droppable, 0)))


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """Directories whose limits bind this process: its own cgroup and all above it, in cgroup v2 and in v1."""
    mounts = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        inside = Path(path.lstrip("/"))
        mount = mounts / controller if controllers else mounts
        yield from (mount / each for each in (inside, *inside.parents))


def _text(path: Path) -> str:
    """The file's text; empty where there is none, as kernels differ in what they offer."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _disk_free(models_dir: Path) -> tuple[int, tuple[str, ...]]:
    """Free bytes where `models_dir` is or would be made, and a sentence where that cannot be read."""
    for directory in (models_dir.absolute(), *models_dir.absolute().parents):
        try:
            return shutil.disk_usage(directory).free, ()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            return 0, (f"free space for models cannot be read at {directory} ({error.strerror}): allow this user in",)
    return 0, (f"free space for models cannot be read: no directory above {models_dir} exists",)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m orchestrator.nodes.probe", description="Print this host's facts.")
    parser.add_argument("node", help="name of the host in plans")
    parser.add_argument("models_dir", type=Path, help="directory of the models; it need not exist")
    asked = parser.parse_args()
    sys.stdout.buffer.write(facts_to_json(probe(NodeName(asked.node), asked.models_dir)) + b"\n")


if __name__ == "__main__":
    main()
