"""A copy of the program that a cluster is started from, changed under it; and what `ollamactl upgrade` says to that."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import orchestrator
from tests.cluster.running import Up, environment, ollamactl

# Some ten processes start one after the other, beside callers who leave them little of the machine.
UPGRADE_S = 300.0


def copy_the_code(folder: Path) -> None:
    """A copy of the program: what is run with `its_own` environment finds it first, and so do its children."""
    shutil.copytree(Path(orchestrator.__file__).parent, folder / "orchestrator")


def its_own(folder: Path) -> dict[str, str]:
    return environment() | {"PYTHONPATH": str(folder)}


def change_the_code(folder: Path, version: str) -> None:
    """A new version lies on disk, whole, from one moment to the next."""
    place = folder / "orchestrator" / "__init__.py"
    fresh = place.with_suffix(".new")
    fresh.write_text(f'"""A newer one."""\n\n__version__ = "{version}"\n')
    fresh.replace(place)


def checked(up: Up) -> dict[str, bool]:
    """What `upgrade --check` says of each part: whether it is not what is on disk."""
    told = ollamactl(
        "upgrade", "--check", "--json", "--state", up.state, cwd=up.state.parent, env=its_own(up.state.parent)
    )
    assert told.stderr == ""
    parts = {each["name"]: each["is_old"] for each in json.loads(told.stdout)}
    assert told.returncode == (2 if any(parts.values()) else 0)
    return parts


def upgraded(up: Up, *args: str) -> str:
    folder = up.state.parent
    done = ollamactl("upgrade", "--state", up.state, *args, cwd=folder, env=its_own(folder), timeout=UPGRADE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
