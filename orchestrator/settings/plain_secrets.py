"""Secrets that stand in `cluster.yaml` itself, where everybody who may read the file may read them, too.

Knows where secrets stand; whether somebody may read the file is for its reader to say. Digests are no secrets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import quote, urlsplit

from pydantic import SecretStr

from orchestrator.settings.model import ClusterSettings
from orchestrator.settings.positions import FieldPath
from orchestrator.settings.problems import Problem

# Headers of providers say all sorts of things; of these one opens something.
_OPENS: Final = re.compile(r"auth|key|token|secret|cookie|pass|cred|sig|dsn|team", re.IGNORECASE)
_ELSEWHERE: Final = ("env:", "file:")


def told_to_all(settings: ClusterSettings, name: str) -> Iterator[Problem]:
    """One for each secret in `settings` as they are written, since every user may read the file `name`."""
    open_to_all = f"every user of this machine may read {name}, and the secret itself stands here"
    for path in _plain(settings):
        yield Problem(path, f"{open_to_all}: chmod 600 {name}, or write where it is, as env:NAME or file:PATH")
    if has_password(settings.redis):
        way_out = "or take it out of the URL and say where it is: `redis_password: env:NAME`, or file:PATH"
        yield Problem(("redis",), f"{open_to_all}: chmod 600 {name}, {way_out}")


def has_password(redis: str) -> bool:
    """Whether a URL that is taken for `redis` has one in it."""
    return ":" in urlsplit(redis).netloc.rpartition("@")[0]


def with_password(redis: str, password: str) -> str:
    """A URL that is taken for `redis` and has no password, with this one."""
    scheme, _, rest = redis.partition("://")
    user, _, behind = rest.partition("@") if "@" in urlsplit(redis).netloc else ("", "", rest)
    return f"{scheme}://{user}:{quote(password, safe='')}@{behind}"


def _plain(settings: ClusterSettings) -> Iterator[FieldPath]:
    for path, secret in _secrets(settings):
        if secret is not None and not secret.get_secret_value().startswith(_ELSEWHERE):
            yield path


def _secrets(settings: ClusterSettings) -> Iterator[tuple[FieldPath, SecretStr | None]]:
    for index, key in enumerate(settings.keys):
        yield ("keys", index, "secret"), key.secret
    cache = settings.cache
    yield ("cache", "secret"), cache.secret
    yield ("cache", "encryption_key"), cache.encryption_key
    for index, old in enumerate(cache.old_encryption_keys):
        yield ("cache", "old_encryption_keys", index), old
    for name, provider in settings.providers.items():
        yield ("providers", name, "key"), provider.key
        yield from ((("providers", name, "headers", each), value) for each, value in _opening(provider.headers))
    yield from ((("traces", "headers", each), value) for each, value in settings.traces.headers.items())
    for name, issuer in settings.issuers.items():
        if issuer.login is not None:
            yield ("issuers", name, "login", "client_secret"), issuer.login.client_secret
    yield ("redis_password",), settings.redis_password


def _opening(headers: Mapping[str, SecretStr]) -> Iterator[tuple[str, SecretStr]]:
    yield from ((name, value) for name, value in headers.items() if _OPENS.search(name))
