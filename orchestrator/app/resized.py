"""How far pools of a deployment have followed their load since it was agreed to, kept beside it in the state folder.

The deployment itself stays as it was agreed to. What is here holds for one deployment: with the next one it is over.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import orjson
from pydantic import TypeAdapter, ValidationError

from orchestrator.app.paths import StatePaths
from orchestrator.core.deployment import Deployment
from orchestrator.core.errors import HostError
from orchestrator.core.model import Placement
from orchestrator.whole_file import write_whole

# The deployment's number, and all placements of each pool that has followed.
_KEPT: TypeAdapter[tuple[int, dict[str, tuple[Placement, ...]]]] = TypeAdapter(
    tuple[int, dict[str, tuple[Placement, ...]]]
)


def as_followed(paths: StatePaths, agreed: Deployment) -> Deployment:
    """`agreed` with the instances that its pools have by now. Raises HostError for a damaged file."""
    path = _file(paths)
    try:
        number, kept = _KEPT.validate_json(path.read_bytes())
    except FileNotFoundError:
        return agreed
    except (ValidationError, OSError) as why:
        raise HostError(f"{path} cannot be read; remove it: pools go on with the numbers that were deployed") from why
    if number != agreed.number:
        return agreed
    as_agreed = tuple(each for each in agreed.placements if each.pool not in kept)
    return replace(agreed, placements=(*as_agreed, *(each for pool in sorted(kept) for each in kept[pool])))


def keep(paths: StatePaths, deployment: Deployment) -> None:
    """Remember `deployment`'s instances of pools that follow their load. Raises HostError; then nothing is changed."""
    path = _file(paths)
    kept = {pool: [each for each in deployment.placements if each.pool == pool] for pool in deployment.ranges}
    try:
        write_whole(path, orjson.dumps((deployment.number, kept)), mode=0o600)
    except OSError as why:
        raise HostError(f"{path} cannot be written: {why.strerror}; no pool follows its load") from why


def _file(paths: StatePaths) -> Path:
    return paths.root / "resized.json"
