"""Our errors as HTTP answers, in the caller's dialect."""

from __future__ import annotations

from typing import Final

from orchestrator.core.dialects.errors import MalformedCall, error_response, kind_of
from orchestrator.core.errors import CallerError, CapacityError, InstanceError, OrchestratorError, StoreError
from orchestrator.core.model import Dialect
from orchestrator.gateway.replies import Reply, field, whole

# The names there are, where another one was asked for: a header, as the body is Ollama's to the letter.
MODELS: Final = "X-Models"


def dialect_of(path: str) -> Dialect:
    """The dialect whose error shape a path's callers expect."""
    if path.startswith("/v1/messages"):
        return Dialect.ANTHROPIC
    return Dialect.OPENAI if path.startswith("/v1/") else Dialect.OLLAMA


def http_error(path: str, why: OrchestratorError, fields: str, request_id: str = "") -> Reply:
    """The answer to a call that failed before its first byte went out; Anthropic's errors tell the request's id."""
    status, kind, retry_after_s = 500, "api_error", 0
    if isinstance(why, CallerError):
        status, kind = why.status, why.kind
    elif isinstance(why, CapacityError):
        status, retry_after_s = why.status, why.retry_after_s
        kind = kind_of(status) if status == 429 else "overloaded_error"
    elif isinstance(why, InstanceError):
        status = 502
    elif isinstance(why, StoreError):
        status, retry_after_s = 503, 1
    content_type, body = error_response(
        dialect_of(path), status, str(why), kind, is_malformed=isinstance(why, MalformedCall), request_id=request_id
    )
    if retry_after_s:
        fields += field("Retry-After", str(retry_after_s))
    if isinstance(why, CallerError) and why.there:
        fields += field(MODELS, ", ".join(why.there))
    if status == 401:
        fields += field("WWW-Authenticate", "Bearer")
    return whole(content_type, body, fields, status)
