"""The models on a simulated instance's disk: those its configuration names, pulled or not, and what became of them.

What is said of them is `listing`'s; models that lie in a real folder are `folder`'s.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from typing import IO, Any, Final, Protocol

from orchestrator.core import catalogue
from orchestrator.core.dialects.parse import canonical_model_name
from orchestrator.core.sizing import footprint
from orchestrator.nodes.simulator.config import SimulatedModel, SimulatorConfig, parameter_size

PULL_TICK_S: Final = 0.06
MISSING_MANIFEST: Final = "pull model manifest: file does not exist"
NO_SOURCE: Final = "neither 'from' or 'files' was specified"
# What a model is like that is made of files: nobody reads them.
SMALLEST: Final = "smollm2:135m"
# Of a model that the catalogue has and the configuration has not.
_USUAL_CONTEXT: Final = 4096


class ShelfError(Exception):
    """Ollama refuses it with this text and status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Shelf(Protocol):
    """Where an instance has its models."""

    def find(self, name: str) -> SimulatedModel | None:
        """The model of this name, if it is pulled."""

    def present(self) -> Iterator[SimulatedModel]:
        """Every model that is pulled."""

    def pull(self, name: str) -> AsyncIterator[dict[str, Any]]:
        """Fetch a model: what /api/pull says meanwhile, line by line; an error is a line too."""

    def copy(self, source: str, destination: str) -> bool:
        """Have a model under another name, too; False: there is no such model."""

    def delete(self, name: str) -> bool:
        """Have a model no more; False: there was none."""

    def create(self, name: str, source: str, files: Mapping[str, str], more: bytes) -> None:
        """Make a model of another one or of blobs by their digests; `more` is changed in it. Raises ShelfError."""

    def has_blob(self, digest: str) -> bool:
        """`digest`: hexadecimal digits."""

    def keep_blob(self, digest: str, content: IO[bytes]) -> None:
        """Keep a file of that digest, which has been checked."""


class ConfiguredShelf:
    """Models that only the configuration and the catalogue know: nothing of them is written anywhere."""

    def __init__(self, config: SimulatorConfig) -> None:
        self._config = config
        self._models = {canonical_model_name(each.name): each for each in config.models}
        self._pulled = {name for name, each in self._models.items() if each.is_pulled}
        self._begun: dict[str, int] = {}  # pulls that were cut, as far as they came
        self._blobs: set[str] = set()

    def find(self, name: str) -> SimulatedModel | None:
        key = canonical_model_name(name)
        return self._models.get(key) if key in self._pulled else None

    def present(self) -> Iterator[SimulatedModel]:
        return (each for name, each in self._models.items() if name in self._pulled)

    async def pull(self, name: str) -> AsyncIterator[dict[str, Any]]:
        yield {"status": "pulling manifest"}
        key = canonical_model_name(name)
        model = self._models.get(key) or self._of_catalogue(key)
        if model is None:
            yield {"error": MISSING_MANIFEST}
            return
        layer = layer_line(model.digest or "0" * 64, model.file_bytes)
        if key not in self._pulled:
            tick = max(1, int(self._config.pull_bandwidth_bytes_s * PULL_TICK_S * self._config.speed))
            for done in range(self._begun.get(key, 0), model.file_bytes, tick):
                self._begun[key] = done  # whoever asks again goes on from here
                yield layer | ({"completed": done} if done else {})
                await asyncio.sleep(PULL_TICK_S)
        yield layer | {"completed": model.file_bytes}
        yield {"status": "verifying sha256 digest"}
        yield {"status": "writing manifest"}
        self._begun.pop(key, None)
        self._models[key] = model
        self._pulled.add(key)
        yield {"status": "success"}

    def copy(self, source: str, destination: str) -> bool:
        model = self.find(source)
        if model is not None:
            self._have(replace(model, name=_tagged(destination), weights_digest=model.weights))
        return model is not None

    def delete(self, name: str) -> bool:
        key = canonical_model_name(name)
        was_there = key in self._pulled
        self._pulled.discard(key)
        return was_there

    def create(self, name: str, source: str, files: Mapping[str, str], more: bytes) -> None:
        base = self._base(source, files)
        digest = hashlib.sha256(b"\n".join((base.weights.encode(), *sorted(map(str.encode, files.values())), more)))
        made = digest.hexdigest()
        weights = made if files else base.weights
        self._have(replace(base, name=_tagged(name), digest=made, weights_digest=weights))

    def has_blob(self, digest: str) -> bool:
        return digest in self._blobs or any(each.digest == digest for each in self.present())

    def keep_blob(self, digest: str, content: IO[bytes]) -> None:
        self._blobs.add(digest)

    def _have(self, model: SimulatedModel) -> None:
        key = canonical_model_name(model.name)
        self._models[key] = replace(model, is_pulled=True)
        self._pulled.add(key)

    def _base(self, source: str, files: Mapping[str, str]) -> SimulatedModel:
        """What a new model is like. Of files nothing is read."""
        if source:
            found = self.find(source) or self._of_catalogue(canonical_model_name(source))
            if found is None:
                raise ShelfError(500, MISSING_MANIFEST)
            return found
        if not files:
            raise ShelfError(400, NO_SOURCE)
        for each in files.values():
            if not self.has_blob(each.removeprefix("sha256:")):
                raise ShelfError(500, f"open blobs/{each.replace(':', '-')}: no such file or directory")
        found = self._of_catalogue(SMALLEST)
        assert found is not None
        return found

    def _of_catalogue(self, name: str) -> SimulatedModel | None:
        shape = catalogue.find(name)
        if shape is None:
            return None
        context = min(_USUAL_CONTEXT, shape.context_length)
        return SimulatedModel(
            name=name,
            shape=shape,
            footprint=footprint(shape, context, 1, "f16", on_gpu=bool(self._config.card)),
            context=context,
            capabilities=("embedding",) if shape.is_embedding else ("completion", "tools"),
            digest=hashlib.sha256(name.encode()).hexdigest(),
            family=shape.arch,
            parameter_size=parameter_size(shape.parameters),
            file_bytes=shape.weights_bytes,
        )


def layer_line(digest: str, total: int) -> dict[str, Any]:
    """How a layer's progress begins. `digest`: hexadecimal digits."""
    return {"status": f"pulling {digest[:12]}", "digest": f"sha256:{digest}", "total": total}


def _tagged(name: str) -> str:
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"
