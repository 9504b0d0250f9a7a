"""A collector of OpenTelemetry's under a test's hand: a plain HTTP server that takes OTLP in JSON and reads it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from tests.ports import free_port
from tests.waiting import until


@dataclass(frozen=True, slots=True)
class Span:
    """One span as it came, its ids checked to be ids."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: int
    began_ns: int
    ended_ns: int
    attributes: Mapping[str, Any]
    moments: tuple[tuple[str, Mapping[str, Any]], ...]
    links: tuple[tuple[str, str], ...]
    is_failed: bool
    state: str


@dataclass(slots=True)
class Collector:
    """`status`: what it answers with; `gate`, while cleared, holds every answer back."""

    port: int = 0
    status: int = 200
    answers: Mapping[str, Any] = field(default_factory=dict)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    resources: list[Mapping[str, Any]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    _runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/traces", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=1)
        await self._runner.setup()
        self.port = self.port or free_port()  # its own also while it is stopped
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()

    async def stop(self) -> None:
        self.gate.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def until_traces(self, count: int) -> list[list[Span]]:
        """Wait for so many whole calls; each with its own span first, then its parts as they began."""
        await until(lambda: len(self.calls()) >= count)
        return self.calls()

    def calls(self) -> list[list[Span]]:
        """Spans by call, in the order in which the calls ended."""
        found: list[list[Span]] = []
        for span in self.spans:
            if span.kind == 2:
                found.append([])
            found[-1].append(span)
        return found

    async def _take(self, request: web.Request) -> web.Response:
        raw = await request.read()
        await self.gate.wait()
        if self.status == 200:
            assert request.content_type == "application/json"
            self.bodies.append(raw)
            self.headers.append(dict(request.headers))
            self._read(orjson.loads(raw))
        return web.json_response(self.answers, status=self.status)

    def _read(self, body: Any) -> None:
        for resource in body["resourceSpans"]:
            self.resources.append(_attributes(resource["resource"]))
            for scope in resource["scopeSpans"]:
                self.spans += [_span(each) for each in scope["spans"]]


def _span(told: Any) -> Span:
    for name, length in (("traceId", 32), ("spanId", 16)):
        assert len(told[name]) == length
        assert int(told[name], 16)
    assert int(told["startTimeUnixNano"]) <= int(told["endTimeUnixNano"])
    return Span(
        told["traceId"],
        told["spanId"],
        told.get("parentSpanId", ""),
        told["name"],
        told["kind"],
        int(told["startTimeUnixNano"]),
        int(told["endTimeUnixNano"]),
        _attributes(told),
        tuple((each["name"], _attributes(each)) for each in told.get("events", ())),
        tuple((each["traceId"], each["spanId"]) for each in told.get("links", ())),
        told["status"].get("code") == 2,
        told.get("traceState", ""),
    )


def _attributes(of: Any) -> Mapping[str, Any]:
    def value(told: Any) -> Any:
        ((kind, found),) = told.items()
        return int(found) if kind == "intValue" else found

    names = [each["key"] for each in of["attributes"]]
    assert len(set(names)) == len(names)
    return {each["key"]: value(each["value"]) for each in of["attributes"]}


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """One that takes all, gone at the end."""
    collector = Collector()
    collector.gate.set()
    await collector.start()
    try:
        yield collector
    finally:
        await collector.stop()
