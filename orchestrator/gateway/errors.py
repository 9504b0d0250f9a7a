"""Our errors as HTTP answers, in the caller's dialect."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from orchestrator.core.dialects.errors import MalformedCall, error_response
from orchestrator.core.errors import CallerError, CapacityError, InstanceError, OrchestratorError, StoreError
from orchestrator.core.model import Dialect
from orchestrator.gateway.replies import whole


def dialect_of(path: str) -> Dialect:
    """The dialect whose error shape a path's callers expect."""
    return Dialect.OPENAI if path.startswith("/v1/") else Dialect.OLLAMA


def http_error(request: web.BaseRequest, why: OrchestratorError, headers: Mapping[str, str]) -> web.StreamResponse:
    """The answer to a call that failed before its first byte went out."""
    status, kind, retry_after_s = 500, "api_error", 0
    if isinstance(why, CallerError):
        status, kind = why.status, why.kind
    elif isinstance(why, CapacityError):
        status, kind, retry_after_s = why.status, "overloaded_error", why.retry_after_s
    elif isinstance(why, InstanceError):
        status = 502
    elif isinstance(why, StoreError):
        status, retry_after_s = 503, 1
    content_type, body = error_response(
        dialect_of(request.path), status, str(why), kind, is_malformed=isinstance(why, MalformedCall)
    )
    more = {"Retry-After": str(retry_after_s)} if retry_after_s else {}
    if status == 401:
        more["WWW-Authenticate"] = "Bearer"
    return whole(request, content_type, body, {**headers, **more}, status)
