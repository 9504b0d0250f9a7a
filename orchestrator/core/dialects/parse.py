"""A request's bytes to a `Call`, refusing what Ollama refuses before it looks the model up, in its words and order.

Ollama reads the body into a Go struct: a wrong type is an error, an unknown field is none, names of fields are
compared without case, null means absent. Its OpenAI paths check in two stages that differ in the bytes of their
errors; `MalformedCall` is the first. What depends on the model (options, format, tools, thinking) is left to `checks`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any, Final

from orchestrator.core.dialects import gojson
from orchestrator.core.dialects.anthropic import check_messages_body
from orchestrator.core.dialects.conversation import Turn, embedding_inputs, is_load_request, sampling, turns
from orchestrator.core.dialects.errors import MalformedCall, caller_error
from orchestrator.core.dialects.gofields import keep_alive_s
from orchestrator.core.dialects.gostructs import read_fields
from orchestrator.core.dialects.openai_rules import check_openai_body
from orchestrator.core.dialects.responses import check_responses_body
from orchestrator.core.errors import CallerError
from orchestrator.core.model import Call, Dialect, Endpoint

__all__ = [
    "MalformedCall",
    "Turn",
    "canonical_model_name",
    "embedding_inputs",
    "is_load_request",
    "is_unload_request",
    "keep_alive_s",
    "parse_call",
    "sampling",
    "turns",
    "unknown_model",
]

# The handlers behind these say "model is required" with 400 where no model is named, the others "not found" with 404.
_SAY_MODEL_IS_REQUIRED: Final = frozenset({
    *(Endpoint.OLLAMA_CHAT, Endpoint.OLLAMA_EMBEDDINGS, Endpoint.OPENAI_CHAT, Endpoint.OPENAI_RESPONSES),
    *(Endpoint.ANTHROPIC_MESSAGES, Endpoint.ANTHROPIC_COUNT),
})  # fmt: skip
_HOLD_LOGPROBS: Final = frozenset({"logprobs", "top_logprobs"})
_HAVE_TOP_LOGPROBS: Final = frozenset({Endpoint.OLLAMA_CHAT, Endpoint.OLLAMA_GENERATE, Endpoint.OPENAI_CHAT})
_DEFAULT_PARTS: Final = ("registry.ollama.ai", "library")
_PART: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
# Go's own limit is ten thousand. What walks through a body here has a stack, and no schema needs a tenth of this.
DEPTH_AT_MOST: Final = 500
# Longer than any name that fits; what is longer is kept nowhere.
_LONGEST_NAME: Final = 1024
_NAME: Final = re.compile(
    rf"(?:(?:(?:[^/:]+://)?[A-Za-z0-9_][A-Za-z0-9_.:-]{{0,349}}/)?[A-Za-z0-9_][A-Za-z0-9_-]{{0,79}}/)?"
    rf"{_PART}(?::{_PART})?",
    re.ASCII,
)


def parse_call(endpoint: Endpoint, raw: bytes) -> Call:
    """`raw` as a call; raises `CallerError` with the status and the words that Ollama answers.

    `body` keeps the caller's values, without the fields that are null and with Ollama's spelling of field names.
    `is_stream` is false for the calls that Ollama answers with one JSON object whatever they ask: embeddings, and
    on its own paths requests to load or unload.
    """
    is_ollama = endpoint.dialect is Dialect.OLLAMA
    try:
        given = gojson.loads(raw)
        if gojson.may_be_deeper(raw, DEPTH_AT_MOST) and gojson.is_deeper(given, DEPTH_AT_MOST):
            raise MalformedCall("exceeded max depth")
        body = read_fields(endpoint, given)
    except gojson.GoJsonError as error:
        raise MalformedCall("missing request body" if error.is_empty and is_ollama else str(error)) from error
    if not is_ollama:
        _check_younger(endpoint, body)
    if not _HOLD_LOGPROBS.isdisjoint(body) and not 0 <= _top_logprobs(endpoint, body) <= 20:
        raise caller_error(400, "top_logprobs must be between 0 and 20")
    model = body.get("model", "")
    _check_model_name(endpoint, model)
    if endpoint.is_embedding:
        _check_embed_input(endpoint, body.get("input"))
    # Vectors and counts are never told as a stream; Ollama's own paths tell all else as one unless asked otherwise.
    is_stream = endpoint.is_answered_in_words and bool(body.get("stream", is_ollama))
    call = Call(endpoint, model, is_stream, body)
    return Call(endpoint, model, False, body) if is_ollama and is_stream and is_load_request(call) else call


def is_unload_request(call: Call) -> bool:
    """A load request of Ollama's chat or generate with a keep_alive of zero."""
    if call.endpoint not in (Endpoint.OLLAMA_CHAT, Endpoint.OLLAMA_GENERATE) or not is_load_request(call):
        return False
    return "keep_alive" in call.body and keep_alive_s(call.body["keep_alive"]) == 0


def unknown_model(endpoint: Endpoint, name: str) -> CallerError:
    """What Ollama answers for a model it does not have; the endpoints quote the name in two ways."""
    if endpoint.is_embedding:
        return caller_error(404, f"model {gojson.quote(name)} not found, try pulling it first")
    return caller_error(404, f"model '{name}' not found")


@functools.lru_cache(maxsize=4096)
def canonical_model_name(name: str) -> str:
    """One spelling for all names of a model: "X", "x:latest" and "registry.ollama.ai/library/x" are "x"."""
    short = name.strip().lower().removesuffix(":local")
    *place, model = short.split("/")
    place = place[1:] if len(place) == 2 and place[0] == _DEFAULT_PARTS[0] else place
    place = [] if place == [_DEFAULT_PARTS[1]] else place
    return "/".join([*place, model.removesuffix(":latest")])


def _check_younger(endpoint: Endpoint, body: Mapping[str, Any]) -> None:
    """What Ollama refuses before its own handlers see the call, on the paths that are not its own."""
    if endpoint.dialect is Dialect.ANTHROPIC:
        check_messages_body(body, is_count=endpoint is Endpoint.ANTHROPIC_COUNT)
    elif endpoint is Endpoint.OPENAI_RESPONSES:
        check_responses_body(body)
    else:
        check_openai_body(endpoint, body)


def _top_logprobs(endpoint: Endpoint, body: Mapping[str, Any]) -> int:
    """OpenAI's completions give the number in `logprobs`, and there nothing below one turns them on."""
    if endpoint is Endpoint.OPENAI_COMPLETIONS:
        return max(0, int(body.get("logprobs", 0)))
    return int(body.get("top_logprobs", 0)) if endpoint in _HAVE_TOP_LOGPROBS else 0


def _check_model_name(endpoint: Endpoint, model: str) -> None:
    if len(model) <= _LONGEST_NAME and _is_model_name(model):
        return
    if not model.strip():
        if endpoint in _SAY_MODEL_IS_REQUIRED:
            raise caller_error(400, "model is required")
        raise caller_error(404, f"model '{model[:_LONGEST_NAME]}' not found")
    raise caller_error(400, "invalid model name")


@functools.lru_cache(maxsize=4096)
def _is_model_name(model: str) -> bool:
    name = model.strip()
    base, _, suffix = name.rpartition(":")
    return _NAME.fullmatch(base if suffix.lower() in ("cloud", "local") else name) is not None


def _check_embed_input(endpoint: Endpoint, given: object) -> None:
    if endpoint is Endpoint.OLLAMA_EMBEDDINGS or given is None or isinstance(given, str):
        return
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise caller_error(400, "invalid input type")
