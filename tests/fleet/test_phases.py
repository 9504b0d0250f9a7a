"""The owner's plans, each one edit of `cluster.yaml` away from the one before, on simulated cards."""

from __future__ import annotations

from collections import Counter

import pytest

from orchestrator.core.cards import parse_cards
from orchestrator.core.model import Engine, NodeName
from orchestrator.fleet.engines import LocalEngine
from orchestrator.fleet.inventory import simulated_facts
from orchestrator.fleet.wanted import Wanted, want
from orchestrator.settings.file import parse
from tests.fleet.world import HERE

SMALL, FULL = "llama3.2:3b-instruct-q4_K_M", "llama3.1:8b-instruct-q4_K_M"

# What stays from plan to plan. Of the calls at once, the cache answers what the tiers' shares leave.
TIERS = f"""
tiers:
  small: {{model: "{SMALL}", backup: full, share: SMALL_SHARE}}
  full: {{model: "{FULL}", backup: small, share: FULL_SHARE}}
routes: {{auto: }}
"""


def tiers(small: float, full: float) -> str:
    return TIERS.replace("SMALL_SHARE", str(small)).replace("FULL_SHARE", str(full))


def models(small_slots: int, full_slots: int) -> str:
    return (
        f'models:\n  "{SMALL}": {{slots: {small_slots}, replicas: auto}}\n'
        f'  "{FULL}": {{slots: {full_slots}, replicas: auto}}\n'
    )


def planned(text: str) -> Wanted:
    settings = parse(text, "cluster.yaml")
    facts = [simulated_facts(NodeName(each.name), parse_cards(each.simulate or ""), HERE) for each in settings.nodes]
    return want(settings, facts, LocalEngine(Engine.OLLAMA))


def counts(wanted: Wanted) -> Counter[str]:
    return Counter(each.pool for each in wanted.plan.placements)


def node(cards: str, name: str = "gpu-1") -> str:
    return f'  - {{name: {name}, simulate: "{cards}"}}\n'


PHASES = {
    # 20 at once, 80 % from the cache: 4 calls for the models, on 2 instances.
    "mvp": ("nodes:\n" + node("1x RTX 4080") + "demand: {at_once: 20}\n" + models(2, 2) + tiers(0.1, 0.1), 1, 1),
    # 80 at once: 16 calls, on 4 instances.
    "growth": ("nodes:\n" + node("2x RTX 4080") + "demand: {at_once: 80}\n" + models(4, 4) + tiers(0.1, 0.1), 2, 2),
    # 500 users, of whom 130 ask at once: 4 small instances for 30 % of them, 2 full ones for 10 %.
    "hybrid": (
        "nodes:\n"
        + "".join(node("2x RTX 4090", f"gpu-{n}") for n in (1, 2, 3))
        + "demand: {at_once: 130}\n"
        + models(10, 8)
        + tiers(0.3, 0.1),
        4,
        2,
    ),
}


@pytest.mark.parametrize("phase", PHASES)
def test_a_phase_is_planned_with_the_instances_it_was_drawn_with(phase: str):
    text, small, full = PHASES[phase]
    wanted = planned(text)
    assert wanted.plan.refused == ()
    assert wanted.plan.notes == (), "the whole load has slots"
    assert counts(wanted) == {SMALL: small, FULL: full}


@pytest.mark.parametrize(("each", "most"), [(3, 9), (4, 12)])
def test_the_pool_of_4090s_holds_three_or_four_instances_a_card_as_the_policy_says(each: int, most: int):
    cards = "nodes:\n" + "".join(node("RTX 4090", f"gpu-{n}") for n in (1, 2, 3))
    model = f'models:\n  "{FULL}": {{slots: 1, replicas: fill, instances_per_gpu: {each}}}\n'
    wanted = planned(cards + model)
    assert counts(wanted) == {FULL: most}
    assert set(Counter(each.accelerators for each in wanted.plan.placements).values()) == {each}


@pytest.mark.parametrize(("each", "most"), [(4, 16), (6, 24)])
def test_four_a100_of_40_gb_hold_16_to_24_instances(each: int, most: int):
    model = f'models:\n  "{FULL}": {{slots: 2, replicas: fill, instances_per_gpu: {each}}}\n'
    assert counts(planned("nodes:\n" + node("4x A100-40GB") + model)) == {FULL: most}


def test_a_phase_that_outgrew_its_cards_says_what_is_missing():
    text, _, _ = PHASES["mvp"]
    wanted = planned(text.replace("at_once: 20", "at_once: 800"))
    assert wanted.plan.refused == ()
    assert all("calls at once are served; for the others it needs more cards" in why for _, why in wanted.plan.notes)
    assert wanted.plan.notes
