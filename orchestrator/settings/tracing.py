"""Settings of traces: where OpenTelemetry's spans of calls are sent to, and of how many calls."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from orchestrator.settings.section import Section
from orchestrator.settings.syntax import check_header_name, check_provider_url


def _check_endpoint(text: str | None) -> str | None:
    if text is not None and "@" in text:
        raise ValueError("a URL is no place for a secret; set `headers`, such as Authorization: env:NAME")
    try:
        return check_provider_url(text)
    except ValueError as why:
        example = "expected where a collector takes OTLP over HTTP, such as http://127.0.0.1:4318"
        raise ValueError(f"{example}: {why}") from why


def _check_headers(headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
    for name in headers:
        if name.lower() in ("host", "content-type", "content-length"):
            raise ValueError(f"{name} is set with each request; leave it out")
        if name.lower() != "authorization":
            check_header_name(name)
    return headers


class TraceSettings(Section):
    """OpenTelemetry traces of calls, without texts. Off unless `endpoint` is set."""

    endpoint: Annotated[str | None, AfterValidator(_check_endpoint)] = Field(
        default=None,
        description="Where a collector takes OTLP over HTTP; `/v1/traces` is added. None: no call is traced.",
        examples=["http://127.0.0.1:4318"],
    )
    share: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Part of the calls that is traced; a caller's own `traceparent` decides for its calls.",
    )
    headers: Annotated[dict[str, SecretStr], AfterValidator(_check_headers)] = Field(
        default={},
        description="Headers that open the collector; values may be `env:NAME` or `file:PATH`.",
        examples=[{"Authorization": "env:OTLP_AUTHORIZATION"}],
    )
