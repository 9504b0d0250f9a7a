"""Accelerators as metrics: what drivers tell, by node and card, and nothing where they tell nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from prometheus_client import REGISTRY

from orchestrator.app.cards import CardGauges
from orchestrator.core.model import Accelerator, NodeFacts, NodeName

GIB = 2**30
WARM = Accelerator(
    *("GPU-1", 0, "NVIDIA L4", 24 * GIB, 20 * GIB, 4 * GIB),
    utilisation_percent=37,
    temperature_c=61,
    power_w=55.5,
)
MUTE = Accelerator("GPU-2", 1, "NVIDIA L4", 24 * GIB, 24 * GIB, 0)
PLAYED = Accelerator("SIM-1", 0, "NVIDIA A100", 80 * GIB, 79 * GIB, GIB, is_simulated=True)


def node(name: str, *cards: Accelerator) -> NodeFacts:
    return NodeFacts(NodeName(name), name, "cpu", 8, 64 * GIB, 60 * GIB, 500 * GIB, cards)


def said(metric: str, node: str, card: Accelerator) -> float | None:
    labels = {
        "node": node,
        "accelerator": str(card.index),
        "uuid": card.uuid,
        "name": card.name,
        "simulated": str(card.is_simulated).lower(),
    }
    return REGISTRY.get_sample_value(f"olm_accelerator_{metric}", labels)


def gauges(hosts: Sequence[NodeFacts]) -> CardGauges:
    return CardGauges(lambda: (), lambda: tuple(hosts), Path("/nowhere"))


def test_what_a_driver_tells_of_a_card_is_told_in_prometheus_units():
    gauges([node("a", PLAYED)]).tell([node("b", WARM)], 1234.5)
    assert said("vram_total_bytes", "b", WARM) == 24 * GIB
    assert said("vram_used_bytes", "b", WARM) == 4 * GIB
    assert said("utilisation_ratio", "b", WARM) == 0.37
    assert said("temperature_celsius", "b", WARM) == 61
    assert said("power_watts", "b", WARM) == 55.5
    assert said("seen_timestamp_seconds", "b", WARM) == 1234.5
    assert said("vram_total_bytes", "a", PLAYED) == 80 * GIB


def test_what_a_driver_does_not_tell_is_no_series():
    gauges([node("c", MUTE)]).tell([], 0)
    assert said("vram_used_bytes", "c", MUTE) == 0
    for each in ("utilisation_ratio", "temperature_celsius", "power_watts"):
        assert said(each, "c", MUTE) is None


def test_a_card_that_is_gone_has_no_values_but_when_it_was_seen_and_has_them_again_when_it_is_back():
    hosts = [node("d", WARM, MUTE)]
    cards = gauges(hosts)
    cards.tell([], 0)
    at_s = said("seen_timestamp_seconds", "d", WARM)
    hosts[:] = [node("d", MUTE)]
    cards.tell([], 0)
    assert math.isnan(said("temperature_celsius", "d", WARM) or 0)
    assert said("seen_timestamp_seconds", "d", WARM) == at_s
    assert said("vram_total_bytes", "d", MUTE) == 24 * GIB
    hosts[:] = [node("d", WARM, MUTE)]
    cards.tell([], 0)
    assert said("temperature_celsius", "d", WARM) == 61
