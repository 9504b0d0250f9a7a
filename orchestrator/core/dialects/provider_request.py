"""A call as a request to an outside provider: OpenAI's chat completions, with its own fields and no others.

Strict providers refuse what they do not know, so what only Ollama has (`top_k`, `num_ctx`, `keep_alive` …) stays here,
and so do thoughts of earlier turns. What a provider has under another name, or not at all, its `Manners` say. A caller
who speaks this API is passed on as they wrote it, but for that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from orchestrator.core.dialects.as_chat import as_chat
from orchestrator.core.dialects.chat_request import Fields, dumps, messages, response_format
from orchestrator.core.dialects.checks import check_for_model, is_raw, wanted_thinking
from orchestrator.core.dialects.conversation import sampling
from orchestrator.core.dialects.errors import caller_error
from orchestrator.core.dialects.llama_request import wanted_logprobs
from orchestrator.core.dialects.openai_rules import reasoning_effort
from orchestrator.core.model import Call, Endpoint
from orchestrator.core.target import Manners

# Whether it can, the provider knows: what it refuses goes back to the caller in its words.
_ABILITIES: Final = frozenset({"completion", "tools", "thinking"})
_SAME_NAME: Final = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "stop")
# What callers of OpenAI's paths may send to an Ollama, and to nobody else.
_OLLAMA_EXTRAS: Final = frozenset({
    *("options", "keep_alive", "think", "format", "reasoning", "reasoning_effort"),
    *("truncate", "shift", "raw", "template", "system", "context", "images", "num_ctx"),
    *("top_k", "min_p", "repeat_penalty", "stream", "stream_options"),
})  # fmt: skip
# What would have another model answer than the settings name, at another price, with other terms or with what is found
# elsewhere: OpenRouter's, OpenAI's and others' fields that are for who holds the key.
_OPERATORS: Final = frozenset({
    *("models", "route", "provider", "plugins", "transforms", "preset", "service_tier", "web_search_options"),
    *("search_parameters", "search_settings", "compound_custom", "extra_body"),
})  # fmt: skip
_THOUGHTS: Final = frozenset({"reasoning", "reasoning_content", "thinking"})
# Words for effort beyond what providers have.
_STRONGEST: Final = {"max": "high", "xhigh": "high", "ultra": "high"}
_ASK_FOR_JSON: Final = "Answer with JSON and nothing else."


def to_provider(call: Call, model: str, manners: Manners, *, with_logprobs: bool = False) -> bytes:
    """The body to send. Raises `CallerError` for what no such API can do.

    A stream is asked for its counts, whatever the caller asked: without them nobody knows what it cost.
    `with_logprobs`: log probabilities are wanted, whoever asked, as far as the provider tells any.
    """
    if call.endpoint.is_embedding:
        raise caller_error(400, "embeddings are made in the cluster alone: name a model that embeds")
    if call.endpoint is Endpoint.ANTHROPIC_COUNT:
        raise caller_error(501, "an outside provider would answer this call, and counts no tokens before it")
    if is_raw(call) or call.body.get("template") or call.body.get("context"):
        raise caller_error(400, "raw, template and context are not for outside providers; send the conversation")
    check_for_model(call, _ABILITIES)
    is_passed_on = call.endpoint is Endpoint.OPENAI_CHAT
    fields: Fields = {"model": model} | (_passed_on(call.body) if is_passed_on else _made(as_chat(call)))
    if call.is_stream:
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
    if with_logprobs:
        fields["logprobs"] = True
    wanted = reasoning_effort(call.body) if is_passed_on else _effort_of(wanted_thinking(call))
    if effort := _effort(wanted, manners.efforts_of(model)):
        fields["reasoning_effort"] = effort
    return dumps(_mannered(fields, manners))


# --- of OpenAI's own callers -----------------------------------------------------------------------------------------


def _passed_on(body: Mapping[str, Any]) -> Fields:
    left_out = _OLLAMA_EXTRAS | _OPERATORS
    kept = {name: value for name, value in body.items() if name not in left_out and name != "model"}
    return kept | {"messages": [_message(each or {}) for each in body["messages"]]}


def _message(given: Mapping[str, Any]) -> Fields:
    kept = {name: value for name, value in given.items() if name not in _THOUGHTS}
    content = kept.get("content")
    if isinstance(content, list):
        kept["content"] = [_part(each) for each in content]
    return kept


def _part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """Ollama takes a picture's URL as it is, OpenAI within an object."""
    url = part.get("image_url")
    return {**part, "image_url": {"url": url}} if isinstance(url, str) else part


# --- of everybody else's ---------------------------------------------------------------------------------------------


def _made(call: Call) -> Fields:
    chosen = sampling(call)
    fields: Fields = {"messages": [_message(each) for each in messages(call)]}
    fields |= {name: chosen[name] for name in _SAME_NAME if name in chosen}
    if (tokens := int(chosen.get("num_predict", -1))) > 0:
        fields["max_tokens"] = tokens
    if (seed := int(chosen.get("seed", -1))) >= 0:
        fields["seed"] = seed
    return fields | _logprobs(call) | _tools(call) | response_format(call)


def _logprobs(call: Call) -> Fields:
    count = wanted_logprobs(call)
    if count is None:
        return {}
    return {"logprobs": True} | ({"top_logprobs": count} if count else {})


def _tools(call: Call) -> Fields:
    tools = call.body.get("tools") if call.endpoint.is_chat else None
    if not tools:
        return {}
    functions = [(tool or {}).get("function") or {} for tool in tools]
    if not all(each.get("name") for each in functions):
        raise caller_error(400, "a tool without a name is not supported")
    choice = call.body.get("tool_choice")
    told = [{"type": "function", "function": each} for each in functions]
    return {"tools": told} | ({} if choice is None else {"tool_choice": choice})


def _effort_of(think: bool | str | None) -> str:
    """Ollama's word as OpenAI's; to think at all is what models that can do by themselves."""
    if think is False:
        return "none"
    return think if isinstance(think, str) else ""


# --- as the provider likes it ----------------------------------------------------------------------------------------


def _effort(wanted: str, allowed: Sequence[str] | None) -> str:
    """The word for effort that is sent; none where the model takes no such word."""
    if allowed is None or wanted in allowed:
        return wanted if allowed is not None else _STRONGEST.get(wanted, wanted)
    nearest = "minimal" if wanted == "none" else _STRONGEST.get(wanted, "low" if wanted == "minimal" else "")
    return nearest if nearest in allowed else ""


def _mannered(fields: Fields, manners: Manners) -> Fields:
    fields = _asking_for_json(fields, has_schemas=manners.has_schemas)
    for name, theirs in manners.renames.items():
        if name in fields:
            fields = {theirs if each == name else each: value for each, value in fields.items() if each != theirs}
    if manners.tool_id_letters:
        fields["messages"] = [_with_short_ids(each, manners.tool_id_letters) for each in fields["messages"]]
    return {name: value for name, value in fields.items() if name not in manners.refuses}


def _asking_for_json(fields: Fields, *, has_schemas: bool) -> Fields:
    """JSON without a schema is given to those alone whose messages ask for it."""
    wanted = fields.get("response_format")
    kind = wanted.get("type") if isinstance(wanted, Mapping) else None
    if isinstance(wanted, Mapping) and kind == "json_schema" and not has_schemas:
        schema = (wanted.get("json_schema") or {}).get("schema") or {}
        told = f"{_ASK_FOR_JSON} Its schema: {dumps(schema).decode()}"
        return _told_first(fields, told) | {"response_format": {"type": "json_object"}}
    if kind == "json_object" and not any("json" in text.lower() for text in _texts(fields["messages"])):
        return _told_first(fields, _ASK_FOR_JSON)
    return fields


def _told_first(fields: Fields, text: str) -> Fields:
    return fields | {"messages": [{"role": "system", "content": text}, *fields["messages"]]}


def _texts(said: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for message in said:
        content = message.get("content")
        if isinstance(content, str):
            yield content
        elif isinstance(content, list):
            yield from (part["text"] for part in content if isinstance(part.get("text"), str))


def _with_short_ids(message: Fields, letters: int) -> Fields:
    """Ids of tool calls in the form that a provider insists on; those of one call stay alike."""
    if message.get("tool_call_id"):
        message = message | {"tool_call_id": _short_id(message["tool_call_id"], letters)}
    if message.get("tool_calls"):
        calls = [each | {"id": _short_id(each.get("id") or "", letters)} for each in message["tool_calls"]]
        message = message | {"tool_calls": calls}
    return message


def _short_id(given: str, letters: int) -> str:
    if len(given) == letters and given.isascii() and given.isalnum():
        return given
    return hashlib.blake2b(given.encode("utf-8", "surrogatepass"), digest_size=32).hexdigest()[:letters]
