"""How much memory one instance needs: weights, KV cache, compute and output buffers, and what CUDA itself holds.

Knows llama.cpp's buffers as a real Ollama 0.33.0-rc2 and the built-in engine report them when they load a model. Where
a model's numbers come from is left to `gguf` and `catalogue`, where instances go to `placement`. The aim: never below
the real figure, and above it by no more than 100 MiB or 3 %. It was checked on a CPU: on 21 loads of that Ollama, and
on the built-in engine with 18 models' real layouts (llama, qwen2, qwen3, gemma2, gemma3, phi3, gpt-oss, bert). What
differs on a GPU (`CUDA_CONTEXT_BYTES`, `CUDA_MARGIN_BYTES`, the input table left in host memory) is taken from the
engines' sources and has not been measured. Of a vision tower only the weights are counted.

The often told "a 3B model needs 1 GB of VRAM" is wrong: llama3.2:3b-instruct-q4_K_M with two slots of 4096 tokens needs
3.4 GiB: weights 1.9, KV cache 0.9, compute 0.2, CUDA 0.5. Its weights alone are twice that 1 GB.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from orchestrator.core.model import Demand, Footprint, ModelShape

MIB: Final = 2**20
GIB: Final = 2**30

# What a CUDA context and the kernels' modules hold before the first tensor: Ollama sets the same aside on every device
# (`DeviceInfo.MinimumMemory`, ml/device.go; earlier `cudaMinimumMemory`, discover/gpu.go).
CUDA_CONTEXT_BYTES: Final = 457 * MIB
# llama.cpp's pool on the device is in none of its reported buffers: activations quantised for a matrix product (a step
# of 1024 tokens through a width of 28,672 is 32 MiB) and cuBLAS' own work space (up to 32 MiB).
CUDA_MARGIN_BYTES: Final = 64 * MIB

# Bytes of a KV cache element: f16; blocks of 32 in 34 bytes; blocks of 32 in 18 bytes.
KV_TYPES: Final = {"f16": (2, 1), "q8_0": (34, 32), "q4_0": (18, 32)}

_CELL_PAD: Final = 256  # llama.cpp rounds a slot's context, and a sliding window's cells, up to this
_INPUT_BYTES: Final = 80  # token, position, cache places and output place of one token; 40 to 60 were seen
_EMBEDDING_BATCH: Final = 2048  # Ollama gives embedding models this much a step, if the context is as long
_WIDEST_FEED_FORWARD: Final = 6  # times the embedding length, where a header does not tell; 5.4 is the widest known
# Models that read the whole text at once keep no KV cache and have no output head.
_ENCODERS: Final = frozenset(
    {"bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "neo-bert", "modern-bert", "eurobert"}
)


def auto_batch(context: int, slots: int) -> int:
    """Tokens a step that Ollama chooses by itself: they rise with the tokens of all slots together."""
    tokens = context * slots
    return 512 if tokens <= 4096 else 1024 if tokens <= 32768 else 2048


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
    - KV cache: 2 x layers x kv_heads x head_dim x tokens x bytes of its type. Layers with a sliding window keep the
      window and one step. Tokens are cut to the trained length and rounded up to 256; embedding models have one slot.
    - compute: see `_compute_bytes`.   - output: vocab x 4 bytes a slot.   - runtime: the CUDA constants above.

    Raises ValueError for an unknown `kv_type`, and for a quantised one without flash attention: no such load succeeds.
    """
    if kv_type not in KV_TYPES:
        raise ValueError(f"unknown type of KV cache {kv_type!r}; known: {', '.join(KV_TYPES)}")
    if kv_type != "f16" and not flash_attention:
        raise ValueError(f"a {kv_type} KV cache needs flash attention")
    slots = 1 if shape.is_embedding else slots
    tokens = _round_up(min(context, shape.context_length), _CELL_PAD)
    if batch is None:
        batch = min(tokens, _EMBEDDING_BATCH) if shape.is_embedding else auto_batch(tokens, slots)
    window = min(tokens, _round_up(shape.sliding_window + batch, _CELL_PAD)) if shape.sliding_layers else 0
    compute = _compute_bytes(shape, tokens, window, batch, flash_attention)
    if on_gpu and kv_type != "f16":
        # CUDA's flash attention unpacks one layer's K and V to f16, for all slots (ggml-cuda/fattn-common.cuh).
        compute += 4 * shape.kv_heads * shape.head_dim * tokens * slots
    return Footprint(
        weights=shape.weights_bytes - (shape.host_bytes if on_gpu else 0),
        kv_cache=_kv_bytes(shape, tokens, window, kv_type) * slots,
        compute=compute,
        output=shape.vocab * 4 * slots,
        runtime=CUDA_CONTEXT_BYTES + CUDA_MARGIN_BYTES if on_gpu else 0,
    )


def demand_footprint(demand: Demand, *, on_gpu: bool) -> Footprint:
    """What one instance of `demand` needs, whole on one accelerator or in a CPU node's RAM."""
    return footprint(demand.shape, demand.context, demand.slots, demand.kv_type, on_gpu=on_gpu)


def slots_that_fit(demand: Demand, room_bytes: int, *, on_gpu: bool = True) -> int:
    """The most slots, up to those asked for, with which an instance goes into `room_bytes`; 0 where not one does."""
    for slots in range(demand.slots, 0, -1):
        if demand_footprint(replace(demand, slots=slots), on_gpu=on_gpu).total <= room_bytes:
            return slots
    return 0


def split_footprint(whole: Footprint, layers: int, cards: int) -> Footprint:
    """The footprint of an instance whose layers lie on several cards; each card must hold an equal part of the total.

    Whole layers are dealt out, the output counting as one more (llama.cpp), so the fullest card's part is taken for
    all. Each card has a CUDA context and compute buffers; these twice, since steps then overlap between cards.
    """
    if cards == 1:
        return whole
    fullest = -(-(layers + 1) // cards)
    return replace(
        whole,
        weights=-(-whole.weights * fullest * cards // (layers + 1)),
        kv_cache=-(-whole.kv_cache * fullest * cards // (layers + 1)),
        compute=2 * whole.compute * cards,
        runtime=whole.runtime * cards,
    )


def per_card_bytes(whole: Footprint, cards: int) -> int:
    """What each of an instance's cards must have room for; `whole` as `split_footprint` gave it."""
    return -(-whole.total // max(1, cards))


def _kv_bytes(shape: ModelShape, tokens: int, window: int, kv_type: str) -> int:
    """KV cache of one slot."""
    if shape.arch in _ENCODERS:
        return 0
    cells = (shape.layers - shape.sliding_layers) * tokens + shape.sliding_layers * window
    numerator, denominator = KV_TYPES[kv_type]
    return 2 * shape.kv_heads * shape.head_dim * cells * numerator // denominator


def _compute_bytes(shape: ModelShape, tokens: int, window: int, batch: int, flash_attention: bool) -> int:
    """The buffer of one step's intermediate values: batch x (attention mask + the widest moment of a layer).

    Found by measuring: a token's widest moment holds 3 feed-forward and 5 embedding widths of 4-byte floats (exact for
    every model tried on the built-in engine; Ollama 0.33.0-rc2 needs one embedding width less). Attention holds no more
    than 3 query widths in their place; an embedding model with an output head, one logit for each word of the
    vocabulary. Without flash attention the mask has 4 bytes an element instead of 2, places of the transposed V 8 bytes
    each, and the scores of every head lie in memory: heads x tokens x 4 bytes.
    """
    width, query = shape.embedding_length, shape.heads * shape.head_dim
    feed_forward = shape.feed_forward_length or _WIDEST_FEED_FORWARD * width
    has_logits = shape.is_embedding and shape.arch not in _ENCODERS
    widest = 4 * (max(3 * feed_forward, 3 * query, shape.vocab if has_logits else 0) + 5 * width)
    seen = tokens + window
    if flash_attention:
        return batch * (widest + 2 * seen + _INPUT_BYTES)
    places = 8 * shape.kv_heads * shape.head_dim * (2 if window else 1)
    scores = 4 * (shape.heads * tokens + 5 * width + 3 * query)
    return batch * (max(widest, scores) + 4 * seen + places + _INPUT_BYTES)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
