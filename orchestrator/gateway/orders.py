"""What is asked of an instance for a call: the caller's own bytes where they can go as they are."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson

from orchestrator.core.dialects.frames import stream_type
from orchestrator.core.dialects.gather import Gatherer
from orchestrator.core.dialects.parse import canonical_model_name
from orchestrator.core.dialects.translate import Translator, to_llama_cpp
from orchestrator.core.errors import CallerError
from orchestrator.core.model import Call, Dialect, Engine, Instance
from orchestrator.gateway.live import Limits
from orchestrator.gateway.relay import Order

# Each of these makes Ollama load the model anew, for this client and back again for the next (OLLAMA.md 1.9).
_RELOADING_OPTIONS = frozenset(
    {"num_batch", "num_gpu", "main_gpu", "use_mmap", "use_mlock", "num_thread", "draft_num_predict"}
)


def order_for(call: Call, raw: bytes, instance: Instance, limits: Limits, keep_bytes: int) -> Order:
    """The request to `instance`. Raises CallerError for what its engine cannot do."""
    path, body, translation = call.endpoint.value, raw, None
    if instance.engine is Engine.LLAMA_CPP:
        # Always asked to stream: otherwise it works on for a client that has left (`gather`).
        asked = call if call.endpoint.is_embedding else replace(call, is_stream=True)
        path, body = to_llama_cpp(asked, instance.upstream_model)
        kind = Translator if call.is_stream or call.endpoint.is_embedding else Gatherer
        translation = kind(call, _told_model(call, instance), _now)
    else:
        changed = _for_ollama(call, instance)
        if changed is not None:
            body = _dumped(changed)
    return Order(
        call=call,
        instance=instance,
        path=path,
        body=body,
        content_type=stream_type(call.endpoint),
        translation=translation,
        first_byte_s=limits.first_byte_s,
        between_bytes_s=limits.between_bytes_s,
        keep_bytes=keep_bytes,
    )


def _for_ollama(call: Call, instance: Instance) -> dict[str, Any] | None:
    """The caller's body with the instance's model name, and without what would reload or unload it; None: unchanged."""
    changes: dict[str, Any] = {}
    if call.model != instance.upstream_model:
        changes["model"] = instance.upstream_model
    if call.endpoint.dialect is Dialect.OLLAMA:
        changes |= _without_reload(call, instance)
    dropped = "keep_alive" in call.body and call.endpoint.dialect is Dialect.OLLAMA
    if not changes and not dropped:
        return None
    return {name: value for name, value in {**call.body, **changes}.items() if not (dropped and name == "keep_alive")}


def _without_reload(call: Call, instance: Instance) -> dict[str, Any]:
    """Changed `options`. The pool's context holds for every call; a wrong type is left for the instance to refuse."""
    options = call.body.get("options")
    if not isinstance(options, dict):
        return {}
    is_other_context = isinstance(options.get("num_ctx"), int) and options["num_ctx"] != instance.context
    if not is_other_context and _RELOADING_OPTIONS.isdisjoint(options):
        return {}
    kept = {name: value for name, value in options.items() if name not in _RELOADING_OPTIONS}
    return {"options": {**kept, "num_ctx": instance.context} if is_other_context else kept}


def _told_model(call: Call, instance: Instance) -> str:
    """The model's name in the answer: as the caller spelled it, or the pool's where a route was asked."""
    is_asked_for = canonical_model_name(call.model) == canonical_model_name(instance.pool)
    return call.model if is_asked_for else instance.pool


def _dumped(body: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError as why:  # deeper than its 254 levels
        raise CallerError(400, f"the request body is nested too deeply: {why}") from why


def _now() -> datetime:
    return datetime.now(UTC)
