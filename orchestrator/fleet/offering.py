"""What is offered of the servers that somebody else runs: from what was seen of them to the pools that are published.

Values to values. A pool has an instance for each server that has its model: where several are in one server's memory,
each has slots of its own, as Ollama counts them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.core.dialects.parse import canonical_model_name
from orchestrator.core.loads import Loads
from orchestrator.core.model import Engine, Given, Instance, InstanceState, ModelShape, Pool, PoolName
from orchestrator.fleet.servers import Server
from orchestrator.fleet.watching import Model, Sight
from orchestrator.settings import ClusterSettings, ModelSettings

# What Ollama serves at once of one model unless OLLAMA_NUM_PARALLEL says otherwise; it tells nobody.
OLLAMA_SLOTS = 1


@dataclass(frozen=True, slots=True)
class Standing:
    """A server, what was seen of it, and what is being done with it."""

    server: Server
    sight: Sight
    room: int | None = None  # models in memory at once, as set or as found out
    loading: str = ""
    vacating: frozenset[str] = frozenset()  # models that get no call, because another is loaded
    troubles: Mapping[str, str] = field(default_factory=dict)  # by model: why it could not be loaded a moment ago
    loads: Loads = field(default_factory=Loads)
    found_slots: Mapping[str, int] = field(default_factory=dict)  # by model, as probed
    probing: str = ""  # the model that is asked for it just now
    silent: Mapping[str, str] = field(default_factory=dict)  # by model: that it answers nobody, and what is done

    @property
    def pools(self) -> tuple[str, ...]:
        """The models it is there for, by pool: those named, and those it lists if it is there for all."""
        has_rest = any(not each.models for each in self.server.entries)
        found = (name for name, each in self.sight.models.items() if has_rest and not each.remote_host)
        return tuple(dict.fromkeys((*self.server.named, *found)))


def models_of(settings: ClusterSettings) -> Mapping[str, ModelSettings]:
    """What the settings say of models, by pool."""
    return {canonical_model_name(name): each for name, each in settings.models.items()}


def pools_of(standings: Sequence[Standing], settings: ClusterSettings) -> tuple[Pool, ...]:
    """Every model that a server is there for, with what each server has to offer of it."""
    models = models_of(settings)
    names = sorted({pool for each in standings for pool in each.pools})
    return tuple(_pool(name, [each for each in standings if name in each.pools], models) for name in names)


def given_of(standing: Standing) -> Given:
    """The server as `status` shows it."""
    server, sight = standing.server, standing.sight
    return Given(
        name=server.name,
        url=server.url,
        state=sight.state,
        reason=sight.reason,
        engine=sight.engine.value if sight.engine and sight.is_up else "",
        engine_version=sight.version,
        models=standing.pools,
        resident=tuple(each for each in standing.pools if each in sight.resident) if sight.is_up else (),
        room=standing.room,
    )


# --- pools and instances ---------------------------------------------------------------------------------------------


def _pool(name: str, standings: Sequence[Standing], models: Mapping[str, ModelSettings]) -> Pool:
    seen = [model for each in standings if (model := each.sight.models.get(name)) is not None]
    is_embedding = any(each.is_embedding for each in seen) or (name in models and models[name].embedding)
    instances = tuple(_instance(name, each, models.get(name), is_embedding=is_embedding) for each in standings)
    contexts = [each.context for each in instances if each.context]
    return Pool(PoolName(name), min(contexts, default=0), is_embedding, instances, _details(name, seen, standings))


def _details(name: str, seen: Sequence[Model], standings: Sequence[Standing]) -> Mapping[str, Any]:
    """Of the first server that tells them; they differ where its models do, which `notes_of` says."""
    details = dict(next((each.details for each in seen if each.details), {}))
    running = [ps for each in standings if (ps := (each.sight.running or {}).get(name))]
    return details | ({"ps": running[0]} if running else {})


def _instance(name: str, standing: Standing, model: ModelSettings | None, *, is_embedding: bool) -> Instance:
    sight = standing.sight
    seen = sight.models.get(name)
    state, reason = _state(name, standing)
    upstream = seen.listed.name if seen is not None else _spelled(name, standing.server)
    return replace(
        standing.server.instance(name, upstream, sight.engine),
        slots=_slots(name, standing, model, is_embedding=is_embedding),
        context=_context(name, standing),
        state=state,
        reason=reason,
        engine_version=sight.version,
        load_s=round(standing.loads.expected_s(name, shape_bytes(seen)), 1) if seen is not None else 0.0,
    )


def _spelled(name: str, server: Server) -> str:
    """The model as the settings spell it."""
    return next((each for entry in server.entries for each in entry.models if canonical_model_name(each) == name), name)


def _state(name: str, standing: Standing) -> tuple[InstanceState, str]:
    sight = standing.sight
    if not sight.is_up:
        return sight.state, sight.reason or "not looked at yet"
    if (seen := sight.models.get(name)) is None:
        return InstanceState.DOWN, f"has no such model; `ollama pull {_spelled(name, standing.server)}` there"
    if seen.remote_host:
        return InstanceState.DOWN, f"is served by {seen.remote_host}: prompts would leave the house"
    if name in standing.silent:
        return InstanceState.DOWN, standing.silent[name]
    if sight.running is None:
        return InstanceState.SERVING, ""
    if name == standing.probing:
        return InstanceState.LOADING, "is asked how many calls it serves at once"
    if name == standing.loading:
        return InstanceState.LOADING, f"loading {seen.listed.name}"
    if name in standing.vacating:
        return InstanceState.COLD, f"makes room for {standing.loading}"
    if name in sight.resident:
        return InstanceState.SERVING, ""
    if name in standing.troubles:
        return InstanceState.DOWN, standing.troubles[name]
    return InstanceState.COLD, "not in memory; loaded when it is asked for"


def _slots(name: str, standing: Standing, model: ModelSettings | None, *, is_embedding: bool) -> int:
    """As configured, and no more than the server tells: a call beyond them would wait where nobody sees it."""
    entry = standing.server.entry_of(name)
    named = entry.slots if entry is not None else None
    wished = named if isinstance(named, int) else model.slots if model is not None and named is None else None
    if standing.sight.engine is Engine.LLAMA_CPP:
        told = standing.sight.slots
        return min(wished, told) if wished and told else told or wished or 1
    # Ollama serves embedding models one at a time, whatever OLLAMA_NUM_PARALLEL says (OLLAMA.md 3).
    return 1 if is_embedding else wished or standing.found_slots.get(name, OLLAMA_SLOTS)


def slots_on(standing: Standing, pool: str, settings: ClusterSettings) -> int:
    """Slots of a model on one server."""
    model, seen = models_of(settings).get(pool), standing.sight.models.get(pool)
    is_embedding = bool(seen is not None and seen.is_embedding) or (model is not None and model.embedding)
    return _slots(pool, standing, model, is_embedding=is_embedding)


def _context(name: str, standing: Standing) -> int:
    """As the server has it while the model is in memory, otherwise as it is said to be; 0: nobody knows."""
    sight, entry = standing.sight, standing.server.entry_of(name)
    told = (sight.running or {}).get(name, {}).get("context_length") or sight.context
    wished = entry.context if entry is not None else None
    return told if isinstance(told, int) and told > 0 else wished or 0


# --- for the operator ------------------------------------------------------------------------------------------------


def notes_of(standings: Sequence[Standing], settings: ClusterSettings) -> Iterator[str]:
    """What is missing, left to a default, or not offered."""
    yield from _remote(standings)
    yield from _unset_slots(standings, settings)
    yield from _fewer_slots(standings)
    yield from _unlike(standings)
    there = {pool for each in standings for pool in each.pools}
    for name, tier in settings.tiers.items():
        if tier.provider is None and canonical_model_name(tier.model) not in there:
            yield f"tier {name}: no instance has {tier.model}"


def _remote(standings: Iterable[Standing]) -> Iterator[str]:
    for each in standings:
        for model in each.sight.models.values():
            if model.remote_host:
                said = f"{model.listed.name} is served by {model.remote_host}"
                yield f"{each.server.name}: {said} and not offered: prompts would leave the house"


def _unset_slots(standings: Iterable[Standing], settings: ClusterSettings) -> Iterator[str]:
    known = models_of(settings)
    names = [
        each.server.name
        for each in standings
        if each.sight.is_up
        and each.sight.engine is Engine.OLLAMA
        and any(_is_unset(each, pool, known) for pool in each.pools)
    ]
    if names:
        yield (
            f"{', '.join(names)}: one call at a time for each model, as Ollama by default; "
            "name `slots` where OLLAMA_NUM_PARALLEL is more, or have it found out by `slots: probe`"
        )


def _is_unset(standing: Standing, pool: str, known: Mapping[str, ModelSettings]) -> bool:
    entry, model = standing.server.entry_of(pool), standing.sight.models.get(pool)
    is_embedding = model is not None and bool(model.is_embedding)
    return entry is not None and entry.slots is None and pool not in known and not is_embedding


def _fewer_slots(standings: Iterable[Standing]) -> Iterator[str]:
    for each in standings:
        wished = max((entry.slots for entry in each.server.entries if isinstance(entry.slots, int)), default=0)
        if 0 < each.sight.slots < wished:
            yield f"{each.server.name}: has {each.sight.slots} slots and not {wished}; as many are used"


def _unlike(standings: Iterable[Standing]) -> Iterator[str]:
    """One name for several models: which one answers is chance."""
    found: dict[str, dict[str, list[str]]] = {}
    for each in standings:
        for pool, model in each.sight.models.items():
            if pool in each.pools and model.listed.digest:
                found.setdefault(pool, {}).setdefault(model.listed.digest, []).append(each.server.name)
    for pool, by_digest in found.items():
        if len(by_digest) > 1:
            alike = " | ".join(", ".join(names) for names in by_digest.values())
            yield f"{pool} is not the same model everywhere: {alike}"


def shape_bytes(model: Model | None) -> int:
    """How large its weights are, as far as it is told."""
    if model is None:
        return 0
    shape: ModelShape | None = model.listed.shape
    size = shape.weights_bytes if shape is not None else model.listed.tags.get("size")
    return size if isinstance(size, int) else 0
