"""What an instance's memory is made of, in words: each part, how large, where the number is from, which are margins.

Knows the sums of `sizing` and `sizing_split`, and takes them apart for the operator (`plan --explain`). The parts add
up to what placement counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.core.buffers import caches_of
from orchestrator.core.model import Demand, ModelShape
from orchestrator.core.sizing import (
    CUDA_CONTEXT_BYTES,
    CUDA_MARGIN_BYTES,
    MIB,
    VISION_MARGIN_BYTES,
    demand_footprint,
    split_demand,
)
from orchestrator.core.sizing_split import PIPELINE_COPIES


@dataclass(frozen=True, slots=True)
class Part:
    """One part of an instance's memory, over all its cards."""

    name: str
    bytes: int
    source: str
    is_margin: bool = False


def explain(demand: Demand, *, on_gpu: bool = True, cards: int = 1) -> tuple[Part, ...]:
    """The parts of one instance of `demand`; they add up to its footprint. `cards`: over how many it is split."""
    return tuple(part for part in _parts(demand, on_gpu=on_gpu, cards=cards) if part.bytes)


def lines(parts: tuple[Part, ...]) -> list[str]:
    """One line a part, and their sum: MiB, name, source."""
    told = [f"{part.bytes / MIB:9,.0f} MiB  {part.name:16} {part.source}" for part in parts]
    total = sum(part.bytes for part in parts)
    margins = sum(part.bytes for part in parts if part.is_margin)
    return [*told, f"{total / MIB:9,.0f} MiB  in all, {margins / MIB:,.0f} of them margins"]


def _parts(demand: Demand, *, on_gpu: bool, cards: int) -> Iterator[Part]:
    shape = demand.shape
    whole = demand_footprint(demand, on_gpu=on_gpu)
    size = split_demand(demand, cards) if cards > 1 else whole
    vision = VISION_MARGIN_BYTES if shape.vision_bytes else 0
    stays = f"; {shape.host_bytes / MIB:,.0f} MiB more stay in host memory" if on_gpu and shape.host_bytes else ""
    yield Part("weights", whole.weights, f"{shape.quantisation}, {shape.source or 'as told'}{stays}")
    yield Part("KV cache", whole.kv_cache, _cache_words(demand))
    yield Part("compute buffer", whole.compute - vision, "a step's masks and the widest moment of a layer (measured)")
    yield Part("output buffer", whole.output, f"{shape.vocab:,} words x 4 bytes a slot")
    if on_gpu:
        each = f" on each of {cards} cards" if cards > 1 else ""
        yield Part("CUDA context", CUDA_CONTEXT_BYTES * cards, f"what Ollama sets aside{each} (MinimumMemory)")
        yield Part("CUDA margin", CUDA_MARGIN_BYTES * cards, f"kernels' own work space{each}", is_margin=True)
    yield Part("vision margin", vision, "work space of towers; Ollama leaves as much", is_margin=True)
    if cards > 1:
        uneven = size.weights + size.kv_cache - whole.weights - whole.kv_cache
        yield Part("uneven layers", uneven, "every card counts as the fullest", is_margin=True)
        copies = size.compute + size.output - whole.compute - whole.output
        yield Part("split buffers", copies, f"compute buffers of each card, what a step reads {PIPELINE_COPIES} times")


def _cache_words(demand: Demand) -> str:
    kinds = [
        _kind_words(kind.layers, kind.key_width + kind.value_width, kind.window) for kind in caches_of(demand.shape)
    ]
    states = _states_words(demand.shape)
    tokens = f"{demand.slots} x {min(demand.context, demand.shape.context_length):,} tokens, {demand.kv_type}"
    return f"{tokens}: {' + '.join([*kinds, *states]) or 'none is kept'}"


def _kind_words(layers: int, width: int, window: int) -> str:
    return f"{layers} layers of {width:,} numbers a token" + (f", the last {window:,} tokens" if window else "")


def _states_words(shape: ModelShape) -> list[str]:
    if not shape.state_layers:
        return []
    return [f"{shape.state_layers} layers' states of {shape.state_bytes / MIB:,.1f} MiB a slot"]
