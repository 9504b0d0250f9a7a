"""Models and pools that tests of capacity plan with."""

from __future__ import annotations

from orchestrator.core.capacity.planning import Model
from orchestrator.core.capacity.service import Pool
from orchestrator.core.cards import find_card
from orchestrator.core.catalogue import find


def model(name: str) -> Model:
    shape = find(name)
    assert shape is not None
    return Model(name, shape)


SMALL = model("llama3.2:3b-instruct-q4_K_M")
FULL = model("llama3.1:8b-instruct-q4_K_M")


def pool(of: Model = FULL, card: str = "RTX 4080", cards: int = 1, slots: int = 4, instances: int = 1) -> Pool:
    return Pool(of.name, of.shape, find_card(card), cards, instances, slots)
