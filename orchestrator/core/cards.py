"""Graphics cards by name, for machines that are played: memory, bandwidth and arithmetic as their makers publish them.

How long work takes on a card is left to `physics`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_GIB: Final = 2**30
_ITEM: Final = re.compile(r"(?:(\d+)\s*[x×*]\s*)?(.+)", re.IGNORECASE)
_MAX_CARDS: Final = 1024


@dataclass(frozen=True, slots=True)
class Card:
    """One kind of card. `fp16_flops`: dense, on the tensor cores, summed in FP16 where the card is faster that way."""

    name: str
    vram_bytes: int
    bandwidth_bytes_s: float
    fp16_flops: float


def _card(name: str, vram_gib: float, bandwidth_gb_s: float, fp16_tflops: float) -> Card:
    return Card(name, int(vram_gib * _GIB), bandwidth_gb_s * 1e9, fp16_tflops * 1e12)


# NVIDIA's data sheets, and for the GeForce cards the appendix tables of its architecture white papers: "GA102" (v2.1)
# for the RTX 30 series, "Ada GPU architecture" (v2.1) for the 40 series, "RTX Blackwell GPU architecture" for the 5090.
# Where a sheet prints tensor throughput with sparsity (A10's and Ada's and Hopper's do), this is half of it.
CARDS: Final[tuple[Card, ...]] = (
    _card("RTX 3060", 12, 360, 51.2),
    _card("RTX 3090", 24, 936, 142.3),
    _card("RTX 4070", 12, 504, 116.6),
    _card("RTX 4080", 16, 716.8, 194.9),
    _card("RTX 4090", 24, 1008, 330.3),
    _card("RTX 5090", 32, 1792, 419),
    _card("A10", 24, 600, 125),
    _card("A100-40GB", 40, 1555, 312),
    _card("A100-80GB", 80, 2039, 312),
    _card("L4", 24, 300, 121),
    _card("L40S", 48, 864, 362),
    _card("H100-80GB", 80, 3350, 989.4),
    _card("H200", 141e9 / _GIB, 4800, 989.4),  # sold by the decimal gigabyte
)


def find_card(name: str) -> Card:
    """The card called `name`, whatever its case, spaces, hyphens or maker's words. Raises ValueError, listing all."""
    wanted = _squeeze(name)
    for card in CARDS:
        if _squeeze(card.name) == wanted:
            return card
    raise ValueError(f"unknown card {name.strip()!r}; known: {', '.join(card.name for card in CARDS)}")


def parse_cards(text: str) -> tuple[Card, ...]:
    """The cards of a list such as "3x RTX 4090, 1x A100-40GB", in its order; a missing count is one.

    Raises ValueError, naming the part that is wrong.
    """
    cards: list[Card] = []
    for item in text.split(","):
        match = _ITEM.fullmatch(item.strip())
        if match is None:
            raise ValueError(f"cards {text!r}: an entry is empty; write such as '2x RTX 4090, A100-40GB'")
        count = int(match[1] or 1)
        if not 1 <= count <= _MAX_CARDS:
            raise ValueError(f"cards {text!r}: {count} of {match[2]!r}; a count is 1 to {_MAX_CARDS}")
        cards += [find_card(match[2])] * count
    return tuple(cards)


def _squeeze(name: str) -> str:
    """Only what tells two cards apart: "NVIDIA GeForce rtx4090" and "RTX 4090" are one."""
    letters = re.sub(r"nvidia|geforce|tesla|[^a-z0-9]", "", name.lower())
    return letters if not re.fullmatch(r"\d{4}", letters) else f"rtx{letters}"
