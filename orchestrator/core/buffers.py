"""The buffers of one load of a model, as llama.cpp lays them out: KV cache, a step's intermediate values, CUDA's pool.

Knows what a load was asked for and how llama.cpp rounds and cuts it; what is asked for, and what an instance needs
besides, is left to `sizing`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from orchestrator.core.layers import ENCODERS
from orchestrator.core.model import CacheLayers, ModelShape

# Bytes of a KV cache element: f16; blocks of 32 in 34 bytes; blocks of 32 in 18 bytes.
KV_TYPES: Final = {"f16": (2, 1), "q8_0": (34, 32), "q4_0": (18, 32)}

CELL_PAD: Final = 256  # llama.cpp rounds a slot's context, and a sliding window's cells, up to this
_INPUT_BYTES: Final = 80  # token, position, cache places and output place of one token; 40 to 60 were seen
_ROTATION_BYTES: Final = 2 * 2**20  # matrices that turn K and V before they are quantised
_ENCODERS_WITH_WINDOW: Final = frozenset({"gemma-embedding", "modern-bert"})
_WIDEST_FEED_FORWARD: Final = 6  # times the embedding length, where a header does not tell; 5.4 is the widest known


def round_up(value: int, step: int) -> int:
    return -(-value // step) * step


@dataclass(frozen=True, slots=True)
class Load:
    """One load of a model: what was asked for, as llama.cpp rounds and cuts it."""

    shape: ModelShape
    caches: tuple[CacheLayers, ...]
    tokens: int  # of one slot
    slots: int
    batch: int
    kv_type: str
    flash_attention: bool

    def cells(self, kind: CacheLayers) -> int:
        """Tokens of one slot that a layer of this kind keeps: a window's and one step's, or all."""
        return min(self.tokens, round_up(kind.window + self.batch, CELL_PAD)) if kind.window else self.tokens

    @property
    def seen(self) -> int:
        """Columns of the attention masks: one mask for layers that keep all, one for those with a window."""
        if self.shape.arch in ENCODERS:
            return self.tokens * (2 if self.shape.arch in _ENCODERS_WITH_WINDOW else 1)
        return sum({bool(kind.window): self.cells(kind) for kind in self.caches}.values())


def caches_of(shape: ModelShape) -> tuple[CacheLayers, ...]:
    """The shape's kinds of layers, or those that its plain numbers mean."""
    if shape.caches or shape.arch in ENCODERS or shape.state_layers == shape.layers:
        return shape.caches
    width = shape.kv_heads * shape.head_dim
    sliding = shape.sliding_layers if shape.sliding_window else 0
    kinds = (
        CacheLayers(shape.layers - sliding, width, width),
        CacheLayers(sliding, width, width, shape.sliding_window),
    )
    return tuple(kind for kind in kinds if kind.layers)


def layer_cache_bytes(load: Load, kind: CacheLayers) -> int:
    """One layer's cache of one slot."""
    numerator, denominator = KV_TYPES[load.kv_type]
    value_width = kind.value_width
    if value_width and not load.flash_attention:
        # V lies transposed then, and every layer's is as wide as the widest's.
        value_width = max(each.value_width for each in load.caches)
    return (kind.key_width + value_width) * load.cells(kind) * numerator // denominator


def step_input_bytes(load: Load) -> int:
    """What a step reads of each of its tokens: its rows of the masks, its places, and its values from before."""
    values = load.shape.embedding_length + load.shape.carried_width
    return load.seen * (2 if load.flash_attention else 4) + _INPUT_BYTES + 4 * values


def compute_bytes(load: Load) -> int:
    """The buffer of one step's intermediate values: batch x (attention mask + the widest moment of a layer).

    Found by measuring: beside 5 embedding widths of 4-byte floats, a token's widest moment holds 3 feed-forward
    widths, or the outputs of its experts twice, or 3 query widths, or what a recurrent layer holds (exact for most of
    the 25 models tried on the built-in engine, benchmarks/sizing; Ollama 0.33.0-rc2 needs one embedding width less).
    An embedding model with an output head holds one more width, and a logit for each word of the vocabulary. Without
    flash attention the mask has 4 bytes an element instead of 2, places of the transposed V 8 bytes each, and the
    scores of every head lie in memory: heads x tokens x 4 bytes. Recurrent layers hold one layer's states of all slots
    besides. With a quantised cache one more width was seen where attention and feed-forward run side by side.
    """
    shape = load.shape
    width, attention = shape.embedding_length, _attention_width(shape)
    has_logits = shape.is_embedding and shape.arch not in ENCODERS
    in_turn = [3 * _feed_forward(shape), attention, shape.recurrent_width]
    if shape.experts_used:
        in_turn += [3 * _feed_forward(shape) + width, (2 * shape.experts_used + 1) * width]
    if has_logits:
        in_turn.append(shape.vocab + width)
    always = 5 * width + shape.carried_width
    widest = always + max(in_turn)
    states = shape.state_bytes * load.slots // shape.state_layers if shape.state_layers else 0
    if load.flash_attention:
        turned = width if load.kv_type != "f16" else 0
        fixed = states + (_ROTATION_BYTES if turned else 0)
        return load.batch * (4 * (widest + turned) + 2 * load.seen + _INPUT_BYTES) + fixed
    places = sum({bool(kind.window): 8 * max(kind.value_width, kind.key_width) for kind in load.caches}.values())
    scores = always + attention + shape.heads * load.tokens
    return load.batch * (4 * max(widest, scores) + 4 * load.seen + places + _INPUT_BYTES) + states


def cuda_work_bytes(load: Load) -> int:
    """llama.cpp's pool on the device, which is in none of its reported buffers (ggml-cuda.cu, fattn-common.cuh).

    Products of a step with f16 weights go through f16 copies of both sides. A quantised cache is unpacked to f16, one
    layer at a time; without flash attention, the scores are.
    """
    products = 2 * load.batch * (_feed_forward(load.shape) + load.shape.embedding_length)
    if not load.flash_attention:
        return products + 2 * load.batch * load.shape.heads * load.tokens
    if load.kv_type == "f16":
        return products
    unpacked = (2 * (kind.key_width + kind.value_width) * load.cells(kind) * load.slots for kind in load.caches)
    return products + max(unpacked, default=0)


def _attention_width(shape: ModelShape) -> int:
    return shape.attention_width or 3 * shape.heads * shape.head_dim


def _feed_forward(shape: ModelShape) -> int:
    if shape.feed_forward_length or shape.state_layers == shape.layers:
        return shape.feed_forward_length
    return _WIDEST_FEED_FORWARD * shape.embedding_length
