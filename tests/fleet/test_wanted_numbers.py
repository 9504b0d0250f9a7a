"""Numbers that follow a load, as they are wanted: within what fits, and without moving anything that runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.cards import parse_cards
from orchestrator.core.model import Engine, NodeName, Placement, PoolName
from orchestrator.core.numbers import Followed, Range
from orchestrator.core.placement import HEADROOM_BYTES
from orchestrator.core.sizing import per_card_bytes
from orchestrator.fleet.engines import LocalEngine
from orchestrator.fleet.inventory import simulated_facts
from orchestrator.fleet.wanted import Wanted, numbers_of, ranges_of, want
from orchestrator.settings import ClusterSettings
from tests.fleet.world import FULL, HERE, SMALL

EMBEDS = "nomic-embed-text"


def cluster(models: Mapping[str, object], **more: object) -> ClusterSettings:
    return ClusterSettings.model_validate(
        {"nodes": [{"name": "sim", "simulate": "2x RTX 4090"}], "models": models, **more}
    )


def wanted(
    settings: ClusterSettings, current: Sequence[Placement] = (), numbers: Mapping[str, int] | None = None
) -> Wanted:
    facts = [simulated_facts(NodeName(each.name), parse_cards(each.simulate or ""), HERE) for each in settings.nodes]
    by_pool = {PoolName(name): count for name, count in (numbers or {}).items()}
    return want(settings, facts, LocalEngine(Engine.OLLAMA), current, numbers=by_pool)


def counts(found: Wanted) -> Counter[str]:
    return Counter(each.pool for each in found.plan.placements)


def test_a_number_is_placed_in_its_range_and_what_runs_stays() -> None:
    settings = cluster({SMALL: {"replicas": "auto", "replicas_min": 2, "replicas_max": 4}, FULL: {"replicas": 2}})
    began = wanted(settings)
    assert counts(began) == {SMALL: 2, FULL: 2}
    for number, placed in ((3, 3), (9, 4), (1, 2)):
        found = wanted(settings, began.plan.placements, {SMALL: number})
        assert counts(found) == {SMALL: placed, FULL: 2}
        assert set(began.plan.placements) <= set(found.plan.placements)


def test_without_a_number_it_begins_with_what_is_foretold() -> None:
    more = {
        "tiers": {"small": {"model": SMALL, "share": 0.5}, "full": {"model": FULL}},
        "routes": {"auto": {}},
        "demand": {"at_once": 12},
    }
    settings = cluster({SMALL: {"replicas": "auto", "slots": 2}, FULL: {}}, **more)
    assert ranges_of(settings) == {SMALL: Range(1, None, 6.0)}
    began = wanted(settings)
    assert counts(began) == {SMALL: 3, FULL: 1}
    assert counts(wanted(settings, began.plan.placements, {SMALL: 5})) == {SMALL: 5, FULL: 1}


def test_an_instance_that_only_a_move_would_make_room_for_does_not_come() -> None:
    large = {"replicas": "auto", "context": 81_920}  # it needs a card for itself
    settings = cluster({SMALL: large, FULL: {"replicas": 2}}, nodes=[{"name": "sim", "simulate": "3x RTX 4090"}])
    began = wanted(settings, (), {SMALL: 1})
    assert len({each.accelerators for each in began.plan.placements}) == 3
    found = wanted(settings, began.plan.placements, {SMALL: 2})
    assert set(found.plan.placements) == set(began.plan.placements)
    assert counts(wanted(settings, (), {SMALL: 2})) == {SMALL: 2, FULL: 2}, "from nothing there is room for it"


def test_what_fills_room_that_was_left_over_makes_way() -> None:
    settings = cluster({SMALL: {"replicas": "auto", "context": 65_536}, FULL: {"replicas": "fill"}})
    began = wanted(settings, (), {SMALL: 1})
    assert counts(began)[FULL] > 2
    found = wanted(settings, began.plan.placements, {SMALL: 2})
    assert counts(found)[SMALL] == 2
    assert counts(found)[FULL] < counts(began)[FULL]
    assert {each for each in began.plan.placements if each.pool == SMALL} <= set(found.plan.placements)


@pytest.mark.parametrize("model", [SMALL, FULL])
def test_a_pool_that_is_asked_for_more_takes_nothing_from_one_with_a_number_of_its_own(model: str) -> None:
    settings = cluster({model: {"replicas": "auto"}, EMBEDS: {"replicas": 2, "embedding": True, "context": 2048}})
    began = wanted(settings)
    found = wanted(settings, began.plan.placements, {model: 99})
    assert counts(found)[EMBEDS] == 2
    assert set(began.plan.placements) <= set(found.plan.placements)
    assert counts(found)[model] > 1


@given(steps=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8))
@settings(max_examples=25, deadline=None)
def test_whatever_numbers_come_one_after_the_other_nothing_moves_and_no_card_is_promised_twice(
    steps: list[tuple[int, int]],
) -> None:
    settings = cluster(
        {
            SMALL: {"replicas": "auto"},
            FULL: {"replicas": "auto", "replicas_max": 3},
            EMBEDS: {"embedding": True, "context": 2048},
        }
    )
    now = wanted(settings)
    for small, full in steps:
        before, now = now, wanted(settings, now.plan.placements, {SMALL: small, FULL: full})
        asked = {SMALL: max(1, small), FULL: min(3, max(1, full)), EMBEDS: 1}
        were, are = counts(before), counts(now)
        for pool, number in asked.items():
            kept = {each for each in before.plan.placements if each.pool == pool} & set(now.plan.placements)
            assert len(kept) == min(were[pool], number), "what runs and is wanted stays"
            assert 1 <= are[pool] <= number
        held: Counter[str] = Counter()
        for each in now.plan.placements:
            for card in each.accelerators:
                held[card] += per_card_bytes(each.footprint, len(each.accelerators))
        assert all(amount <= 24 * 2**30 - HEADROOM_BYTES for amount in held.values())


# --- which number to go on with --------------------------------------------------------------------------------------


def test_the_number_that_was_followed_to_goes_on_and_without_one_what_runs() -> None:
    settings = cluster({SMALL: {"replicas": "auto"}, FULL: {"replicas": 1}})
    running = wanted(settings, (), {SMALL: 2}).plan.placements
    followed = {PoolName(SMALL): Followed(Range(), 3)}
    assert numbers_of(settings, followed, running) == {SMALL: 3}
    assert numbers_of(settings, {}, running) == {SMALL: 2}
    assert numbers_of(settings, followed, ()) == {}, "a cluster that starts begins anew"
