"""Footprints from headers of 25 models against what the built-in engine allocated when it loaded each of them."""

from __future__ import annotations

from functools import cache
from typing import Any

import orjson
import pytest

from benchmarks.sizing.__main__ import MEASURED, compare
from benchmarks.sizing.engine import Wish
from benchmarks.sizing.files import header
from benchmarks.sizing.layouts import LAYOUTS, VOCAB
from orchestrator.core.gguf import read_shape
from orchestrator.core.model import CacheLayers, ModelShape
from orchestrator.core.sizing import MIB, footprint

ROWS: list[dict[str, Any]] = orjson.loads(MEASURED.read_bytes())


@cache
def shape_of(layout: str) -> ModelShape:
    head, weights_bytes = header(*LAYOUTS[layout](), VOCAB)
    return read_shape(head, len(head) + weights_bytes)


def wish_of(row: dict[str, Any]) -> Wish:
    return Wish(**{key: row[key] for key in ("context", "slots", "batch", "kv_type", "flash_attention")})


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['layout']} {row['context']} {row['kv_type']}")
def test_cache_and_compute_are_never_below_what_was_allocated_and_hardly_above(row: dict[str, Any]):
    assert compare(row["layout"], shape_of(row["layout"]), wish_of(row), row["mib"]) == 0


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['layout']} {row['context']} {row['kv_type']}")
def test_the_cache_is_exact_whatever_the_layers_keep(row: dict[str, Any]):
    wish = wish_of(row)
    size = footprint(
        shape_of(row["layout"]), wish.context, wish.slots, wish.kv_type,
        batch=wish.batch, flash_attention=wish.flash_attention, on_gpu=False,
    )  # fmt: skip
    real = row["mib"].get("KV", 0.0) + row["mib"].get("RS", 0.0)
    assert abs(size.kv_cache / MIB - real) < 0.011


def test_every_architecture_was_measured():
    assert {row["layout"] for row in ROWS} == set(LAYOUTS)


@pytest.mark.parametrize(
    ("layout", "caches", "state_layers"),
    [
        ("deepseek v3", (CacheLayers(2, 576, 0),), 0),
        ("gemma4 12b", (CacheLayers(1, 512, 512, 0), CacheLayers(5, 2048, 2048, 1024)), 0),
        ("gemma3n e2b", (CacheLayers(4, 512, 512, 0), CacheLayers(16, 512, 512, 512)), 0),
        ("llama4 scout", (CacheLayers(1, 1024, 1024, 0), CacheLayers(3, 1024, 1024, 8192)), 0),
        ("nemotron-h 9b", (CacheLayers(1, 1024, 1024, 0),), 1),
        ("gpt-oss 20b", (CacheLayers(1, 512, 512, 0), CacheLayers(1, 512, 512, 128)), 0),
        ("mamba2 2.7b", (), 3),
        ("granite 4 hybrid", (CacheLayers(1, 512, 512, 0),), 3),
        ("falcon-h1 3b", (CacheLayers(2, 256, 256, 0),), 2),
        ("lfm2 1.2b", (CacheLayers(1, 512, 512, 0),), 3),
        ("qwen3-next 80b", (CacheLayers(1, 512, 512, 0),), 3),
    ],
)
def test_what_layers_keep_is_read_from_the_header(layout: str, caches: tuple[CacheLayers, ...], state_layers: int):
    shape = shape_of(layout)
    assert shape.caches == caches
    assert shape.state_layers == state_layers


def test_experts_and_the_output_are_told_apart_from_the_layers():
    moe, dense = shape_of("qwen3 30b-a3b"), shape_of("llama 8b")
    assert (moe.experts, moe.experts_used) == (128, 8)
    assert 0.9 * moe.weights_bytes < moe.expert_bytes < moe.weights_bytes
    assert dense.expert_bytes == 0
    table = VOCAB * 4096 * 34 // 32
    assert dense.host_bytes == table
    assert dense.output_bytes == table + 4096 * 4  # and the last norm
