"""Embeddings of a simulated model: unit vectors that depend on the text alone."""

from __future__ import annotations

import math
import struct

from orchestrator.nodes.simulator.words import random_for


def vector_of(text: str, length: int, dimensions: int | None = None) -> tuple[float, ...]:
    """A unit vector for `text`; with `dimensions`, its first so many numbers, made a unit vector again."""
    rng = random_for(text)
    values = [rng.gauss(0.0, 1.0) for _ in range(length)][: dimensions or length]
    norm = math.sqrt(sum(value * value for value in values)) or 1.0
    return tuple(round(value / norm, 8) for value in values)


def as_float32(vector: tuple[float, ...]) -> tuple[float, ...]:
    """Each number as 32 bits hold it, which is how /api/embeddings writes them."""
    return struct.unpack(f"<{len(vector)}f", struct.pack(f"<{len(vector)}f", *vector))
