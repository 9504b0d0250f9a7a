"""What each card must hold of an instance that lies on several, and how its parts are told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.catalogue import find
from orchestrator.core.model import Demand, PoolName
from orchestrator.core.sizing import (
    CUDA_CONTEXT_BYTES,
    CUDA_MARGIN_BYTES,
    GIB,
    MIB,
    VISION_MARGIN_BYTES,
    demand_footprint,
    footprint,
    per_card_bytes,
    served_slots,
    split_demand,
)
from orchestrator.core.sizing_words import explain, lines

NAMES = ["llama3.1:70b", "qwen2.5:32b", "gemma3:27b", "gpt-oss:120b", "qwen3:235b", "llama3.1:8b", "smollm2:135m"]


def demand(name: str, context: int = 4096, slots: int = 2, kv_type: str = "f16") -> Demand:
    shape = find(name)
    assert shape is not None
    return Demand(PoolName("p"), shape, context, slots, kv_type)


@given(
    name=st.sampled_from(NAMES),
    cards=st.integers(2, 8),
    context=st.sampled_from([2048, 8192, 32768, 131072]),
    slots=st.integers(1, 8),
)
def test_a_card_has_room_for_its_layers_its_buffers_and_the_copies_of_what_a_step_reads(
    name: str, cards: int, context: int, slots: int
):
    wish = demand(name, context, slots)
    whole = demand_footprint(wish, on_gpu=True)
    part = per_card_bytes(split_demand(wish, cards), cards)
    fullest = -(-(wish.shape.layers + 1) // cards)
    body = whole.weights - whole.output_weights
    needed = (body + whole.kv_cache) * (fullest - 1) // wish.shape.layers + whole.output_weights
    assert part >= needed + whole.compute + 3 * whole.step_inputs + CUDA_CONTEXT_BYTES + CUDA_MARGIN_BYTES


def test_a_long_context_costs_every_card_four_masks():
    wish = demand("llama3.1:70b", 131072, 1)
    whole = demand_footprint(wish, on_gpu=True)
    mask = 2048 * 131072 * 2
    assert whole.step_inputs > mask
    assert split_demand(wish, 2).compute > 2 * (whole.compute + 3 * mask)


def test_a_70b_model_fits_two_4090s_with_a_short_context_and_not_with_a_long_one():
    free = 23.5 * GIB
    assert per_card_bytes(split_demand(demand("llama3.1:70b", 4096, 1), 2), 2) < free
    assert per_card_bytes(split_demand(demand("llama3.1:70b", 32768, 4), 2), 2) > free


def test_the_output_lies_whole_on_one_card():
    wish = demand("smollm2:135m")
    whole = demand_footprint(wish, on_gpu=True)
    assert whole.output_weights > whole.weights / 5
    assert per_card_bytes(split_demand(wish, 8), 8) > whole.output_weights + CUDA_CONTEXT_BYTES


def test_one_card_is_not_a_split():
    assert split_demand(demand("llama3.1:8b"), 1) == demand_footprint(demand("llama3.1:8b"), on_gpu=True)


@given(name=st.sampled_from(NAMES), cards=st.integers(1, 8), kv_type=st.sampled_from(["f16", "q8_0", "q4_0"]))
def test_the_parts_that_are_told_add_up_to_what_is_counted(name: str, cards: int, kv_type: str):
    wish = demand(name, kv_type=kv_type)
    assert sum(part.bytes for part in explain(wish, cards=cards)) == split_demand(wish, cards).total
    on_cpu = demand_footprint(wish, on_gpu=False).total
    assert sum(part.bytes for part in explain(wish, on_gpu=False)) == on_cpu


def test_margins_are_told_as_margins_and_everything_has_a_source():
    parts = explain(demand("llama3.1:70b"), cards=2)
    assert {part.name for part in parts if part.is_margin} == {"CUDA margin", "uneven layers"}
    assert all(part.source for part in parts)
    told = lines(parts)
    print("\n".join(told))
    assert len(told) == len(parts) + 1
    assert "of them margins" in told[-1]


def test_a_model_that_sees_has_a_margin_for_it():
    names = [part.name for part in explain(demand("gemma3:4b"))]
    assert "vision margin" in names
    shape = demand("gemma3:4b").shape
    assert shape.vision_bytes > 800 * MIB
    assert footprint(shape, 4096, 1, on_gpu=True).compute > VISION_MARGIN_BYTES


@pytest.mark.parametrize(("name", "slots"), [("llama3.1:8b", 4), ("bge-m3", 1)])
def test_embedding_models_are_served_with_one_slot(name: str, slots: int):
    assert served_slots(demand(name).shape, 4) == slots
