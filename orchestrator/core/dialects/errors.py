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
_ANTHROPIC_KINDS = _KINDS | {413: "request_too_large", 503: "overloaded_error", 529: "overloaded_error"}

# What the first bytes of a stream begin with that brings an error in place of an answer, from an engine or from here.
ERROR_STARTS: Final = (b'{"error":', b'data: {"error":', b"error:", b"event: error\n")


class MalformedCall(CallerError):
    """The body itself is at fault. On its /v1 paths Ollama writes this with a charset and without the newline."""

    def __init__(self, message: str) -> None:
        super().__init__(400, message)


def kind_of(status: int) -> str:
    """OpenAI's error type for an HTTP status, as Ollama assigns them; 401, 403 and 429 as OpenAI does."""
    return _KINDS.get(status, "api_error")


def anthropic_kind_of(status: int) -> str:
    """Anthropic's error type for an HTTP status, as Ollama assigns them; 413 as Anthropic does."""
    return _ANTHROPIC_KINDS.get(status, "api_error" if status >= 500 else "invalid_request_error")


def caller_error(status: int, message: str) -> CallerError:
    """A `CallerError` with the kind that belongs to its status."""
    return CallerError(status, message, kind_of(status))


def caller_error_response(dialect: Dialect, error: CallerError, request_id: str = "") -> tuple[str, bytes]:
    """Content type and body for `error`; its status is the response's."""
    is_malformed = isinstance(error, MalformedCall)
    return error_response(
        dialect, error.status, error.message, error.kind, is_malformed=is_malformed, request_id=request_id
    )


def error_response(
    dialect: Dialect,
    status: int,
    message: str,
    kind: str | None = None,
    *,
    is_malformed: bool = False,
    request_id: str = "",
) -> tuple[str, bytes]:
    """Content type and body of an error with no answer before it. `kind` None: the one of the status.

    Only Anthropic's errors tell the request's id, and have kinds of their own.
    """
    if dialect is Dialect.OLLAMA:
        return JSON_TYPE, gojson.dumps({"error": message})
    if dialect is Dialect.ANTHROPIC:
        fields = _anthropic_error(message, anthropic_kind_of(status)) | (
            {"request_id": request_id} if request_id else {}
        )
    else:
        fields = _openai_error(message, kind or kind_of(status))
    body = gojson.dumps(fields)
    return (JSON_TYPE, body) if is_malformed else (OPENAI_JSON_TYPE, body + b"\n")


def error_frame(endpoint: Endpoint, message: str, kind: str = "api_error") -> bytes:
    """The last frame of a stream that broke: the client can tell by it that the answer is not whole.

    Ollama's /v1 paths just stop; OpenAI's and Anthropic's clients raise on an `error` event, so that is what they get.
    """
    if endpoint.dialect is Dialect.OLLAMA:
        return gojson.dumps({"error": message}) + b"\n"
    if endpoint.dialect is Dialect.ANTHROPIC:
        return sse_event("error", _anthropic_error(message, kind))
    if endpoint is Endpoint.OPENAI_RESPONSES:
        # OpenAI's documentation has the fields beside the type, its servers within `error`: clients read either.
        told = {"code": None, "message": message, "param": None, "sequence_number": 0}
        return sse_event("error", {"type": "error"} | told | _openai_error(message, kind))
    return b"data: " + gojson.dumps(_openai_error(message, kind)) + b"\n\n"


def sse_event(name: str, fields: dict[str, object]) -> bytes:
    """An event with a name of its own, as the younger APIs have them."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), gojson.dumps(fields))


def _openai_error(message: str, kind: str) -> dict[str, object]:
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def _anthropic_error(message: str, kind: str) -> dict[str, object]:
    return {"type": "error", "error": {"type": kind, "message": message}}
