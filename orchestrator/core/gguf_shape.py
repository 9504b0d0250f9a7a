"""A model's shape from its GGUF header: what its metadata and its sums of tensors mean. Reading them is `gguf`'s."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from orchestrator.core.gguf_types import GgufError, TensorSums
from orchestrator.core.layers import ENCODERS, kept, kv_heads_of, number_of
from orchestrator.core.model import ModelShape

_MAX_LAYERS: Final = 4096

# `general.file_type`, as enum llama_ftype of llama.h numbers it.
_FILE_TYPES: Final = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
}  # fmt: skip


def shape_of(metadata: Mapping[str, Any], tensors: TensorSums) -> ModelShape:
    """The numbers of a model that sizing needs. Raises GgufError where the metadata cannot be a model's."""
    arch = metadata.get("general.architecture")
    if not isinstance(arch, str) or not arch:
        raise GgufError("the header names no architecture (general.architecture)")
    layers = _positive(metadata, f"{arch}.block_count")
    if layers > _MAX_LAYERS:
        raise GgufError(f"{layers:,} layers: the header is damaged")
    embedding = _positive(metadata, f"{arch}.embedding_length")
    heads = number_of(metadata, f"{arch}.attention.head_count")
    keeps = kept(metadata, arch, layers, heads, embedding)
    if heads <= 0 and not keeps.state_layers:
        raise GgufError(f"the header has no usable {arch}.attention.head_count")
    largest = max(tensors.by_type, key=lambda label: tensors.by_type[label], default="unknown")
    is_encoder = arch in ENCODERS
    # A model without an output of its own uses the table of words for both, and then a copy of it is on the GPU.
    is_shared = not tensors.has_output and not is_encoder
    return ModelShape(
        arch=arch,
        parameters=tensors.elements or number_of(metadata, "general.parameter_count"),
        layers=layers,
        heads=heads,
        kv_heads=_kv_heads(metadata, arch, layers, heads),
        head_dim=_head_dim(metadata, arch, embedding, heads),
        embedding_length=embedding,
        vocab=_vocab(metadata, arch),
        context_length=_positive(metadata, f"{arch}.context_length"),
        weights_bytes=tensors.bytes,
        quantisation=_FILE_TYPES.get(number_of(metadata, "general.file_type", -1), largest),
        is_embedding=number_of(metadata, f"{arch}.pooling_type") > 0,
        source="GGUF header",
        feed_forward_length=_feed_forward(metadata, arch, has_dense=tensors.has_dense),
        sliding_window=max((each.window for each in keeps.caches), default=0),
        sliding_layers=sum(each.layers for each in keeps.caches if each.window),
        host_bytes=tensors.other_tables + (0 if is_shared else tensors.word_table),
        output_bytes=tensors.behind_layers + (tensors.word_table if is_shared else 0),
        caches=keeps.caches,
        state_bytes=keeps.state_bytes,
        state_layers=keeps.state_layers,
        experts=number_of(metadata, f"{arch}.expert_count"),
        expert_bytes=tensors.experts,
        experts_used=number_of(metadata, f"{arch}.expert_used_count"),
        attention_width=keeps.attention_width,
        recurrent_width=keeps.recurrent_width,
        carried_width=keeps.carried_width,
        vision_bytes=tensors.towers,
    )


def _kv_heads(metadata: Mapping[str, Any], arch: str, layers: int, heads: int) -> int:
    """KV heads of a layer; where layers differ, their mean rounded up, so that the whole cache is never too small."""
    return max(1, -(-sum(kv_heads_of(metadata, arch, layers, heads)) // layers))


def _head_dim(metadata: Mapping[str, Any], arch: str, embedding: int, heads: int) -> int:
    default = -(-embedding // heads) if heads else 0
    key = number_of(metadata, f"{arch}.attention.key_length", default)
    return max(key, number_of(metadata, f"{arch}.attention.value_length", key))


def _feed_forward(metadata: Mapping[str, Any], arch: str, *, has_dense: bool) -> int:
    """Width of the feed-forward layer a token passes: the dense one, or that of all experts it uses."""
    dense = number_of(metadata, f"{arch}.feed_forward_length")
    used = number_of(metadata, f"{arch}.expert_used_count")
    one = number_of(metadata, f"{arch}.expert_feed_forward_length", dense)
    shared = number_of(metadata, f"{arch}.expert_shared_feed_forward_length")
    shared = max(shared, one * number_of(metadata, f"{arch}.expert_shared_count"))
    return max(dense if has_dense or not used else 0, one * used + shared)


def _vocab(metadata: Mapping[str, Any], arch: str) -> int:
    tokens = metadata.get("tokenizer.ggml.tokens", ())
    return max(len(tokens) if isinstance(tokens, range) else 0, number_of(metadata, f"{arch}.vocab_size"))


def _positive(metadata: Mapping[str, Any], key: str, default: int = 0) -> int:
    found = number_of(metadata, key, default)
    if not 0 < found < 1 << 32:
        raise GgufError(f"the header has no usable {key}")
    return found
