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

from orchestrator.app.keys import joined, kept_of, own_of, read_keys, text_of
from orchestrator.app.paths import StatePaths
from orchestrator.core.errors import HostError
from orchestrator.settings import ClusterSettings
from orchestrator.settings.access import OWN_NAME, KeptKey, digest_text
from orchestrator.settings.file import load
from orchestrator.whole_file import write_once, write_whole

CONFIG_NAME = "cluster.yaml"
SECRET_BYTES = 32


def write(paths: StatePaths, settings: ClusterSettings) -> None:
    """Put `settings` where children read them, at once or not at all; secrets go into files of their own, 0600."""
    own = own_of(settings)
    document: dict[str, Any] = settings.model_copy(update={"keys": own}).model_dump(mode="json", exclude_none=True)
    paths.secrets.mkdir(mode=0o700, exist_ok=True)
    for entry, key in zip(document["keys"], own, strict=True):
        if key.secret is not None:
            secret = paths.secrets / key.name
            write_whole(secret, key.secret.get_secret_value(), mode=0o600)
            entry["secret"] = f"file:{secret}"
    write_keys(paths, settings)
    _write_cache_keys(paths, settings, document["cache"])
    _write_provider_keys(paths, settings, document["providers"])
    for name, issuer in settings.issuers.items():
        if issuer.login is not None and issuer.login.client_secret is not None:
            path = paths.secrets / f"+issuer.{name}"
            write_whole(path, issuer.login.client_secret.get_secret_value(), mode=0o600)
            document["issuers"][name]["login"]["client_secret"] = f"file:{path}"
    for header, value in settings.traces.headers.items():
        path = paths.secrets / f"+traces.{header}"
        write_whole(path, value.get_secret_value(), mode=0o600)
        document["traces"]["headers"][header] = f"file:{path}"
    document["redis"] = settings.redis
    write_whole(paths.settings, yaml.safe_dump(document, allow_unicode=True, sort_keys=False), mode=0o600)


def write_keys(paths: StatePaths, settings: ClusterSettings) -> None:
    """Put the keys that are not in the settings' own file where children read them, at once or not at all."""
    if not settings.asks_who:
        paths.keys_in_use.unlink(missing_ok=True)
        return
    own = KeptKey(name=OWN_NAME, digest=digest_text(own_secret(paths)), scopes=("infer", "admin"))
    write_whole(paths.keys_in_use, text_of((*kept_of(settings), own)), mode=0o600)


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
    """The settings in use, and the keys. Raises SettingsError."""
    return with_keys(paths, load(paths.settings))


def written(paths: StatePaths) -> tuple[tuple[int, int], ...]:
    """Which writing of the settings, and of the secrets they name, lies there: the same while keys alone change."""
    secrets_of = sorted(paths.secrets.iterdir()) if paths.secrets.exists() else []
    about = (each.stat() for each in (paths.settings, *secrets_of))
    return tuple((each.st_ino, each.st_mtime_ns) for each in about)


def with_keys(paths: StatePaths, settings: ClusterSettings) -> ClusterSettings:
    """`settings` with the keys in use beside their own. Raises SettingsError."""
    own = settings.model_copy(update={"keys": own_of(settings)})
    return joined(own, read_keys(paths.keys_in_use))


def own_secret(paths: StatePaths) -> str:
    """The secret of this cluster's own key: made once a state folder. Raises HostError where the file is damaged."""
    if not paths.own_key.exists():
        write_once(paths.own_key, secrets.token_urlsafe(SECRET_BYTES), mode=0o600)
    secret = paths.own_key.read_text("ascii", "replace").strip()
    if len(secret) < SECRET_BYTES:
        raise HostError(f"{paths.own_key} is damaged; remove it, and start again")
    return secret


def asking_key(paths: StatePaths) -> str:
    """What the cluster of this state folder is asked by from this machine: its own key, '' where none is needed."""
    return own_secret(paths) if paths.keys_in_use.exists() else ""


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


def owner(paths: StatePaths) -> str:
    """Whose the hosts are: this place's, or the one's that its cluster began on. Raises HostError."""
    try:
        return paths.owner.read_text("ascii").strip()
    except FileNotFoundError:
        return place(paths)
    except (OSError, UnicodeDecodeError) as why:
        raise HostError(f"{paths.owner} cannot be read: {why}") from why
