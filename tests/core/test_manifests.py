"""Names of models and manifests of their files, also those that somebody made up."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.manifests import Layer, read_manifest, split_name

WEIGHTS = {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:" + "a" * 64, "size": 7}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("llama3.2", ("registry.ollama.ai", "library", "llama3.2", "latest")),
        ("llama3.2:3b", ("registry.ollama.ai", "library", "llama3.2", "3b")),
        ("me/mine:q4", ("registry.ollama.ai", "me", "mine", "q4")),
        ("hf.co/a/b:Q4_K_M", ("hf.co", "a", "b", "Q4_K_M")),
        ("house:5000/a/b", ("house:5000", "a", "b", "latest")),
    ],
)
def test_what_a_name_leaves_out_is_filled_in(name: str, parts: tuple[str, ...]):
    found = split_name(name)
    assert found is not None
    assert (found.host, found.namespace, found.model, found.tag) == parts


@pytest.mark.parametrize("name", ["", ":", "a/b/c/d", "../x", "a/../b", "a b", "a:b/c:", "/a", "a\0b", "x/.."])
def test_a_name_that_would_lead_elsewhere_is_none(name: str):
    assert split_name(name) is None


@given(st.text(max_size=40))
def test_a_split_name_never_holds_a_way_out_of_a_folder(name: str):
    found = split_name(name)
    for part in (found.host, found.namespace, found.model, found.tag) if found else ():
        assert part
        assert "/" not in part
        assert part not in (".", "..")


def test_weights_towers_and_adapters_are_told_apart():
    more = [
        {**WEIGHTS, "mediaType": f"application/vnd.ollama.image.{kind}"} for kind in ("projector", "adapter", "params")
    ]
    found = read_manifest({"layers": [WEIGHTS, *more]})
    assert found is not None
    assert found.weights == Layer(WEIGHTS["digest"], 7)
    assert (len(found.towers), len(found.adapters), found.total_bytes) == (1, 1, 28)


@pytest.mark.parametrize(
    "told",
    [None, [], {}, {"layers": 3}, {"layers": []}, {"layers": [3, None]}, {"layers": [{**WEIGHTS, "size": -1}]},
     {"layers": [{**WEIGHTS, "digest": "../../etc/passwd"}]}, {"layers": [{**WEIGHTS, "mediaType": "other"}]}],
)  # fmt: skip
def test_a_manifest_without_weights_is_none(told: Any):
    assert read_manifest(told) is None
