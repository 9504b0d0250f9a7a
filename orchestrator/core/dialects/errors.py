"""Errors in the caller's dialect, byte for byte as Ollama writes them, before an answer began and in its middle."""

from __future__ import annotations

from typing import Final

from orchestrator.core.dialects import gojson
from orchestrator.core.errors import CallerError
from orchestrator.core.model import Dialect, Endpoint

JSON_TYPE: Final = "application/json; charset=utf-8"
OPENAI_JSON_TYPE: Final = "application/json"
TEXT_TYPE: Final = "text/plain"
NOT_FOUND_BODY: Final = b"404 page not found"
METHOD_NOT_ALLOWED_BODY: Final = b"405 method not allowed"

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class MalformedCall(CallerError):
    """The body itself is at fault. On OpenAI's paths Ollama writes this with a charset and without the newline."""

    def __init__(self, message: str) -> None:
        super().__init__(400, message)


def kind_of(status: int) -> str:
    """OpenAI's error type for an HTTP status, as Ollama assigns them; 401, 403 and 429 as OpenAI does."""
    return _KINDS.get(status, "api_error")


def caller_error(status: int, message: str) -> CallerError:
    """A `CallerError` with the kind that belongs to its status."""
    return CallerError(status, message, kind_of(status))


def caller_error_response(dialect: Dialect, error: CallerError) -> tuple[str, bytes]:
    """Content type and body for `error`; its status is the response's."""
    is_malformed = isinstance(error, MalformedCall)
    return error_response(dialect, error.status, error.message, error.kind, is_malformed=is_malformed)


def error_response(
    dialect: Dialect, status: int, message: str, kind: str | None = None, *, is_malformed: bool = False
) -> tuple[str, bytes]:
    """Content type and body of an error with no answer before it. `kind` None: the one of the status."""
    if dialect is Dialect.OLLAMA:
        return JSON_TYPE, gojson.dumps({"error": message})
    body = gojson.dumps(_openai_error(message, kind or kind_of(status)))
    return (JSON_TYPE, body) if is_malformed else (OPENAI_JSON_TYPE, body + b"\n")


def error_frame(endpoint: Endpoint, message: str, kind: str = "api_error") -> bytes:
    """The last frame of a stream that broke: the client can tell by it that the answer is not whole.

    Ollama's /v1 paths just stop; OpenAI's clients raise on an `error` event, so that is what they get here.
    """
    if endpoint.dialect is Dialect.OLLAMA:
        return gojson.dumps({"error": message}) + b"\n"
    return b"data: " + gojson.dumps(_openai_error(message, kind)) + b"\n\n"


def _openai_error(message: str, kind: str) -> dict[str, object]:
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}
