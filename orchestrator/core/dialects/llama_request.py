"""A call as a request to llama.cpp's server, which speaks OpenAI's API with fields of its own.

Everything Ollama would do before its runner is done here: options under llama.cpp's names with Ollama's defaults,
the rest as in `chat_request`. The model's context and threads are the instance's, not the
call's. What llama.cpp cannot do is refused, never dropped: a prompt template or a context of tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Final

from orchestrator.core.dialects.as_chat import as_chat
from orchestrator.core.dialects.chat_request import Fields, dumps, messages, response_format
from orchestrator.core.dialects.checks import CHAT_ABILITIES, check_for_model, is_raw, wanted_thinking
from orchestrator.core.dialects.conversation import embedding_inputs, sampling
from orchestrator.core.dialects.errors import caller_error
from orchestrator.core.model import Call, Dialect, Endpoint

# Ollama's DefaultOptions (api/types.go); llama.cpp's own differ in top_p and min_p.
_OLLAMA_DEFAULTS: Final = {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.0, "repeat_penalty": 1.0}
# What Ollama's OpenAI paths set where the caller is silent (openai/openai.go).
_OPENAI_DEFAULTS: Final = _OLLAMA_DEFAULTS | {"temperature": 1.0, "top_p": 1.0}
_SAME_NAME: Final = (
    *("temperature", "top_k", "top_p", "min_p", "repeat_penalty"),
    *("presence_penalty", "frequency_penalty", "stop"),
)
_OLLAMA_ONLY: Final = ("repeat_last_n", "typical_p")


def to_llama_cpp(
    call: Call, upstream_model: str, abilities: Collection[str] = CHAT_ABILITIES, *, with_logprobs: bool = False
) -> tuple[str, bytes]:
    """Path and body to send. Raises `CallerError` where the model cannot answer, as Ollama would.

    Not for requests that only load a model: an engine that runs has loaded its own. `with_logprobs`: they are wanted,
    whether the caller gets them or not.
    """
    # Its OpenAI paths have no way to fill in between a prompt and a suffix, whatever the model can do.
    check_for_model(call, frozenset(abilities) - {"insert"})
    call = _able(as_chat(call), abilities)
    if call.endpoint.is_embedding:
        wanted = {"model": upstream_model, "input": list(embedding_inputs(call))}
        return Endpoint.OPENAI_EMBEDDINGS.value, dumps(wanted)
    fields: Fields = {"model": upstream_model} | _stream(call) | _sampling(call) | _logprobs(call, with_logprobs)
    if is_raw(call):
        if call.body.get("images"):
            raise caller_error(400, "raw mode with images is not supported by this engine")
        fields |= {"prompt": call.body["prompt"]} | _raw_format(call.body.get("format"))
        return Endpoint.OPENAI_COMPLETIONS.value, dumps(fields)
    fields["messages"] = list(messages(call))
    fields |= response_format(call) | _tools(call) | _thinking(call)
    return Endpoint.OPENAI_CHAT.value, dumps(fields)


def to_count(call: Call, upstream_model: str, abilities: Collection[str] = CHAT_ABILITIES) -> tuple[str, bytes]:
    """Path and body that ask for the number of tokens in the prompt that `call` would be; no slot is worked."""
    path, body = to_llama_cpp(call, upstream_model, abilities)
    return f"{path}/input_tokens", body


def _able(call: Call, abilities: Collection[str]) -> Call:
    """The call without the wish to think that a model cannot have, where its dialect lets it go without."""
    if wanted_thinking(call) and "thinking" not in abilities:
        return replace(call, body={name: value for name, value in call.body.items() if name != "think"})
    return call


def wanted_logprobs(call: Call) -> int | None:
    """How many alternatives a token the caller wants beside its logprob; None: no logprobs at all."""
    # Ollama computes them for /v1/completions too, and then leaves them out.
    if call.endpoint is Endpoint.OPENAI_COMPLETIONS or not call.body.get("logprobs"):
        return None
    return int(call.body.get("top_logprobs", 0))


def _stream(call: Call) -> Fields:
    return {"stream": True, "stream_options": {"include_usage": True}} if call.is_stream else {"stream": False}


def _sampling(call: Call) -> Fields:
    is_ollama = call.endpoint.dialect is Dialect.OLLAMA
    chosen = (_OLLAMA_DEFAULTS if is_ollama else _OPENAI_DEFAULTS) | sampling(call)
    fields = {name: chosen[name] for name in _SAME_NAME if name in chosen}
    options = (call.body.get("options") or {}) if is_ollama else {}
    fields |= {name: options[name] for name in _OLLAMA_ONLY if options.get(name) is not None}
    # A fraction is cut, as Ollama does. No token at all is no answer: to Ollama 0 too means without limit.
    if (tokens := int(chosen.get("num_predict", -1))) > 0:
        fields["max_tokens"] = tokens
    if (seed := int(chosen.get("seed", -1))) >= 0:
        fields["seed"] = seed
    return fields


def _logprobs(call: Call, are_wanted: bool) -> Fields:
    count = wanted_logprobs(call)
    if count is None and not are_wanted:
        return {}
    count = count or 0
    # Without a number llama.cpp gives twenty alternatives, and with 0 no logprobs.
    if is_raw(call):
        return {"logprobs": max(count, 1)}
    return {"logprobs": True, "top_logprobs": max(count, 1)}


def _raw_format(wanted: object) -> Fields:
    if not wanted:
        return {}
    return {"json_schema": {"type": "object"} if wanted == "json" else wanted}


def _tools(call: Call) -> Fields:
    """Tools, and which may be used. llama.cpp knows no single one that must be: then it is the only one there is."""
    tools = call.body.get("tools") if call.endpoint.is_chat else None
    if not tools:
        return {}
    choice = call.body.get("tool_choice")
    if isinstance(choice, Mapping):
        named = [tool for tool in tools if _tool_name(tool) == (choice.get("function") or {}).get("name")]
        tools, choice = (named, "required") if named else (tools, None)
    if not all(map(_tool_name, tools)):
        raise caller_error(400, "a tool without a name is not supported by this engine")
    return {"tools": tools} | ({} if choice is None else {"tool_choice": choice})


def _tool_name(tool: Mapping[str, Any] | None) -> str:
    return str(((tool or {}).get("function") or {}).get("name") or "")


def _thinking(call: Call) -> Fields:
    think = wanted_thinking(call)
    if think is None:
        return {}
    level = {"reasoning_effort": think} if isinstance(think, str) else {}
    return {"chat_template_kwargs": {"enable_thinking": bool(think)} | level}
