"""What a deployment would change: tables of single cases, and what holds for any two states of a fleet."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.deployment import Deployment, first_stage, last_good
from orchestrator.core.difference import Existing, Kind, difference, without
from orchestrator.core.held import demands_elsewhere
from orchestrator.core.model import (
    Accelerator,
    Demand,
    Footprint,
    InstanceId,
    ModelShape,
    NodeFacts,
    NodeName,
    Placement,
    PoolName,
)

GIB = 2**30
SIZE = Footprint(4 * GIB, GIB, 0, 0, 0)


def placed(instance: str, *, pool: str = "small", node: str = "gpu-1", card: str = "GPU-a", **more) -> Placement:
    told = {"slots": 2, "context": 4096, "footprint": SIZE, "why": "fits", **more}
    return Placement(InstanceId(instance), PoolName(pool), NodeName(node), (card,) if card else (), **told)


def card(uuid: str, used_gib: int, *, is_simulated: bool = False) -> Accelerator:
    return Accelerator(uuid, 0, "RTX 4090", 24 * GIB, (24 - used_gib) * GIB, used_gib * GIB, is_simulated=is_simulated)


def facts(*cards: Accelerator, node: str = "gpu-1") -> NodeFacts:
    return NodeFacts(NodeName(node), node, "cpu", 8, 64 * GIB, 64 * GIB, 100 * GIB, cards)


A, TERMS = placed("gpu-1-gpu0-small-0"), {"small": "ollama f16", "full": "ollama f16"}


@pytest.mark.parametrize(
    ("wanted", "terms", "kind", "reason"),
    [
        (A, "ollama f16", Kind.KEEP, "as it is"),
        (replace(A, slots=4), "ollama f16", Kind.CHANGE, "slots 2 → 4"),
        (replace(A, context=8192, slots=4), "ollama f16", Kind.CHANGE, "slots 2 → 4; context 4096 → 8192"),
        (A, "ollama q8_0", Kind.CHANGE, "KV cache f16 → q8_0"),
        (A, "ollama f16 program=0a1b", Kind.CHANGE, "program none → 0a1b"),
        (A, "llama.cpp f16", Kind.CHANGE, "engine ollama → llama.cpp"),
        (A, "ollama f16 embedding", Kind.CHANGE, "embedding none → yes"),
        (replace(A, accelerators=("GPU-b",)), "ollama f16", Kind.MOVE, "to gpu-1:GPU-b"),
        (
            replace(A, instance=InstanceId("gpu-2-gpu0-small-0"), node=NodeName("gpu-2"), accelerators=("GPU-c",)),
            "ollama f16",
            Kind.MOVE,
            "from gpu-1:GPU-a to gpu-2:GPU-c",
        ),
    ],
)
def test_what_becomes_of_one_instance_and_why(wanted, terms, kind, reason):
    told = difference([Existing(A, "ollama f16")], [wanted], {"small": terms})
    assert [(each.kind, each.reason) for each in told.changes] == [(kind, reason)]
    assert told.is_empty is (kind is Kind.KEEP)


def test_an_instance_whose_terms_nobody_knows_is_left_as_it_is():
    assert difference([Existing(A)], [A], {"small": "ollama q8_0"}).is_empty


def test_new_ones_come_with_placements_reason_and_old_ones_go_with_their_own():
    more = placed("gpu-1-gpu1-full-0", pool="full", card="GPU-b", why="5.0 GiB of 23.0 GiB free on #1")
    assert difference([], [more], TERMS).changes[0].reason == "5.0 GiB of 23.0 GiB free on #1"
    left = [Existing(A), Existing(more)]
    assert [each.reason for each in difference(left, [A], TERMS).of(Kind.REMOVE)] == ["full is not wanted any more"]
    second = placed("gpu-1-gpu1-small-0", card="GPU-b")
    fewer = difference([Existing(A), Existing(second)], [A], TERMS)
    assert [each.reason for each in fewer.of(Kind.REMOVE)] == ["fewer instances of small are wanted"]
    gone = difference([Existing(A)], [placed("gpu-2-gpu0-small-0", node="gpu-2")], TERMS, gone={"gpu-1"})
    assert [(each.kind, each.name) for each in gone.changes] == [
        (Kind.CREATE, "gpu-2-gpu0-small-0"),
        (Kind.REMOVE, "gpu-1-gpu0-small-0"),
    ]
    assert gone.changes[1].reason == "gpu-1 is not in the settings any more"


def test_an_instance_on_a_node_that_is_held_is_not_started_anew_for_other_terms():
    told = difference([Existing(A, "ollama f16")], [A], {"small": "ollama q8_0"}, held={NodeName("gpu-1"): "no answer"})
    assert told.is_empty
    assert told.held == {"gpu-1": "no answer"}


def test_memory_before_and_after_counts_what_others_use_once():
    b = placed("gpu-1-gpu0-full-0", pool="full")
    (real,) = difference([Existing(A)], [A, b], TERMS, [facts(card("GPU-a", 7))]).rooms
    assert (real.before_bytes, real.after_bytes) == (7 * GIB, 12 * GIB)
    (played,) = difference([Existing(A)], [b], TERMS, [facts(card("GPU-a", 1, is_simulated=True))]).rooms
    assert (played.before_bytes, played.after_bytes, played.total_bytes) == (6 * GIB, 6 * GIB, 24 * GIB)


def test_the_summary_counts_each_kind():
    wanted = [
        replace(A, slots=4),
        placed("gpu-2-gpu0-small-0", node="gpu-2"),
        placed("gpu-2-gpu1-small-0", node="gpu-2"),
    ]
    assert difference([Existing(A)], wanted, TERMS).summary() == "2 to create, 1 to change"
    assert difference([Existing(A)], [A], TERMS).summary() == "1 as they are"
    assert difference([], [], TERMS).summary() == "no instances"


# --- whatever runs, whatever is wanted -------------------------------------------------------------------------------

NAMES = st.tuples(st.sampled_from("12"), st.sampled_from("ab"), st.sampled_from(["small", "full"]))


@st.composite
def fleets(draw) -> list[Placement]:
    return [
        placed(
            f"gpu-{node}-{which}-{pool}",
            pool=pool,
            node=f"gpu-{node}",
            card=f"GPU-{node}{draw(st.sampled_from([which, 'z']))}",
            slots=draw(st.sampled_from([1, 2])),
        )
        for node, which, pool in draw(st.sets(NAMES))
    ]


@given(fleets(), fleets())
def test_a_difference_leads_from_what_runs_to_what_is_wanted_and_loses_nothing(running, wanted):
    told = difference([Existing(each, "ollama f16") for each in running], wanted, TERMS)
    before = [each.before for each in told.changes if each.before is not None]
    after = [each.after for each in told.changes if each.after is not None]
    assert sorted(before, key=lambda each: each.instance) == sorted(running, key=lambda each: each.instance)
    assert sorted(after, key=lambda each: each.instance) == sorted(wanted, key=lambda each: each.instance)
    assert all(each.reason for each in told.changes)
    for each in told.of(Kind.MOVE):
        assert each.before is not None
        assert each.after is not None
        assert each.before.pool == each.after.pool


@given(fleets())
def test_what_runs_as_it_is_wanted_is_no_difference(running):
    told = difference([Existing(each, "ollama f16") for each in running], list(reversed(running)), TERMS)
    assert told.is_empty
    assert {each.kind for each in told.changes} <= {Kind.KEEP}


# --- nodes left as they are ------------------------------------------------------------------------------------------


def demand(**more) -> Demand:
    shape = ModelShape("llama", 1, 1, 1, 1, 1, 1, 1, 4096, GIB, "Q4_K_M")
    return Demand(PoolName("small"), shape, 4096, 2, **more)


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        ({"replicas_min": 3, "replicas_max": 3}, (2, 2, None)),
        ({"replicas_min": 1, "replicas_max": None}, (0, None, None)),
        ({"replicas_min": 1, "replicas_max": None, "load": 5.0}, (0, None, 3.0)),
        ({"replicas_min": 1, "replicas_max": 1}, None),
        ({"replicas_min": 1, "replicas_max": None, "load": 2.0}, None),
    ],
)
def test_instances_on_held_nodes_count_towards_what_is_wanted(asked, left):
    found = demands_elsewhere([demand(**asked)], [A])
    assert [(each.replicas_min, each.replicas_max, each.load) for each in found] == ([] if left is None else [left])
    assert demands_elsewhere([demand(**asked)], []) == (demand(**asked),)


# --- deployments -----------------------------------------------------------------------------------------------------


def deployed(number: int, *placements: Placement, is_good: bool = True) -> Deployment:
    return Deployment(number, 0, "somebody", placements, is_good=is_good)


def test_rollback_goes_to_the_last_good_deployment_that_asked_for_something_else():
    b = placed("gpu-2-gpu0-small-0", node="gpu-2")
    assert last_good(()) is None
    assert last_good((deployed(1, A),)) is None
    first, second, same = deployed(1, A), deployed(2, A, b), deployed(3, b, A)
    assert last_good((first, second, same)) == first
    assert last_good((first, deployed(2, b, is_good=False), second)) == first
    assert last_good((first, deployed(2), deployed(3, b))) == first, "a destroyed fleet is nothing to go back to"


def test_the_first_stage_has_one_instance_of_each_model_that_no_host_has():
    b = placed("gpu-2-gpu0-small-0", node="gpu-2")
    full = (
        placed("gpu-1-gpu1-full-0", pool="full", card="GPU-b"),
        placed("gpu-2-gpu1-full-0", pool="full", node="gpu-2"),
    )
    whole = deployed(2, A, *full, b)
    assert first_stage(whole, {"small"}).placements == (A, full[0], b)
    assert first_stage(whole, {"small", "full"}).placements == whole.placements
    assert last_good((first_stage(deployed(1, A, b), ()), deployed(2, A, b), deployed(3, b))) == deployed(2, A, b)


def test_what_has_to_do_with_a_host_that_failed_stays_as_it_is():
    there = placed("gpu-2-gpu0-small-0", node="gpu-2")
    moved = placed("gpu-2-gpu1-small-0", node="gpu-2")
    told = difference([Existing(A), Existing(there)], [replace(A, slots=4), replace(there, slots=4), moved], TERMS)
    assert set(without(told, {"gpu-2"})) == {replace(A, slots=4), there}
    assert set(without(told, ())) == {replace(A, slots=4), replace(there, slots=4), moved}
    away = difference([Existing(A)], [there], TERMS)
    assert without(away, {"gpu-2"}) == (A,)
