"""From settings and inventory to the instances wanted: the joint between configuration and placement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from orchestrator.core.catalogue import find
from orchestrator.core.errors import SettingsError
from orchestrator.core.held import demands_elsewhere
from orchestrator.core.model import (
    Demand,
    Engine,
    ModelShape,
    NodeFacts,
    NodeName,
    Placement,
    PlacementPlan,
    PoolName,
    UsualCall,
)
from orchestrator.core.numbers import Followed, Range
from orchestrator.core.placement import Effort, place
from orchestrator.core.sizing import served_slots
from orchestrator.fleet.engines import LocalEngine, find_engine
from orchestrator.fleet.made import OVER_TLS
from orchestrator.nodes.weights import ollama_models_dir, pulled_shape, pulled_weights, shape_of_file
from orchestrator.settings import ClusterSettings, ModelSettings


@dataclass(frozen=True, slots=True)
class Wanted:
    """What should run: placements, and the shape of each pool's model.

    `terms`: what an instance of a pool is started with beyond its placement; other terms are another instance.
    """

    plan: PlacementPlan
    shapes: Mapping[str, ModelShape]
    terms: Mapping[str, str]
    demands: tuple[Demand, ...] = ()
    ranges: Mapping[PoolName, Range] = field(default_factory=dict)  # of pools whose number follows their load


def engine_of(settings: ClusterSettings) -> LocalEngine:
    """What models are sized for: this machine's engine, or Ollama where none of this machine's is needed.

    Raises HostError where it is needed and missing, SettingsError where it does not go together with hosts' Ollama.
    """
    is_here = any(each.address == "local" and each.simulate is None for each in settings.nodes)
    if settings.instances or not is_here:
        return LocalEngine(Engine.OLLAMA)
    engine = find_engine(settings.engine)
    if settings.hosts and engine.kind is not Engine.OLLAMA:
        raise SettingsError(
            "this machine is a node beside hosts that run Ollama, and has none: put `ollama` on PATH here, or leave "
            "`- name: local` out of `nodes`"
        )
    return engine


def stood_in_for(settings: ClusterSettings, engine: LocalEngine) -> tuple[str, ...]:
    """Models in whose place, and with whose size, the built-in engine's own small weights are planned and served."""
    if engine.kind is not Engine.LLAMA_CPP or engine.weights is None:
        return ()
    return tuple(name for name, model in settings.models.items() if model.gguf is None)


def weights_file(name: str, model: ModelSettings, engine: LocalEngine, *, is_simulated: bool) -> Path | None:
    """The file a pool's weights are read from, where it is known before an engine runs."""
    if model.gguf is not None:
        return model.gguf
    if is_simulated:
        return None
    if engine.kind is Engine.LLAMA_CPP:
        return engine.weights
    return pulled_weights(ollama_models_dir(), name)


def shape_of(name: str, model: ModelSettings, engine: LocalEngine, *, is_simulated: bool) -> ModelShape:
    """The numbers sizing needs: from the weights where they lie here, otherwise from the catalogue.

    Raises SettingsError where neither knows the model: placement promises no memory it cannot work out.
    """
    if model.gguf is None and engine.kind is Engine.OLLAMA and not is_simulated:
        known = pulled_shape(ollama_models_dir(), name)
        if known is not None:
            return known
    file = weights_file(name, model, engine, is_simulated=is_simulated)
    if file is not None:
        return shape_of_file(file)
    known = find(name)
    if known is None:
        raise SettingsError(
            f"models.{name}: its size is not known; `ollama pull {name}` once, so that its header can be read, "
            "or name a GGUF file with `gguf:`"
        )
    return known


def want(
    settings: ClusterSettings,
    facts: Sequence[NodeFacts],
    engine: LocalEngine,
    current: Sequence[Placement] = (),
    own_bytes: Mapping[str, int] | None = None,
    kept: Sequence[Placement] = (),
    numbers: Mapping[PoolName, int] = MappingProxyType({}),
) -> Wanted:
    """The instances that `settings` asks for on `facts`, those `kept` on other nodes counted in.

    `numbers`: of pools that follow their load; one that is not in it begins with what is foretold. Nothing that runs is
    moved to make room for a number. Raises SettingsError, HostError.
    """
    is_simulated = all(each.is_simulated for each in facts)
    shapes = {name: _shape(name, model, engine, is_simulated) for name, model in settings.models.items()}
    demands, ranges = demands_of(settings, shapes, numbers), ranges_of(settings)
    effort = Effort(moves_for_load=not ranges or not ranges.keys() <= numbers.keys())
    tls = f" {OVER_TLS}" if settings.deploy.tls and settings.hosts else ""
    terms = {name: _terms(model, engine, is_simulated) + tls for name, model in settings.models.items()}
    plan = place(demands_elsewhere(demands, kept), facts, current=current, own_bytes=own_bytes or {}, effort=effort)
    return Wanted(replace(plan, placements=(*kept, *plan.placements)), shapes, terms, tuple(demands), ranges)


def ranges_of(settings: ClusterSettings) -> dict[PoolName, Range]:
    """Between which numbers pools follow their load: those that have a number of their own are not in it."""
    return {PoolName(name): _range(name, each, settings) for name, each in settings.models.items() if _follows(each)}


def numbers_of(
    settings: ClusterSettings, followed: Mapping[PoolName, Followed], running: Iterable[Placement]
) -> dict[PoolName, int]:
    """The numbers to go on with: those that were followed to, or what runs; none where the settings foretell anew."""
    counts = Counter(each.pool for each in running)
    found: dict[PoolName, int] = {}
    for pool, limits in ranges_of(settings).items():
        before = followed.get(pool)
        there = before.instances if before is not None and counts[pool] else counts[pool]
        number = limits.go_on_with(before.limits if before is not None else None, there)
        if number is not None:
            found[pool] = number
    return found


def _follows(model: ModelSettings) -> bool:
    return model.replicas == "auto"


def _range(name: str, model: ModelSettings, settings: ClusterSettings) -> Range:
    shares = [each.share for each in settings.tiers.values() if each.model == name and each.share]
    at_once = settings.demand.at_once
    foretold = at_once * sum(shares) if at_once is not None and shares else None
    return Range(max(model.replicas_min or 1, model.hosts), model.replicas_max, foretold)


def _shape(name: str, model: ModelSettings, engine: LocalEngine, is_simulated: bool) -> ModelShape:
    """The shape, of a model that embeds where the settings say so: a header does not always tell."""
    shape = shape_of(name, model, engine, is_simulated=is_simulated)
    return replace(shape, is_embedding=True) if model.embedding and not shape.is_embedding else shape


def _terms(model: ModelSettings, engine: LocalEngine, is_simulated: bool) -> str:
    """Not the shape: once a model is pulled its header replaces the catalogue's figures, and nothing has changed."""
    what = "simulated" if is_simulated else engine.kind.value
    weights = f" {model.gguf}" if model.gguf is not None else ""
    return f"{what} {model.kv_cache}{' embedding' if model.embedding else ''}{weights}"


def demands_of(
    settings: ClusterSettings,
    shapes: Mapping[str, ModelShape],
    numbers: Mapping[PoolName, int] = MappingProxyType({}),
) -> list[Demand]:
    """What each pool asks of placement; `shapes` by pool, `numbers` of those that follow their load."""
    plain = (_demand(name, model, shapes[name], settings) for name, model in settings.models.items())
    ranges = ranges_of(settings)
    return [
        _followed(each, limits, numbers.get(each.pool)) if (limits := ranges.get(each.pool)) else each for each in plain
    ]


def _followed(demand: Demand, limits: Range, number: int | None) -> Demand:
    """The least of a range is due to a pool, the rest as far as it fits. Without a number it is what is foretold."""
    if number is None and limits.foretold is not None:
        return replace(demand, replicas_min=limits.least, replicas_max=limits.most, load=limits.foretold)
    most = limits.clamp(number or 0)
    return replace(demand, replicas_min=limits.least, replicas_max=most, load=float(most * demand.slots))


def _demand(name: str, model: ModelSettings, shape: ModelShape, settings: ClusterSettings) -> Demand:
    is_fixed = isinstance(model.replicas, int)
    least = int(model.replicas) if is_fixed else model.hosts
    goals = [each.answer_s for each in settings.tiers.values() if each.model == name and each.answer_s is not None]
    return Demand(
        pool=PoolName(name),
        shape=shape,
        context=min(model.context, shape.context_length),
        slots=served_slots(shape, model.slots),
        kv_type=model.kv_cache,
        replicas_min=least,
        replicas_max=least if is_fixed else None,
        share=model.share,
        usual=UsualCall(settings.demand.prompt_tokens, settings.demand.answer_tokens, min(goals, default=None)),
        per_card=model.instances_per_gpu if isinstance(model.instances_per_gpu, int) else None,
        hosts_min=model.hosts,
        nodes=tuple(NodeName(each) for each in model.on_nodes),
        apart=tuple(PoolName(each) for each in model.apart),
        beside=tuple(PoolName(each) for each in model.beside),
    )
