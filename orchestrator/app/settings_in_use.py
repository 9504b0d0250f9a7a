"""The settings a running cluster works by: resolved once by the supervisor, read by its children from the state folder.

One process validates: what lies in the state folder was valid as a whole, so a child that is restarted while the
operator's file is being edited finds the last good one.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
from pathlib import Path
from typing import Any

import yaml

from orchestrator.app.paths import StatePaths
from orchestrator.settings import ClusterSettings
from orchestrator.settings.file import load

CONFIG_NAME = "cluster.yaml"


def write(paths: StatePaths, settings: ClusterSettings) -> None:
    """Put `settings` where children read them, at once or not at all; secrets go into files of their own, 0600."""
    document: dict[str, Any] = settings.model_dump(mode="json", exclude_none=True)
    paths.secrets.mkdir(mode=0o700, exist_ok=True)
    for entry, key in zip(document["keys"], settings.keys, strict=True):
        secret = paths.secrets / key.name
        _write_private(secret, key.secret.get_secret_value())
        entry["secret"] = f"file:{secret}"
    document["redis"] = settings.redis
    _write_private(paths.settings, yaml.safe_dump(document, allow_unicode=True, sort_keys=False))


def read(paths: StatePaths) -> ClusterSettings:
    """The settings in use. Raises SettingsError."""
    return load(paths.settings)


def _write_private(path: Path, text: str) -> None:
    fresh = path.with_name(path.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    fresh.replace(path)


def cache_secret(paths: StatePaths) -> bytes:
    """The key of the answer cache's digests: made once a state folder, the same for all its gateways."""
    path = paths.root / "cache.key"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
    except FileExistsError:
        pass
    return path.read_bytes()


def place(paths: StatePaths) -> str:
    """A name for this state folder on this host that no other has, the same at each start."""
    named = f"{socket.gethostname()}\n{paths.root}".encode()
    return hashlib.blake2b(named, key=cache_secret(paths), digest_size=16).hexdigest()
