"""Ollama's names of models, and the manifests that list a model's layers: what there is to download, and how large.

Knows the format alone (Docker's image manifest, version 2, schema 2, with Ollama's kinds of layers); where manifests
come from is left to `nodes`. They come from strangers, so nothing in them is believed without a look at its type.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from orchestrator.core.model import ModelShape

DEFAULT_HOST: Final = "registry.ollama.ai"
_KIND: Final = "application/vnd.ollama.image."
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{2,64}")
_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_HOST: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}(:\d{1,5})?")


@dataclass(frozen=True, slots=True)
class ModelName:
    """An Ollama name with its defaults filled in."""

    host: str
    namespace: str
    model: str
    tag: str


@dataclass(frozen=True, slots=True)
class Layer:
    """One file of a model."""

    digest: str  # `sha256:` and hexadecimal digits
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A model's files: its weights, and what is loaded beside them."""

    weights: Layer
    towers: tuple[Layer, ...] = ()  # they read images
    adapters: tuple[Layer, ...] = ()
    total_bytes: int = 0  # of all files, to be downloaded


def split_name(name: str) -> ModelName | None:
    """The parts of `host/namespace/model:tag`, of which all but the model may be left out; None where it is no name."""
    head, _, last = name.strip().rpartition("/")  # a host may have a port: only behind the last `/` is a tag
    model, _, tag = last.partition(":")
    before = head.split("/") if head else []
    if len(before) > 2 or name.strip().startswith("/"):
        return None
    namespace = before.pop() if before else "library"
    host = before.pop() if before else DEFAULT_HOST
    parts = ModelName(host, namespace, model, tag or "latest")
    if not _HOST.fullmatch(host) or not all(_PART.fullmatch(each) for each in (namespace, model, parts.tag)):
        return None
    return parts


def read_manifest(told: Any) -> Manifest | None:
    """The manifest in a JSON document that was read; None where it is none, or has no weights."""
    layers = told.get("layers") if isinstance(told, Mapping) else None
    if not isinstance(layers, list):
        return None
    found = [(each.get("mediaType"), layer) for each in layers if isinstance(each, Mapping) and (layer := _layer(each))]

    def of_kind(wanted: str) -> tuple[Layer, ...]:
        return tuple(layer for kind, layer in found if kind == _KIND + wanted)

    weights = of_kind("model")
    if not weights:
        return None
    return Manifest(weights[0], of_kind("projector"), of_kind("adapter"), sum(layer.size for _, layer in found))


def with_layers_beside(shape: ModelShape, manifest: Manifest) -> ModelShape:
    """`shape`, as the header of the weights tells it, with the files that are loaded beside them."""
    towers = sum(layer.size for layer in manifest.towers)
    more = towers + sum(layer.size for layer in manifest.adapters)
    return replace(shape, weights_bytes=shape.weights_bytes + more, vision_bytes=shape.vision_bytes + towers)


def _layer(told: Mapping[str, Any]) -> Layer | None:
    digest, size = told.get("digest"), told.get("size", 0)
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        return None
    if not isinstance(size, int) or size < 0:
        return None
    return Layer(digest, size)
