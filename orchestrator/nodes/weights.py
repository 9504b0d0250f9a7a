"""Where a model's weights lie on this machine, and what their header says: GGUF files and Ollama's own store."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import orjson

from orchestrator.core.errors import HostError
from orchestrator.core.gguf import read_shape
from orchestrator.core.gguf_types import GgufError
from orchestrator.core.manifests import Manifest, read_manifest, split_name, with_layers_beside
from orchestrator.core.model import ModelShape


def ollama_models_dir() -> Path:
    """Ollama's model folder: OLLAMA_MODELS, or its default under HOME."""
    return Path(os.environ.get("OLLAMA_MODELS") or Path.home() / ".ollama" / "models")


def shape_of_file(path: Path) -> ModelShape:
    """The shape in a GGUF file's header. Raises HostError, naming the file."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return read_shape(data, path.stat().st_size)
    except (OSError, ValueError, GgufError) as why:
        raise HostError(f"{path}: cannot read the model's header: {why}") from why


def pulled_weights(models_dir: Path, model: str) -> Path | None:
    """The GGUF blob of a model that Ollama has pulled, or None: also where its record is not whole (yet)."""
    manifest = _manifest(models_dir, model)
    return _blob(models_dir, manifest) if manifest is not None else None


def pulled_shape(models_dir: Path, model: str) -> ModelShape | None:
    """The shape of a model that Ollama has pulled, with what it loads beside the weights; None where it has not.

    Raises HostError, naming the file, where the weights are there and cannot be read.
    """
    manifest = _manifest(models_dir, model)
    blob = _blob(models_dir, manifest) if manifest is not None else None
    if manifest is None or blob is None:
        return None
    return with_layers_beside(shape_of_file(blob), manifest)


def _manifest(models_dir: Path, model: str) -> Manifest | None:
    """What Ollama recorded of a model; None where it has not, or is writing it: the catalogue's figures stand in."""
    name = split_name(model)
    if name is None:
        return None
    path = models_dir.joinpath("manifests", name.host, name.namespace, name.model, name.tag)
    try:
        return read_manifest(orjson.loads(path.read_bytes()))
    except (OSError, orjson.JSONDecodeError):
        return None


def _blob(models_dir: Path, manifest: Manifest) -> Path | None:
    blob = models_dir / "blobs" / manifest.weights.digest.replace(":", "-")
    return blob if blob.is_file() else None
