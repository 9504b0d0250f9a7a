"""Where instances go: never beyond what is free, minimums first, and what runs stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.catalogue import find
from orchestrator.core.model import (
    Accelerator,
    Demand,
    Footprint,
    ModelShape,
    NodeFacts,
    NodeName,
    Placement,
    PlacementPlan,
    PoolName,
)
from orchestrator.core.placement import HEADROOM_BYTES, RAM_HEADROOM_BYTES, place, usable_accelerators
from orchestrator.core.sizing import GIB, demand_footprint, per_card_bytes

MODELS = ("llama3.1:8b", "llama3.2:3b", "llama3.1:70b", "qwen2.5:14b", "gemma3:1b", "nomic-embed-text")


def shape(name: str) -> ModelShape:
    found = find(name)
    assert found is not None
    return found


def card(index: int, free_gib: float, *, total_gib: float = 24, name: str = "RTX 4090", node: str = "a") -> Accelerator:
    total = int(total_gib * GIB)
    free = min(total, int(free_gib * GIB))
    return Accelerator(f"GPU-{node}{index:03d}", index, name, total, free, total - free)


def host(name: str, *cards: Accelerator, ram_gib: float = 64, cores: int = 16) -> NodeFacts:
    ram = int(ram_gib * GIB)
    return NodeFacts(NodeName(name), name, "a CPU", cores, ram, ram, 0, cards)


def gpus(name: str, *free_gib: float) -> NodeFacts:
    return host(name, *(card(index, free, node=name) for index, free in enumerate(free_gib)))


def want(
    model: str, least: int = 1, most: int | None = 1, *, context: int = 4096, slots: int = 2, share: float = 1.0
) -> Demand:
    return Demand(PoolName(model), shape(model), context, slots, "f16", least, most, share)


def counts(plan: PlacementPlan) -> Counter[str]:
    return Counter(each.pool for each in plan.placements)


def spread(plan: PlacementPlan, pool: str) -> Counter[tuple[str, ...]]:
    return Counter(each.accelerators or (each.node,) for each in plan.placements if each.pool == pool)


def promised(plan: PlacementPlan) -> Counter[str]:
    """Bytes promised by accelerator, or by node for its RAM."""
    total: Counter[str] = Counter()
    for each in plan.placements:
        for key in each.accelerators or (each.node,):
            total[key] += per_card_bytes(each.footprint, len(each.accelerators))
    return total


# --- which room -------------------------------------------------------------------------------------------------------


def test_copies_go_to_different_nodes_then_to_different_cards():
    nodes = [gpus("a", 23, 23), gpus("b", 23, 23)]
    plan = place([want("llama3.1:8b", 3, 3)], nodes)
    assert Counter(each.node for each in plan.placements) in (Counter(a=2, b=1), Counter(a=1, b=2))
    assert set(spread(plan, "llama3.1:8b").values()) == {1}


def test_a_second_copy_does_not_share_a_card_while_another_has_room():
    plan = place([want("llama3.1:8b", 2, 2)], [gpus("a", 23, 8)])
    assert spread(plan, "llama3.1:8b") == {("GPU-a000",): 1, ("GPU-a001",): 1}


def test_three_cards_of_24_gb_hold_nine_8b_instances_and_say_why():
    plan = place([want("llama3.1:8b", 1, None)], [gpus("local", 23.1, 23.1, 23.1)])
    assert spread(plan, "llama3.1:8b") == {("GPU-local000",): 3, ("GPU-local001",): 3, ("GPU-local002",): 3}
    first = plan.placements[0]
    assert first.instance == "local-gpu0-llama3.1-8b-0"
    assert first.why == (
        "6.1 of 23.1 GiB free on RTX 4090 #0 (GPU-loca); weights 4.3 + KV 1.0 + compute 0.3 + CUDA 0.5 GiB"
    )


@pytest.mark.parametrize(
    ("cards", "total_gib", "slots", "instances"),
    [
        (1, 16, 2, 2),  # one RTX 4080: the 2 that are planned
        (2, 16, 2, 4),  # two: 4
        (3, 24, 1, 12),  # three RTX 4090: 12 with one slot each,
        (3, 24, 2, 9),  # but 9 with two
        (4, 40, 2, 24),  # four A100 40 GB: the upper end of 16 to 24
    ],
)
def test_planned_numbers_of_8b_instances_are_what_fits(cards: int, total_gib: int, slots: int, instances: int):
    node = host("a", *(card(index, total_gib - 0.4, total_gib=total_gib) for index in range(cards)))
    assert len(place([want("llama3.1:8b", 1, None, slots=slots)], [node]).placements) == instances


def test_memory_that_others_hold_is_not_promised():
    assert counts(place([want("llama3.1:8b", 1, None)], [gpus("a", 23)]))["llama3.1:8b"] == 3
    assert counts(place([want("llama3.1:8b", 1, None)], [gpus("a", 12)]))["llama3.1:8b"] == 1


def test_what_our_own_instances_hold_is_free_to_be_promised_again():
    nodes = [gpus("a", 4)]
    assert place([want("llama3.1:8b")], nodes).placements == ()
    assert len(place([want("llama3.1:8b")], nodes, own_bytes={"GPU-a000": 6 * GIB}).placements) == 1


def test_own_memory_never_adds_up_to_more_than_the_card_has():
    plan = place([want("llama3.1:8b", 1, None)], [gpus("a", 23)], own_bytes={"GPU-a000": 90 * GIB})
    assert counts(plan)["llama3.1:8b"] == 3


def test_a_card_cut_into_mig_devices_is_used_through_them_alone():
    parent = replace(card(0, 39, total_gib=40, name="A100"), mig="on")
    slices = [
        replace(card(0, 9, total_gib=10, name="A100 MIG 1g.10gb"), uuid=f"MIG-{n}", parent_uuid=parent.uuid)
        for n in range(2)
    ]
    node = host("a", parent, *slices)
    assert [each.uuid for each in usable_accelerators(node)] == ["MIG-0", "MIG-1"]
    plan = place([want("llama3.1:8b", 1, None)], [node])
    assert spread(plan, "llama3.1:8b") == {("MIG-0",): 1, ("MIG-1",): 1}
    assert {each.instance for each in plan.placements} == {"a-gpu0-mig0-llama3.1-8b-0", "a-gpu0-mig1-llama3.1-8b-0"}


def test_one_instance_is_never_split_over_mig_devices():
    parent = replace(card(0, 39, total_gib=40), mig="on")
    slices = [replace(card(0, 5, total_gib=5), uuid=f"MIG-{n}", parent_uuid=parent.uuid) for n in range(4)]
    assert place([want("llama3.1:8b")], [host("a", parent, *slices)]).placements == ()


def test_a_node_without_gpu_serves_from_its_memory_one_instance_a_core():
    plan = place([want("llama3.2:3b", 1, None)], [host("local", ram_gib=64, cores=2)])
    assert [(each.instance, each.accelerators) for each in plan.placements] == [
        ("local-cpu-llama3.2-3b-0", ()),
        ("local-cpu-llama3.2-3b-1", ()),
    ]
    assert plan.placements[0].footprint.runtime == 0
    assert "64.0 GiB free in RAM" in plan.placements[0].why


def test_a_cpu_node_serves_a_minimum_but_no_extra_copy_beside_gpus():
    nodes = [gpus("a", 23), host("b")]
    assert {each.node for each in place([want("llama3.1:8b", 1, None)], nodes).placements} == {"a"}
    plan = place([want("llama3.1:8b", 4, 4)], nodes)
    assert Counter(each.node for each in plan.placements) == {"a": 3, "b": 1}


def test_a_node_whose_gpus_are_full_does_not_fall_back_to_its_cpu():
    plan = place([want("llama3.1:8b")], [gpus("a", 2)])
    assert plan.placements == ()
    assert len(plan.refused) == 1


def test_a_model_too_large_for_one_card_is_split_over_the_fewest_cards_of_one_node():
    plan = place([want("llama3.1:70b")], [gpus("a", 23.5), gpus("b", 23.5, 23.5, 23.5)])
    (only,) = plan.placements
    assert only.node == "b"
    assert only.accelerators == ("GPU-b000", "GPU-b001")
    assert only.instance == "b-gpus0-1-llama3.1-70b-0"
    assert only.why.startswith("split over 2 cards")


def test_extra_copies_are_not_split_while_a_card_is_large_enough_for_the_model():
    plan = place([want("llama3.1:8b", 1, None)], [gpus("a", 23, 23)])
    assert max(len(each.accelerators) for each in plan.placements) == 1


# --- who gets what ----------------------------------------------------------------------------------------------------


def test_every_pool_has_its_minimum_before_any_has_more():
    plan = place([want("llama3.2:3b", 1, None), want("llama3.1:8b", 2, 2)], [gpus("a", 16.5)])
    assert counts(plan)["llama3.1:8b"] == 2
    assert counts(plan)["llama3.2:3b"] == 1
    assert plan.refused == ()


def test_no_pool_goes_without_while_another_has_two():
    plan = place([want("llama3.1:8b", 2, 2), want("llama3.2:3b", 1, 1)], [gpus("a", 13)])
    assert counts(plan) == {"llama3.1:8b": 1, "llama3.2:3b": 1}
    assert [pool for pool, _ in plan.refused] == ["llama3.1:8b"]


def test_the_room_left_over_is_shared_by_share():
    nodes = [gpus(name, *[23.5] * 4) for name in "abc"]
    even = counts(place([want("llama3.1:8b", 1, None), want("mistral:7b", 1, None)], nodes))
    assert abs(even["llama3.1:8b"] - even["mistral:7b"]) <= 2
    uneven = counts(place([want("llama3.1:8b", 1, None, share=3), want("mistral:7b", 1, None)], nodes))
    assert 2.4 <= (uneven["llama3.1:8b"] - 1) / (uneven["mistral:7b"] - 1) <= 3.6


def test_copies_stop_at_the_most_that_was_asked_for():
    assert counts(place([want("llama3.2:3b", 1, 4)], [gpus("a", 23, 23)]))["llama3.2:3b"] == 4


# --- what is refused -------------------------------------------------------------------------------------------------


def test_a_refusal_names_the_shortfall_and_what_would_fit():
    demand = want("llama3.1:8b", slots=8)
    plan = place([demand], [gpus("a", 7)])
    ((pool, why),) = plan.refused
    short = demand_footprint(demand, on_gpu=True).total - (7 * GIB - HEADROOM_BYTES)
    assert pool == "llama3.1:8b"
    assert f"{-(-short // 2**20):,} MiB short" in why
    assert why.startswith("0 of 1 placed: one with 8 x 4096 tokens, f16 cache needs 9.1 GiB")
    assert why.endswith("It fits with 2 slots, or a context of 1024, or a q4_0 cache")


@pytest.mark.parametrize(
    "change", [{"slots": 2}, {"context": 1024}, {"kv_type": "q4_0"}], ids=["slots", "context", "cache"]
)
def test_what_a_refusal_suggests_is_placed(change: dict[str, object]):
    assert place([replace(want("llama3.1:8b", slots=8), **change)], [gpus("a", 7)]).refused == ()  # type: ignore[arg-type]


def test_a_model_that_nothing_makes_fit_is_told_the_card_it_needs():
    ((_, why),) = place([want("gpt-oss:120b")], [gpus("a", 23)]).refused
    assert "a GPU with 60.9 GiB free" in why


def test_a_pool_that_only_lost_to_others_is_told_so():
    plan = place([want("qwen2.5:14b"), want("llama3.2:3b")], [gpus("a", 13)])
    ((pool, why),) = plan.refused
    assert pool == "llama3.2:3b"
    assert "fewer instances of the other pools" in why


def test_without_any_node_everything_is_refused_with_a_reason():
    plan = place([want("llama3.1:8b")], [])
    assert plan.placements == ()
    assert "add a node" in plan.refused[0][1]


# --- what stays -------------------------------------------------------------------------------------------------------


def test_adding_a_pool_moves_nothing_that_runs():
    nodes = [gpus("a", 23, 23)]
    before = place([want("llama3.2:3b", 2, 2)], nodes)
    after = place([want("llama3.2:3b", 2, 2), want("qwen2.5:14b")], nodes, current=before.placements)
    assert set(before.placements) < set(after.placements)
    assert after.refused == ()


def test_removing_a_pool_renames_nothing():
    nodes = [gpus("a", 23, 23)]
    before = place([want("llama3.2:3b", 2, 2), want("gemma3:1b", 2, 2)], nodes)
    after = place([want("llama3.2:3b", 2, 2)], nodes, current=before.placements)
    assert after.placements == tuple(each for each in before.placements if each.pool == "llama3.2:3b")


def test_extra_copies_make_room_for_a_new_pools_minimum():
    nodes = [gpus("a", 19)]
    before = place([want("llama3.1:8b", 1, None)], nodes)
    assert counts(before) == {"llama3.1:8b": 3}
    after = place([want("llama3.1:8b", 1, None), want("qwen2.5:14b")], nodes, current=before.placements)
    assert counts(after) == {"llama3.1:8b": 1, "qwen2.5:14b": 1}
    assert before.placements[0] in after.placements


def test_a_pool_added_beside_a_full_one_gets_its_share():
    nodes = [gpus("a", 23.5, 23.5), gpus("b", 23.5, 23.5)]
    before = place([want("llama3.1:8b", 1, None)], nodes)
    after = place([want("llama3.1:8b", 1, None), want("mistral:7b", 1, None)], nodes, current=before.placements)
    assert counts(after)["mistral:7b"] >= 4
    assert counts(after)["llama3.1:8b"] >= 4


def test_an_instance_whose_slots_context_or_cache_changed_is_placed_anew():
    nodes = [gpus("a", 23)]
    demand = want("llama3.1:8b")
    before = place([demand], nodes)
    for changed in (replace(demand, slots=4), replace(demand, context=8192), replace(demand, kv_type="q8_0")):
        (only,) = place([changed], nodes, current=before.placements).placements
        assert only != before.placements[0]
        assert (only.slots, only.context) == (changed.slots, changed.context)


def test_weights_read_from_the_pulled_file_do_not_move_an_instance():
    nodes = [gpus("a", 23, 23)]
    demand = want("llama3.1:8b", 2, 2)
    before = place([demand], nodes)
    pulled = replace(demand, shape=replace(demand.shape, weights_bytes=demand.shape.weights_bytes + 5_000_000))
    after = place([pulled], nodes, current=before.placements)
    assert [(each.instance, each.accelerators) for each in after.placements] == [
        (each.instance, each.accelerators) for each in before.placements
    ]


def test_an_instance_of_which_only_the_total_is_known_stays_unless_its_cache_type_changed():
    nodes = [gpus("a", 23, 23)]
    demand = want("llama3.1:8b", 2, 2)
    found = [
        replace(each, footprint=Footprint(each.footprint.total, 0, 0, 0, 0), why="runs here already")
        for each in place([demand], nodes).placements
    ]
    kept = place([demand], nodes, current=found).placements
    assert [each.why for each in kept] == ["runs here already"] * 2
    assert kept[0].footprint == demand_footprint(demand, on_gpu=True)
    anew = place([replace(demand, kv_type="q8_0")], nodes, current=found).placements
    assert "runs here already" not in {each.why for each in anew}


def test_a_lost_cards_instances_move_and_the_others_stay():
    before = place([want("llama3.1:8b", 2, 2)], [gpus("a", 23), gpus("b", 23)])
    after = place([want("llama3.1:8b", 2, 2)], [gpus("b", 23)], current=before.placements)
    assert len(after.placements) == 2
    assert {each for each in before.placements if each.node == "b"} < set(after.placements)


def test_a_process_that_takes_the_headroom_does_not_drive_out_what_runs():
    demand = want("llama3.1:8b", 1, None)
    before = place([demand], [gpus("a", 19.1)])
    held = promised(before)
    assert len(before.placements) == 3
    # Our three hold their memory; another process took 400 MiB of the 912 MiB that were left.
    left = 19.1 - held["GPU-a000"] / GIB - 0.4
    after = place([demand], [gpus("a", left)], current=before.placements, own_bytes=held)
    assert after == before


# --- always -----------------------------------------------------------------------------------------------------------


@st.composite
def clusters(draw: st.DrawFn) -> list[NodeFacts]:
    nodes = []
    for name in draw(st.sampled_from(["", "a", "ab", "abc"])):
        sizes = draw(st.lists(st.sampled_from([8, 12, 16, 24, 48]), max_size=4))
        cards = [card(index, draw(st.floats(0, size)), total_gib=size, node=name) for index, size in enumerate(sizes)]
        ram, cores = draw(st.sampled_from([2, 8, 40])), draw(st.integers(1, 4))
        nodes.append(host(name, *cards, ram_gib=ram, cores=cores))
    return nodes


@st.composite
def wishes(draw: st.DrawFn) -> list[Demand]:
    demands = []
    for model in draw(st.lists(st.sampled_from(MODELS), max_size=4, unique=True)):
        least = draw(st.integers(0, 4))
        most = draw(st.sampled_from([None, least, least + 2]))
        context, slots = draw(st.sampled_from([1024, 4096, 8192])), draw(st.integers(1, 4))
        share = draw(st.sampled_from([0.5, 1.0, 3.0]))
        demands.append(want(model, least, most, context=context, slots=slots, share=share))
    return demands


def room_of(
    nodes: Sequence[NodeFacts], *, with_headroom: bool = True, own: Mapping[str, int] | None = None
) -> dict[str, int]:
    room = {}
    for node in nodes:
        for each in usable_accelerators(node):
            free = min(each.vram_total_bytes, each.vram_free_bytes + (own or {}).get(each.uuid, 0))
            room[each.uuid] = free - (HEADROOM_BYTES if with_headroom else 0)
        if not node.accelerators:
            free = min(node.ram_total_bytes, node.ram_free_bytes + (own or {}).get(node.node, 0))
            room[node.node] = free - (RAM_HEADROOM_BYTES if with_headroom else 0)
    return room


@given(nodes=clusters(), demands=wishes())
@settings(max_examples=75)
def test_no_accelerator_and_no_memory_is_ever_promised_twice(nodes: list[NodeFacts], demands: list[Demand]):
    plan = place(demands, nodes)
    room = room_of(nodes)
    assert all(bytes_ <= room[key] for key, bytes_ in promised(plan).items())
    cores = {node.node: node.cpu_count for node in nodes}
    on_cpu = Counter(each.node for each in plan.placements if not each.accelerators)
    assert all(count <= cores[node] for node, count in on_cpu.items())


@given(nodes=clusters(), demands=wishes())
@settings(max_examples=75)
def test_each_pool_has_its_minimum_or_a_refusal_and_never_more_than_its_most(
    nodes: list[NodeFacts], demands: list[Demand]
):
    plan = place(demands, nodes)
    have, refused = counts(plan), dict(plan.refused)
    for demand in demands:
        assert (have[demand.pool] < demand.replicas_min) == (demand.pool in refused)
        assert demand.replicas_max is None or have[demand.pool] <= demand.replicas_max
    assert len({each.instance for each in plan.placements}) == len(plan.placements)


@given(nodes=clusters(), demands=wishes())
@settings(max_examples=75)
def test_the_same_world_in_any_order_gives_the_same_plan(nodes: list[NodeFacts], demands: list[Demand]):
    plan = place(demands, nodes)
    assert plan == place(demands, nodes)
    assert plan == place(demands[::-1], nodes[::-1])


@given(nodes=clusters(), demands=wishes(), reverse=st.booleans())
@settings(max_examples=75)
def test_a_plan_carried_out_is_planned_again(nodes: list[NodeFacts], demands: list[Demand], reverse: bool):
    plan = place(demands, nodes)
    current = plan.placements[::-1] if reverse else plan.placements
    assert place(demands, nodes, current=current).placements == plan.placements


@given(nodes=clusters(), before=wishes(), after=wishes())
@settings(max_examples=75)
def test_after_a_change_the_plan_settles_at_once_and_no_pool_pays_for_what_stayed(
    nodes: list[NodeFacts], before: list[Demand], after: list[Demand]
):
    running = place(before, nodes).placements
    changed = place(after, nodes, current=running)
    assert all(bytes_ <= room_of(nodes)[key] for key, bytes_ in promised(changed).items())
    missing, fresh = counts(changed), counts(place(after, nodes))
    short = sum(max(0, each.replicas_min - missing[each.pool]) for each in after)
    assert short <= sum(max(0, each.replicas_min - fresh[each.pool]) for each in after) or any(
        each.replicas_min and not fresh[each.pool] and missing[each.pool] for each in after
    )
    assert place(after, nodes, current=changed.placements).placements == changed.placements


@given(nodes=clusters(), demands=wishes(), grab=st.integers(0, 2 * GIB))
@settings(max_examples=75)
def test_running_instances_and_new_ones_together_stay_within_what_is_free(
    nodes: list[NodeFacts], demands: list[Demand], grab: int
):
    running = place(demands, nodes).placements
    held = promised(PlacementPlan(running))
    seen = [
        replace(
            node,
            ram_free_bytes=max(0, node.ram_free_bytes - held[node.node] - grab),
            accelerators=tuple(
                replace(each, vram_free_bytes=max(0, each.vram_free_bytes - held[each.uuid] - grab))
                for each in node.accelerators
            ),
        )
        for node in nodes
    ]
    plan = place(demands, seen, current=running, own_bytes=held)
    room = room_of(seen, with_headroom=False, own=held)
    assert all(bytes_ <= room[key] for key, bytes_ in promised(plan).items())


@given(
    nodes=clusters(),
    model=st.sampled_from(MODELS),
    least=st.integers(0, 6),
    is_fill=st.booleans(),
    more=st.lists(st.floats(0, 20), min_size=12, max_size=12),
)
@settings(max_examples=75)
def test_more_free_memory_never_means_fewer_instances(
    nodes: list[NodeFacts], model: str, least: int, is_fill: bool, more: list[float]
):
    demand = want(model, least, None if is_fill else least)
    grown = iter(more)
    larger = [
        replace(
            node,
            accelerators=tuple(
                replace(each, vram_free_bytes=min(each.vram_total_bytes, each.vram_free_bytes + int(next(grown) * GIB)))
                for each in node.accelerators
            ),
        )
        for node in nodes
    ]
    assert len(place([demand], larger).placements) >= len(place([demand], nodes).placements)


def test_a_placement_names_its_pool_slots_and_context():
    (only,) = place([want("llama3.1:8b", slots=3, context=2048)], [gpus("a", 23)]).placements
    assert isinstance(only, Placement)
    assert (only.pool, only.slots, only.context) == ("llama3.1:8b", 3, 2048)
