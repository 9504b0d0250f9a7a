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
    """The GGUF blob of a model that Ollama has pulled, or None."""
    name, _, tag = model.partition(":")
    path = name if "/" in name else f"library/{name}"
    host = "" if path.count("/") > 1 else "registry.ollama.ai/"
    manifest = models_dir / "manifests" / f"{host}{path}" / (tag or "latest")
    if not manifest.is_file():
        return None
    layers = orjson.loads(manifest.read_bytes()).get("layers", [])
    digest = next((each["digest"] for each in layers if each.get("mediaType") == _WEIGHTS_LAYER), None)
    blob = models_dir / "blobs" / digest.replace(":", "-") if digest else None
    return blob if blob is not None and blob.is_file() else None
