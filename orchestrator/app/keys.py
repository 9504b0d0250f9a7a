"""The file of API keys that `ollamactl keys` keeps: read, changed by one writer at a time, and put beside the settings.

It holds digests and no secret, so a copy of it opens nothing; who may write it, however, lets in whom they like: it is
read only where it is its owner's alone.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.app.paths import StatePaths
from orchestrator.core.errors import HostError, SettingsError
from orchestrator.core.origins import is_loopback
from orchestrator.settings import ClusterSettings
from orchestrator.settings.access import OWN_NAME, KeptKey, KeySettings
from orchestrator.settings.syntax import host_and_port
from orchestrator.whole_file import write_whole

MAX_BYTES: Final = 64 * 2**20
_SHOWN: Final = 5  # of what is wrong in one file
_FOR_OTHERS: Final = stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH


class _Document(BaseModel):
    """The file's form."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    keys: tuple[KeptKey, ...] = ()


@dataclass(frozen=True, slots=True)
class KeptKeys:
    """What the file says; where there is none, that `is_there` is not."""

    keys: tuple[KeptKey, ...] = ()
    is_there: bool = True

    def named(self, name: str) -> KeptKey | None:
        return next((each for each in self.keys if each.name == name), None)


NO_FILE: Final = KeptKeys((), is_there=False)


def place_of(settings: ClusterSettings, paths: StatePaths) -> Path:
    """Where the keys are kept."""
    return settings.keys_file or paths.keys


def read_keys(path: Path, *, is_needed: bool = False) -> KeptKeys:
    """The keys in a file; NO_FILE where there is none, unless it `is_needed`. Raises SettingsError."""
    text = read_text(path)
    if not text and is_needed:
        raise SettingsError(f"{path}: no such file, and `keys_file` names it; `ollamactl keys create NAME` makes it")
    return parse_keys(text, path)


def read_text(path: Path) -> str:
    """The file's text, '' where there is none. Raises SettingsError where it is not its owner's alone."""
    try:
        with path.open("rb") as file:
            _refuse_others(path, os.fstat(file.fileno()))
            data = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as why:
        raise SettingsError(f"{path}: cannot be read: {why.strerror}") from why
    if len(data) > MAX_BYTES:
        raise SettingsError(f"{path}: has more than {MAX_BYTES >> 20} MiB; it is no file of keys")
    if not data.strip():
        raise SettingsError(f"{path}: is empty; bring back a copy of it, or remove it to begin anew")
    return data.decode("utf-8", "replace")


def parse_keys(text: str, path: Path) -> KeptKeys:
    """What `read_text` read, as keys. Raises SettingsError with a line a problem."""
    if not text:
        return NO_FILE
    try:
        keys = _Document.model_validate_json(text, strict=True).keys
    except ValidationError as why:
        raise SettingsError("\n".join(_problems(why, path))) from why
    by_name: dict[str, KeptKey] = {}
    by_digest: dict[str, KeptKey] = {}
    for key in keys:
        if key.digest is None or key.secret is not None:
            raise SettingsError(f"{path}: {key.name}: needs a `digest` and no `secret`; this file holds no secret")
        if key.name in by_name:
            raise SettingsError(f"{path}: there are two keys named {key.name!r}; take one of them out")
        if key.digest in by_digest:
            other = by_digest[key.digest].name
            raise SettingsError(f"{path}: {key.name} and {other} have the same secret; take one of them out")
        by_name[key.name] = by_digest[key.digest] = key
    return KeptKeys(keys)


def text_of(keys: Iterable[KeptKey]) -> str:
    """Keys as the file has them."""
    said = [each.model_dump(mode="json", exclude_defaults=True) for each in keys]
    return json.dumps({"version": 1, "keys": said}, indent=1, ensure_ascii=False) + "\n"


def _problems(why: ValidationError, path: Path) -> Iterator[str]:
    """A line each; no value is repeated, as somebody may have written a secret there."""
    found = why.errors(include_url=False, include_input=False, include_context=False)
    if found[0]["type"] == "json_invalid":
        yield f"{path}: is no whole JSON, so it was cut or edited wrongly; bring back a copy of it ({found[0]['msg']})"
        return
    for each in found[:_SHOWN]:
        yield f"{path}: {'.'.join(map(str, each['loc']))}: {each['msg']}"


def _refuse_others(path: Path, about: os.stat_result) -> None:
    if not stat.S_ISREG(about.st_mode):
        raise SettingsError(f"{path}: is not a file; name a file")
    if about.st_mode & _FOR_OTHERS:
        mode = f"{stat.S_IMODE(about.st_mode):04o}"
        raise SettingsError(f"{path}: others may read or change it (mode {mode}); make it private: chmod 600 {path}")
    if about.st_uid not in (0, os.geteuid()):
        raise SettingsError(f"{path}: belongs to another user (uid {about.st_uid}), who could let in anybody; chown it")


# --- changes ----------------------------------------------------------------------------------------------------------


class Writing:
    """The file while nobody else changes it. `keep` writes it whole."""

    def __init__(self, path: Path) -> None:
        self._path, self.kept = path, read_keys(path)

    def keep(self, keys: tuple[KeptKey, ...]) -> None:
        """Raises HostError where it cannot be written: then it is as it was."""
        try:
            write_whole(self._path, text_of(keys), mode=0o600)
        except OSError as why:
            raise HostError(f"{self._path} cannot be written: {why.strerror}; nothing was changed") from why
        self.kept = KeptKeys(keys)


@contextmanager
def changing(path: Path) -> Iterator[Writing]:
    """Change the file as its only writer; others wait. Raises HostError, SettingsError."""
    beside = path.with_name(f"{path.name}.lock")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as why:
        raise HostError(f"{beside} cannot be written: {why.strerror}; nothing was changed") from why
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)  # the kernel's: it goes with its holder, however that ends
        yield Writing(path)
    finally:
        os.close(handle)


# --- beside the settings ----------------------------------------------------------------------------------------------


def joined(settings: ClusterSettings, kept: KeptKeys) -> ClusterSettings:
    """`settings`, with kept keys behind their own. Where there is a file of keys, nobody gets in without one.

    Raises SettingsError where two keys are one.
    """
    if not kept.is_there:
        return settings
    names = {each.name: each for each in settings.keys}
    digests = {each.known_by: each.name for each in settings.keys}
    for key in kept.keys:
        if key.name in names:
            raise SettingsError(f"keys: {key.name!r} is in cluster.yaml and kept by `ollamactl keys`, too; revoke one")
        if key.digest in digests:
            other = digests[key.digest]
            raise SettingsError(f"keys: {key.name!r} of `ollamactl keys` has the secret of {other!r} in cluster.yaml")
    return settings.model_copy(update={"keys": (*settings.keys, *kept.keys), "open": False})


def own_of(settings: ClusterSettings) -> tuple[KeySettings, ...]:
    """The keys that `cluster.yaml` names."""
    return tuple(each for each in settings.keys if not isinstance(each, KeptKey))


def kept_of(settings: ClusterSettings) -> tuple[KeptKey, ...]:
    """The others, without the cluster's own."""
    return tuple(each for each in settings.keys if isinstance(each, KeptKey) and each.name != OWN_NAME)


def refuse_open_endpoint(settings: ClusterSettings) -> None:
    """Raise SettingsError where other machines reach the endpoint, anybody may ask, and nobody says that they shall."""
    listen = settings.listen
    if listen is None or settings.asks_who or settings.open is not None or is_loopback(host_and_port(listen)[0]):
        return
    raise SettingsError(
        f"listen: other machines reach {listen}, and without keys anybody there may ask; make one with `ollamactl keys "
        "create NAME`, or write `open: true` (`--open`) if this is meant"
    )
