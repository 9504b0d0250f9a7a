"""Spans as OTLP takes them over HTTP in JSON (opentelemetry-proto 1.x, `ExportTraceServiceRequest`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any, Final, NamedTuple

PATH: Final = "/v1/traces"
_ERROR: Final = 2  # a status' code; unset means that nothing was wrong

Value = str | int | float | bool


class Kind(IntEnum):
    """Which side of a call a span is."""

    INTERNAL = 1
    SERVER = 2
    CLIENT = 3


class Moment(NamedTuple):
    """Something that happened within a span."""

    at_ns: int
    name: str
    attributes: Mapping[str, Value]


class Span(NamedTuple):
    """One part of a call. Times are nanoseconds of the system's clock; `parent_id` is empty where nobody called."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: Kind
    began_ns: int
    ended_ns: int
    attributes: Mapping[str, Value]
    moments: tuple[Moment, ...] = ()
    is_failed: bool = False
    state: str = ""
    link: tuple[str, str] | None = None  # trace and span of another one that it has to do with


def request_of(spans: Iterable[object], resource: Mapping[str, Value], scope: tuple[str, str]) -> dict[str, Any]:
    """The body of an export, of spans as `span_of` makes them. `scope`: name and version of who made them."""
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes(resource)},
                "scopeSpans": [{"scope": {"name": scope[0], "version": scope[1]}, "spans": list(spans)}],
            }
        ]
    }


def span_of(span: Span) -> dict[str, Any]:
    """A span as it stands in a request."""
    told: dict[str, Any] = {
        "traceId": span.trace_id,
        "spanId": span.span_id,
        "name": span.name,
        "kind": int(span.kind),
        "startTimeUnixNano": str(span.began_ns),
        "endTimeUnixNano": str(max(span.began_ns, span.ended_ns)),
        "attributes": _attributes(span.attributes),
        "status": {"code": _ERROR} if span.is_failed else {},
    }
    if span.parent_id:
        told["parentSpanId"] = span.parent_id
    if span.state:
        told["traceState"] = span.state
    if span.link is not None:
        told["links"] = [{"traceId": span.link[0], "spanId": span.link[1]}]
    if span.moments:
        told["events"] = [
            {"timeUnixNano": str(each.at_ns), "name": each.name, "attributes": _attributes(each.attributes)}
            for each in span.moments
        ]
    return told


def _attributes(values: Mapping[str, Value]) -> list[dict[str, Any]]:
    """What is empty says nothing and is left out."""
    return [{"key": key, "value": _value(value)} for key, value in values.items() if value != ""]


def _value(value: Value) -> dict[str, Value]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}  # 64 bits, which JSON's numbers do not promise
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": value}
