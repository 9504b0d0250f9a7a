"""A `/v1/responses` call as Ollama turns it into one of its own chat (openai/responses.go, 0.33).

Ollama keeps nothing of an answer, so whatever refers to a kept one is refused here: it would be answered without what
it refers to. Ollama searches the web itself where a call has that tool; here questions do not leave the cluster.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from orchestrator.core.dialects.errors import MalformedCall
from orchestrator.core.dialects.openai_rules import check_image_url, check_reasoning_effort, json_object
from orchestrator.core.dialects.responses_input import WITH_PARTS, kind_of_item

Fields = dict[str, Any]

NO_WEB_SEARCH: Final = "web search is not available here: questions do not leave the cluster"
_NOTHING_KEPT: Final = "nothing is kept between calls: send the whole conversation as input"
_REFUSED: Final[Mapping[str, str]] = {
    "previous_response_id": f"previous_response_id is not supported, {_NOTHING_KEPT}",
    "conversation": f"conversation is not supported, {_NOTHING_KEPT}",
    "prompt": "prompt is not supported: there are no kept prompts; send instructions and input",
    "background": "background is not supported: an answer is given to the call that asked for it",
}


def check_responses_body(body: Mapping[str, Any]) -> None:
    """Raise `MalformedCall` where the body cannot become a call to Ollama's chat, in its words where it has some."""
    for name, why in _REFUSED.items():
        if body.get(name):
            raise MalformedCall(why)
    for item in _items(body):
        _check_item(item)
    check_reasoning_effort((body.get("reasoning") or {}).get("effort") or "")
    if any(str(tool.get("type")).startswith("web_search") for tool in _tools(body)):
        raise MalformedCall(NO_WEB_SEARCH)


def chat_body(body: Mapping[str, Any]) -> Fields:
    """The fields that Ollama's own chat would be asked with; the model and how to draw are not among them."""
    fields: Fields = {"messages": list(chat_messages(body))}
    if tools := [each for tool in _tools(body) for each in _expanded(tool)]:
        fields["tools"] = tools
    if wanted := wanted_format(body):
        fields["format"] = wanted
    return fields | _tool_choice(body.get("tool_choice"))


def wanted_format(body: Mapping[str, Any]) -> Any:
    """The JSON schema the answer shall keep to, or None."""
    wanted = (body.get("text") or {}).get("format") or {}
    return wanted.get("schema") if wanted.get("type") == "json_schema" else None


def chat_messages(body: Mapping[str, Any]) -> Iterator[Fields]:
    """The conversation as messages of Ollama's own chat."""
    if body.get("instructions"):
        yield {"role": "system", "content": body["instructions"]}
    given = body.get("input")
    if isinstance(given, str):
        if given:
            yield {"role": "user", "content": given}
        return
    yield from _joined(_items(body))


# --- a conversation ---------------------------------------------------------------------------------------------------


def _items(body: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    given = body.get("input")
    return given if isinstance(given, list) else ()


def _check_item(item: Mapping[str, Any]) -> None:
    kind = kind_of_item(item)
    if kind == "function_call" and item.get("arguments") and json_object(item["arguments"]) is None:
        raise MalformedCall("failed to parse function call arguments: they are not a JSON object")
    for part in _parts(item.get(WITH_PARTS.get(kind, ""))):
        if part.get("type") == "input_file":
            raise MalformedCall("file inputs are not currently supported")
        if part.get("type") == "input_image" and part.get("image_url"):
            check_image_url(part["image_url"])


def _joined(items: Sequence[Mapping[str, Any]]) -> Iterator[Fields]:
    """Items of one turn of the assistant's become one message: thoughts, words and calls of tools."""
    said: Fields | None = None
    thoughts = ""
    for at, item in enumerate(items):
        kind = kind_of_item(item)
        if kind == "reasoning":
            thoughts = item.get("encrypted_content") or ""
            continue
        if kind == "web_search_call":
            continue  # the message behind it tells what was found
        message = _message(kind, item)
        if message["role"] == "assistant" and thoughts:
            message, thoughts = message | {"thinking": thoughts}, ""
        if said is not None and _belongs_to(said, message, items[at + 1 : at + 2]):
            said = _merged(said, message)
            continue
        if said is not None:
            yield said
        said = message
    if said is not None:
        yield said
    if thoughts:
        yield {"role": "assistant", "content": "", "thinking": thoughts}


def _message(kind: str, item: Mapping[str, Any]) -> Fields:
    if kind == "function_call":
        arguments = json_object(item.get("arguments") or "{}") or {}
        function = {"name": item.get("name") or "", "arguments": arguments}
        return {"role": "assistant", "content": "", "tool_calls": [{"id": item.get("call_id"), "function": function}]}
    if kind == "function_call_output":
        return _spoken("tool", item.get("output")) | {"tool_call_id": item.get("call_id") or ""}
    role = str(item.get("role") or "")
    # What OpenAI has called its system messages since; templates of models do not know the word.
    return _spoken("system" if role == "developer" else role, item.get("content"))


def _spoken(role: str, content: object) -> Fields:
    if isinstance(content, str):
        return {"role": role, "content": content}
    parts = _parts(content)
    text = "".join(part.get("text") or "" for part in parts if part.get("type") in ("input_text", "output_text"))
    pictures = (part.get("image_url") for part in parts if part.get("type") == "input_image")
    images = [url.partition(",")[2] for url in pictures if url]
    return {"role": role, "content": text} | ({"images": images} if images else {})


def _parts(content: object) -> Sequence[Mapping[str, Any]]:
    return content if isinstance(content, list) else ()


def _belongs_to(said: Fields, message: Fields, following: Sequence[Mapping[str, Any]]) -> bool:
    """Whether `message` goes on with what the assistant said: a call does; words do between a call and its result."""
    if said["role"] != "assistant" or message["role"] != "assistant":
        return False
    if message.get("tool_calls"):
        return True
    answered = [item.get("call_id") for item in following if kind_of_item(item) == "function_call_output"]
    return any(call["id"] in answered for call in said.get("tool_calls", ()))


def _merged(said: Fields, message: Fields) -> Fields:
    text = "\n".join(filter(None, (said["content"], message["content"])))
    both = said | message | {"content": text}
    for name in ("tool_calls", "images"):
        if listed := [*said.get(name, ()), *message.get(name, ())]:
            both[name] = listed
    return both


# --- tools ------------------------------------------------------------------------------------------------------------


def _tools(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return (tool for tool in body.get("tools") or () if tool)


def _expanded(tool: Mapping[str, Any], prefix: str = "") -> Iterator[Fields]:
    """A tool as Ollama has them; of a namespace its members, under its name."""
    if tool.get("type") == "namespace":
        for member in _tools(tool):
            yield from _expanded(member, f"{tool['name']}." if tool.get("name") else "")
        return
    name = tool.get("name") or ""
    function = {
        "name": name if name.startswith(prefix) else prefix + name,
        "description": tool.get("description") or "",
    }
    if tool.get("parameters") is not None:
        function["parameters"] = tool["parameters"]
    yield {"type": "function", "function": function}


def _tool_choice(given: object) -> Fields:
    """Ollama does not read it; an engine that does is told."""
    if given in ("none", "required"):
        return {"tool_choice": given}
    named = given.get("name") if isinstance(given, Mapping) and given.get("type") == "function" else None
    return {"tool_choice": {"type": "function", "function": {"name": named}}} if isinstance(named, str) else {}
