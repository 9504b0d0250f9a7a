"""Which code a process runs: the program's version, and a digest of its files and of the packages beside it.

The keeper writes it into the environment of each process that it starts; what lies on disk now may be another.
"""

from __future__ import annotations

import hashlib
import sysconfig
from pathlib import Path

import psutil

import orchestrator

MARK = "OLLAMACTL_BUILD"
_CODE = (".py", ".lua")


def on_disk() -> str:
    """`version+digest` of the program that a process would be if it began now. Reads some two megabytes."""
    root = Path(orchestrator.__file__).parent
    digest = hashlib.blake2b(digest_size=5)
    for path in sorted(each for each in root.rglob("*") if each.suffix in _CODE):
        digest.update(f"{path.relative_to(root)}\n".encode())
        digest.update(path.read_bytes())
    packages = sorted(each.name for each in Path(sysconfig.get_path("purelib")).glob("*.dist-info"))
    digest.update("\n".join(packages).encode())
    return f"{orchestrator.__version__}+{digest.hexdigest()}"


def of_process(pid: int) -> str:
    """As its keeper marked it; empty where it did not, or the process is gone."""
    try:
        return psutil.Process(pid).environ().get(MARK, "")
    except psutil.Error:
        return ""
