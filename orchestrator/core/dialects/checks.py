"""What Ollama refuses once it has found the model: abilities the model lacks, options and formats of a wrong type.

The order and the words are those of Ollama's handlers (server/routes.go, api/types.go, 0.33): thinking, abilities,
options, format. The last two are answered 500 although the caller is at fault; so do we.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from orchestrator.core.dialects import gojson
from orchestrator.core.dialects.as_chat import as_chat
from orchestrator.core.dialects.conversation import is_load_request, wanted_thinking
from orchestrator.core.dialects.errors import caller_error
from orchestrator.core.model import Call, Dialect, Endpoint

__all__ = ["CHAT_ABILITIES", "check_for_model", "full_model_name", "is_raw", "wanted_thinking"]

CHAT_ABILITIES: Final = frozenset({"completion", "tools"})

_INTEGERS: Final = (
    *("num_keep", "seed", "num_predict", "top_k", "repeat_last_n"),
    *("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict"),
)
_FLOATS: Final = (
    *("top_p", "min_p", "typical_p", "temperature"),
    *("repeat_penalty", "presence_penalty", "frequency_penalty"),
)
_JSON_WORDS: Final = {"integer": "number", "float32": "number", "array": "array", "boolean": "bool"}


def check_for_model(call: Call, abilities: Collection[str] = CHAT_ABILITIES) -> None:
    """Raise `CallerError` where a model with these abilities cannot answer `call`.

    Abilities are Ollama's capabilities: completion, tools, insert, thinking, embedding.
    """
    # Anthropic's clients ask for thinking whatever the model: Ollama lets it go without.
    is_relaxed = call.endpoint.dialect is Dialect.ANTHROPIC
    call = as_chat(call)
    if not call.endpoint.is_embedding:
        if is_raw(call) and any(call.body.get(name) for name in ("template", "system", "context")):
            raise caller_error(400, "raw mode does not support template, system, or context")
        if wanted_thinking(call) and "thinking" not in abilities and not is_relaxed:
            raise caller_error(400, f"{gojson.quote(call.model)} does not support thinking")
        _check_abilities(call, abilities)
    if call.endpoint.dialect is Dialect.OLLAMA:
        _check_options(call.body.get("options") or {})
        if call.endpoint in (Endpoint.OLLAMA_CHAT, Endpoint.OLLAMA_GENERATE) and not is_load_request(call):
            _check_format(call.body.get("format"))


def is_raw(call: Call) -> bool:
    """The prompt is for the model as it stands, without a template around it."""
    return call.endpoint is Endpoint.OLLAMA_GENERATE and bool(call.body.get("raw"))


def full_model_name(name: str) -> str:
    """The name with registry, namespace and tag, as some of Ollama's errors have it."""
    tagged = name if ":" in name.rpartition("/")[2] else f"{name}:latest"
    defaults = ("registry.ollama.ai", "library")
    return "/".join((*defaults[: max(0, 2 - tagged.count("/"))], tagged))


def _check_abilities(call: Call, abilities: Collection[str]) -> None:
    if "completion" not in abilities:
        word = "chat" if call.endpoint.is_chat else "generate"
        raise caller_error(400, f"{gojson.quote(call.model)} does not support {word}")
    field, ability = ("tools", "tools") if call.endpoint.is_chat else ("suffix", "insert")
    if call.body.get(field) and ability not in abilities:
        raise caller_error(400, f"{full_model_name(call.model)} does not support {ability}")


def _check_options(options: Mapping[str, Any]) -> None:
    """An option that Ollama does not know is no error, nor is a fraction for a whole number."""
    for name, value in options.items():
        wanted = _wanted_type(name)
        if value is None or wanted is None:
            continue
        if gojson.type_name(value) != _JSON_WORDS[wanted]:
            raise caller_error(500, f"option {gojson.quote(name)} must be of type {wanted}")
        if wanted == "array" and not all(isinstance(each, str) for each in value):
            raise caller_error(500, f"option {gojson.quote(name)} must be of an array of strings")


def _wanted_type(option: str) -> str | None:
    if option in _INTEGERS:
        return "integer"
    if option in _FLOATS:
        return "float32"
    return {"stop": "array", "use_mmap": "boolean"}.get(option)


def _check_format(wanted: object) -> None:
    if wanted in (None, "", "json") or isinstance(wanted, dict):
        return
    shown = gojson.quote(gojson.dumps(wanted).decode())
    raise caller_error(500, f'invalid format: {shown}; expected "json" or a valid JSON Schema object')
