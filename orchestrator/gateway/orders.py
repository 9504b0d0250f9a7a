"""What is asked of an instance for a call: the call as it was understood here, less what would harm its pool.

Never the caller's own bytes. Two readers of one JSON text can understand it in two ways (a name that occurs twice, or
in capitals), and then a call would be judged, kept and counted as one and answered as another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson

from orchestrator import telemetry
from orchestrator.core.dialects.bounds import bounded
from orchestrator.core.dialects.checks import CHAT_ABILITIES
from orchestrator.core.dialects.counting import CountReader, ollama_count_body
from orchestrator.core.dialects.frames import stream_type
from orchestrator.core.dialects.from_ollama import FromOllama, as_own
from orchestrator.core.dialects.gather import Gatherer
from orchestrator.core.dialects.llama_request import to_count, to_llama_cpp
from orchestrator.core.dialects.parse import canonical_model_name
from orchestrator.core.dialects.translate import Translator
from orchestrator.core.errors import CallerError
from orchestrator.core.model import Call, Dialect, Endpoint, Engine, Instance, Pool
from orchestrator.gateway.doubting import Watching
from orchestrator.gateway.hidden_logprobs import TOLD_ON, asking_for_logprobs
from orchestrator.gateway.hidden_usage import asking_for_usage
from orchestrator.gateway.identity import ANONYMOUS
from orchestrator.gateway.live import Limits
from orchestrator.gateway.relay import Order, Translation, is_callers_mistake

# Each of these makes Ollama load the model anew, for this client and back again for the next (OLLAMA.md 1.9).
_RELOADING_OPTIONS = frozenset(
    {"num_batch", "num_gpu", "main_gpu", "use_mmap", "use_mlock", "num_thread", "draft_num_predict"}
)

_EMBEDDING_ABILITIES = frozenset({"embedding"})


def order_for(
    call: Call,
    pool: Pool,
    instance: Instance,
    limits: Limits,
    keep_bytes: int,
    caller: str = ANONYMOUS,
    watching: Watching | None = None,
) -> Order:
    """The request to `instance`. Raises CallerError for what its engine cannot do.

    What `caller` asked for that would have had the model loaded anew is left out, and counted under its name. What
    `watching` judges by is asked for, too.
    """
    call = bounded(call, instance.context or pool.context)
    counted = asking_for_usage(call)
    judged = watching if watching is not None and watching.needs_logprobs else None
    path, translation = call.endpoint.value, None
    if call.endpoint is Endpoint.ANTHROPIC_COUNT:
        path, body, translation = _to_count(call, pool, instance)
    elif instance.engine is Engine.LLAMA_CPP:
        path, body, translation = _to_translate(call, counted, pool, instance, judged)
    elif judged is not None and call.endpoint not in TOLD_ON:
        path, body, translation = _to_judge(counted, instance, caller, judged)
    else:
        asked = counted if judged is None else asking_for_logprobs(counted)
        if judged is not None:
            judged.strips = asked is not counted
        body = dumped(_for_ollama(asked, instance, caller))
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
        hides_usage=counted is not call,
        watching=watching,
    )


def _to_translate(
    call: Call, counted: Call, pool: Pool, instance: Instance, judged: Watching | None
) -> tuple[str, bytes, Translation]:
    """Path, body and translation for an engine that speaks OpenAI's API only."""
    # Always asked to stream: otherwise it works on for a client that has left (`gather`).
    asked = call if call.endpoint.is_embedding else replace(call, is_stream=True)
    path, body = to_llama_cpp(
        asked, instance.upstream_model, _llama_cpp_abilities(pool), with_logprobs=judged is not None
    )
    kind = Translator if call.is_stream or call.endpoint.is_embedding else Gatherer
    translation = kind(counted, _told_model(call, instance), _now)
    if judged is not None:
        judged.hears_apart = True
        translation.on_logprobs = judged.hear
    return path, body, translation


def _to_judge(call: Call, instance: Instance, caller: str, judged: Watching) -> tuple[str, bytes, Translation]:
    """Path, body and translation for an Ollama whose answer is judged by what this API of its own does not tell."""
    own = as_own(call)
    translation = FromOllama(call, _told_model(call, instance), _now, is_callers_mistake)
    judged.hears_apart = True
    translation.on_logprobs = judged.hear
    return own.endpoint.value, dumped(_for_ollama(own, instance, caller)), translation


def _to_count(call: Call, pool: Pool, instance: Instance) -> tuple[str, bytes, Translation]:
    """Path, body and translation for the number of tokens in a prompt, which each engine is asked in its own way."""
    if instance.engine is Engine.LLAMA_CPP:
        path, body = to_count(call, instance.upstream_model, _llama_cpp_abilities(pool))
    else:
        abilities = pool.details.get("show", {}).get("capabilities") or ()
        path = Endpoint.OLLAMA_CHAT.value
        body = dumped(ollama_count_body(call, instance.upstream_model, abilities))
    return path, body, CountReader()


def _llama_cpp_abilities(pool: Pool) -> frozenset[str]:
    """Ollama itself refuses by a model's abilities; this engine would try, and fail in words of its own."""
    if pool.is_embedding:
        return _EMBEDDING_ABILITIES
    return frozenset((pool.details.get("show") or {}).get("capabilities") or CHAT_ABILITIES)


def note_kept_from_reloading(caller: str, option: str, done: str) -> None:
    """Count what was not passed on; `done`: "clamped" to the pool's own, "dropped", or "ignored" with the request.

    Callers by token are counted under their issuer: it knows any number of them.
    """
    telemetry.TALLY.count(telemetry.KEPT_FROM_RELOADING, (caller.partition("/")[0], option, done))


def _for_ollama(call: Call, instance: Instance, caller: str) -> Mapping[str, Any]:
    """The call's body with the instance's model name, and without what would reload or unload it.

    A name in the caller's own spelling stays: the answer bears it.
    """
    body, model = call.body, instance.upstream_model
    if call.model != model and canonical_model_name(call.model) != canonical_model_name(model):
        body = {**body, "model": model}
    if call.endpoint.dialect is not Dialect.OLLAMA:
        return body
    options = body.get("options")
    if isinstance(options, dict) and (kept := _without_reload(options, instance, caller)) is not options:
        body = {**body, "options": kept}
    if "keep_alive" in body:
        note_kept_from_reloading(caller, "keep_alive", "dropped")
        body = {name: value for name, value in body.items() if name != "keep_alive"}
    return body


def _without_reload(options: dict[str, Any], instance: Instance, caller: str) -> dict[str, Any]:
    """The options, changed or not. The pool's context holds for all calls; a wrong type is the instance's to refuse."""
    # A fraction is a whole number to Ollama.
    is_other_context = (
        "num_ctx" in options and isinstance(options["num_ctx"], int | float) and options["num_ctx"] != instance.context
    )
    if not is_other_context and _RELOADING_OPTIONS.isdisjoint(options):
        return options
    kept = {name: value for name, value in options.items() if name not in _RELOADING_OPTIONS}
    for name in options.keys() & _RELOADING_OPTIONS:
        note_kept_from_reloading(caller, name, "dropped")
    if is_other_context and instance.context:
        kept["num_ctx"] = instance.context
        note_kept_from_reloading(caller, "num_ctx", "clamped")
    elif is_other_context:  # nobody has said yet what a server has that somebody else runs: that holds, unnamed
        del kept["num_ctx"]
        note_kept_from_reloading(caller, "num_ctx", "dropped")
    return kept


def _told_model(call: Call, instance: Instance) -> str:
    """The model's name in the answer: as the caller spelled it, or the pool's where a route was asked."""
    is_asked_for = canonical_model_name(call.model) == canonical_model_name(instance.pool)
    return call.model if is_asked_for else instance.pool


def dumped(body: Mapping[str, Any]) -> bytes:
    """A body as it goes to an instance."""
    try:
        # It is kept as long as the answer takes. What orjson gives back lies in 4 KiB, however short it is.
        return b"%b" % orjson.dumps(body)
    except TypeError:  # deeper than its 254 levels
        return _dumped_deep(body)


def _dumped_deep(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    except RecursionError as why:
        raise CallerError(400, "exceeded max depth") from why


def _now() -> datetime:
    return datetime.now(UTC)
