"""How long an answer takes on a pool's cards by how many are under way, and how many instances a card's memory holds.

Knows one pool of alike cards with alike instances, and calls spread evenly over them, as late binding spreads them.
Waiting for a slot is left to `queueing`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from orchestrator.core.cards import Card
from orchestrator.core.model import ModelShape
from orchestrator.core.physics import decode_step_s, kv_bytes_per_token, prefill_s, prompt_tokens_kept
from orchestrator.core.sizing import MIB, footprint

# What each further slot of an instance adds to a step, beside what `physics` reads from memory: its arithmetic, by
# kernels for few columns at this part of the card's tensor throughput, for up to 8 slots; up to 16 another kernel takes
# no longer than for 8; beyond, half as much a slot. From llama.cpp's tables of an RTX 3090 with Llama 8B Q4_0, tokens/s
# by columns a step: 1 157, 2 280, 4 470, 8 584 (github.com/ggml-org/llama.cpp, pull request 15802), and behind 32768
# tokens of context 8 440, 16 874, 32 1195 (17505). Other cards and models are scaled by it, not measured.
BATCH_EFFICIENCY: Final = 0.11
_FEW, _MANY = 8, 16

# Placement leaves as much of each card free.
HEADROOM_BYTES: Final = 512 * MIB


@dataclass(frozen=True, slots=True)
class Pool:
    """Alike cards, each with `instances` of one model that have `slots` slots of `context` tokens."""

    model: str
    shape: ModelShape
    card: Card
    cards: int
    instances: int = 1
    slots: int = 4
    context: int = 4096
    kv_type: str = "f16"

    @property
    def servers(self) -> int:
        """Slots of the whole pool."""
        return self.cards * self.instances * self.slots


def instance_bytes(shape: ModelShape, context: int, slots: int, kv_type: str = "f16") -> int:
    """What one instance takes of a card's memory."""
    return footprint(shape, context, slots, kv_type, on_gpu=True).total


@lru_cache(maxsize=4096)
def instances_that_fit(card: Card, shape: ModelShape, context: int, slots: int, kv_type: str = "f16") -> int:
    """How many such instances one card's memory holds beside the headroom."""
    return max(0, card.vram_bytes - HEADROOM_BYTES) // instance_bytes(shape, context, slots, kv_type)


def answer_s(pool: Pool, busy: float, prompt_tokens: float, answer_tokens: float) -> float:
    """Seconds a mean answer takes while `busy` calls are under way in the pool: at least one on each card in use.

    Instances of one card share its time by slots at work and each reads weights of its own. While an answer is
    written, each of its neighbours' prompts is read once too, and writing stands still meanwhile.
    """
    on_card = max(1.0, busy / pool.cards)
    active = max(1.0, min(float(pool.instances), on_card))
    prompt = min(prompt_tokens, prompt_tokens_kept(int(prompt_tokens), pool.context))
    held = min(float(pool.context), prompt + answer_tokens / 2)
    live = on_card / active * held * kv_bytes_per_token(pool.shape, pool.kv_type)
    step_s = decode_step_s(pool.card, pool.shape, live, 1 / active, max(1, round(on_card / active)))
    step_s += active * further_slots_s(pool, on_card / active)
    reading_s = on_card * prefill_s(pool.card, pool.shape, 1) * prompt
    return reading_s + answer_tokens * step_s


def further_slots_s(pool: Pool, slots: float) -> float:
    """Seconds that the second and further slots at work in one instance add to each step."""
    shape = pool.shape
    used = shape.parameters
    if shape.experts and shape.expert_bytes:
        idle = 1 - shape.experts_used / shape.experts
        used -= int(shape.parameters * shape.expert_bytes / shape.weights_bytes * idle)
    counted = min(slots, _FEW) - 1 + max(0.0, slots - _MANY) / 2
    return counted * 2 * used / (pool.card.fp16_flops * BATCH_EFFICIENCY)


@lru_cache(maxsize=1024)
def service_times(pool: Pool, prompt_tokens: float, answer_tokens: float) -> tuple[float, ...]:
    """`answer_s` with 1, 2, … all slots at work."""
    return tuple(answer_s(pool, busy, prompt_tokens, answer_tokens) for busy in range(1, pool.servers + 1))
