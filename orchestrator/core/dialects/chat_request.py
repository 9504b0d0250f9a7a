"""A conversation, and the form its answer shall have, as OpenAI's chat completions take them, from any dialect.

For engines and providers that speak that API: llama.cpp's server, and those outside. What each of them has of its own
is left to `llama_request` and `provider_request`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import orjson

from orchestrator.core.dialects.errors import caller_error
from orchestrator.core.model import Call, Endpoint

Fields = dict[str, Any]

_IMAGE_KINDS: Final = {"/9j/": "jpeg", "UklGR": "webp", "iVBOR": "png"}


def dumps(fields: Fields) -> bytes:
    """A request's bytes. Raises `CallerError` for what cannot be written."""
    try:
        return orjson.dumps(fields)
    except orjson.JSONEncodeError as error:
        # What a schema nests deeper than 254 levels can be read and not written.
        raise caller_error(400, "exceeded max depth") from error


def messages(call: Call) -> Iterator[Fields]:
    """The messages of a call to Ollama's own paths or OpenAI's; thoughts are `reasoning_content`."""
    if call.endpoint is Endpoint.OPENAI_CHAT:
        yield from (_openai_message(message or {}) for message in call.body["messages"])
    elif call.endpoint is Endpoint.OLLAMA_CHAT:
        yield from _ollama_messages(call.body["messages"])
    elif call.endpoint is Endpoint.OPENAI_COMPLETIONS:
        yield {"role": "user", "content": call.body["prompt"]}
    else:
        yield from _generate_messages(call.body)


def _generate_messages(body: Mapping[str, Any]) -> Iterator[Fields]:
    if body.get("template") or body.get("context"):
        raise caller_error(400, "template and context are not supported by this engine; send the conversation")
    if body.get("system"):
        yield {"role": "system", "content": body["system"]}
    yield {"role": "user", "content": _content(body["prompt"], body.get("images"))}


def _openai_message(message: Mapping[str, Any]) -> Fields:
    kept = {name: message[name] for name in ("role", "content", "name", "tool_call_id") if name in message}
    if message.get("tool_calls"):
        kept["tool_calls"] = message["tool_calls"]
    return kept | ({"reasoning_content": message["reasoning"]} if message.get("reasoning") else {})


def _ollama_messages(messages: Sequence[Mapping[str, Any] | None]) -> Iterator[Fields]:
    """Ollama names the tool in its result, OpenAI the id of the call: ids are made up where there are none."""
    ids: dict[str, str] = {}
    for at, message in enumerate(messages):
        given = message or {}
        fields: Fields = {"role": str(given.get("role") or "user").lower()}
        fields["content"] = _content(given.get("content") or "", given.get("images"))
        if given.get("thinking"):
            fields["reasoning_content"] = given["thinking"]
        if given.get("tool_calls"):
            numbered = enumerate(given["tool_calls"])
            fields["tool_calls"] = [_tool_call(each or {}, f"call_{at}_{n}") for n, each in numbered]
            ids |= {each["function"]["name"]: each["id"] for each in fields["tool_calls"]}
        if fields["role"] == "tool":
            last = next(reversed(ids.values()), "call_0")
            fields["tool_call_id"] = given.get("tool_call_id") or ids.get(given.get("tool_name") or "", last)
        yield fields


def _tool_call(given: Mapping[str, Any], made_up_id: str) -> Fields:
    function = given.get("function") or {}
    arguments = dumps(function.get("arguments") or {}).decode()
    named = {"name": function.get("name") or "", "arguments": arguments}
    return {"id": given.get("id") or made_up_id, "type": "function", "function": named}


def _content(text: str, images: Sequence[str] | None) -> str | list[Fields]:
    if not images:
        return text
    pictures = [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in images]
    return [{"type": "text", "text": text}, *pictures]


def _data_url(image: str) -> str:
    """Ollama's callers send plain base64; its first letters tell the kind."""
    kind = next((kind for start, kind in _IMAGE_KINDS.items() if image.startswith(start)), "png")
    return f"data:image/{kind};base64,{image}"


def response_format(call: Call) -> Fields:
    """JSON, of a schema or of any; nothing where a text is wanted."""
    if call.endpoint is Endpoint.OPENAI_COMPLETIONS:
        return {}
    if call.endpoint is Endpoint.OPENAI_CHAT:
        asked = call.body.get("response_format") or {}
        kind = str(asked.get("type") or "").strip().lower()
        schema = (asked.get("json_schema") or {}).get("schema")
        wanted = "json" if kind == "json_object" else schema if kind == "json_schema" else None
    else:
        wanted = call.body.get("format")
    if not wanted:
        return {}
    if wanted == "json":
        return {"response_format": {"type": "json_object"}}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": wanted}}}
