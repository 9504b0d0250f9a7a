"""How many tokens a prompt has, for `/v1/messages/count_tokens`, which Ollama does not serve: asked of the engine.

llama.cpp's server counts without working a slot. Ollama tells the number only of a prompt that it has read: it is asked
for one token of an answer, by the call that the same conversation would be, so that its next call finds the prompt in
the cache. Nothing is guessed: a prompt beyond the context would be cut and miscounted, so cutting is refused; the
refusal tells the number.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import orjson

from orchestrator.core.dialects import gojson
from orchestrator.core.dialects.as_chat import as_chat
from orchestrator.core.dialects.errors import caller_error, error_response
from orchestrator.core.dialects.translate import too_long
from orchestrator.core.errors import CallerError
from orchestrator.core.model import Call, Dialect

# Statuses that tell of an instance's trouble, though they are no 5xx: its model is gone, or it is slow, or busy.
_NOT_THE_CALLERS = (404, 408, 429)


def ollama_count_body(call: Call, upstream_model: str, abilities: Collection[str]) -> dict[str, Any]:
    """What Ollama's own chat is asked so that it tells a prompt's tokens: one token, and nothing cut."""
    body = dict(as_chat(call).body)
    # A model that can think does so unless told not to, and one that cannot refuses to be asked.
    if body.get("think") is True or (body.get("think") and "thinking" not in abilities):
        del body["think"]
    return body | {"model": upstream_model, "stream": False, "truncate": False, "options": {"num_predict": 1}}


class CountReader:
    """Takes an engine's answer and gives the caller's, as `translate.Translator` does."""

    def __init__(self) -> None:
        self._read = bytearray()

    def feed(self, data: bytes) -> bytes:
        """The engine's next bytes; nothing goes out before the end."""
        self._read += data
        return b""

    def finish(self) -> bytes:
        """The count; an error body where the engine did not tell it."""
        told = _object(bytes(self._read))
        count = told.get("input_tokens", told.get("prompt_eval_count"))
        if not isinstance(count, int) or count <= 0:
            return error_response(Dialect.ANTHROPIC, 500, "the engine did not tell how many tokens it read")[1]
        return _told(count)

    def error(self, status: int, body: bytes) -> CallerError | bytes | None:
        """What an error of the engine's means to the caller; None: it is the engine's trouble, not the caller's.

        Bytes: the caller's answer. An engine that refuses a prompt beyond its context says how many tokens it has, and
        that is what was asked.
        """
        error = _error(body)
        if error.get("type") == "exceed_context_size_error":
            count = error.get("n_prompt_tokens")
            return _told(count) if isinstance(count, int) and count > 0 else too_long(error)
        if status >= 500 or status in _NOT_THE_CALLERS or not error:
            return None
        return caller_error(status, str(error["message"]))


def _told(count: int) -> bytes:
    return gojson.dumps({"input_tokens": count}) + b"\n"


def _error(body: bytes) -> Mapping[str, Any]:
    """An engine's error by its fields; Ollama hands on its runner's as JSON within the text of its own."""
    error = _object(body).get("error")
    if isinstance(error, str):
        within = _object(error.encode()).get("error")
        error = within if isinstance(within, dict) else {"message": error}
    return error if isinstance(error, dict) and "message" in error else {}


def _object(data: bytes) -> dict[str, Any]:
    try:
        read = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return read if isinstance(read, dict) else {}
