"""The shape of models that Ollama has pulled: from its own store, as it lies on the disk."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from benchmarks.sizing.files import header, write
from benchmarks.sizing.layouts import LAYOUTS, VOCAB
from orchestrator.core.errors import HostError
from orchestrator.nodes.weights import pulled_shape

KIND = "application/vnd.ollama.image."


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with one model: weights of 128 MB that are a hole, and a tower of its own beside them."""
    head, weights_bytes = header(*LAYOUTS["mamba2 2.7b"](), VOCAB)
    (tmp_path / "blobs").mkdir()
    write(tmp_path / "blobs" / "sha256-aa", head, weights_bytes)
    manifest = tmp_path / "manifests" / "registry.ollama.ai" / "library" / "mine" / "latest"
    manifest.parent.mkdir(parents=True)
    layers = [
        {"mediaType": f"{KIND}model", "digest": "sha256:aa", "size": len(head) + weights_bytes},
        {"mediaType": f"{KIND}projector", "digest": "sha256:bb", "size": 1_000_000},
    ]
    manifest.write_bytes(orjson.dumps({"layers": layers}))
    return tmp_path


def test_a_pulled_models_shape_has_what_is_loaded_beside_its_weights(store: Path):
    shape = pulled_shape(store, "mine")
    assert shape is not None
    assert shape.arch == "mamba2"
    assert shape.vision_bytes == 1_000_000
    assert shape.weights_bytes > 100_000_000


@pytest.mark.parametrize("name", ["other", "mine:8b", "../mine", "a/b/c/d"])
def test_a_model_that_is_not_there_has_no_shape(store: Path, name: str):
    assert pulled_shape(store, name) is None


def test_weights_that_are_still_on_their_way_have_no_shape(store: Path):
    (store / "blobs" / "sha256-aa").unlink()
    assert pulled_shape(store, "mine") is None


def test_weights_that_cannot_be_read_are_named(store: Path):
    (store / "blobs" / "sha256-aa").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(HostError, match=r"blobs/sha256-aa: cannot read the model's header: not a GGUF file"):
        pulled_shape(store, "mine")
