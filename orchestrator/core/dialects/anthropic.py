"""A call of Anthropic's messages as Ollama turns it into one of its own chat (anthropic/anthropic.go, 0.33).

What Ollama does not read is passed over here too: `cache_control`, `metadata`, citations, documents. Ollama searches
the web itself where a call has that tool; here questions do not leave the cluster.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from orchestrator.core.dialects import gojson
from orchestrator.core.dialects.errors import MalformedCall
from orchestrator.core.dialects.responses import NO_WEB_SEARCH

Fields = dict[str, Any]
Block = Mapping[str, Any]

_EFFORTS: Final = ("high", "medium", "low", "max")
_LETTERS_PER_TOKEN: Final = 4  # Ollama's own guess, told where a stream begins


def check_messages_body(body: Mapping[str, Any], *, is_count: bool = False) -> None:
    """Raise `MalformedCall` where the body cannot become a call to Ollama's chat, in its words and order.

    `is_count`: its tokens are to be counted, so there is no limit to those of an answer.
    """
    messages = body.get("messages") or ()
    if any(message is None or "content" not in message for message in messages):
        raise MalformedCall("unexpected end of JSON input")
    if not body.get("model"):
        raise MalformedCall("model is required")
    if not is_count and body.get("max_tokens", 0) <= 0:
        raise MalformedCall("max_tokens is required and must be positive")
    if not messages:
        raise MalformedCall("messages is required")
    for message in messages:
        for block in _blocks(message["content"]):
            _check_block(block)
    for tool in _tools(body):
        _check_tool(tool)
    if is_count and next(chat_messages(body), None) is None:
        raise MalformedCall("messages is required")


def chat_body(body: Mapping[str, Any]) -> Fields:
    """The fields that Ollama's own chat would be asked with; the model and how to draw are not among them."""
    fields: Fields = {"messages": list(chat_messages(body))}
    if tools := [_tool(tool) for tool in _tools(body)]:
        fields["tools"] = tools
    return fields | _tool_choice(body.get("tool_choice") or {}) | wanted_format(body)


def wanted_thinking(body: Mapping[str, Any]) -> bool | str | None:
    """Whether the model is to think: yes, no, a level, or None where it was not said."""
    told = (body.get("thinking") or {}).get("type")
    if told in ("enabled", "disabled"):
        return bool(told == "enabled")
    effort = str((body.get("output_config") or {}).get("effort") or "").strip().lower()
    effort = "high" if effort == "xhigh" else effort
    return effort if effort in _EFFORTS else None


def wanted_format(body: Mapping[str, Any]) -> Fields:
    """The schema that an answer shall fit. Ollama does not read it; an engine that does is told."""
    told = (body.get("output_config") or {}).get("format")
    schema = told.get("schema") if isinstance(told, dict) and told.get("type") == "json_schema" else None
    return {"format": schema} if isinstance(schema, dict) else {}


def chat_messages(body: Mapping[str, Any]) -> Iterator[Fields]:
    """The conversation as messages of Ollama's own chat."""
    if system := _system(body.get("system")):
        yield {"role": "system", "content": system}
    for message in body.get("messages") or ():
        yield from _messages(str(message.get("role") or "").lower(), _blocks(message["content"]))


def estimated_tokens(body: Mapping[str, Any]) -> int:
    """Ollama's guess at a prompt's tokens, which it tells before it knows them: a quarter of the bytes."""
    system = body.get("system")
    size = len(system.encode()) if isinstance(system, str) else sum(_size(block) for block in _blocks(system))
    for message in body.get("messages") or ():
        size += len(str(message.get("role") or "").encode()) + sum(_size(each) for each in _blocks(message["content"]))
    for tool in _tools(body):
        texts = (tool.get("name") or "", tool.get("description") or "")
        size += sum(len(each.encode()) for each in texts) + len(_json(tool.get("input_schema")))
    return max(size // _LETTERS_PER_TOKEN, 1)


# --- a conversation ---------------------------------------------------------------------------------------------------


def _blocks(content: object) -> Sequence[Block]:
    if isinstance(content, str):
        return ({"type": "text", "text": content},)
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else ()


def _system(given: object) -> str:
    return given if isinstance(given, str) else _joined_text(_blocks(given))


def _joined_text(blocks: Sequence[Block]) -> str:
    texts = (block.get("text") for block in blocks if block.get("type") == "text")
    return "".join(text for text in texts if isinstance(text, str))


def _messages(role: str, blocks: Sequence[Block]) -> Iterator[Fields]:
    """One message's words and calls, and before or behind them a message for each result of a tool."""
    results = [_result(block) for block in blocks if block.get("type") in ("tool_result", "web_search_tool_result")]
    said: Fields = {"role": role, "content": _joined_text(blocks)}
    if images := [block["source"].get("data") or "" for block in blocks if block.get("type") == "image"]:
        said["images"] = images
    if calls := [_call(block) for block in blocks if block.get("type") in ("tool_use", "server_tool_use")]:
        said["tool_calls"] = calls
    if thoughts := [block["thinking"] for block in blocks if block.get("type") == "thinking" and block.get("thinking")]:
        said["thinking"] = thoughts[-1]
    if role == "user":
        yield from results
    if len(said) > 2 or said["content"]:
        yield said
    if role != "user":
        yield from results


def _call(block: Block) -> Fields:
    return {"id": block.get("id"), "function": {"name": block.get("name") or "", "arguments": block.get("input") or {}}}


def _result(block: Block) -> Fields:
    content = block.get("content")
    message: Fields = {"role": "tool", "tool_call_id": block.get("tool_use_id") or ""}
    if block.get("type") == "web_search_tool_result":
        return message | {"content": _found(content)}
    parts = _blocks(content)
    images = [part["source"].get("data") or "" for part in parts if part.get("type") == "image"]
    return message | {"content": _joined_text(parts)} | ({"images": images} if images else {})


def _found(content: object) -> str:
    """Results of a search in an earlier turn, as the model was shown them."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else _json(content).decode()
    found = (each for each in content if isinstance(each, dict) and each.get("type") == "web_search_result")
    return "".join(f"- {each.get('title') or ''}: {each.get('url') or ''}\n" for each in found)


# --- what is refused --------------------------------------------------------------------------------------------------


def _check_block(block: Block) -> None:
    kind = block.get("type")
    if kind == "image":
        _check_source(block.get("source"), "invalid image source")
    elif kind == "tool_use":
        for name in ("id", "name"):
            if not block.get(name):
                raise MalformedCall(f"tool_use block missing required '{name}' field")
    elif kind == "tool_result":
        for part in _blocks(block.get("content")):
            if part.get("type") == "image":
                _check_source(part.get("source"), "invalid tool_result image source")


def _check_source(source: object, without: str) -> None:
    if not isinstance(source, dict):
        raise MalformedCall(without)
    kind = source.get("type") if isinstance(source.get("type"), str) else ""
    if kind != "base64":
        raise MalformedCall(f"invalid image source type: {kind}. Only base64 images are supported.")
    if not isinstance(source.get("data") or "", str):
        raise MalformedCall(without)


def _check_tool(tool: Mapping[str, Any]) -> None:
    if str(tool.get("type") or "").startswith("web_search"):
        raise MalformedCall(NO_WEB_SEARCH)
    schema = tool.get("input_schema")
    if schema is not None and not isinstance(schema, dict):
        why = f"json: cannot unmarshal {gojson.type_name(schema)} into Go value of type api.ToolFunctionParameters"
        raise MalformedCall(f"invalid input_schema for tool {gojson.quote(tool.get('name') or '')}: {why}")


# --- tools ------------------------------------------------------------------------------------------------------------


def _tools(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return (tool for tool in body.get("tools") or () if tool)


def _tool(tool: Mapping[str, Any]) -> Fields:
    function = {"name": tool.get("name") or "", "description": tool.get("description") or ""}
    if tool.get("input_schema") is not None:
        function["parameters"] = tool["input_schema"]
    return {"type": "function", "function": function}


def _tool_choice(given: Mapping[str, Any]) -> Fields:
    """As with a schema."""
    kind = given.get("type")
    if kind == "tool" and given.get("name"):
        return {"tool_choice": {"type": "function", "function": {"name": given["name"]}}}
    word = {"any": "required", "none": "none"}.get(kind or "")
    return {"tool_choice": word} if word else {}


# --- sizes ------------------------------------------------------------------------------------------------------------


def _size(block: Block) -> int:
    texts = (block.get("text"), block.get("thinking"))
    size = sum(len(text.encode()) for text in texts if isinstance(text, str))
    return size + (len(_json(block)) if block.get("type") in ("tool_use", "tool_result") else 0)


def _json(value: object) -> bytes:
    try:
        return b"" if value is None else gojson.dumps(value)
    except TypeError:  # nested deeper than can be written: such a call is refused where it would be sent on
        return b""
