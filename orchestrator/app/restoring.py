"""A backup brought back: into a state folder and a Redis that hold no cluster yet, everything checked before.

What is there already and says the same is left as it is, so that a run that was interrupted can be run again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.app.archive import Manifest, opened
from orchestrator.app.backing_up import (
    CALLS,
    CONFIG,
    CONFIG_NAME,
    OUTSIDE,
    REDIS,
    STATE,
    STATE_FILES,
    redis_in,
    store_of,
)
from orchestrator.app.paths import StatePaths
from orchestrator.core.errors import HostError
from orchestrator.nodes.state_lock import read_holder
from orchestrator.store.dump import DUMP, Dump, load, refuse_counts
from orchestrator.whole_file import write_whole

_SHOWN: Final = 3
_STATE_NAMES: Final = frozenset(each.partition("/")[0] for each in (*STATE_FILES, CALLS))


@dataclass(frozen=True, slots=True)
class Asked:
    """`config_to`: the folder for cluster.yaml and what lay beside it."""

    archive: Path
    state: Path
    config_to: Path
    passphrase: bytes | None = None


@dataclass(frozen=True, slots=True)
class Restored:
    """What was brought back: `files` of the state and the configuration, `counts` of Redis; `outside` are those that
    lay elsewhere, and where they were put instead of there."""

    manifest: Manifest
    files: tuple[Path, ...]
    counts: int
    outside: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class _Copy:
    source: Path
    target: Path
    mode: int


def inspect(asked: Asked) -> Manifest:
    """Check an archive whole, and change nothing. Raises HostError."""
    with opened(asked.archive, asked.passphrase, asked.config_to) as (manifest, _):
        return manifest


async def restore(asked: Asked) -> Restored:
    """Bring everything back. Raises OrchestratorError; what can be refused is refused before anything is written."""
    paths = StatePaths(asked.state)
    if (holder := read_holder(paths.root)) is not None:
        raise HostError(
            f"a cluster runs with --state {paths.root} (pid {holder.pid}); `ollamactl down` ends it, or name another"
        )
    with opened(asked.archive, asked.passphrase, asked.config_to) as (manifest, folder):
        copies = list(_copies(manifest, folder, asked))
        _refuse_others(copies)
        config = folder / CONFIG_NAME
        dumped = _dump(asked.archive, folder)
        async with store_of(paths, redis_in(config if config.exists() else None)) as connection:
            await refuse_counts(connection)
            for each in copies:
                _put(each)
            await load(connection, dumped)
    put = [each.target for each in copies]
    outside = tuple(each for each in put if each.is_relative_to(asked.config_to / OUTSIDE))
    return Restored(manifest, tuple(each for each in put if each not in outside), len(dumped.keys), outside)


def _copies(manifest: Manifest, folder: Path, asked: Asked) -> Iterator[_Copy]:
    for name, listed in manifest.files.items():
        kind, _, rest = name.partition("/")
        if kind == STATE and rest.partition("/")[0] not in _STATE_NAMES:
            raise HostError(f"{asked.archive}: {name} is nothing that a backup brings back")
        roots = {STATE: asked.state, CONFIG: asked.config_to, OUTSIDE: asked.config_to / OUTSIDE}
        if kind in roots:
            # Nothing becomes more open than it has to be: all of it is one owner's.
            yield _Copy(folder / name, _below(roots[kind], rest, asked.archive), listed.mode & 0o700)


def _below(root: Path, rest: str, archive: Path) -> Path:
    """Where that is. Raises HostError where it is not below `root`."""
    target = root / rest
    if not target.is_relative_to(root) or ".." in target.parts[len(root.parts) :]:
        raise HostError(f"{archive}: {rest} would be brought back outside of {root}; it was not made by a backup")
    return target


def _refuse_others(copies: list[_Copy]) -> None:
    """Raise HostError where another file lies in a place."""
    there = [each.target for each in copies if each.target.exists() and not _is_same(each)]
    if there:
        more = f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else ""
        names = ", ".join(map(str, there[:_SHOWN]))
        raise HostError(
            f"there are other files in these places: {names}{more}; name another --state or --config-to, or move them"
        )


def _is_same(copy: _Copy) -> bool:
    return copy.target.is_file() and copy.target.read_bytes() == copy.source.read_bytes()


def _dump(archive: Path, folder: Path) -> Dump:
    try:
        return DUMP.validate_json((folder / REDIS).read_bytes())
    except (OSError, ValueError) as why:
        raise HostError(f"{archive}: what it has of Redis cannot be read by this version: {why}") from why


def _put(copy: _Copy) -> None:
    try:
        copy.target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(copy.target, copy.source.read_bytes(), mode=copy.mode)
    except OSError as why:
        raise HostError(f"{copy.target} cannot be written: {why.strerror}") from why
