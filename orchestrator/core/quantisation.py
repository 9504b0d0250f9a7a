"""How many bytes a model's weights take in a quantisation, worked out from its dimensions alone.

Knows which tensors the catalogue's architectures have, and which type llama.cpp's quantiser gives each of them
(`llama_tensor_get_type`, llama-quant.cpp): a mix such as Q4_K_M spends more bits on some tensors and layers. Held
against the sizes that Ollama's registry publishes in tests/core/test_catalogue.py. A header that can be read is better.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from orchestrator.core.gguf_types import TENSOR_TYPES

_BLOCKS: Final = {name: (block, size) for name, block, size in TENSOR_TYPES.values()}
_ALIGNMENT: Final = 32

# By Ollama's tag: the type of most tensors, of the output, and of what the mix gives more bits.
MIXES: Final = {
    "q4_0": ("Q4_0", "Q6_K", ""),
    "q4_1": ("Q4_1", "Q6_K", ""),
    "q4_K_M": ("Q4_K", "Q6_K", "Q6_K"),
    "q5_K_M": ("Q5_K", "Q6_K", "Q6_K"),
    "q6_K": ("Q6_K", "Q6_K", ""),
    "q8_0": ("Q8_0", "Q8_0", ""),
    "fp16": ("F16", "F16", ""),
}
# What a row that is no multiple of 256 long is quantised to instead.
_SHORT_ROW: Final = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
_FINER: Final = {"Q4_K": "Q5_K", "Q5_K": "Q6_K"}
_SEVENTY_B_LAYERS: Final = 80  # its V projections are small, and finer than the others'


@dataclass(frozen=True, slots=True)
class Dimensions:
    """What decides a model's tensors, as its published config.json tells."""

    arch: str
    layers: int
    embedding_length: int
    feed_forward_length: int  # of the dense layers; 0: there are none
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context_length: int
    is_tied: bool = False  # the table of words is the output too
    experts: int = 0
    experts_used: int = 0
    expert_length: int = 0
    rope_factors: int = 0  # numbers in tables of rotary factors
    v_type: str = ""  # Ollama's own quantiser left V at this type
    position_type: str = "F16"  # of the table of places that BERT has; its converters differ


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes of a model's tensors by where they go; `expert` is part of the layers."""

    total: int
    table: int
    output: int
    expert: int
    elements: int


def weigh(model: Dimensions, tag: str) -> Weights:
    """The weights of `model` in the quantisation of Ollama's `tag`. Raises KeyError for a tag that is not known."""
    base, output, more = MIXES[tag]
    total = table = behind = expert = elements = 0
    for name, row, rows, layer in _tensors(model):
        kind = _type_of(model, name, layer, base, more)
        if name == "output" or (name == "token_embd" and model.is_tied):
            kind = output
        size = _bytes(kind, row, rows)
        total += size
        elements += row * rows
        table += size if name == "token_embd" else 0
        behind += size if layer < 0 and name != "token_embd" else 0
        expert += size if name.endswith("_exps") else 0
    return Weights(total, table, behind, expert, elements)


def _type_of(model: Dimensions, name: str, layer: int, base: str, more: str) -> str:
    if name.endswith(("norm", "bias", "types", "factors", "gate_inp")):
        return "F32"
    if name == "position_embd":
        return model.position_type
    kind = base
    if name in ("attn_v", "ffn_down", "ffn_down_exps"):
        if more and _has_more_bits(layer, model.layers):
            kind = more
        if name == "attn_v":
            kind = _v_type(model, kind, base)
    elif name == "attn_qkv" and more:
        kind = _FINER[base]
    elif model.experts == 8 and name == "attn_k":
        kind = "Q8_0"
    elif model.experts == 8 and name == "attn_output" and base == "Q4_K":
        kind = "Q5_K"
    return kind


def _v_type(model: Dimensions, kind: str, base: str) -> str:
    if model.experts == 8:
        return "Q8_0"
    if model.v_type and base == "Q4_K":
        return model.v_type
    is_seventy_b = model.arch == "llama" and model.layers == _SEVENTY_B_LAYERS
    return "Q5_K" if is_seventy_b and kind == "Q4_K" else kind


def _has_more_bits(layer: int, layers: int) -> bool:
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _bytes(kind: str, row: int, rows: int) -> int:
    if row % 256 and kind in _SHORT_ROW:
        kind = _SHORT_ROW[kind]
    block, size = _BLOCKS[kind]
    return -(-(-(-row // block) * size * rows) // _ALIGNMENT) * _ALIGNMENT


# --- which tensors there are -----------------------------------------------------------------------------------------


def _tensors(model: Dimensions) -> Iterator[tuple[str, int, int, int]]:
    """Every tensor: its name, length of a row, number of rows, and layer (-1: in none)."""
    width = model.embedding_length
    yield "token_embd", width, model.vocab, -1
    if model.arch in ("bert", "nomic-bert"):
        yield from _encoder_tensors(model)
        return
    yield "output_norm", width, 1, -1
    if not model.is_tied:
        yield "output", width, model.vocab, -1
    if model.rope_factors:
        yield "rope_factors", model.rope_factors, 1, -1
    for layer in range(model.layers):
        for name, row, rows in (*_attention(model), *_feed_forward(model)):
            yield name, row, rows, layer


def _attention(model: Dimensions) -> Iterator[tuple[str, int, int]]:
    width, query, kv = model.embedding_length, model.heads * model.head_dim, model.kv_heads * model.head_dim
    yield "attn_norm", width, 1
    if model.arch == "phi3":
        yield "attn_qkv", width, query + 2 * kv
    else:
        yield "attn_q", width, query
        yield "attn_k", width, kv
        yield "attn_v", width, kv
    yield "attn_output", query, width
    if model.arch == "qwen2":
        yield "q_bias", query, 1
        yield "k_bias", kv, 1
        yield "v_bias", kv, 1
    if model.arch in ("qwen3", "qwen3moe", "gemma3"):
        yield "q_norm", model.head_dim, 1
        yield "k_norm", model.head_dim, 1
    if model.arch.startswith("gemma"):
        yield "post_attention_norm", width, 1
        yield "post_ffw_norm", width, 1


def _feed_forward(model: Dimensions) -> Iterator[tuple[str, int, int]]:
    width = model.embedding_length
    yield "ffn_norm", width, 1
    if model.experts:
        yield "gate_inp", width, model.experts
        yield "ffn_gate_exps", width, model.expert_length * model.experts
        yield "ffn_up_exps", width, model.expert_length * model.experts
        yield "ffn_down_exps", model.expert_length, width * model.experts
        return
    is_fused = model.arch == "phi3"
    if not is_fused:
        yield "ffn_gate", width, model.feed_forward_length
    yield "ffn_up", width, model.feed_forward_length * (2 if is_fused else 1)
    yield "ffn_down", model.feed_forward_length, width


def _encoder_tensors(model: Dimensions) -> Iterator[tuple[str, int, int, int]]:
    width, wide = model.embedding_length, model.feed_forward_length
    is_nomic = model.arch == "nomic-bert"
    yield "token_types", width, 1 if model.vocab > 200_000 else 2, -1
    if not is_nomic:
        yield "position_embd", width, model.context_length, -1
    for name in ("embd_norm", "embd_bias"):
        yield name, width, 1, -1
    for layer in range(model.layers):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", *(("ffn_gate",) if is_nomic else ())):
            yield name, width, wide if name == "ffn_gate" else width, layer
        yield "ffn_up", width, wide, layer
        yield "ffn_down", wide, width, layer
        for name in ("attn_out_norm", "attn_out_bias", "out_norm", "out_bias"):
            yield name, width, 1, layer
        if not is_nomic:
            for row in (width, width, width, width, wide, width):
                yield "bias", row, 1, layer
