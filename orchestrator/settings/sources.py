"""What settings name outside themselves: secrets in the environment and in files, paths beside `cluster.yaml`.

Answers settings with all of it in place, and a problem for each thing that is not there, without a secret in it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pydantic import SecretStr

from orchestrator.core.errors import SettingsError
from orchestrator.settings.access import IssuerSettings, KeySettings
from orchestrator.settings.answering import CacheSettings
from orchestrator.settings.hosts import DeploySettings, InstanceSettings, ModelSettings, NodeSettings
from orchestrator.settings.measuring import EvalSettings
from orchestrator.settings.model import ClusterSettings
from orchestrator.settings.outside import ProviderSettings
from orchestrator.settings.plain_secrets import has_password, with_password
from orchestrator.settings.problems import Problem
from orchestrator.settings.routing import TierSettings
from orchestrator.settings.tracing import TraceSettings

MASK = "********"
MIN_SECRET_LENGTH = 16
MIN_CACHE_SECRET_LENGTH = 32
_MAX_SECRET_BYTES = 4096


class _MissingError(Exception):
    """A source is not there or not fit; the text says why and what to do."""


def resolve(
    settings: ClusterSettings, folder: Path, environment: Mapping[str, str]
) -> tuple[ClusterSettings, list[Problem]]:
    """Replace `env:` and `file:` by what they name, and paths relative to `folder` by absolute ones."""
    problems: list[Problem] = []
    keys = tuple(_key(key, index, folder, environment, problems) for index, key in enumerate(settings.keys))
    nodes = tuple(_node(node, folder) for node in settings.nodes)
    models = {name: _model(model, name, folder, problems) for name, model in settings.models.items()}
    tiers = {name: _tier(tier, name, folder, problems) for name, tier in settings.tiers.items()}
    faq = tuple(_beside(folder, each) for each in settings.cache.faq)
    for index, path in enumerate(faq):
        problems += _unreadable(path, ("cache", "faq", index))
    words = tuple(_beside(folder, each) for each in settings.privacy.words)
    for index, path in enumerate(words):
        problems += _unreadable(path, ("privacy", "words", index))
    told = _eval(settings.eval, folder, problems)
    problems += _repeated_secrets(keys, frozenset(each.path for each in problems))
    cache = _cache(settings.cache, folder, environment, problems).model_copy(update={"faq": faq})
    providers = {
        name: _provider(each, name, folder, environment, problems) for name, each in settings.providers.items()
    }
    found: dict[str, object] = {
        "keys": keys,
        "nodes": nodes,
        "instances": tuple(_instance(each, index, folder, problems) for index, each in enumerate(settings.instances)),
        "models": models,
        "cache": cache,
        "deploy": _deploy(settings.deploy, folder),
        "issuers": {
            name: _issuer(each, name, folder, environment, problems) for name, each in settings.issuers.items()
        },
        "keys_file": settings.keys_file and _beside(folder, settings.keys_file),
    }
    private = settings.privacy.model_copy(update={"words": words})
    found |= {"providers": providers, "tiers": tiers, "privacy": private, "eval": told}
    found["traces"] = _traces(settings.traces, folder, environment, problems)
    found |= {"redis": _redis(settings, folder, environment, problems), "redis_password": None}
    return settings.model_copy(update=found), problems


def _eval(told: EvalSettings, folder: Path, problems: list[Problem]) -> EvalSettings:
    if told.set is None:
        return told
    path = _beside(folder, told.set)
    problems += _unreadable(path, ("eval", "set"))
    return told.model_copy(update={"set": path})


def _deploy(deploy: DeploySettings, folder: Path) -> DeploySettings:
    """A program that is not there keeps nobody from serving: it is told of by who wants to deploy it."""
    if deploy.ollama is None or "://" in deploy.ollama:
        return deploy
    return deploy.model_copy(update={"ollama": str(_beside(folder, Path(deploy.ollama)))})


def _node(node: NodeSettings, folder: Path) -> NodeSettings:
    """A key that is not there keeps nobody from the other hosts: it is told of when its host is spoken to."""
    return node if node.key is None else node.model_copy(update={"key": _beside(folder, node.key)})


def _instance(instance: InstanceSettings, index: int, folder: Path, problems: list[Problem]) -> InstanceSettings:
    """Certificates that it is checked by and asked with; a key that others may read is none."""
    changes: dict[str, Path] = {}
    for field in ("ca", "cert", "key"):
        if (named := getattr(instance, field)) is None:
            continue
        path = changes[field] = _beside(folder, named)
        wrong = list(_unreadable(path, ("instances", index, field)))
        if field == "key" and not wrong and path.stat().st_mode & stat.S_IROTH:
            why = f"every user of this machine may read {path}; make it private: chmod 600 {path}"
            wrong.append(Problem(("instances", index, field), why))
        problems += wrong
    return instance.model_copy(update=changes) if changes else instance


def _model(model: ModelSettings, name: str, folder: Path, problems: list[Problem]) -> ModelSettings:
    if model.gguf is None:
        return model
    path = _beside(folder, model.gguf)
    problems += _unreadable(path, ("models", name, "gguf"))
    return model.model_copy(update={"gguf": path})


def _tier(tier: TierSettings, name: str, folder: Path, problems: list[Problem]) -> TierSettings:
    if tier.calibration is None:
        return tier
    path = _beside(folder, tier.calibration)
    problems += _unreadable(path, ("tiers", name, "calibration"))
    return tier.model_copy(update={"calibration": path})


def _beside(folder: Path, path: Path) -> Path:
    try:
        return folder / path.expanduser()
    except RuntimeError:  # ~NAME of a user that is not there: looked for as it is written, and not found
        return folder / path


def _unreadable(path: Path, field: tuple[str | int, ...]) -> Iterator[Problem]:
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            yield Problem(field, f"{path} is a folder; name a file in it")
        elif not os.access(path, os.R_OK):
            yield Problem(field, f"{path} may not be read by this user; change its mode or its owner")
    except (FileNotFoundError, NotADirectoryError):
        yield Problem(field, f"no such file: {path}; a path is relative to the folder of this file")
    except (OSError, ValueError) as error:  # ValueError: a NUL in it
        yield Problem(field, f"{str(path)!r} cannot be read: {getattr(error, 'strerror', None) or error}")


def _key(
    key: KeySettings, index: int, folder: Path, environment: Mapping[str, str], problems: list[Problem]
) -> KeySettings:
    if key.secret is None:
        return key
    try:
        secret = _secret(key.secret.get_secret_value(), folder, environment)
        _check_secret(secret)
    except _MissingError as error:
        problems.append(Problem(("keys", index, "secret"), str(error)))
        return key
    return key.model_copy(update={"secret": SecretStr(secret)})


def _cache(
    cache: CacheSettings, folder: Path, environment: Mapping[str, str], problems: list[Problem]
) -> CacheSettings:
    """What answers' keys are made with, and the keys that answers are sealed with."""

    def found(secret: SecretStr, *field: str | int, at_least: int = MIN_SECRET_LENGTH) -> SecretStr:
        try:
            told = _secret(secret.get_secret_value(), folder, environment)
            _check_secret(told, at_least)
        except _MissingError as error:
            problems.append(Problem(("cache", *field), str(error)))
            return secret
        return SecretStr(told)

    now, before = cache.encryption_key, cache.old_encryption_keys
    return cache.model_copy(
        update={
            "secret": cache.secret and found(cache.secret, "secret", at_least=MIN_CACHE_SECRET_LENGTH),
            "encryption_key": None if now is None else found(now, "encryption_key"),
            "old_encryption_keys": tuple(
                found(each, "old_encryption_keys", index) for index, each in enumerate(before)
            ),
        }
    )


def _provider(
    provider: ProviderSettings, name: str, folder: Path, environment: Mapping[str, str], problems: list[Problem]
) -> ProviderSettings:
    """What opens a provider, and the certificates that it is checked by."""

    def found(secret: SecretStr, check: Callable[[str], None], *field: str) -> SecretStr:
        try:
            told = _secret(secret.get_secret_value(), folder, environment)
            check(told)
        except _MissingError as error:
            problems.append(Problem(("providers", name, *field), str(error)))
            return secret
        return SecretStr(told)

    def check_key(secret: str) -> None:
        _check_secret(secret, at_least=1)  # how long it is, is theirs to say

    changes: dict[str, object] = {
        "key": provider.key and found(provider.key, check_key, "key"),
        "headers": {key: found(value, _check_header, "headers", key) for key, value in provider.headers.items()},
    }
    if provider.ca is not None:
        path = _beside(folder, provider.ca)
        problems += _unreadable(path, ("providers", name, "ca"))
        changes["ca"] = path
    return provider.model_copy(update=changes)


def _issuer(
    issuer: IssuerSettings, name: str, folder: Path, environment: Mapping[str, str], problems: list[Problem]
) -> IssuerSettings:
    """Its files, and what the page opens by there."""
    changes: dict[str, object] = {}
    for field in ("jwks_file", "ca"):
        if (written := getattr(issuer, field)) is not None:
            path = changes[field] = _beside(folder, written)
            problems += _unreadable(path, ("issuers", name, field))
    if issuer.login is not None and issuer.login.client_secret is not None:
        try:
            secret = _secret(issuer.login.client_secret.get_secret_value(), folder, environment)
            _check_secret(secret, at_least=1)  # how long it is, is theirs to say
        except _MissingError as error:
            problems.append(Problem(("issuers", name, "login", "client_secret"), str(error)))
        else:
            changes["login"] = issuer.login.model_copy(update={"client_secret": SecretStr(secret)})
    return issuer.model_copy(update=changes)


def _traces(
    traces: TraceSettings, folder: Path, environment: Mapping[str, str], problems: list[Problem]
) -> TraceSettings:
    """What opens the collector of traces."""
    headers: dict[str, SecretStr] = {}
    for name, value in traces.headers.items():
        try:
            told = _secret(value.get_secret_value(), folder, environment)
            _check_header(told)
        except _MissingError as error:
            problems.append(Problem(("traces", "headers", name), str(error)))
        else:
            headers[name] = SecretStr(told)
    return traces.model_copy(update={"headers": headers})


def _redis(settings: ClusterSettings, folder: Path, environment: Mapping[str, str], problems: list[Problem]) -> str:
    """The URL of an outside Redis, with its password in it."""
    password = settings.redis_password
    if password is None:
        return settings.redis
    try:
        return _redis_url(settings.redis, password.get_secret_value(), folder, environment)
    except _MissingError as error:
        problems.append(Problem(("redis_password",), str(error)))
        return settings.redis


def redis_url(redis: str, password: str | None, config: Path) -> str:
    """`redis` as it is connected to, with the `password` that the file `config` names. Raises SettingsError."""
    try:
        return _redis_url(redis, password, config.absolute().parent, os.environ) if password else redis
    except _MissingError as error:
        raise SettingsError(f"{config}: redis_password: {error}") from error


def _redis_url(redis: str, password: str, folder: Path, environment: Mapping[str, str]) -> str:
    if redis == "embedded":
        raise _MissingError("is of an outside Redis, and the embedded one has none; name it in `redis`")
    if has_password(redis):
        raise _MissingError("stands in `redis` already; leave one of them out")
    told = _secret(password, folder, environment)
    if told in ("", MASK):
        raise _MissingError("is empty or a mask printed in its place; write the password, or where it is: env:NAME")
    return with_password(redis, told)


def _check_header(value: str) -> None:
    if value == MASK:
        raise _MissingError("this is a mask printed in a secret's place; write the value, or where it is: env:NAME")
    if not (value.isascii() and value.isprintable()):
        raise _MissingError("the value has characters outside ASCII or ends a line; no header has such")


def _secret(written: str, folder: Path, environment: Mapping[str, str]) -> str:
    source, _, name = written.partition(":")
    if source == "env":
        if name not in environment:
            raise _MissingError(f"the environment variable {name!r} is not set; set it where the cluster is started")
        return environment[name].strip()
    if source == "file":
        return _secret_in(_beside(folder, Path(name)))
    return written


def _secret_in(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise _MissingError(f"{path} is not a file; name a file that holds the secret alone")
        if mode & stat.S_IROTH:
            raise _MissingError(f"every user of this machine may read {path}; make it private: chmod 600 {path}")
        with path.open("rb") as file:
            return file.read(_MAX_SECRET_BYTES).decode().strip()
    except UnicodeDecodeError as error:
        raise _MissingError(f"{path} does not hold text; write the secret alone into it") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _MissingError(f"no such file: {path}; a path is relative to the folder of this file") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in it
        raise _MissingError(f"{str(path)!r} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _check_secret(secret: str, at_least: int = MIN_SECRET_LENGTH) -> None:
    if secret == MASK:
        raise _MissingError("this is a mask printed in a secret's place; write the secret, or where it is: env:NAME")
    if len(secret) < at_least:
        raise _MissingError(f"the secret has {len(secret)} characters, at least {at_least} are needed")
    if not (secret.isascii() and secret.isprintable()) or " " in secret:
        # It travels in an HTTP header, where nothing else arrives as it was sent.
        raise _MissingError("the secret has blanks or characters outside ASCII; take letters, digits and punctuation")


def _repeated_secrets(keys: tuple[KeySettings, ...], wrong: frozenset[tuple[str | int, ...]]) -> Iterator[Problem]:
    """Two keys with one secret could not be told apart. Those that could not be read are in `wrong` and say nothing."""
    seen: dict[str, str] = {}
    for index, key in enumerate(keys):
        field = "digest" if key.secret is None else "secret"
        if ("keys", index, "secret") in wrong:
            continue
        if (digest := key.known_by) and digest in seen:
            yield Problem(("keys", index, field), f"is the secret of key {seen[digest]!r} too; each key needs its own")
        seen.setdefault(digest, key.name)
