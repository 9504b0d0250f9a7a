"""Models in a folder as Ollama keeps them: manifests by name, blobs by digest, written by a pull and found by a look.

A pull needs no network: the weights of a simulated model are a few bytes made from its name, the same on every machine,
and say so. Whatever else lies in the folder, copied there by whomever, is listed like what was pulled, if the catalogue
knows its name.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Final

import orjson

from orchestrator.core.dialects.parse import canonical_model_name
from orchestrator.core.manifests import ModelName, split_name
from orchestrator.core.model import ModelShape
from orchestrator.nodes.onhost.ollamas import Models
from orchestrator.nodes.simulator.config import SimulatedModel, parameter_size
from orchestrator.nodes.simulator.shelf import (
    MISSING_MANIFEST,
    NO_SOURCE,
    PULL_TICK_S,
    SMALLEST,
    ShelfError,
    layer_line,
)

_KIND: Final = "application/vnd.ollama.image."
_TEMPLATE: Final = b"{{ .Prompt }}"  # one blob of all models
_CONFIG_TYPE: Final = "application/vnd.docker.container.image.v1+json"
_LARGEST_CONFIG_BYTES: Final = 4096


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
            model = self._model_of(found["name"]) or self._model_of(self._made_of(found))
            if model is not None:
                yield _with_files(model, found, self._folder)

    def copy(self, source: str, destination: str) -> bool:
        found, parts = self.find(source), split_name(destination)
        if found is not None and parts is not None:
            _write(self._manifest(parts), self._manifest_of(found).read_bytes())
        return found is not None

    def delete(self, name: str) -> bool:
        """Its blobs stay, as they do where OLLAMA_NOPRUNE is set."""
        found = self.find(name)
        if found is not None:
            self._manifest_of(found).unlink()
        return found is not None

    def create(self, name: str, source: str, files: Mapping[str, str], more: bytes) -> None:
        parts = split_name(name)
        assert parts is not None  # whoever asked looked at the name
        if source:
            found = self.find(source)
            if found is None:
                raise ShelfError(500, MISSING_MANIFEST)
            manifest = orjson.loads(self._manifest_of(found).read_bytes())
        elif files:
            manifest = self._manifest_from(sorted(files.values()))
        else:
            raise ShelfError(400, NO_SOURCE)
        if more:
            manifest["layers"].append(self._kept("params", more))
        _write(self._manifest(parts), orjson.dumps(manifest))

    def has_blob(self, digest: str) -> bool:
        return self._blob(digest).exists()

    def keep_blob(self, digest: str, content: IO[bytes]) -> None:
        path = self._blob(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}-partial-{os.getpid()}")
        with beside.open("wb") as out:
            shutil.copyfileobj(content, out)
        beside.rename(path)

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
        path = self._blob(digest)
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

    def _manifest_of(self, model: SimulatedModel) -> Path:
        parts = split_name(model.name)
        assert parts is not None  # it was made of a path
        return self._manifest(parts)

    def _blob(self, digest: str) -> Path:
        return self._folder / "blobs" / f"sha256-{digest}"

    def _kept(self, kind: str, content: bytes) -> dict[str, Any]:
        """A layer that is written now."""
        path = self._blob(hashlib.sha256(content).hexdigest())
        if not path.exists():
            _write(path, content)
        return _layer(kind, content)

    def _manifest_from(self, digests: list[str]) -> dict[str, Any]:
        """A model whose weights are these blobs; what is in them nobody reads."""
        layers = []
        for each in digests:
            path = self._blob(each.removeprefix("sha256:"))
            if not path.exists():
                raise ShelfError(500, f"open {path}: no such file or directory")
            layers.append({"mediaType": f"{_KIND}model", "digest": each, "size": path.stat().st_size})
        small = self._model_of(SMALLEST)
        assert small is not None
        manifest: dict[str, Any] = orjson.loads(_manifest(_blobs(small, 0)))
        config = self._kept("config", orjson.dumps(_described(small.shape, SMALLEST)))
        template = self._kept("template", _TEMPLATE)
        return manifest | {"config": {**config, "mediaType": _CONFIG_TYPE}, "layers": [*layers, template]}

    def _made_of(self, found: dict[str, Any]) -> str:
        """The catalogue's model that one of another name was made of, as its configuration tells; '' it does not."""
        for name, size in found["blobs"].items():
            if size < _LARGEST_CONFIG_BYTES:
                told = (self._folder / "blobs" / name).read_bytes()
                if told.startswith(b'{"model_format"'):
                    return str(orjson.loads(told)["simulated"])
        return ""


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
    return orjson.dumps({
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {**_layer("config", blobs["config"]), "mediaType": _CONFIG_TYPE},
        "layers": [_layer(kind, blobs[kind]) for kind in ("model", "template")],
    })  # fmt: skip


def _layer(kind: str, content: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    return {"mediaType": _KIND + kind, "digest": f"sha256:{digest}", "size": len(content)}


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
