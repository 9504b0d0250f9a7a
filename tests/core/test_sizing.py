"""Footprints against what real engines reported when they loaded a model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.catalogue import find
from orchestrator.core.model import Demand, ModelShape, PoolName
from orchestrator.core.sizing import (
    CUDA_CONTEXT_BYTES,
    CUDA_MARGIN_BYTES,
    GIB,
    MIB,
    auto_batch,
    footprint,
    per_card_bytes,
    slots_that_fit,
    split_footprint,
)

SMOLLM2 = ModelShape("llama", 134_515_008, 30, 9, 3, 64, 576, 49152, 8192, 96_576_768, "Q4_1", feed_forward_length=1536)
TINY = ModelShape("llama", 6_800_000, 2, 2, 1, 32, 64, 49152, 32768, 6_763_315, "Q8_0", feed_forward_length=128)
SHAPES = {"smollm2:135m": SMOLLM2, "tiny": TINY, "tiny-embed": replace(TINY, is_embedding=True)}

# Loads of a real Ollama 0.33.0-rc2 on a CPU: model, context, slots, KV type, batch, flash attention, `size` of /api/ps.
OLLAMA = [
    ("smollm2:135m", 2048, 1, "f16", None, True, 160_222_411),
    ("smollm2:135m", 32768, 1, "f16", None, True, 330_626_497),  # cut to the trained 8192
    ("smollm2:135m", 4096, 1, "f16", 2048, True, 264_597_666),
    ("smollm2:135m", 4096, 4, "f16", None, True, 511_568_772),
    ("smollm2:135m", 8192, 4, "f16", None, True, 897_444_740),
    ("smollm2:135m", 8192, 1, "q8_0", None, True, 239_819_815),
    ("smollm2:135m", 8192, 1, "q4_0", None, True, 192_633_895),
    ("smollm2:135m", 4096, 4, "q8_0", None, True, 332_293_733),
    ("smollm2:135m", 8192, 1, "f16", None, False, 634_451_393),
    ("tiny", 32768, 1, "f16", None, True, 84_578_139),
    ("tiny-embed", 4096, 4, "f16", None, True, 428_028_722),  # served with one slot
    ("tiny-embed", 512, 1, "f16", None, True, 108_422_757),
]

# Loads of the built-in llama.cpp (xllamacpp 2026.10) on a CPU, of files with these models' tensors and no values in
# them: model, context, slots, batch, and the MiB that it logged for the KV cache and the compute buffer.
LLAMA_CPP = [
    ("smollm2:135m", 2048, 1, 512, 45.00, 16.64),
    ("smollm2:135m", 4096, 2, 1024, 180.00, 37.29),
    ("llama3.2:1b", 2048, 1, 512, 64.00, 70.02),
    ("llama3.2:1b", 4096, 2, 1024, 256.00, 144.04),
    ("llama3.2:3b", 2048, 1, 512, 224.00, 80.02),
    ("llama3.2:3b", 4096, 2, 1024, 896.00, 164.04),
    ("llama3.1:8b", 2048, 1, 512, 256.00, 126.02),
    ("llama3.1:8b", 4096, 2, 1024, 1024.00, 256.04),
    ("qwen2.5:0.5b", 2048, 1, 512, 24.00, 39.27),
    ("qwen2.5:0.5b", 4096, 2, 1024, 96.00, 82.54),
    ("qwen2.5:3b", 4096, 2, 1024, 288.00, 177.04),
    ("qwen2.5:7b", 2048, 1, 512, 112.00, 148.02),
    ("qwen2.5:7b", 4096, 2, 1024, 448.00, 300.04),
    ("qwen3:0.6b", 2048, 1, 512, 224.00, 30.02),
    ("qwen3:4b", 4096, 2, 1024, 1152.00, 172.04),
    ("qwen3:14b", 2048, 1, 512, 320.00, 154.02),
    ("gemma2:2b", 2048, 1, 512, 208.00, 80.53),
    ("gemma2:2b", 4096, 2, 1024, 832.00, 169.05),
    ("gemma3:1b", 2048, 1, 512, 30.00, 54.78),
    ("gemma3:1b", 4096, 2, 1024, 98.00, 114.55),
    ("gemma3:4b", 2048, 1, 512, 214.00, 88.53),
    ("gemma3:4b", 4096, 2, 1024, 624.00, 182.05),
    ("mistral:7b", 4096, 2, 1024, 1024.00, 256.04),
    ("phi3:3.8b", 2048, 1, 512, 768.00, 80.02),
    ("phi3:3.8b", 4096, 2, 1024, 3072.00, 164.04),
    ("phi4:14b", 4096, 2, 1024, 1600.00, 318.04),
    ("deepseek-r1:1.5b", 2048, 1, 512, 56.00, 69.52),
    ("gpt-oss:20b", 2048, 1, 512, 66.00, 98.40),
    ("gpt-oss:20b", 4096, 2, 1024, 252.00, 201.80),
    ("nomic-embed-text", 2048, 1, 512, 0.00, 26.01),
    ("nomic-embed-text", 2048, 1, 2048, 0.00, 110.05),
    ("bge-m3", 2048, 1, 512, 0.00, 18.51),
    ("bge-m3", 2048, 1, 2048, 0.00, 80.05),
]

# The same without flash attention.
LLAMA_CPP_PLAIN = [
    ("llama3.2:1b", 2048, 1, 512, 158.01),
    ("llama3.2:1b", 4096, 2, 1024, 580.03),
    ("llama3.2:1b", 8192, 1, 1024, 1108.03),
    ("gemma3:1b", 2048, 1, 512, 59.77),
    ("gemma3:1b", 8192, 1, 1024, 196.54),
    ("qwen3:4b", 2048, 1, 512, 177.01),
    ("qwen3:4b", 8192, 1, 1024, 1146.03),
]


def known(name: str) -> ModelShape:
    """The text model of that name; towers that read images were not loaded in the measurements."""
    shape = find(name)
    assert shape is not None
    return replace(shape, weights_bytes=shape.weights_bytes - shape.vision_bytes, vision_bytes=0)


def assert_close(estimate: int, real: int) -> None:
    assert real <= estimate <= real + max(100 * MIB, real * 3 // 100)


@pytest.mark.parametrize(("model", "context", "slots", "kv_type", "batch", "flash", "real"), OLLAMA)
def test_a_real_ollama_never_needs_more_and_hardly_less(
    model: str, context: int, slots: int, kv_type: str, batch: int | None, flash: bool, real: int
):
    size = footprint(SHAPES[model], context, slots, kv_type, batch=batch, flash_attention=flash, on_gpu=False)
    assert_close(size.total, real)


@pytest.mark.parametrize(("model", "context", "slots", "batch", "kv_mib", "compute_mib"), LLAMA_CPP)
def test_the_built_in_engine_never_needs_more_and_hardly_less(
    model: str, context: int, slots: int, batch: int, kv_mib: float, compute_mib: float
):
    size = footprint(known(model), context, slots, batch=batch, on_gpu=False)
    assert size.kv_cache == int(kv_mib * MIB)
    assert_close(size.compute, int((compute_mib - 0.005) * MIB))


@pytest.mark.parametrize(("model", "context", "slots", "batch", "compute_mib"), LLAMA_CPP_PLAIN)
def test_without_flash_attention_the_scores_are_counted(
    model: str, context: int, slots: int, batch: int, compute_mib: float
):
    size = footprint(known(model), context, slots, batch=batch, flash_attention=False, on_gpu=False)
    assert_close(size.compute, int((compute_mib - 0.005) * MIB))


def test_every_measured_configuration_is_met():
    path = Path(__file__).parents[3] / "shared" / "ollama-wire" / "memory" / "sizes.json"
    if not path.exists():
        pytest.skip("the measurements in ../shared are not present")
    rows = [row for row in json.loads(path.read_bytes())["rows"] if row["ps_size"] is not None]
    assert len(rows) >= 21
    for row in rows:
        size = _footprint_of(row)
        assert size.kv_cache == row["kv_formula_bytes"]
        assert abs(size.output - row["buffers_mib"]["output"] * MIB) < 0.01 * MIB
        assert_close(size.total, row["ps_size"])


def _footprint_of(row: dict[str, Any]) -> Any:
    env, options = row["env"], row["options"]
    return footprint(
        SHAPES[row["model"]],
        options.get("num_ctx", row["ps_context_length"]),
        int(env.get("OLLAMA_NUM_PARALLEL", 1)),
        env.get("OLLAMA_KV_CACHE_TYPE", "f16"),
        batch=options.get("num_batch"),
        flash_attention=env.get("OLLAMA_FLASH_ATTENTION") != "0",
        on_gpu=False,
    )


def test_a_3b_instance_needs_three_times_the_1_gb_it_is_said_to_need():
    size = footprint(known("llama3.2:3b-instruct-q4_K_M"), 4096, 2, on_gpu=True)
    print(f"llama3.2:3b-instruct-q4_K_M, 2 x 4096 tokens: {size.total / GIB:.2f} GiB of VRAM, {size}")
    assert size.weights > 1.8 * GIB
    assert 3.3 * GIB < size.total < 3.5 * GIB


def test_an_8b_instance_needs_the_6_to_8_gb_it_is_said_to_need():
    size = footprint(known("llama3.1:8b-instruct-q4_K_M"), 4096, 2, on_gpu=True)
    assert 6e9 < size.total < 8e9


@pytest.mark.parametrize(
    ("context", "slots", "batch"),
    [(2048, 1, 512), (4096, 1, 512), (2048, 2, 512), (4096, 2, 1024), (8192, 4, 1024), (8192, 5, 2048)],
)
def test_the_batch_rises_with_the_tokens_of_all_slots(context: int, slots: int, batch: int):
    assert auto_batch(context, slots) == batch


def test_a_gpu_costs_a_cuda_context_and_leaves_the_input_table_in_host_memory():
    shape = known("llama3.1:8b")
    on_cpu, on_gpu = (footprint(shape, 4096, 2, on_gpu=flag) for flag in (False, True))
    assert on_cpu.runtime == 0
    assert on_gpu.runtime == CUDA_CONTEXT_BYTES + CUDA_MARGIN_BYTES
    assert on_cpu.weights - on_gpu.weights == shape.host_bytes > 250 * MIB


def test_a_quantised_cache_without_flash_attention_is_refused():
    with pytest.raises(ValueError, match="needs flash attention"):
        footprint(SMOLLM2, 4096, 1, "q8_0", flash_attention=False, on_gpu=False)
    with pytest.raises(ValueError, match="unknown type of KV cache 'q3'"):
        footprint(SMOLLM2, 4096, 1, "q3", on_gpu=False)


def test_slots_multiply_the_cache_but_not_the_weights():
    one, four = (footprint(known("llama3.1:8b"), 4096, slots, on_gpu=True) for slots in (1, 4))
    assert four.kv_cache == 4 * one.kv_cache
    assert four.weights == one.weights


@given(
    context=st.integers(256, 200_000),
    slots=st.integers(1, 32),
    kv_type=st.sampled_from(["f16", "q8_0", "q4_0"]),
    name=st.sampled_from(["llama3.1:8b", "gemma3:12b", "gpt-oss:20b", "smollm2:135m", "nomic-embed-text"]),
)
def test_more_context_or_another_slot_never_needs_less(context: int, slots: int, kv_type: str, name: str):
    size = footprint(known(name), context, slots, kv_type, on_gpu=True).total
    assert footprint(known(name), context + 256, slots, kv_type, on_gpu=True).total >= size
    assert footprint(known(name), context, slots + 1, kv_type, on_gpu=True).total >= size


@given(cards=st.integers(2, 8))
def test_every_card_of_a_split_instance_has_room_for_its_layers_and_its_own_buffers(cards: int):
    shape = known("llama3.1:70b")
    whole = footprint(shape, 4096, 2, on_gpu=True)
    part = per_card_bytes(split_footprint(whole, shape.layers, cards), cards)
    layers = -(-(shape.layers + 1) // cards)
    of_layers = (whole.weights + whole.kv_cache) * layers // (shape.layers + 1)
    assert part >= of_layers + whole.compute + whole.runtime
    assert split_footprint(whole, shape.layers, 1) == whole


@given(room=st.integers(0, 30 * GIB))
def test_the_slots_suggested_fit_and_one_more_would_not(room: int):
    shape = known("llama3.1:8b")
    slots = slots_that_fit(Demand(PoolName("p"), shape, 4096, 16), room)
    assert slots == 0 or footprint(shape, 4096, slots, on_gpu=True).total <= room
    assert slots == 16 or footprint(shape, 4096, slots + 1, on_gpu=True).total > room
