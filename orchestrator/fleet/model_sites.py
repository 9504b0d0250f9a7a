"""Where models lie that a cluster may change: one folder a site, and the server through which it is changed.

Also which models must stay, because the settings name them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.core.dialects.parse import canonical_model_name
from orchestrator.core.model import Engine, Instance, InstanceState
from orchestrator.settings import ClusterSettings

# Whom to ask: one that loads its model or finishes its calls answers, too.
_SILENCE: Final = {InstanceState.SERVING: 0, InstanceState.LOADING: 1, InstanceState.DRAINING: 1}


@dataclass(frozen=True, slots=True)
class ModelSite:
    """One folder of models, and the server through which it is changed; None: `problem` says why there is none."""

    name: str
    at: Instance | None
    problem: str = ""
    turn: asyncio.Lock | None = None  # for who writes much there


def sites_by_node(instances: Iterable[Instance], turn_of: Callable[[Instance], asyncio.Lock]) -> Sequence[ModelSite]:
    """A node's instances share its folder of models: one of them changes it, one that serves before others."""
    by_node: dict[str, list[Instance]] = {}
    for each in instances:
        if each.engine is Engine.OLLAMA:  # llama.cpp's server has its model from its start to its end
            by_node.setdefault(each.node, []).append(each)
    sites = []
    for node, several in by_node.items():
        able = sorted((each for each in several if each.port), key=lambda each: _SILENCE.get(each.state, 2))
        problem = "" if able else f"no instance answers there: {several[0].reason}"
        sites.append(ModelSite(node, able[0] if able else None, problem, turn_of(several[0])))
    return sites


def kept_by(settings: ClusterSettings, model: str) -> str:
    """Where the settings want a model, so that it must be neither deleted nor replaced; empty: nowhere."""
    wanted = canonical_model_name(model)

    def has(*names: str) -> bool:
        return wanted in map(canonical_model_name, names)

    places = [("`models`", has(*settings.models))]
    places += [(f"`instances`, {each.label}", has(*each.models)) for each in settings.instances]
    places += [(f"tiers.{name}", not tier.provider and has(tier.model)) for name, tier in settings.tiers.items()]
    where = next((place for place, is_there in places if is_there), "")
    if not where:
        return ""
    way_out = "take it out there, then delete it; what is made or copied needs another name"
    return f"model '{model}' is named in cluster.yaml ({where}): {way_out}"
