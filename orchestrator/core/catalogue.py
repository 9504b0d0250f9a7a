"""Shapes of well-known models by Ollama's names, for planning before any weights have been pulled.

Knows the table in `data/catalogue.json`, whose entries name their sources, and how Ollama's tags are read; bytes of
weights are `quantisation`'s. A header that can be read (`gguf`) is better than this table, and a name that is not in it
is not guessed at.
"""

from __future__ import annotations

import json
from dataclasses import fields
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, Final

from orchestrator.core.layers import ENCODERS
from orchestrator.core.model import ModelShape
from orchestrator.core.quantisation import Dimensions, Weights, weigh

# Words in tags that choose other weights of the same shape.
_SAME_SHAPE: Final = frozenset({"instruct", "it", "text", "base", "chat"})
_DIMENSIONS: Final = frozenset(each.name for each in fields(Dimensions))
_REGISTRY: Final = ("registry.ollama.ai/", "ollama.com/")


@lru_cache(maxsize=1024)
def find(name: str) -> ModelShape | None:
    """The shape that Ollama's `name` stands for, or None.

    `llama3.1` is its default size, `llama3.1:8b` that size in its default quantisation, and
    `llama3.1:8b-instruct-q4_K_M` says all. Case does not matter, as in Ollama.
    """
    table = _table()
    wanted = _plain(name)
    family, _, tag = wanted.partition(":")
    if tag in ("", "latest"):
        tag = table["latest"].get(family, "")
    parts = tag.split("-")
    for length in range(len(parts), 0, -1):
        known = f"{family}:{'-'.join(parts[:length])}"
        known = table["same"].get(known, known)
        if known in table["models"]:
            return _shape(known, table["models"][known], parts[length:])
    return None


def names() -> tuple[str, ...]:
    """Every model and size the table has, each a name that `find` knows."""
    return tuple(_table()["models"])


def is_cloud_model(name: str) -> bool:
    """Whether Ollama's `name` is one that it forwards to ollama.com: tagged `cloud`, or a size and `-cloud`."""
    tag = _plain(name).rpartition("/")[2].partition(":")[2]
    return tag == "cloud" or tag.endswith("-cloud")


def _plain(name: str) -> str:
    """`name` in small letters, without a registry's host and the default namespace."""
    plain = name.strip().lower()
    for prefix in _REGISTRY:
        plain = plain.removeprefix(prefix)
    return plain.removeprefix("library/")


def _shape(name: str, entry: dict[str, Any], rest: list[str]) -> ModelShape | None:
    """The entry's shape, in the quantisation that the tag's other words ask for; None where they are not known."""
    by_tag = {tag.lower(): tag for tag in entry["tags"]}
    tag = entry["default"]
    for word in rest:
        if word in by_tag:
            tag = by_tag[word]
        elif word not in _SAME_SHAPE:
            return None
    model = Dimensions(**{key: value for key, value in entry.items() if key in _DIMENSIONS})
    told = entry.get("weights", {}).get(tag)
    weights = Weights(**told) if told is not None else weigh(model, tag)
    is_encoder = model.arch in ENCODERS
    vision = entry.get("vision_bytes", 0)
    is_checked = tag in entry["published"]
    return ModelShape(
        arch=model.arch,
        parameters=weights.elements,
        layers=model.layers,
        heads=model.heads,
        kv_heads=model.kv_heads,
        head_dim=model.head_dim,
        embedding_length=model.embedding_length,
        vocab=model.vocab,
        context_length=model.context_length,
        weights_bytes=weights.total + vision,
        quantisation="F16" if tag == "fp16" else tag.upper(),
        is_embedding=entry.get("is_embedding", False),
        source=f"catalogue, {name}: {entry['source']}; weights {'as published' if is_checked else 'derived'}",
        feed_forward_length=max(model.feed_forward_length, model.experts_used * model.expert_length),
        sliding_window=entry.get("sliding_window", 0),
        sliding_layers=entry.get("sliding_layers", 0),
        host_bytes=0 if model.is_tied else weights.table,
        output_bytes=weights.output + (weights.table if model.is_tied and not is_encoder else 0),
        experts=model.experts,
        experts_used=model.experts_used,
        expert_bytes=weights.expert,
        vision_bytes=vision,
    )


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads((files("orchestrator") / "data" / "catalogue.json").read_bytes())
    return table
