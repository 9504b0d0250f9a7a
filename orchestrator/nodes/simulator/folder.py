"""Models in a folder as Ollama keeps them: manifests by name, blobs by digest, written by a pull and found by a look.

A pull needs no network: the weights of a simulated model are a few bytes made from its name, the same on every machine,
and say so. Whatever else lies in the folder, copied there by whomever, is listed like what was pulled, if the catalogue
knows its name.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson

from orchestrator.core.dialects.parse import canonical_model_name
from orchestrator.core.manifests import ModelName, split_name
from orchestrator.core.model import ModelShape
from orchestrator.nodes.onhost.ollamas import Models
from orchestrator.nodes.simulator.config import SimulatedModel, parameter_size
from orchestrator.nodes.simulator.shelf import MISSING_MANIFEST, PULL_TICK_S, layer_line

_KIND: Final = "application/vnd.ollama.image."
_TEMPLATE: Final = b"{{ .Prompt }}"  # one blob of all models


@dataclass(frozen=True, slots=True)
class PullPace:
    """How a pull goes: bytes of weights, bytes a second, and what it fails by (empty: it does not)."""

    weights_bytes: int
    bytes_s: float
    error: str = ""


class ModelFolder:
    """`folder` is OLLAMA_MODELS. `model_of` says what a name stands for, None where it stands for nothing."""

    def __init__(
        self, folder: Path, model_of: Callable[[str], SimulatedModel | None], pace: Callable[[], PullPace]
    ) -> None:
        self._folder = folder
        self._models = Models(folder)
        self._model_of = model_of
        self._pace = pace

    def find(self, name: str) -> SimulatedModel | None:
        wanted = split_name(name.lower())
        return next((each for each in self.present() if split_name(each.name) == wanted), None)

    def present(self) -> Iterator[SimulatedModel]:
        for found in self._models.present()[0]:
            model = self._model_of(found["name"])
            if model is not None:
                yield _with_files(model, found, self._folder)

    async def pull(self, name: str) -> AsyncIterator[dict[str, Any]]:
        yield {"status": "pulling manifest"}
        parts, model, pace = split_name(name.lower()), self._model_of(name), self._pace()
        if parts is None or model is None:
            yield {"error": MISSING_MANIFEST}
            return
        blobs = _blobs(model, pace.weights_bytes)
        for content in blobs.values():
            async for line in self._fetch(content, pace):
                yield line
                if "error" in line:
                    return
        yield {"status": "verifying sha256 digest"}
        yield {"status": "writing manifest"}
        _write(self._manifest(parts), _manifest(blobs))
        yield {"status": "success"}

    async def _fetch(self, content: bytes, pace: PullPace) -> AsyncIterator[dict[str, Any]]:
        """One blob, written as its bytes come."""
        digest = hashlib.sha256(content).hexdigest()
        layer = layer_line(digest, len(content))
        path = self._folder / "blobs" / f"sha256-{digest}"
        if not path.exists():
            tick = max(1, int(pace.bytes_s * PULL_TICK_S))
            for done in range(0, len(content), tick):
                yield layer | ({"completed": done} if done else {})
                await asyncio.sleep(PULL_TICK_S)
                if pace.error:
                    yield {"error": pace.error}
                    return
            try:
                _write(path, content)
            except OSError as why:
                yield {"error": f"write {path}-partial: {(why.strerror or str(why)).lower()}"}
                return
        yield layer | {"completed": len(content)}

    def _manifest(self, name: ModelName) -> Path:
        return self._folder / "manifests" / name.host / name.namespace / name.model / name.tag


def _with_files(model: SimulatedModel, found: dict[str, Any], folder: Path) -> SimulatedModel:
    weights = max(found["blobs"], key=lambda each: found["blobs"][each])
    show = {"modelfile": f"# a simulated model\nFROM {folder / 'blobs' / weights}\n"}
    return replace(
        model,
        name=found["name"],
        digest=found["digest"],
        file_bytes=found["size_bytes"],
        weights_digest=weights,
        show=show,
    )


def _blobs(model: SimulatedModel, weights_bytes: int) -> dict[str, bytes]:
    """By kind, what a pull writes; the last is the configuration."""
    name = canonical_model_name(model.name)
    first = f"simulated weights of {name}: no model's numbers follow\n".encode()
    more = hashlib.shake_256(first).digest(max(0, weights_bytes - len(first)))
    return {"model": first + more, "template": _TEMPLATE, "config": orjson.dumps(_described(model.shape, name))}


def _described(shape: ModelShape, name: str) -> dict[str, Any]:
    return {
        "model_format": "gguf",
        "model_family": shape.arch,
        "model_families": [shape.arch],
        "model_type": parameter_size(shape.parameters),
        "file_type": shape.quantisation,
        "simulated": name,
    }


def _manifest(blobs: dict[str, bytes]) -> bytes:
    def told(kind: str, media: str) -> dict[str, Any]:
        content = blobs[kind]
        return {"mediaType": media, "digest": f"sha256:{hashlib.sha256(content).hexdigest()}", "size": len(content)}

    return orjson.dumps({
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": told("config", "application/vnd.docker.container.image.v1+json"),
        "layers": [told(kind, _KIND + kind) for kind in ("model", "template")],
    })  # fmt: skip


def _write(path: Path, content: bytes) -> None:
    """Beside its place first: who looks meanwhile sees nothing, and what failed leaves nothing under its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}-partial-{os.getpid()}")
    try:
        beside.write_bytes(content)
        beside.rename(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
