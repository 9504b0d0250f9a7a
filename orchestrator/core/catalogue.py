"""Shapes of well-known models by Ollama's names, for planning before any weights have been pulled.

Knows the table in `data/catalogue.json`, whose entries name their sources, and how Ollama's tags are read. A header
that can be read (`gguf`) is better than this table, and a name that is not in it is not guessed at.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any, Final

from orchestrator.core.model import ModelShape

# Words in tags that choose other weights of the same shape.
_SAME_SHAPE: Final = frozenset({"instruct", "it", "text", "base", "chat"})
_REGISTRY: Final = ("registry.ollama.ai/", "ollama.com/")


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
    by_tag = {tag.lower(): tag for tag in entry["weights"]}
    tag = entry["default"]
    for word in rest:
        if word in by_tag:
            tag = by_tag[word]
        elif word not in _SAME_SHAPE:
            return None
    weights = entry["weights"][tag]
    fields = {key: value for key, value in entry.items() if key not in ("default", "weights", "source")}
    return ModelShape(
        **fields,
        weights_bytes=weights["weights_bytes"],
        host_bytes=weights["host_bytes"],
        quantisation="F16" if tag == "fp16" else tag.upper(),
        source=f"catalogue, {name}: {entry['source']}" + ("; weights derived" if weights.get("derived") else ""),
    )


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads((files("orchestrator") / "data" / "catalogue.json").read_bytes())
    return table
