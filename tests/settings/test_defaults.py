"""Without a file, settings fit what the machine has."""

from __future__ import annotations

import pytest

from orchestrator.core.errors import SettingsError
from orchestrator.core.model import Accelerator, Engine, NodeFacts, NodeName
from orchestrator.settings import parse, show
from orchestrator.settings.checks import check
from orchestrator.settings.defaults import SAMPLE_FAQ, default_settings

GIB = 2**30
SMALL, FULL = "llama3.2:3b-instruct-q4_K_M", "llama3.1:8b-instruct-q4_K_M"


def card(free_gib: float, **more) -> Accelerator:
    free = int(free_gib * GIB)
    return Accelerator(f"GPU-{free}", 0, "a card", free, free, 0, **more)


def facts(*cards: Accelerator, ram_gib: float = 4) -> NodeFacts:
    ram = int(ram_gib * GIB)
    return NodeFacts(NodeName("local"), "host", "cpu", 8, ram, ram, 100 * GIB, accelerators=cards)


def plan(node: NodeFacts) -> list[str]:
    return list(default_settings([node], Engine.OLLAMA, None).models)


@pytest.mark.parametrize(
    ("node", "models"),
    [
        (facts(card(12)), [SMALL, FULL]),
        (facts(card(2), card(15.5)), [SMALL, FULL]),
        (facts(card(11.9)), ["llama3.2:1b", "llama3.2:3b"]),
        (facts(card(7.5), ram_gib=64), ["llama3.2:1b", "llama3.2:3b"]),
        (facts(card(5), ram_gib=64), ["llama3.2:1b"]),
        (facts(card(2), ram_gib=64), ["llama3.2:1b", "llama3.2:3b"]),
        (facts(ram_gib=64), ["llama3.2:1b", "llama3.2:3b"]),
        (facts(ram_gib=4), ["llama3.2:1b"]),
        (facts(card(40, mig="on"), ram_gib=4), ["llama3.2:1b"]),
        (facts(card(40, mig="on"), card(20, mig="on", parent_uuid="GPU-1")), [SMALL, FULL]),
    ],
)
def test_ollamas_models_fit_the_memory_that_is_free(node, models):
    assert plan(node) == models


def test_a_machine_of_which_nothing_is_known_gets_the_smallest_plan():
    assert list(default_settings((), Engine.OLLAMA, None).models) == ["llama3.2:1b"]


def test_the_built_in_engine_serves_its_weights_as_two_tiers():
    settings = default_settings([facts(card(80))], Engine.LLAMA_CPP, None)
    assert settings.engine == "llama.cpp"
    assert {name: (each.context, each.slots) for name, each in settings.models.items()} == {
        "smollm2:135m": (2048, 2),
        "smollm2-8k:135m": (8192, 1),
    }
    assert (settings.tiers["small"].model, settings.tiers["full"].model) == ("smollm2:135m", "smollm2-8k:135m")


def test_played_cards_get_the_owners_models_and_are_filled_three_to_one():
    settings = default_settings([facts()], Engine.OLLAMA, "3x RTX 4090")
    (node,) = settings.nodes
    assert (node.name, node.simulate) == ("sim", "3x RTX 4090")
    small, full = settings.models[SMALL], settings.models[FULL]
    assert (small.slots, small.context, small.replicas, small.share) == (4, 4096, "fill", 3.0)
    assert (full.slots, full.context, full.replicas, full.share) == (2, 8192, "fill", 1.0)


def test_cards_that_do_not_read_as_cards_are_the_operators_error():
    with pytest.raises(SettingsError, match="simulate: "):
        default_settings([], Engine.OLLAMA, "3x ")


EVERY_PLAN = [
    (facts(card(80)), Engine.OLLAMA, None),
    (facts(card(8)), Engine.OLLAMA, None),
    (facts(), Engine.OLLAMA, None),
    (facts(), Engine.LLAMA_CPP, None),
    (facts(), Engine.OLLAMA, "1x L4"),
    (facts(), Engine.LLAMA_CPP, "1x L4"),
]


@pytest.mark.parametrize(("node", "engine", "simulate"), EVERY_PLAN)
def test_every_plan_is_valid_as_a_file_too(node, engine, simulate):
    settings = default_settings([node], engine, simulate)
    assert check(settings) == []
    assert settings.routes.keys() == {"auto"}
    assert settings.cache.faq == (SAMPLE_FAQ,)
    assert parse(show(settings.model_copy(update={"cache": settings.cache.model_copy(update={"faq": ()})})), "c")


@pytest.mark.parametrize(("node", "engine", "simulate"), EVERY_PLAN)
def test_each_tier_backs_the_other_wherever_it_is_another_model(node, engine, simulate):
    tiers = default_settings([node], engine, simulate).tiers
    if tiers["small"].model == tiers["full"].model:
        assert (tiers["small"].backup, tiers["full"].backup) == (None, None)
    else:
        assert (tiers["small"].backup, tiers["full"].backup) == ("full", "small")
