"""What `/api/tags`, `/api/show` and `/api/ps` say of a pool: the instance's own words, or the like for llama.cpp."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from orchestrator.core.dialects.checks import CHAT_ABILITIES
from orchestrator.core.model import Engine, Instance, ModelShape
from orchestrator.nodes.engine_api import EngineApi


async def pool_details(engine: EngineApi, instance: Instance, shape: ModelShape) -> Mapping[str, Any]:
    """`tags`, `ps` and `show` of the pool's model, as Ollama words them. Raises InstanceError."""
    if instance.engine is Engine.OLLAMA:
        return await engine.describe(instance)
    return details_of(instance, shape, await engine.abilities(instance))


def details_of(instance: Instance, shape: ModelShape, abilities: Collection[str]) -> Mapping[str, Any]:
    """The same of a model of llama.cpp's, from its numbers. `abilities`: none are told, what most can is assumed."""
    digest = hashlib.sha256(f"{instance.pool} {shape}".encode()).hexdigest()
    details = {
        "parent_model": "",
        "format": "gguf",
        "family": shape.arch,
        "families": [shape.arch],
        "parameter_size": _parameters(shape.parameters),
        "quantization_level": shape.quantisation,
    }
    capabilities = ["embedding"] if shape.is_embedding else sorted(abilities or CHAT_ABILITIES)
    lengths = {"context_length": shape.context_length, "embedding_length": shape.embedding_length}
    at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    named = {"name": instance.pool, "model": instance.pool}
    tags = {
        **named,
        "modified_at": at,
        "size": shape.weights_bytes,
        "digest": digest,
        "details": {**details, **lengths},
    }
    running = {**named, "size": instance.vram_bytes, "digest": digest, "details": details}
    show = {
        "modelfile": f"# {instance.pool}: served by llama.cpp\n",
        "details": details,
        "model_info": {
            "general.architecture": shape.arch,
            "general.parameter_count": shape.parameters,
            f"{shape.arch}.context_length": shape.context_length,
            f"{shape.arch}.embedding_length": shape.embedding_length,
            f"{shape.arch}.block_count": shape.layers,
        },
        "capabilities": capabilities,
        "modified_at": at,
    }
    # The year 2319 is Ollama's "for ever" (OLLAMA.md 2): the cluster keeps its models loaded.
    forever = {"expires_at": "2319-01-01T00:00:00Z", "size_vram": 0, "context_length": instance.context}
    return {"tags": {**tags, "capabilities": capabilities}, "ps": {**running, **forever}, "show": show}


def _parameters(count: int) -> str:
    return f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.2f}M"
