"""What Ollama's OpenAI paths refuse before their own handlers see the call (middleware/openai.go, openai/openai.go)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from orchestrator.core.dialects import gojson
from orchestrator.core.dialects.errors import MalformedCall
from orchestrator.core.model import Endpoint

_EFFORTS: Final = ("minimal", "low", "medium", "high", "xhigh", "ultra", "max", "none")
_THINKING: Final[Mapping[str, bool | str]] = {"none": False, "minimal": "low", "xhigh": "max", "ultra": "max"}
_IMAGE_PREFIXES: Final = (
    "data:;base64,",
    *(f"data:image/{kind};base64," for kind in ("jpeg", "jpg", "png", "webp")),
)


def check_openai_body(endpoint: Endpoint, body: Mapping[str, Any]) -> None:
    """Raise `MalformedCall` where the body cannot be turned into an Ollama request. Not for `/v1/responses`."""
    if endpoint is Endpoint.OPENAI_CHAT:
        _check_chat(body)
    elif endpoint is Endpoint.OPENAI_COMPLETIONS:
        _check_stops(body.get("stop"))
    else:
        _check_embeddings(body)


def reasoning_effort(body: Mapping[str, Any]) -> str:
    """What a chat call says about thinking: one of OpenAI's efforts, or an empty text."""
    reasoning = body.get("reasoning")
    if reasoning is not None:
        return str(reasoning.get("effort") or "")
    return str(body.get("reasoning_effort") or "")


def thinking_of(effort: str) -> bool | str | None:
    """What one of OpenAI's efforts means to Ollama; None for none given."""
    return _THINKING.get(effort, effort) if effort else None


def check_reasoning_effort(effort: str) -> None:
    """Raise `MalformedCall` for a word that is none of OpenAI's efforts."""
    if effort and effort not in _EFFORTS:
        allowed = ", ".join(f'"{each}"' for each in _EFFORTS[:-1])
        raise MalformedCall(f'invalid reasoning value: {gojson.quote(effort)} (must be {allowed}, or "none")')


def check_image_url(url: str) -> None:
    """Raise `MalformedCall` for a picture that is not in the request itself."""
    if url.startswith(("http://", "https://")):
        raise MalformedCall("image URLs are not currently supported, please use base64 encoded data instead")
    if not url.startswith(_IMAGE_PREFIXES):
        raise MalformedCall("invalid image input")


def json_object(text: str) -> dict[str, Any] | None:
    """The JSON object that `text` is, or None."""
    try:
        read = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return read if isinstance(read, dict) else None


def _check_chat(body: Mapping[str, Any]) -> None:
    messages = body.get("messages") or ()
    if not messages:
        raise MalformedCall("[] is too short - 'messages'")
    for message in messages:
        _check_message(message or {})
    check_reasoning_effort(reasoning_effort(body))


def _check_message(message: Mapping[str, Any]) -> None:
    content, tool_calls = message.get("content"), message.get("tool_calls")
    if isinstance(content, list):
        for part in content:
            _check_part(part)
    elif not isinstance(content, str) and tool_calls is None:
        raise MalformedCall(f"invalid message content type: {gojson.go_type(content)}")
    for tool_call in tool_calls or ():
        _check_arguments(tool_call or {})


def _check_part(part: object) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or kind not in ("text", "image_url", "input_audio"):
        raise MalformedCall("invalid message format")
    if kind == "text" and not isinstance(part.get("text"), str):
        raise MalformedCall("invalid message format")
    if kind == "image_url":
        _check_image(part.get("image_url"))
    if kind == "input_audio" and not isinstance(part.get("input_audio"), dict):
        raise MalformedCall("invalid input_audio format")


def _check_image(image: object) -> None:
    url = image.get("url") if isinstance(image, dict) else image
    if not isinstance(url, str):
        raise MalformedCall("invalid message format")
    check_image_url(url)


def _check_arguments(tool_call: Mapping[str, Any]) -> None:
    """Arguments are a JSON object in a string."""
    if json_object((tool_call.get("function") or {}).get("arguments") or "") is None:
        raise MalformedCall("invalid tool call arguments")


def _check_stops(stop: object) -> None:
    stops: Sequence[object] = stop if isinstance(stop, list) else ()
    for each in stops:
        if not isinstance(each, str):
            raise MalformedCall(f"invalid type for 'stop' field: {gojson.go_type(each)}")


def _check_embeddings(body: Mapping[str, Any]) -> None:
    encoding = body.get("encoding_format") or ""
    if encoding and encoding.lower() not in ("float", "base64"):
        supported = "Supported values: ['float', 'base64']."
        raise MalformedCall(f"Invalid value for 'encoding_format' = {encoding}. {supported}")
    if body.get("input") is None or body["input"] == []:
        raise MalformedCall("invalid input")
