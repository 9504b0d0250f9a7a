"""From settings and inventory to the instances wanted: the joint between configuration and placement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.core.catalogue import find
from orchestrator.core.errors import SettingsError
from orchestrator.core.model import Demand, Engine, ModelShape, NodeFacts, Placement, PlacementPlan, PoolName
from orchestrator.core.placement import place
from orchestrator.fleet.engines import LocalEngine
from orchestrator.nodes.weights import ollama_models_dir, pulled_weights, shape_of_file
from orchestrator.settings import ClusterSettings, ModelSettings


@dataclass(frozen=True, slots=True)
class Wanted:
    """What should run: placements, and the shape of each pool's model.

    `terms`: what an instance of a pool is started with beyond its placement; other terms are another instance.
    """

    plan: PlacementPlan
    shapes: Mapping[str, ModelShape]
    terms: Mapping[str, str]


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
) -> Wanted:
    """The instances that `settings` asks for on `facts`. Raises SettingsError, HostError."""
    is_simulated = all(each.is_simulated for each in facts)
    shapes = {name: _shape(name, model, engine, is_simulated) for name, model in settings.models.items()}
    demands = [_demand(name, model, shapes[name]) for name, model in settings.models.items()]
    terms = {name: _terms(model, engine, is_simulated) for name, model in settings.models.items()}
    return Wanted(place(demands, facts, current=current, own_bytes=own_bytes or {}), shapes, terms)


def _shape(name: str, model: ModelSettings, engine: LocalEngine, is_simulated: bool) -> ModelShape:
    """The shape, of a model that embeds where the settings say so: a header does not always tell."""
    shape = shape_of(name, model, engine, is_simulated=is_simulated)
    return replace(shape, is_embedding=True) if model.embedding and not shape.is_embedding else shape


def _terms(model: ModelSettings, engine: LocalEngine, is_simulated: bool) -> str:
    """Not the shape: once a model is pulled its header replaces the catalogue's figures, and nothing has changed."""
    what = "simulated" if is_simulated else engine.kind.value
    weights = f" {model.gguf}" if model.gguf is not None else ""
    return f"{what} {model.kv_cache}{' embedding' if model.embedding else ''}{weights}"


def _demand(name: str, model: ModelSettings, shape: ModelShape) -> Demand:
    is_fill = model.replicas == "fill"
    return Demand(
        pool=PoolName(name),
        shape=shape,
        context=min(model.context, shape.context_length),
        slots=1 if shape.is_embedding else model.slots,  # Ollama serves embedding models one at a time
        kv_type=model.kv_cache,
        replicas_min=1 if is_fill else int(model.replicas),
        replicas_max=None if is_fill else int(model.replicas),
        share=model.share,
    )
