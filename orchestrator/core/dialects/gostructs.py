"""A request's fields as Ollama's Go structs declare them: api/types.go, openai/openai.go, openai/responses.go and
anthropic/anthropic.go (0.33).

Go goes through the body in its order, remembers the first wrong type, and stops at once where a type with its own
rules refuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from orchestrator.core.dialects import gojson
from orchestrator.core.dialects.errors import MalformedCall
from orchestrator.core.dialects.gofields import (
    GoType,
    as_read,
    check_think,
    fits,
    folded,
    keep_alive_s,
    misfit,
    short_name,
)
from orchestrator.core.dialects.responses_input import check_input
from orchestrator.core.model import Endpoint

_STRING: Final = GoType("string", "string")
_BOOL: Final = GoType("bool", "bool")
_INT: Final = GoType("int", "int")
_FLOAT: Final = GoType("float64", "number")
_FLOAT32: Final = GoType("float32", "number")
_MAP: Final = GoType("map[string]interface {}", "object")


def _strings(*names: str) -> dict[str, GoType]:
    return dict.fromkeys(names, _STRING)


def _struct(name: str, /, **fields: GoType) -> GoType:
    return GoType(name, "object", fields=fields)


def _list(name: str, items: GoType) -> GoType:
    return GoType(name, "array", items=items)


_IMAGES: Final = _list("[]api.ImageData", GoType("api.ImageData", "string"))
_TOOL: Final = _struct(
    "api.Tool", type=_STRING, function=_struct("api.ToolFunction", **_strings("name", "description"))
)
_OLLAMA_CALL: Final = _struct("api.ToolCallFunction", name=_STRING, arguments=_MAP)
_OPENAI_CALL: Final = _struct("", **_strings("name", "arguments"))
_OLLAMA_MESSAGE: Final = GoType(
    "api.Alias",
    "object",
    fields=_strings("role", "content", "thinking", "tool_name", "tool_call_id")
    | {"images": _IMAGES}
    | {"tool_calls": _list("[]api.ToolCall", _struct("api.ToolCall", id=_STRING, function=_OLLAMA_CALL))},
    is_opaque=True,
)
_OPENAI_MESSAGE: Final = GoType(
    "openai.Message",
    "object",
    fields=_strings("role", "reasoning", "name", "tool_call_id")
    | {"tool_calls": _list("[]openai.ToolCall", _struct("openai.ToolCall", id=_STRING, function=_OPENAI_CALL))},
    untyped=frozenset({"content"}),
)
_RESPONSE_FORMAT: Final = _struct("openai.ResponseFormat", type=_STRING, json_schema=_struct("openai.JsonSchema"))

_OLLAMA_ANY: Final = {
    "model": _STRING,
    "options": _MAP,
    "keep_alive": GoType("api.Duration", "", rule=keep_alive_s),
}
_OLLAMA_TEXT: Final = (
    _OLLAMA_ANY
    | dict.fromkeys(("stream", "truncate", "shift", "logprobs"), _BOOL)
    | {"think": GoType("api.ThinkValue", "", rule=check_think), "top_logprobs": _INT}
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

_MESSAGE_BLOCK: Final = _struct(
    "anthropic.ContentBlock",
    **_strings("type", "text", "id", "name", "tool_use_id", "thinking", "signature"),
    source=_struct("anthropic.ImageSource", **_strings("type", "media_type", "data", "url")),
    input=_MAP,
    is_error=_BOOL,
)
_MESSAGE_CONTENT: Final = GoType(
    "[]anthropic.ContentBlock", "array", items=_MESSAGE_BLOCK, is_apart=True, takes_text=True
)
_ANTHROPIC_MESSAGE: Final = GoType(
    "anthropic.MessageParam", "object", fields={"role": _STRING, "content": _MESSAGE_CONTENT}, is_opaque=True
)
_ANTHROPIC: Final = {
    "model": _STRING,
    "max_tokens": _INT,
    "messages": _list("[]anthropic.MessageParam", _ANTHROPIC_MESSAGE),
    "stream": _BOOL,
    "temperature": _FLOAT,
    "top_p": _FLOAT,
    "top_k": _INT,
    "stop_sequences": _list("[]string", _STRING),
    "tools": _list(
        "[]anthropic.Tool", _struct("anthropic.Tool", **_strings("type", "name", "description"), max_uses=_INT)
    ),
    "tool_choice": _struct("anthropic.ToolChoice", **_strings("type", "name"), disable_parallel_tool_use=_BOOL),
    "thinking": _struct("anthropic.ThinkingConfig", type=_STRING, budget_tokens=_INT),
    "metadata": _struct("anthropic.Metadata", user_id=_STRING),
    "output_config": _struct("anthropic.OutputConfig", effort=_STRING),
}
_RESPONSES_TOOL: Final = _strings("type", "name", "description") | {"strict": _BOOL, "parameters": _MAP}
_RESPONSES_MEMBERS: Final = _list("[]openai.ResponsesTool", _struct("openai.ResponsesTool", **_RESPONSES_TOOL))
_RESPONSES: Final = _strings("model", "instructions", "truncation") | {
    "background": _BOOL,
    "include": _list("[]string", _STRING),
    "input": GoType("openai.ResponsesInput", "", rule=check_input),
    "max_output_tokens": _INT,
    "reasoning": _struct("openai.ResponsesReasoning", **_strings("effort", "generate_summary", "summary")),
    "temperature": _FLOAT,
    "top_p": _FLOAT,
    "text": _struct(
        "openai.ResponsesText",
        format=_struct("openai.ResponsesTextFormat", **_strings("type", "name"), strict=_BOOL),
    ),
    "tools": _list(
        "[]openai.ResponsesTool", _struct("openai.ResponsesTool", **_RESPONSES_TOOL, tools=_RESPONSES_MEMBERS)
    ),
    "stream": _BOOL,
}

_STRUCTS: Final[Mapping[Endpoint, tuple[str, Mapping[str, GoType]]]] = {
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
    Endpoint.OPENAI_RESPONSES: ("openai.ResponsesRequest", _RESPONSES),
    Endpoint.ANTHROPIC_MESSAGES: ("anthropic.MessagesRequest", _ANTHROPIC),
    Endpoint.ANTHROPIC_COUNT: ("anthropic.CountTokensRequest", _ANTHROPIC),
}
# Fields that take anything: they too are found whatever their case.
_UNTYPED: Final = ("format", "input", "stop", "system")


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
        if given is None:
            continue
        wanted = fields.get(name)
        if wanted is None:
            known = folded(name)
            wanted = fields.get(known)
            if wanted is not None or known in _UNTYPED:
                name = known
        if wanted is not None and type(given) not in wanted.fitting and not fits(wanted, given):
            given = as_read(wanted, given)
            wrong_here = misfit(wanted, short_name(full_name), name, given)
            wrong = wrong or wrong_here
        body[name] = given
    if wrong is not None:
        raise MalformedCall(wrong)
    return body
