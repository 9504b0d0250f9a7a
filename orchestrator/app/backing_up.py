"""What matters of a cluster, gathered into one file: its configuration, what its state folder cannot make anew, and the
counts that Redis has.

Where the cluster runs, its Redis is asked while it goes on; where it does not, the embedded one is started for it.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel

import orchestrator
from orchestrator.app import archive, settings_in_use
from orchestrator.app.archive import Manifest, Member
from orchestrator.app.own_redis import redis_unit
from orchestrator.app.paths import StatePaths
from orchestrator.app.running import now_unix_ms, redis_of
from orchestrator.core.errors import HostError
from orchestrator.nodes.keeper import Keeper, UnitEvent
from orchestrator.nodes.state_lock import StateLock, read_holder
from orchestrator.settings import load
from orchestrator.settings.sources import redis_url
from orchestrator.store import embedded
from orchestrator.store.connection import Connection
from orchestrator.store.dump import DUMP, dump

# Of the state folder, by glob. What else lies there is made anew at each start.
STATE_FILES: Final = (
    "mirror.json",  # before what it is about: what changes meanwhile is newer than it says, not older
    "cache.key",
    "owner",
    "keys.json",
    "known_hosts",
    "authority.sealed",
    "deployments/*.json",
    "moves.json",
    "resized.json",
    "wishes/*.json",
    "audit.jsonl",
    "events.jsonl",
)
CALLS: Final = "calls/**/*"
# Where things lie in an archive. What is outside of the configuration's folder is never put back by itself.
STATE, CONFIG, OUTSIDE, REDIS = "state", "config", "outside", "redis.json"
CONFIG_NAME = f"{CONFIG}/cluster.yaml"
# Models and programs are no configuration, and can be had again.
LARGEST_FILE_BYTES: Final = 64 * 2**20
_NOT_KEPT: Final = ("gguf",)
REDIS_WAIT_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for. `config` None: there is no file, and the state alone is kept."""

    state: Path
    config: Path | None
    to: Path
    with_calls: bool = False
    passphrase: bytes | None = None


async def back_up(wanted: Wanted) -> Manifest:
    """Write the backup; what it lists. Raises OrchestratorError."""
    paths, left_out = StatePaths(wanted.state), list[str]()
    if not wanted.to.parent.is_dir():
        raise HostError(f"{wanted.to}: there is no folder {wanted.to.parent}")
    members = [*_of_state(paths, with_calls=wanted.with_calls), *_of_config(wanted.config, left_out)]
    async with store_of(paths, redis_in(wanted.config)) as connection:
        dumped = await dump(connection)
    members.append(Member(REDIS, DUMP.dump_json(dumped, indent=1)))
    about = Manifest(
        archive.FORMAT, orchestrator.__version__, now_unix_ms(), socket.gethostname(), str(paths.root), {}, left_out
    )
    return archive.write(wanted.to, members, about, wanted.passphrase)


# --- files ------------------------------------------------------------------------------------------------------------


def _of_state(paths: StatePaths, *, with_calls: bool) -> Iterator[Member]:
    for pattern in (*STATE_FILES, *((CALLS,) if with_calls else ())):
        for path in sorted(paths.root.glob(pattern)):
            if path.is_file():
                yield _member(f"{STATE}/{path.relative_to(paths.root)}", path)


def _of_config(config: Path | None, left_out: list[str]) -> Iterator[Member]:
    """The file, and those that it names. Raises SettingsError."""
    if config is None:
        return
    folder = config.absolute().parent
    yield _member(CONFIG_NAME, config)
    for path in sorted(set(files_named_in(config))):
        if not path.is_file():
            left_out.append(f"{path}: is not there")
        elif path.stat().st_size > LARGEST_FILE_BYTES:
            left_out.append(f"{path}: larger than {LARGEST_FILE_BYTES >> 20} MiB")
        elif path.is_relative_to(folder):
            yield _member(f"{CONFIG}/{path.relative_to(folder)}", path)
        else:
            yield _member(f"{OUTSIDE}/{path.relative_to('/')}", path)


def files_named_in(config: Path) -> Iterator[Path]:
    """Every file that the settings name, models apart. Raises SettingsError."""
    folder, ours = config.absolute().parent, Path(orchestrator.__file__).parent
    written = yaml.safe_load(config.read_text(encoding="utf-8"))
    secrets = (folder / Path(each.removeprefix("file:")).expanduser() for each in _texts(written) if _is_file(each))
    for path in (*_paths_in(load(config)), *secrets):
        plain = Path(*path.absolute().parts)
        if not plain.is_relative_to(ours):
            yield plain


def _paths_in(value: object) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            if name not in _NOT_KEPT:
                yield from _paths_in(getattr(value, name))
    elif isinstance(value, dict):
        for each in value.values():
            yield from _paths_in(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _paths_in(each)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        some: Iterable[Any] = value.values() if isinstance(value, dict) else value
        for each in some:
            yield from _texts(each)


def _is_file(text: str) -> bool:
    return text.startswith("file:")


def _member(name: str, path: Path) -> Member:
    try:
        return Member(name, path.read_bytes(), path.stat().st_mode & 0o777)
    except OSError as why:
        raise HostError(f"{path} cannot be read: {why.strerror}") from why


# --- Redis ------------------------------------------------------------------------------------------------------------


def redis_in(config: Path | None) -> str:
    """Which Redis a configuration names, whatever else of it cannot be had here. Raises OrchestratorError."""
    try:
        written = yaml.safe_load(config.read_text(encoding="utf-8")) if config is not None else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as why:
        raise HostError(f"{config} cannot be read: {why}") from why
    if config is None or not isinstance(written, dict):
        return "embedded"
    password = written.get("redis_password")
    return redis_url(str(written.get("redis", "embedded")), password and str(password), config)


@asynccontextmanager
async def store_of(paths: StatePaths, redis: str) -> AsyncIterator[Connection]:
    """The cluster's Redis, for as long as the block runs: the one that runs, or the embedded one started for it.

    Raises OrchestratorError. No cluster can be started there meanwhile.
    """
    if read_holder(paths.root) is not None:
        async with redis_of(paths, settings_in_use.read(paths)) as connection:
            yield connection
        return
    with StateLock(paths.root):
        async with _embedded(paths) if redis == "embedded" else _connected(redis) as connection:
            yield connection


@asynccontextmanager
async def _embedded(paths: StatePaths) -> AsyncIterator[Connection]:
    root = paths.root
    keeper = Keeper(root, _unheard, socket_path=paths.keeper_socket)
    await keeper.open()
    try:
        await keeper.start(redis_unit(root))
        async with _connected(embedded.server_url(root)) as connection:
            yield connection
    finally:
        await keeper.close()
        paths.leave_no_sockets()


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[Connection]:
    connection = Connection(url, name="backup")
    await connection.open(wait_s=REDIS_WAIT_S)
    try:
        yield connection
    finally:
        await connection.close()


def _unheard(_: UnitEvent) -> None:
    """What happens to it is seen by its connection."""
