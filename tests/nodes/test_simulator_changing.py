"""Models in the folder of a simulated Ollama: copied, made, deleted, and made of files that were sent."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest

from orchestrator.nodes.simulator.as_ollama import model_of
from orchestrator.nodes.simulator.folder import ModelFolder, PullPace
from orchestrator.nodes.simulator.shelf import ShelfError


@pytest.fixture
async def folder(tmp_path: Path) -> ModelFolder:
    """With one model that was pulled."""
    made = ModelFolder(tmp_path, lambda name: model_of(name, {}, on_gpu=False), lambda: PullPace(2000, 1e9))
    assert [line async for line in made.pull("llama3.2:1b")][-1] == {"status": "success"}
    return made


def names(folder: ModelFolder) -> set[str]:
    return {each.name for each in folder.present()}


async def test_a_copy_is_another_name_of_the_same_weights_and_outlives_its_source(folder: ModelFolder) -> None:
    assert folder.copy("llama3.2:1b", "mine")
    source, copy = folder.find("llama3.2:1b"), folder.find("mine")
    assert source is not None
    assert copy is not None
    assert (copy.digest, copy.weights) == (source.digest, source.weights)
    assert folder.delete("llama3.2:1b")
    assert not folder.delete("llama3.2:1b")
    assert names(folder) == {"mine:latest"}
    assert not folder.copy("llama3.2:1b", "other")


async def test_a_model_is_made_of_another_one_with_what_is_changed_in_it(folder: ModelFolder) -> None:
    folder.create("brief", "llama3.2:1b", {}, b'{"system":"Be brief."}')
    brief, base = folder.find("brief"), folder.find("llama3.2:1b")
    assert brief is not None
    assert base is not None
    assert brief.digest != base.digest
    assert brief.weights == base.weights
    with pytest.raises(ShelfError, match="file does not exist"):
        folder.create("x", "nobody", {}, b"")
    with pytest.raises(ShelfError, match="neither 'from' or 'files' was specified"):
        folder.create("x", "", {}, b"")


async def test_a_model_is_made_of_a_file_that_was_sent(folder: ModelFolder) -> None:
    content = b"weights " * 1000
    digest = hashlib.sha256(content).hexdigest()
    with pytest.raises(ShelfError, match="no such file or directory"):
        folder.create("mine", "", {"w.gguf": f"sha256:{digest}"}, b"")
    folder.keep_blob(digest, io.BytesIO(content))
    assert folder.has_blob(digest)
    folder.create("mine", "", {"w.gguf": f"sha256:{digest}"}, b"")
    mine = folder.find("mine")
    assert mine is not None
    assert mine.weights == f"sha256-{digest}"
