"""How much memory one instance needs: weights, KV cache, compute and output buffers, and what CUDA itself holds.

Knows llama.cpp's buffers as a real Ollama 0.33.0-rc2 and the built-in engine report them when they load a model. Where
a model's numbers come from is left to `gguf` and `catalogue`, instances on several cards to `sizing_split`, where
instances go to `placement`. The aim: never below the real figure, and above it by no more than 100 MiB or 3 %.
docs/decisions/0012-sizing.md says what each part is taken from, what was measured (on CPUs) and what is a margin.

The often told "a 3B model needs 1 GB of VRAM" is wrong: llama3.2:3b-instruct-q4_K_M with two slots of 4096 tokens needs
3.4 GiB: weights 1.9, KV cache 0.9, compute 0.2, CUDA 0.5. Its weights alone are twice that 1 GB.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from orchestrator.core.buffers import (
    CELL_PAD,
    KV_TYPES,
    Load,
    caches_of,
    compute_bytes,
    cuda_work_bytes,
    layer_cache_bytes,
    round_up,
    step_input_bytes,
)
from orchestrator.core.layers import SINGLE_SLOT
from orchestrator.core.model import Demand, Footprint, ModelShape
from orchestrator.core.sizing_split import per_card_bytes, split_footprint

__all__ = [
    "CUDA_CONTEXT_BYTES",
    "CUDA_MARGIN_BYTES",
    "FIT_TARGET_BYTES",
    "GIB",
    "KV_TYPES",
    "MIB",
    "VISION_MARGIN_BYTES",
    "auto_batch",
    "cache_bytes_per_token",
    "demand_footprint",
    "footprint",
    "per_card_bytes",
    "served_slots",
    "slots_that_fit",
    "split_demand",
    "split_footprint",
]

MIB: Final = 2**20
GIB: Final = 2**30

# What a CUDA context and the kernels' modules hold before the first tensor: Ollama sets the same aside on every device
# (`DeviceInfo.MinimumMemory`, ml/device.go; earlier `cudaMinimumMemory`, discover/gpu.go).
CUDA_CONTEXT_BYTES: Final = 457 * MIB
# A margin: cuBLAS' own work space (32 MiB on Hopper, less before) and the kernels' partial sums are in none of
# llama.cpp's reported buffers.
CUDA_MARGIN_BYTES: Final = 64 * MIB
# Ollama's llama-server leaves a GiB of every card free unless told otherwise (`fit_params_target`, common.h), and where
# that is missing it computes layers on the CPU. What it must leave free is counted here, so it is told this.
FIT_TARGET_BYTES: Final = CUDA_MARGIN_BYTES
# A margin: a tower that reads images needs work space of its own. Ollama leaves as much (`mmprojOffloadHeadroom`).
VISION_MARGIN_BYTES: Final = GIB

_EMBEDDING_BATCH: Final = 2048  # Ollama gives embedding models this much a step, if the context is as long
_PLAIN_CUDA_BATCH: Final = 512  # and no model on CUDA more than this without flash attention


def auto_batch(context: int, slots: int) -> int:
    """Tokens a step that Ollama chooses by itself: they rise with the tokens of all slots together.

    Where the card's memory is nearly used up it chooses less, so this is never too small.
    """
    tokens = context * slots
    return 512 if tokens <= 4096 else 1024 if tokens <= 32768 else 2048


def served_slots(shape: ModelShape, slots: int) -> int:
    """How many of the `slots` asked for Ollama gives this model: some it serves one call at a time."""
    return 1 if shape.is_embedding or shape.arch in SINGLE_SLOT else slots


def footprint(
    shape: ModelShape,
    context: int,
    slots: int,
    kv_type: str = "f16",
    *,
    batch: int | None = None,
    flash_attention: bool = True,
    on_gpu: bool,
) -> Footprint:
    """What one instance with `slots` slots of `context` tokens needs. `batch`: tokens a step; None: as Ollama chooses.

    - weights: the tensors' bytes. On a GPU without the input table, where the model has an output of its own.
    - KV cache: for each kind of layer, K and V of a token x tokens x bytes of its type; recurrent layers' states.
      Layers with a sliding window keep the window and one step. Tokens are cut to the trained length and rounded up to
      256; embedding models have one slot.
    - compute: see `buffers.compute_bytes`.   - output: vocab x 4 bytes a slot.   - runtime: the CUDA constants above.

    Raises ValueError for an unknown `kv_type`, and for a quantised one without flash attention: no such load succeeds.
    """
    if kv_type not in KV_TYPES:
        raise ValueError(f"unknown type of KV cache {kv_type!r}; known: {', '.join(KV_TYPES)}")
    if kv_type != "f16" and not flash_attention:
        raise ValueError(f"a {kv_type} KV cache needs flash attention")
    slots = 1 if shape.is_embedding else slots
    tokens = round_up(min(context, shape.context_length), CELL_PAD)
    if batch is None:
        batch = min(tokens, _EMBEDDING_BATCH) if shape.is_embedding else auto_batch(tokens, slots)
        if on_gpu and not flash_attention and not shape.is_embedding:
            batch = _PLAIN_CUDA_BATCH
    load = Load(shape, caches_of(shape), tokens, slots, min(batch, tokens * slots), kv_type, flash_attention)
    layer_bytes = [(kind.layers, layer_cache_bytes(load, kind) * slots) for kind in load.caches]
    cache = sum(layers * size for layers, size in layer_bytes) + shape.state_bytes * slots
    return Footprint(
        weights=shape.weights_bytes - (shape.host_bytes if on_gpu else 0),
        kv_cache=cache,
        compute=compute_bytes(load) + (cuda_work_bytes(load) if on_gpu else 0) + _vision_margin(shape),
        output=shape.vocab * 4 * slots,
        runtime=CUDA_CONTEXT_BYTES + CUDA_MARGIN_BYTES if on_gpu else 0,
        step_inputs=load.batch * step_input_bytes(load),
        output_weights=shape.output_bytes,
        uneven=max(0, max((size for _, size in layer_bytes), default=0) - cache // shape.layers),
    )


def demand_footprint(demand: Demand, *, on_gpu: bool) -> Footprint:
    """What one instance of `demand` needs, whole on one accelerator or in a CPU node's RAM."""
    return footprint(demand.shape, demand.context, demand.slots, demand.kv_type, on_gpu=on_gpu)


def split_demand(demand: Demand, cards: int) -> Footprint:
    """What one instance of `demand` needs on `cards` cards of one host, all of them together."""
    return split_footprint(demand_footprint(demand, on_gpu=True), demand.shape.layers, cards)


def slots_that_fit(demand: Demand, room_bytes: int, *, on_gpu: bool = True) -> int:
    """The most slots, up to those asked for, with which an instance goes into `room_bytes`; 0 where not one does."""
    for slots in range(demand.slots, 0, -1):
        if demand_footprint(replace(demand, slots=slots), on_gpu=on_gpu).total <= room_bytes:
            return slots
    return 0


def cache_bytes_per_token(shape: ModelShape, kv_type: str = "f16") -> float:
    """Bytes of KV cache that one more token of a long context takes: layers with a window take none."""
    numerator, denominator = KV_TYPES[kv_type]
    values = sum(kind.layers * (kind.key_width + kind.value_width) for kind in caches_of(shape) if not kind.window)
    return values * numerator / denominator


def _vision_margin(shape: ModelShape) -> int:
    return VISION_MARGIN_BYTES if shape.vision_bytes else 0
