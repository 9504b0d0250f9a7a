"""Settings for a cluster that has no `cluster.yaml`: from what the machine has, a plan that it can hold. Pure.

Sizes here are estimates that choose between three plans; placement measures and refuses what does not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from orchestrator.core.cards import parse_cards
from orchestrator.core.errors import SettingsError
from orchestrator.core.model import Engine, NodeFacts
from orchestrator.settings import (
    CacheSettings,
    ClusterSettings,
    ModelSettings,
    NodeSettings,
    RouteSettings,
    TierSettings,
)

SAMPLE_FAQ = Path(__file__).parents[1] / "data" / "faq.yaml"

_GIB = 2**30

# What one instance needs on a GPU: weights + KV cache (16-bit, slots x context) + about 0.9 for buffers and CUDA.
#   llama3.1:8b  q4_K_M, 2 x 8192 tokens at 128 KiB    4.6 + 2.0 + 0.9 = 7.5 GiB
#   llama3.2:3b  q4_K_M, 4 x 4096 tokens at 112 KiB    1.9 + 1.8 + 0.9 = 4.6 GiB, with 2 x 4096 tokens 3.7 GiB
#   llama3.2:1b  q8_0,   4 x 4096 tokens at 32 KiB     1.2 + 0.5 + 0.9 = 2.6 GiB
_BOTH_OWNERS_BYTES = 12 * _GIB  # 8b and 3b on one card
_THREE_AND_ONE_BYTES = 7 * _GIB  # 3b with two slots and 1b: an 8 GB card, or free RAM of a machine without one
_ONE_BYTES = 3 * _GIB  # 1b alone; a card with less is left to others, and the CPU serves

_Models = dict[str, ModelSettings]


def default_settings(facts: Sequence[NodeFacts], engine: Engine, simulate: str | None) -> ClusterSettings:
    """Settings that serve a `small` and a `full` tier behind the route `auto`, on this machine or on played cards.

    Raises SettingsError where `simulate` does not read as cards. Simulated cards get the full plan, whatever `engine`.
    """
    if simulate is not None:
        models, nodes = _owners_models("fill"), (_simulated_node(simulate),)
    else:
        models = _bundled_models() if engine is Engine.LLAMA_CPP else _ollama_models(facts)
        nodes = (NodeSettings(name="local"),)
    return ClusterSettings(
        engine=engine.value,
        nodes=nodes,
        models=models,
        tiers=_tiers(models),
        routes={"auto": RouteSettings()},
        cache=CacheSettings(faq=(SAMPLE_FAQ,)),
    )


def _simulated_node(cards: str) -> NodeSettings:
    try:
        parse_cards(cards)
    except ValueError as error:
        raise SettingsError(f"simulate: {error}") from error
    return NodeSettings(name="sim", simulate=cards)


def _bundled_models() -> _Models:
    """The same weights twice: a short and a long context show what tiers do, where nothing can be downloaded."""
    return {
        "smollm2:135m": ModelSettings(slots=2, context=2048),
        "smollm2-8k:135m": ModelSettings(slots=1, context=8192),
    }


def _ollama_models(facts: Sequence[NodeFacts]) -> _Models:
    gpu_bytes = _roomiest_gpu_bytes(facts)
    if gpu_bytes >= _BOTH_OWNERS_BYTES:
        return _owners_models(1)
    memory_bytes = gpu_bytes if gpu_bytes >= _ONE_BYTES else max((each.ram_free_bytes for each in facts), default=0)
    if memory_bytes >= _THREE_AND_ONE_BYTES:
        return {
            "llama3.2:1b": ModelSettings(slots=4, context=4096),
            "llama3.2:3b": ModelSettings(slots=2, context=4096),
        }
    return {"llama3.2:1b": ModelSettings(slots=4, context=4096)}


def _owners_models(replicas: Literal[1, "fill"]) -> _Models:
    """The hybrid plan's models. Where they fill the cards, small ones get three times the room of full ones."""
    small_share = 3.0 if replicas == "fill" else 1.0
    return {
        "llama3.2:3b-instruct-q4_K_M": ModelSettings(slots=4, context=4096, replicas=replicas, share=small_share),
        "llama3.1:8b-instruct-q4_K_M": ModelSettings(slots=2, context=8192, replicas=replicas),
    }


def _roomiest_gpu_bytes(facts: Sequence[NodeFacts]) -> int:
    """Free memory of the best card. One that is cut into MIG slices holds nothing itself; its slices are cards too."""
    cards = [card for each in facts for card in each.accelerators if card.mig != "on" or card.parent_uuid is not None]
    return max((card.vram_free_bytes for card in cards), default=0)


def _tiers(models: _Models) -> dict[str, TierSettings]:
    """Two tiers, each the other's backup; on one model alone a backup would be the same instances again."""
    small, *others = models
    if not others:
        return {"small": TierSettings(model=small), "full": TierSettings(model=small)}
    return {"small": TierSettings(model=small, backup="full"), "full": TierSettings(model=others[0], backup="small")}
