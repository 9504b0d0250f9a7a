"""What a model's layers keep of a text, and hold of a token, as the metadata of a GGUF header tell.

Knows llama.cpp's kinds of layers: those that attend to all tokens or to a window, with K and V of their own or one
latent for both (MLA), and recurrent ones with a state that does not grow. Reading a file is left to `gguf`, sums over
contexts and slots to `sizing`. Where a header is silent, a layer counts as one that keeps everything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.core.model import CacheLayers

Metadata = Mapping[str, Any]

# Models that read the whole text at once keep no cache and have no output head (llama.cpp, `create_memory`).
ENCODERS: Final = frozenset(
    {
        *("bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "neo-bert", "modern-bert"),
        *("eurobert", "gemma-embedding"),
    }
)
# Models that Ollama serves with one slot, whatever is asked for (server/sched.go, v0.33).
SINGLE_SLOT: Final = frozenset(
    {
        *("mllama", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen3next", "lfm2", "lfm2moe"),
        *("nemotron_h", "nemotron_h_moe", "nemotron_h_omni"),
    }
)

# Every nth layer looks back over the whole context, the others over a window: the defaults of llama.cpp's
# `load_swa_pattern` by architecture. One that is not named here counts as if every layer kept the whole context.
_SLIDING_PERIOD: Final = {
    "gemma2": 2, "gemma3": 6, "gemma3n": 5, "gpt-oss": 2, "gptoss": 2, "cohere2": 4,
    "cohere2moe": 4, "llama4": 4, "exaone4": 4, "exaone-moe": 4, "olmo2": 4, "afmoe": 4, "mellum": 4,
    "smallthinker": 4, "plamo3": 8,
}  # fmt: skip
_FULL_LAYER_FIRST: Final = frozenset({"cohere2moe", "smallthinker"})
_LLAMA4_WINDOW: Final = 8192  # attention in chunks, which its header does not name
_GEMMA3N_KEEPERS: Final = 20  # layers with a cache; the rest read theirs
_GEMMA3N_STREAMS: Final = 10  # embedding widths of values beside the usual, in four streams (measured)
_GEMMA3N_ASIDE: Final = 256  # values that each layer is given of its own, where its header does not name them

_ALL_RECURRENT: Final = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
_BOTH_AT_ONCE: Final = frozenset({"falcon-h1"})  # every layer attends and has a state
_RECURRENT_WITHOUT_HEADS: Final = frozenset(
    {"jamba", "granitehybrid", "lfm2", "lfm2moe", "plamo2", "nemotron_h", "nemotron_h_moe", "kimi-linear"}
)
# All layers but every nth are recurrent (`full_attention_interval`, by default 4).
_RECURRENT_BY_INTERVAL: Final = frozenset({"qwen3next", "qwen35", "qwen35moe"})
_FLOAT: Final = 4


@dataclass(frozen=True, slots=True)
class Kept:
    """What the layers keep and hold; the names are those of `ModelShape`."""

    caches: tuple[CacheLayers, ...]
    state_bytes: int
    state_layers: int
    attention_width: int
    recurrent_width: int
    carried_width: int


def kept(metadata: Metadata, arch: str, layers: int, heads: int, embedding: int) -> Kept:
    """What `layers` layers of an `arch` model with `heads` heads keep of a text."""

    def number(key: str, default: int = 0) -> int:
        return number_of(metadata, f"{arch}.{key}", default)

    recurrent = _recurrent_layers(metadata, arch, layers)
    state = _state_values(number, heads, embedding)
    key_width = number("attention.key_length")
    attention = 0
    if number("attention.key_length_mla"):
        # Queries meet the latent: each head's in the latent's width before and after, and as it was made.
        attention = heads * (2 * key_width + number("attention.key_length_mla"))
    return Kept(
        caches=_caches(metadata, arch, layers, heads, embedding, recurrent),
        state_bytes=_FLOAT * state * sum(recurrent),
        state_layers=sum(recurrent),
        attention_width=attention,
        recurrent_width=_recurrent_width(number, embedding) if any(recurrent) else 0,
        carried_width=_carried_width(number, arch, layers, embedding),
    )


def number_of(metadata: Metadata, key: str, default: int = 0) -> int:
    """A whole number, of an array its largest; `default` where there is none."""
    found = metadata.get(key)
    if isinstance(found, list) and found:
        found = max(found)
    return found if isinstance(found, int) and found >= 0 else default


def kv_heads_of(metadata: Metadata, arch: str, layers: int, heads: int) -> list[int]:
    """KV heads of each layer."""
    found = metadata.get(f"{arch}.attention.head_count_kv")
    if isinstance(found, list) and found:
        known = [each if isinstance(each, int) and each >= 0 else heads for each in found[:layers]]
        return known + [max(known)] * (layers - len(known))
    return [found if isinstance(found, int) and found > 0 else heads] * layers


# --- attention -------------------------------------------------------------------------------------------------------


def _caches(
    metadata: Metadata, arch: str, layers: int, heads: int, embedding: int, recurrent: list[bool]
) -> tuple[CacheLayers, ...]:
    if arch in ENCODERS:
        return ()
    sliding, window = _sliding_layers(metadata, arch, layers)
    keepers = _keepers(metadata, arch, layers)
    kinds: Counter[tuple[int, int, int]] = Counter()
    for layer, kv_heads in enumerate(kv_heads_of(metadata, arch, layers, heads)):
        attends = not recurrent[layer] or arch in _BOTH_AT_ONCE
        if attends and kv_heads and layer < keepers:
            key, value = _head_widths(metadata, arch, heads, embedding, is_sliding=sliding[layer])
            kinds[kv_heads * key, kv_heads * value, window if sliding[layer] else 0] += 1
    return tuple(CacheLayers(count, *kind) for kind, count in sorted(kinds.items()))


def _head_widths(metadata: Metadata, arch: str, heads: int, embedding: int, *, is_sliding: bool) -> tuple[int, int]:
    default = -(-embedding // heads) if heads else 0
    key = number_of(metadata, f"{arch}.attention.key_length", default)
    value = number_of(metadata, f"{arch}.attention.value_length", default)
    if is_sliding:
        key = number_of(metadata, f"{arch}.attention.key_length_swa", key)
        value = number_of(metadata, f"{arch}.attention.value_length_swa", value)
    return key, 0 if number_of(metadata, f"{arch}.attention.key_length_mla") else value


def _sliding_layers(metadata: Metadata, arch: str, layers: int) -> tuple[list[bool], int]:
    """Which layers keep only a window, and how many tokens it has."""
    window = number_of(metadata, f"{arch}.attention.sliding_window", _LLAMA4_WINDOW if arch == "llama4" else 0)
    if not window:
        return [False] * layers, 0
    pattern = metadata.get(f"{arch}.attention.sliding_window_pattern")
    if isinstance(pattern, list) and len(pattern) >= layers:
        return [bool(each) for each in pattern[:layers]], window
    period = pattern if isinstance(pattern, int) and pattern > 1 else _SLIDING_PERIOD.get(arch, 1)
    if arch in _FULL_LAYER_FIRST:
        return [layer % period != 0 for layer in range(layers)], window
    return [layer % period < period - 1 for layer in range(layers)], window


def _keepers(metadata: Metadata, arch: str, layers: int) -> int:
    """How many of the first layers have a cache of their own; the others read one of theirs."""
    if arch == "gemma3n":
        return min(layers, _GEMMA3N_KEEPERS)
    return max(0, layers - number_of(metadata, f"{arch}.attention.shared_kv_layers"))


# --- recurrence ------------------------------------------------------------------------------------------------------


def _recurrent_layers(metadata: Metadata, arch: str, layers: int) -> list[bool]:
    if arch in _ALL_RECURRENT or arch in _BOTH_AT_ONCE:
        return [True] * layers
    told = metadata.get(f"{arch}.attention.recurrent_layers")
    if isinstance(told, list) and len(told) >= layers:
        return [bool(each) for each in told[:layers]]
    if arch in _RECURRENT_BY_INTERVAL:
        interval = max(1, number_of(metadata, f"{arch}.full_attention_interval", 4))
        return [(layer + 1) % interval != 0 for layer in range(layers)]
    if arch in _RECURRENT_WITHOUT_HEADS:
        is_plain = _feed_forward_only(metadata, arch, layers)
        without = [heads == 0 for heads in kv_heads_of(metadata, arch, layers, 1)]
        return [empty and not plain for empty, plain in zip(without, is_plain, strict=True)]
    return [False] * layers


def _feed_forward_only(metadata: Metadata, arch: str, layers: int) -> list[bool]:
    """Layers of Nemotron-H that neither attend nor keep a state: those with a feed-forward width of their own."""
    widths = metadata.get(f"{arch}.feed_forward_length")
    if not arch.startswith("nemotron_h") or not isinstance(widths, list) or len(widths) < layers:
        return [False] * layers
    return [bool(each) for each in widths[:layers]]


def _state_values(number: Callable[..., int], heads: int, embedding: int) -> int:
    """Numbers that one recurrent layer keeps of a text: llama.cpp's `n_embd_r` and `n_embd_s` together."""
    if size := number("wkv.head_size"):
        return number("token_shift_count", 2) * embedding + embedding * size
    if cells := number("shortconv.l_cache"):
        return embedding * (cells - 1)
    kernel = number("ssm.conv_kernel")
    if size := number("kda.head_dim"):
        return heads * size * (3 * (kernel - 1 if kernel else 3) + size)
    inner, state = number("ssm.inner_size"), number("ssm.state_size")
    return max(0, kernel - 1) * (inner + 2 * number("ssm.group_count") * state) + state * inner


def _recurrent_width(number: Callable[..., int], embedding: int) -> int:
    """Values of a token that a recurrent layer holds at once beside five embedding widths.

    Measured on Mamba 1 and 2: what the input becomes, the convolution's input and output, two inner widths and three
    embedding widths.
    """
    inner, groups = number("ssm.inner_size"), number("ssm.group_count")
    mixed = inner + 2 * groups * number("ssm.state_size")
    projected = inner + mixed + (number("ssm.time_step_rank") if groups else 0)
    return max(0, projected + 2 * mixed + 2 * inner - 2 * embedding)


def _carried_width(number: Callable[..., int], arch: str, layers: int, embedding: int) -> int:
    """Values of a token that Gemma 3n and 4 hold for all layers: an input of its own for each, and further streams."""
    is_3n = arch == "gemma3n"
    aside = number("embedding_length_per_layer_input", _GEMMA3N_ASIDE if is_3n else 0)
    return layers * aside + (_GEMMA3N_STREAMS * embedding if is_3n else 0)
