"""The catalogue finds models by every name Ollama gives them, with numbers that agree with each other."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest

from orchestrator.core.catalogue import find, is_cloud_model, names
from orchestrator.core.quantisation import Dimensions, weigh

TABLE: dict[str, Any] = json.loads((files("orchestrator") / "data" / "catalogue.json").read_bytes())
ENTRIES = sorted(TABLE["models"].items())


@pytest.mark.parametrize(
    ("name", "parameters", "quantisation"),
    [
        ("llama3.1", 8_030_261_248, "Q4_K_M"),
        ("llama3.1:latest", 8_030_261_248, "Q4_K_M"),
        ("llama3.1:8b", 8_030_261_248, "Q4_K_M"),
        ("llama3.1:8b-instruct-q4_K_M", 8_030_261_248, "Q4_K_M"),
        ("Llama3.1:8B-Instruct-Q8_0", 8_030_261_248, "Q8_0"),
        ("registry.ollama.ai/library/llama3.1:8b", 8_030_261_248, "Q4_K_M"),
        ("llama3.1:70b", 70_553_706_496, "Q4_K_M"),
        ("llama3.2", 3_212_749_824, "Q4_K_M"),
        ("llama3.2:3b-instruct-q4_K_M", 3_212_749_824, "Q4_K_M"),
        ("llama3.2:1b", 1_235_814_400, "Q8_0"),  # Ollama's own default for this size
        ("qwen2.5:0.5b", 494_032_768, "Q4_K_M"),
        ("qwen3:32b-fp16", 32_762_123_264, "F16"),
        ("gemma2:9b", 9_241_705_984, "Q4_0"),
        ("gemma3:12b-it-q8_0", 11_765_788_416, "Q8_0"),
        ("phi3:medium", 13_960_238_080, "Q4_0"),
        ("deepseek-r1:8b-llama-distill-q4_K_M", 8_030_261_248, "Q4_K_M"),
        ("gpt-oss", 20_914_757_184, "MXFP4"),
        ("smollm2:135m-instruct-q4_1", 134_515_008, "Q4_1"),
    ],
)
def test_a_name_finds_its_model_and_quantisation(name: str, parameters: int, quantisation: str):
    shape = find(name)
    assert shape is not None
    assert abs(shape.parameters - parameters) < 1000
    assert shape.quantisation == quantisation


@pytest.mark.parametrize(
    "name", ["", ":", "no-such-model", "llama3.1:9b", "llama3.1:8b-dolphin", "llama3.1:8b-q9_9", "someone/llama3.1:8b"]
)
def test_a_name_it_does_not_know_is_not_guessed_at(name: str):
    assert find(name) is None


def test_every_model_asked_for_is_there():
    families = {
        "llama3.2": ("1b", "3b"),
        "llama3.1": ("8b", "70b"),
        "llama3.3": ("70b",),
        "qwen2.5": ("0.5b", "1.5b", "3b", "7b", "14b", "32b", "72b"),
        "qwen3": ("0.6b", "1.7b", "4b", "8b", "14b", "32b", "30b", "30b-a3b", "235b"),
        "gemma2": ("2b", "9b", "27b"),
        "gemma3": ("1b", "4b", "12b", "27b"),
        "mistral": ("7b",),
        "mistral-nemo": ("12b",),
        "mistral-small": ("22b", "24b"),
        "mixtral": ("8x7b",),
        "phi3": ("3.8b", "14b"),
        "phi3.5": ("3.8b",),
        "phi4": ("14b",),
        "phi4-mini": ("3.8b",),
        "deepseek-r1": ("1.5b", "7b", "8b", "14b", "32b", "70b"),
        "gpt-oss": ("20b", "120b"),
        "smollm2": ("135m",),
    }
    wanted = [f"{family}:{size}" for family, sizes in families.items() for size in sizes]
    assert [name for name in (*wanted, "nomic-embed-text", "bge-m3", "mxbai-embed-large") if find(name) is None] == []


def test_every_listed_name_and_every_other_spelling_is_found():
    assert len(names()) == len(set(names())) >= 60
    for name in (*names(), *TABLE["latest"], *TABLE["same"]):
        assert find(name) is not None, name


def test_only_embedding_models_embed():
    embedding = {name for name in names() if (shape := find(name)) is not None and shape.is_embedding}
    assert embedding == {"nomic-embed-text:v1.5", "bge-m3:567m", "mxbai-embed-large:335m", "all-minilm:22m"}


@pytest.mark.parametrize(("name", "entry"), ENTRIES)
def test_an_entry_agrees_with_itself(name: str, entry: dict[str, Any]):
    assert entry["heads"] % entry["kv_heads"] == 0
    assert entry["source"].partition(" ")[0].count("/") == 1  # the published model its config.json is from
    assert entry["default"] in entry["tags"]
    assert set(entry["published"]) <= set(entry["tags"])
    for tag in entry["tags"]:
        shape = find(f"{name}-{tag}")
        assert shape is not None
        assert 0 <= shape.host_bytes + shape.output_bytes + shape.expert_bytes < shape.weights_bytes
        bits = (shape.weights_bytes - shape.vision_bytes) * 8 / shape.parameters
        assert 4.2 <= bits <= 18, (tag, bits)


PUBLISHED = [(name, tag, size) for name, entry in ENTRIES for tag, size in entry["published"].items()]


@pytest.mark.parametrize(("name", "tag", "size"), PUBLISHED)
def test_computed_weights_meet_the_published_size_but_for_the_tokenizer(name: str, tag: str, size: int):
    shape = find(f"{name}-{tag}")
    assert shape is not None
    assert 0 <= size - shape.weights_bytes < 16_000_000


def test_half_of_the_entries_are_held_against_a_published_size():
    assert len(PUBLISHED) > len(ENTRIES) / 2


def test_a_mix_of_quantisations_gives_some_layers_more_bits():
    dense = Dimensions("llama", 32, 4096, 14336, 32, 8, 128, 128256, 131072)
    q4_0, q4_k_m, q5_k_m = (weigh(dense, tag).total for tag in ("q4_0", "q4_K_M", "q5_K_M"))
    # Q4_K and Q4_0 have the same bits a weight; half of the V and down projections are Q6_K in the mix.
    finer = 32 // 2 * (4096 * 1024 + 14336 * 4096) * (210 - 144) // 256
    assert q4_k_m - q4_0 == finer
    assert q5_k_m > q4_k_m


def test_experts_are_counted_apart_and_all_of_them():
    shape = find("qwen3:30b")
    assert shape is not None
    assert (shape.experts, shape.experts_used) == (128, 8)
    assert 0.9 < shape.expert_bytes / shape.weights_bytes < 1


def test_the_source_is_told_with_the_shape():
    known, derived = find("llama3.1:8b-instruct-q4_K_M"), find("llama3.1:8b-instruct-q6_K")
    assert known is not None
    assert derived is not None
    assert "meta-llama/Llama-3.1-8B-Instruct config.json" in known.source
    assert known.source.endswith("weights as published")
    assert derived.source.endswith("weights derived")


@pytest.mark.parametrize(
    ("name", "is_forwarded"),
    [
        ("gpt-oss:120b-cloud", True),
        ("qwen3-coder:cloud", True),
        ("GPT-OSS:20B-Cloud", True),
        ("registry.ollama.ai/library/deepseek-v3.1:671b-cloud", True),
        ("host:5000/someone/model:cloud", True),
        ("gpt-oss:120b", False),
        ("cloud", False),
        ("my-cloud:8b", False),
        ("cloud:5000/model", False),
    ],
)
def test_a_model_that_ollama_forwards_is_known_by_its_tag(name: str, is_forwarded: bool) -> None:
    assert is_cloud_model(name) is is_forwarded
