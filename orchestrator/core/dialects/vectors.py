"""The bodies of embedding answers."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import Any

from orchestrator.core.dialects import gojson
from orchestrator.core.dialects.errors import JSON_TYPE, OPENAI_JSON_TYPE
from orchestrator.core.dialects.frames import Stats
from orchestrator.core.model import Call, Endpoint

Vector = Sequence[float]


def embeddings_body(call: Call, model: str, vectors: Sequence[Vector], stats: Stats) -> tuple[str, bytes]:
    """Content type and body with `vectors`, one for each text of the call, in its order."""
    if call.endpoint is Endpoint.OPENAI_EMBEDDINGS:
        return OPENAI_JSON_TYPE, _openai_body(call, model, vectors, stats.prompt_tokens)
    if call.endpoint is Endpoint.OLLAMA_EMBEDDINGS:
        return JSON_TYPE, gojson.dumps({"embedding": list(vectors[0]) if vectors else []})
    fields: dict[str, Any] = {"model": model, "embeddings": [list(each) for each in vectors]}
    costs = {
        "total_duration": stats.total_ns,
        "load_duration": stats.load_ns,
        "prompt_eval_count": stats.prompt_tokens,
    }
    return JSON_TYPE, gojson.dumps(fields | {name: cost for name, cost in costs.items() if cost})


def _openai_body(call: Call, model: str, vectors: Sequence[Vector], prompt_tokens: int) -> bytes:
    is_packed = str(call.body.get("encoding_format") or "").lower() == "base64"
    data = [
        {"object": "embedding", "embedding": _packed(vector) if is_packed else list(vector), "index": index}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return gojson.dumps({"object": "list", "data": data, "model": model, "usage": usage}) + b"\n"


def _packed(vector: Vector) -> str:
    """Float32, little-endian, base64: OpenAI's clients ask for it by default."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
