"""Where a model's weights lie on this machine, and what their header says: GGUF files and Ollama's own store."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import orjson

from orchestrator.core.errors import HostError
from orchestrator.core.gguf import GgufError, read_shape
from orchestrator.core.model import ModelShape

_WEIGHTS_LAYER = "application/vnd.ollama.image.model"


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
    try:
        read = orjson.loads(manifest.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None  # not pulled, or being written: the catalogue's figures stand in
    layers = read.get("layers") if isinstance(read, dict) else None
    digests = [each.get("digest", "") for each in layers or () if each.get("mediaType") == _WEIGHTS_LAYER]
    if not digests or not digests[0]:
        return None
    blob = models_dir / "blobs" / digests[0].replace(":", "-")
    return blob if blob.is_file() else None


def _manifest(models_dir: Path, model: str) -> Path:
    """Where Ollama records a model: `host/namespace/model/tag`, of which all but the model may be left out."""
    head, _, last = model.rpartition("/")  # a host may have a port: only behind the last `/` is a tag
    name, _, tag = last.partition(":")
    parts = head.split("/") if head else []
    if not parts:
        parts = ["library"]
    if len(parts) == 1:
        parts = ["registry.ollama.ai", *parts]
    return models_dir.joinpath("manifests", *parts, name, tag or "latest")
