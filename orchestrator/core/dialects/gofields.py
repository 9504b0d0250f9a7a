"""The types of a request's fields as Ollama's Go structs declare them, and what Go says of a value that does not fit.

Field names, types and the two types with rules of their own (Duration, ThinkValue) are from Ollama's api/types.go and
openai/openai.go (0.33). Go goes through the body in its order, remembers the first wrong type, and stops at once
where a type with its own rules refuses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.core.dialects import gojson
from orchestrator.core.dialects.errors import MalformedCall
from orchestrator.core.model import Endpoint

FOREVER_S: Final = (2**63 - 1) / 1e9  # Go's longest Duration: what a negative keep_alive means
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_THINK_LEVELS = ("high", "medium", "low", "max")


@dataclass(frozen=True, slots=True)
class _Type:
    """A Go type: its name in errors, the JSON word it takes, and the types within it.

    `rule` stands in place of all that where the type refuses in words of its own. `is_opaque`: the type has a decoder
    of its own, which hides the names of the structs within it from errors.
    """

    name: str
    takes: str
    items: _Type | None = None
    fields: Mapping[str, _Type] | None = None
    rule: Callable[[Any], object] | None = None
    is_opaque: bool = False


def keep_alive_s(value: object) -> float:
    """Seconds a model stays loaded: a number of seconds or a Go duration ("5m"); below zero is for ever.

    Raises `MalformedCall` with Ollama's words.
    """
    if isinstance(value, str):
        seconds = _duration_s(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        raise MalformedCall(f"Unsupported type: '{gojson.go_type(value)}'")
    return FOREVER_S if seconds < 0 else min(seconds, FOREVER_S)


def _duration_s(text: str) -> float:
    """Go's time.ParseDuration, in seconds."""
    sign = -1.0 if text.startswith("-") else 1.0
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0.0
    if not rest:
        raise MalformedCall(f"time: invalid duration {gojson.quote(text)}")
    total = 0.0
    while rest:
        number = re.match(r"(?=\.?\d)\d*\.?\d*", rest, re.ASCII)
        if number is None:
            raise MalformedCall(f"time: invalid duration {gojson.quote(text)}")
        unit = re.match(r"[^.\d]*", rest[number.end() :], re.ASCII)
        name = unit.group() if unit else ""
        if not name:
            raise MalformedCall(f"time: missing unit in duration {gojson.quote(text)}")
        if name not in _UNITS_S:
            raise MalformedCall(f"time: unknown unit {gojson.quote(name)} in duration {gojson.quote(text)}")
        total += float(number.group()) * _UNITS_S[name]
        rest = rest[number.end() + len(name) :]
    return sign * total


def _check_think(value: object) -> None:
    levels = ", ".join(f'"{level}"' for level in _THINK_LEVELS)
    if isinstance(value, str) and value not in _THINK_LEVELS:
        raise MalformedCall(f"invalid think value: {gojson.quote(value)} (must be {levels}, true, or false)")
    if not isinstance(value, bool | str):
        raise MalformedCall(f"think must be a boolean or string ({levels}, true, or false)")


_STRING: Final = _Type("string", "string")
_BOOL: Final = _Type("bool", "bool")
_INT: Final = _Type("int", "int")
_FLOAT: Final = _Type("float64", "number")
_FLOAT32: Final = _Type("float32", "number")
_MAP: Final = _Type("map[string]interface {}", "object")


def _strings(*names: str) -> dict[str, _Type]:
    return dict.fromkeys(names, _STRING)


def _struct(name: str, /, **fields: _Type) -> _Type:
    return _Type(name, "object", fields=fields)


def _list(name: str, items: _Type) -> _Type:
    return _Type(name, "array", items=items)


_IMAGES: Final = _list("[]api.ImageData", _Type("api.ImageData", "string"))
_TOOL: Final = _struct(
    "api.Tool", type=_STRING, function=_struct("api.ToolFunction", **_strings("name", "description"))
)
_OLLAMA_CALL: Final = _struct("api.ToolCallFunction", name=_STRING, arguments=_MAP)
_OPENAI_CALL: Final = _struct("", **_strings("name", "arguments"))
_OLLAMA_MESSAGE: Final = _Type(
    "api.Alias",
    "object",
    fields=_strings("role", "content", "thinking", "tool_name", "tool_call_id")
    | {"images": _IMAGES}
    | {"tool_calls": _list("[]api.ToolCall", _struct("api.ToolCall", id=_STRING, function=_OLLAMA_CALL))},
    is_opaque=True,
)
_OPENAI_MESSAGE: Final = _struct(
    "openai.Message",
    **_strings("role", "reasoning", "name", "tool_call_id"),
    tool_calls=_list("[]openai.ToolCall", _struct("openai.ToolCall", id=_STRING, function=_OPENAI_CALL)),
)
_RESPONSE_FORMAT: Final = _struct("openai.ResponseFormat", type=_STRING, json_schema=_struct("openai.JsonSchema"))

_OLLAMA_ANY: Final = {
    "model": _STRING,
    "options": _MAP,
    "keep_alive": _Type("api.Duration", "", rule=keep_alive_s),
}
_OLLAMA_TEXT: Final = (
    _OLLAMA_ANY
    | dict.fromkeys(("stream", "truncate", "shift", "logprobs"), _BOOL)
    | {"think": _Type("api.ThinkValue", "", rule=_check_think), "top_logprobs": _INT}
)
# The last four are not Ollama's; engines behind it understand them, if they are numbers.
_OPENAI_TEXT: Final = {
    "model": _STRING,
    "stream": _BOOL,
    "stream_options": _struct("openai.StreamOptions", include_usage=_BOOL),
    "max_tokens": _INT,
    "seed": _INT,
    "max_completion_tokens": _INT,
} | dict.fromkeys(("top_k", "min_p", "repeat_penalty"), _FLOAT)
_OPENAI_DRAW: Final = ("temperature", "frequency_penalty", "presence_penalty", "top_p")

_STRUCTS: Final[Mapping[Endpoint, tuple[str, Mapping[str, _Type]]]] = {
    Endpoint.OLLAMA_CHAT: (
        "api.ChatRequest",
        _OLLAMA_TEXT | {"messages": _list("[]api.Message", _OLLAMA_MESSAGE), "tools": _list("api.Tools", _TOOL)},
    ),
    Endpoint.OLLAMA_GENERATE: (
        "api.GenerateRequest",
        _OLLAMA_TEXT
        | _strings("prompt", "suffix", "system", "template")
        | {"context": _list("[]int", _INT), "raw": _BOOL, "images": _IMAGES},
    ),
    Endpoint.OLLAMA_EMBED: ("api.EmbedRequest", _OLLAMA_ANY | {"truncate": _BOOL, "dimensions": _INT}),
    Endpoint.OLLAMA_EMBEDDINGS: ("api.EmbeddingRequest", _OLLAMA_ANY | {"prompt": _STRING}),
    Endpoint.OPENAI_CHAT: (
        "openai.ChatCompletionRequest",
        _OPENAI_TEXT
        | dict.fromkeys(_OPENAI_DRAW, _FLOAT)
        | {
            "messages": _list("[]openai.Message", _OPENAI_MESSAGE),
            "tools": _list("[]api.Tool", _TOOL),
            "response_format": _RESPONSE_FORMAT,
            "reasoning": _struct("openai.Reasoning", effort=_STRING),
            "reasoning_effort": _STRING,
            "logprobs": _BOOL,
            "top_logprobs": _INT,
        },
    ),
    Endpoint.OPENAI_COMPLETIONS: (
        "openai.CompletionRequest",
        _OPENAI_TEXT | dict.fromkeys(_OPENAI_DRAW, _FLOAT32) | _strings("prompt", "suffix") | {"logprobs": _INT},
    ),
    Endpoint.OPENAI_EMBEDDINGS: (
        "openai.EmbedRequest",
        {"model": _STRING, "dimensions": _INT, "encoding_format": _STRING},
    ),
}
# Fields that take anything: they too are found whatever their case.
_UNTYPED: Final = ("format", "input", "stop")


def read_fields(endpoint: Endpoint, value: object) -> dict[str, Any]:
    """The body's fields under their right names, each of the type its struct declares; null ones are left out.

    Raises `MalformedCall`, as Go's decoder would, where the body is no object or a type is wrong.
    """
    full_name, fields = _STRUCTS[endpoint]
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise MalformedCall(f"json: cannot unmarshal {gojson.type_name(value)} into Go value of type {full_name}")
    body: dict[str, Any] = {}
    wrong: str | None = None
    for name, given in value.items():
        known = name if name in fields else name.lower()
        if given is None:
            continue
        body[known if known in fields or known in _UNTYPED else name] = given
        if known in fields:
            misfit = _misfit(fields[known], _short(full_name), known, given)
            wrong = wrong or misfit
    if wrong is not None:
        raise MalformedCall(wrong)
    return body


def _misfit(wanted: _Type, struct: str, path: str, given: object, *, is_opaque: bool = False) -> str | None:
    """Go's sentence about a value that does not fit, or None. `struct` and `path`: what Go calls the place."""
    if wanted.rule is not None:
        wanted.rule(given)
        return None
    if given is None:
        return None
    word = gojson.type_name(given)
    if wanted.takes == "int" and word == "number":
        word = "int" if isinstance(given, int) else f"number {given}"
    if word != wanted.takes:
        return f"json: cannot unmarshal {word} into Go struct field {struct}.{path} of type {wanted.name}"
    if wanted.items is not None and isinstance(given, list):
        within = ((wanted.items, struct, path, each) for each in given)
    elif wanted.fields is not None and isinstance(given, dict):
        is_opaque = is_opaque or wanted.is_opaque
        inner = struct if is_opaque else _short(wanted.name)
        known = given.keys() & wanted.fields.keys()
        within = ((wanted.fields[name], inner, f"{path}.{name}", given[name]) for name in given if name in known)
    else:
        return None
    return next((why for each in within if (why := _misfit(*each, is_opaque=is_opaque))), None)


def _short(type_name: str) -> str:
    return type_name.rpartition(".")[2]
