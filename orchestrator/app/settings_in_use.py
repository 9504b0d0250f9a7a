"""The settings a running cluster works by: resolved once by the supervisor, read by its children from the state folder.

One process validates: what lies in the state folder was valid as a whole, so a child that is restarted while the
operator's file is being edited finds the last good one.
"""

from __future__ import annotations

import hashlib
import secrets
import socket
from typing import Any

import yaml
from pydantic import SecretStr

from orchestrator.app.paths import StatePaths
from orchestrator.core.errors import HostError
from orchestrator.settings import ClusterSettings
from orchestrator.settings.file import load
from orchestrator.whole_file import write_once, write_whole

CONFIG_NAME = "cluster.yaml"
SECRET_BYTES = 32


def write(paths: StatePaths, settings: ClusterSettings) -> None:
    """Put `settings` where children read them, at once or not at all; secrets go into files of their own, 0600."""
    document: dict[str, Any] = settings.model_dump(mode="json", exclude_none=True)
    paths.secrets.mkdir(mode=0o700, exist_ok=True)
    for entry, key in zip(document["keys"], settings.keys, strict=True):
        secret = paths.secrets / key.name
        write_whole(secret, key.secret.get_secret_value(), mode=0o600)
        entry["secret"] = f"file:{secret}"
    _write_cache_keys(paths, settings, document["cache"])
    _write_provider_keys(paths, settings, document["providers"])
    for header, value in settings.traces.headers.items():
        path = paths.secrets / f"+traces.{header}"
        write_whole(path, value.get_secret_value(), mode=0o600)
        document["traces"]["headers"][header] = f"file:{path}"
    document["redis"] = settings.redis
    write_whole(paths.settings, yaml.safe_dump(document, allow_unicode=True, sort_keys=False), mode=0o600)


def _write_cache_keys(paths: StatePaths, settings: ClusterSettings, written: dict[str, Any]) -> None:
    """What answers are named and sealed with, beside callers' keys, whose names have no `+`."""

    def put(name: str, secret: SecretStr) -> str:
        write_whole(paths.secrets / name, secret.get_secret_value(), mode=0o600)
        return f"file:{paths.secrets / name}"

    cache = settings.cache
    if cache.secret is not None:
        written["secret"] = put("+cache.secret", cache.secret)
    if cache.encryption_key is not None:
        written["encryption_key"] = put("+cache", cache.encryption_key)
    old = enumerate(cache.old_encryption_keys)
    written["old_encryption_keys"] = [put(f"+cache.{index}", each) for index, each in old]


def _write_provider_keys(paths: StatePaths, settings: ClusterSettings, written: dict[str, Any]) -> None:
    """What opens outside providers, and headers that may do so."""
    for name, provider in settings.providers.items():
        secrets_of = {("headers", header): value for header, value in provider.headers.items()}
        for (section, header), value in secrets_of.items():
            path = paths.secrets / f"+provider.{name}.{header}"
            write_whole(path, value.get_secret_value(), mode=0o600)
            written[name][section][header] = f"file:{path}"
        if provider.key is not None:
            path = paths.secrets / f"+provider.{name}"
            write_whole(path, provider.key.get_secret_value(), mode=0o600)
            written[name]["key"] = f"file:{path}"


def read(paths: StatePaths) -> ClusterSettings:
    """The settings in use. Raises SettingsError."""
    return load(paths.settings)


def cache_secret(paths: StatePaths) -> bytes:
    """The key of the answer cache's digests where `cache.secret` names none: once a state folder, for all its gateways.

    Raises HostError where the file is damaged.
    """
    path = paths.root / "cache.key"
    if not path.exists():
        write_once(path, secrets.token_bytes(SECRET_BYTES), mode=0o600)
    secret = path.read_bytes()
    if len(secret) != SECRET_BYTES:
        raise HostError(f"{path} is damaged: {len(secret)} bytes instead of {SECRET_BYTES}; remove it, and start again")
    return secret


def place(paths: StatePaths) -> str:
    """A name for this state folder on this host that no other has, the same at each start."""
    named = f"{socket.gethostname()}\n{paths.root}".encode()
    return hashlib.blake2b(named, key=cache_secret(paths), digest_size=16).hexdigest()
