"""Settings for who only looks at them: an environment variable that is not set is told of, and keeps from nothing.

A start needs every secret and is as strict as ever. Who shows settings asks nobody with them, and is run from a shell
that need not have them.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from orchestrator.settings.file import parse, read_text
from orchestrator.settings.model import ClusterSettings
from orchestrator.settings.outside import ProviderSettings

_LENT_BYTES = 32  # 64 characters: long enough for any secret


@dataclass(frozen=True, slots=True)
class Lacking:
    """An environment variable that is not set here; with the field that names it, where that is a provider's."""

    variable: str
    field: str = ""
    provider: str = ""


@dataclass(frozen=True, slots=True)
class Looked:
    """Settings to look at, in which a provider's secret that is not here is empty."""

    settings: ClusterSettings
    lacking: tuple[Lacking, ...] = ()


class _Lent(Mapping[str, str]):
    """An environment in which everything is set. `by_value`: what was lent, and to which variable."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._lent: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        return self._environment.get(name, "").strip() or self._lent.setdefault(name, secrets.token_hex(_LENT_BYTES))

    def __iter__(self) -> Iterator[str]:
        return iter(self._environment)

    def __len__(self) -> int:
        return len(self._environment)

    @property
    def by_value(self) -> dict[str, str]:
        return {value: name for name, value in self._lent.items()}


def look(path: Path, environment: Mapping[str, str] = os.environ) -> Looked:
    """As `file.load`, but for variables that are not set. Raises SettingsError for everything else."""
    return look_text(read_text(path), str(path), environment)


def look_text(text: str, source: str, environment: Mapping[str, str] = os.environ) -> Looked:
    """As `file.parse`, but for variables that are not set. Raises SettingsError for everything else."""
    lent = _Lent(environment)
    settings = parse(text, source, lent)
    by_value, lacking = lent.by_value, []
    providers = {}
    for name, provider in settings.providers.items():
        providers[name], found = _without(name, provider, by_value)
        lacking += found
    told = {each.variable for each in lacking}
    lacking += [Lacking(each) for each in by_value.values() if each not in told]
    return Looked(settings.model_copy(update={"providers": providers}), tuple(lacking))


def _without(name: str, provider: ProviderSettings, lent: Mapping[str, str]) -> tuple[ProviderSettings, list[Lacking]]:
    """A provider without what was lent it, so that this is sent to nobody."""
    given = {"key": provider.key} if provider.key is not None else {}
    given |= {f"headers.{header}": value for header, value in provider.headers.items()}
    found = {field: lent[told] for field, value in given.items() if (told := value.get_secret_value()) in lent}
    headers = {
        header: SecretStr("") if f"headers.{header}" in found else value for header, value in provider.headers.items()
    }
    changes = {"headers": headers, "key": SecretStr("") if "key" in found else provider.key}
    lacking = [Lacking(variable, f"providers.{name}.{field}", name) for field, variable in found.items()]
    return provider.model_copy(update=changes), lacking
