"""Servers of the settings that somebody else runs: entries of one URL, taken together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.core.dialects.parse import canonical_model_name
from orchestrator.core.model import Engine, Instance, InstanceId, NodeName, PoolName
from orchestrator.settings import InstanceSettings


@dataclass(frozen=True, slots=True)
class Server:
    """One URL. `engine` None: it is to be asked; `room` None: models in memory at once, to be found out."""

    url: str
    name: str
    engine: Engine | None
    room: int | None
    entries: tuple[InstanceSettings, ...]

    @property
    def named(self) -> tuple[str, ...]:
        """The pools of the models that are named."""
        return tuple(canonical_model_name(name) for each in self.entries for name in each.models)

    def entry_of(self, pool: str) -> InstanceSettings | None:
        """The entry that a model is served by; None: it is none of ours."""
        rest = next((each for each in self.entries if not each.models), None)
        names = ((each, canonical_model_name(name)) for each in self.entries for name in each.models)
        return next((each for each, name in names if name == pool), rest)

    def instance(self, pool: str = "", upstream_model: str = "", engine: Engine | None = None) -> Instance:
        """Its address as an instance of a pool; of no pool: to ask the server itself."""
        host, port = self.entries[0].address
        return Instance(
            id=InstanceId(f"{self.name}/{pool}" if pool else self.name),
            node=NodeName(host),
            pool=PoolName(pool),
            host=host,
            port=port,
            engine=engine or self.engine or Engine.OLLAMA,
            upstream_model=upstream_model,
            slots=0,
            context=0,
            is_given=True,
            tls_name=host if self.entries[0].is_tls else "",
        )


def servers_of(instances: Iterable[InstanceSettings]) -> tuple[Server, ...]:
    """One server a URL, in the order of the settings."""
    entries: dict[str, list[InstanceSettings]] = {}
    for each in instances:
        entries.setdefault(each.url, []).append(each)
    return tuple(_server(url, tuple(several)) for url, several in entries.items())


def _server(url: str, entries: tuple[InstanceSettings, ...]) -> Server:
    engines = [Engine(each.engine) for each in entries if each.engine != "discovered"]
    rooms = [each.loaded_models for each in entries if each.loaded_models is not None]
    names = [each.name for each in entries if each.name is not None]
    first = next(iter(names), entries[0].label)
    return Server(url, first, next(iter(engines), None), next(iter(rooms), None), entries)
