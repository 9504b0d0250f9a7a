"""How long a language model's work takes on a card, from published numbers alone: no clock, no queue.

Reading a prompt is bound by arithmetic, writing an answer by memory: every step reads all weights (of a model with
experts, those of the experts it uses) and the KV cache of every running slot once, and gives each of these slots one
token.
"""

from __future__ import annotations

from typing import Final

from orchestrator.core.buffers import caches_of
from orchestrator.core.cards import Card
from orchestrator.core.model import ModelShape

# llama.cpp's llama-bench with Llama 3 8B Q4_K_M (4.9 GB), from github.com/XiongjieDai/GPU-Benchmarks-on-LLM-Inference
# (May 2024), tokens/s written and read: RTX 4090 131 and 7139, RTX 4080 108 and 5390, RTX 3090 115 and 4030.
# With the three numbers below the same cards come out at 131 and 7200, 99 and 4250, 124 and 3100. Cards with HBM come
# out too fast at writing: with Llama 2 7B Q4_0 (4.1 GB) the same table has an A100-80GB below a 4090 (136 and 149).
DECODE_EFFICIENCY: Final = 0.8
STEP_OVERHEAD_S: Final = 0.0015  # launches, sampling and the server's own work, each step
PREFILL_EFFICIENCY: Final = 0.35

# llama.cpp reads a prompt in pieces of this many tokens; between two of them it sees that a client left.
PREFILL_BATCH: Final = 512
KV_BYTES: Final = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}  # a value, in llama.cpp's cache types

# An assumption: a local NVMe disk (PCIe 4.0 drives are sold as 5 to 7 GB/s) read at half its speed and copied on.
LOAD_BANDWIDTH_BYTES_S: Final = 2.5e9
LOAD_OVERHEAD_S: Final = 0.5  # the runner's start: a 98 MB model takes 0.5 to 0.8 s


def kv_bytes_per_token(shape: ModelShape, kv_type: str = "f16") -> float:
    """Bytes of KV cache that one token of context takes, in a context no longer than any layer's window."""
    return sum(kind.layers * (kind.key_width + kind.value_width) for kind in caches_of(shape)) * KV_BYTES[kv_type]


def prefill_s(card: Card, shape: ModelShape, tokens: int, share: float = 1.0) -> float:
    """Seconds to read `tokens` of prompt with `share` of the card: two operations a weight that is used and token."""
    used = shape.parameters * _used_share(shape, 1)
    return 2 * used * tokens / (card.fp16_flops * PREFILL_EFFICIENCY * share)


def decode_step_s(card: Card, shape: ModelShape, live_kv_bytes: float, share: float = 1.0, slots: int = 1) -> float:
    """Seconds until every running slot has its next token. `live_kv_bytes`: of all `slots` running slots together.

    Of a model with experts a step reads those that its tokens were sent to: with more slots, more of them.
    """
    read = shape.weights_bytes * _used_share(shape, slots) + live_kv_bytes
    return read / (card.bandwidth_bytes_s * DECODE_EFFICIENCY * share) + STEP_OVERHEAD_S


def _used_share(shape: ModelShape, tokens: int) -> float:
    """The part of the weights that a step of `tokens` tokens reads, if every expert is as likely as any other."""
    if not shape.experts or not shape.expert_bytes:
        return 1.0
    touched = 1 - (1 - shape.experts_used / shape.experts) ** tokens
    return 1 - shape.expert_bytes / shape.weights_bytes * (1 - touched)


def load_s(shape: ModelShape, bandwidth_bytes_s: float = LOAD_BANDWIDTH_BYTES_S) -> float:
    """Seconds from a request for a model that is not in memory until it is."""
    return LOAD_OVERHEAD_S + shape.weights_bytes / bandwidth_bytes_s


def share_of(mine: int, total: int) -> float:
    """The part of a card's time that goes to one of its instances, by slots at work."""
    return 1.0 if mine <= 0 or total <= mine else mine / total


def prompt_tokens_kept(tokens: int, context: int) -> int:
    """What is left of a prompt too long for its slot: half the context and two more (measured: 130 of 256)."""
    return tokens if tokens < context else context // 2 + 2
