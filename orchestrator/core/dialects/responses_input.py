"""The `input` of a `/v1/responses` call: a text, or a list of items of which each says what it is.

Ollama reads it by rules of its own (openai/responses.go, 0.33) and names the item that is at fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from orchestrator.core.dialects import gojson
from orchestrator.core.dialects.errors import MalformedCall

_RAW_LIST: Final = "[]json.RawMessage"
_ANY_ITEM: Final = r'struct { Type string "json:\"type\""; Role string "json:\"role\"" }'
_ANY_PART: Final = r'struct { Type string "json:\"type\"" }'
# What kind of part has which texts, and the Go type they are fields of.
_PARTS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "input_text": ("ResponsesTextContent", ("text",)),
    "input_image": ("ResponsesImageContent", ("detail", "file_id", "image_url")),
    "output_text": ("ResponsesOutputTextContent", ("text",)),
    "input_file": ("ResponsesFileContent", ("file_data", "file_id", "file_url", "filename")),
}
_ITEMS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "message": ("", ("type", "role")),
    "function_call": ("ResponsesFunctionCall", ("id", "call_id", "name", "arguments")),
    "function_call_output": ("", ("call_id",)),
    "reasoning": ("ResponsesReasoningInput", ("id", "encrypted_content")),
    "web_search_call": ("ResponsesWebSearchCall", ("id", "status")),
}
# Which field of an item holds a text or a list of parts.
WITH_PARTS: Final = {"message": "content", "function_call_output": "output"}


def check_input(given: Any) -> None:
    """Raise `MalformedCall` in Ollama's words where the input is not what it can read."""
    if given is None or isinstance(given, str):
        return
    if not isinstance(given, list):
        raise MalformedCall(f"input must be a string or array: {_not(_RAW_LIST, given)}")
    for at, item in enumerate(given):
        if (wrong := _wrong_item(item)) is not None:
            raise MalformedCall(f"input[{at}]: {wrong}")


def kind_of_item(item: Mapping[str, Any]) -> str:
    """What an item is; one that only names a role is a message."""
    return item.get("type") or ("message" if item.get("role") else "")


def _wrong_item(item: object) -> str | None:
    if item is None:
        return "input item missing required 'type' field"
    if not isinstance(item, dict):
        return _not(_ANY_ITEM, item)
    if (wrong := _wrong_text("", item, ("type", "role"))) is not None:
        return wrong
    kind = kind_of_item(item)
    if kind not in _ITEMS:
        return f"unknown input item type: {gojson.quote(kind)}" if kind else "input item missing required 'type' field"
    if (wrong := _wrong_text(*_ITEMS[kind][:1], item, _ITEMS[kind][1])) is not None:
        return wrong
    field = WITH_PARTS.get(kind)
    return None if field is None else _wrong_parts(field, item.get(field))


def _wrong_parts(field: str, given: object) -> str | None:
    if given is None or isinstance(given, str):
        return None
    if not isinstance(given, list):
        return f"{field} must be a string or array: {_not(_RAW_LIST, given)}"
    for at, part in enumerate(given):
        if (wrong := _wrong_part(part)) is not None:
            return f"{field}[{at}]: {wrong}"
    return None


def _wrong_part(part: object) -> str | None:
    if part is not None and not isinstance(part, dict):
        return _not(_ANY_PART, part)
    given = part or {}
    if (wrong := _wrong_text("", given, ("type",))) is not None:
        return wrong
    kind = given.get("type") or ""
    if kind not in _PARTS:
        return f"unknown content type: {kind}"
    struct, texts = _PARTS[kind]
    return _wrong_text(struct, given, texts)


def _wrong_text(struct: str, given: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """The sentence about the first of these fields that is there and no text."""
    for name in names:
        value = given.get(name)
        if value is not None and not isinstance(value, str):
            word = gojson.type_name(value)
            return f"json: cannot unmarshal {word} into Go struct field {struct}.{name} of type string"
    return None


def _not(go_type: str, given: object) -> str:
    return f"json: cannot unmarshal {gojson.type_name(given)} into Go value of type {go_type}"
