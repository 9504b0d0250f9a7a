"""The HTTP edge: paths to handlers, errors to answers, one aiohttp server a worker on a shared port."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from aiohttp import http_exceptions, web

from orchestrator import telemetry
from orchestrator.core import origins
from orchestrator.core.dialects import gojson
from orchestrator.core.dialects.errors import JSON_TYPE, OPENAI_JSON_TYPE
from orchestrator.core.errors import CallerError, OrchestratorError
from orchestrator.core.model import Endpoint
from orchestrator.gateway.bodies import read_body, show_name
from orchestrator.gateway.errors import http_error
from orchestrator.gateway.identity import Keys
from orchestrator.gateway.listing import Listing, is_ready
from orchestrator.gateway.live import Live
from orchestrator.gateway.pipeline import Pipeline
from orchestrator.gateway.replies import method_not_allowed, not_found, preflight, redirect, whole
from orchestrator.gateway.status import StatusPage
from orchestrator.gateway.trace import Trace

log = logging.getLogger(__name__)

DRAIN_TIMEOUT_S = 30.0
# A worker that knows no pool yet would refuse calls which the worker beside it can answer.
KNOWN_WITHIN_S = 3.0
# A caller's request id is echoed and logged: only what is harmless in both.
_REQUEST_ID: Final = re.compile(r"[\w.:@/+=-]{1,128}", re.ASCII)
_TEXT_TYPE: Final = "text/plain; charset=utf-8"
_MODEL_PATH: Final = "/v1/models/"

Handler = Callable[[web.Request, Trace], Awaitable[web.StreamResponse]]


class Access(Enum):
    """Who may ask a path. A path says so itself, so that none is open by having been forgotten."""

    ANYONE = 0
    CALLER = 1
    ADMIN = 2


@dataclass(frozen=True, slots=True)
class Path:
    """One path that is served."""

    methods: tuple[str, ...]
    access: Access
    handler: Handler


class Server:
    """One gateway worker."""

    def __init__(self, live: Live, pipeline: Pipeline, status: StatusPage) -> None:
        self._live, self._pipeline, self._status = live, pipeline, status
        self._listing = Listing(live)
        self._runner: web.AppRunner | None = None
        self._own_name = socket.gethostname()
        self._is_local = True
        self._paths = self._served()

    async def start(self, host: str, port: int) -> None:
        """Listen beside the other workers (SO_REUSEPORT); the kernel spreads connections over them."""
        await self._live.until_known(KNOWN_WITHIN_S)
        app = web.Application(middlewares=[self._serve], client_max_size=2**40)
        app.router.add_route("*", "/{path:.*}", _never_reached, expect_handler=_expected)
        app.on_response_prepare.append(_finish_headers)
        self._is_local = origins.is_loopback(host)
        self._runner = web.AppRunner(
            app,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=75,
            shutdown_timeout=DRAIN_TIMEOUT_S,
            logger=_http_log(),
        )
        await self._runner.setup()
        shared = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        shared.bind((host, port))
        await web.SockSite(self._runner, shared, backlog=1024).start()

    async def stop(self) -> None:
        """Take no new connections, finish what is under way (up to DRAIN_TIMEOUT_S), close."""
        if self._runner is not None:
            await self._runner.cleanup()

    def _served(self) -> dict[str, Path]:
        def get(access: Access, handler: Handler) -> Path:
            return Path(("GET", "HEAD"), access, handler)

        listing = self._listing
        return {
            **{each.value: Path(("POST",), Access.CALLER, self._inference(each)) for each in Endpoint},
            "/": get(Access.ANYONE, _text(b"Ollama is running")),
            "/api/tags": get(Access.CALLER, _listed(listing.tags)),
            "/api/ps": get(Access.CALLER, _listed(listing.running)),
            "/api/version": get(Access.CALLER, _listed(listing.version)),
            "/api/show": Path(("POST",), Access.CALLER, self._show),
            "/v1/models": get(Access.CALLER, _openai_listed(listing.openai_models)),
            _MODEL_PATH: get(Access.CALLER, self._model),
            "/healthz": get(Access.ANYONE, _text(b"ok\n")),
            "/readyz": get(Access.ANYONE, self._readyz),
            "/metrics": get(Access.ADMIN, _metrics),
            "/status": get(Access.ANYONE, self._page),
            "/status.json": get(Access.ADMIN, self._status_json),
        }

    # --- one request --------------------------------------------------------------------------------------------------

    @web.middleware
    async def _serve(self, request: web.Request, handler: object) -> web.StreamResponse:
        """Give the request its trace, its handler, and each of our errors its answer in the caller's dialect."""
        given = request.headers.get("X-Request-Id", "")
        trace = Trace(given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex, time.perf_counter())
        path = self._path(request.path)
        refused = self._refusal(request, path)
        if refused is not None or path is None:
            return refused or not_found()
        try:
            self._authorise(request, path.access)
            return await path.handler(request, trace)
        except OrchestratorError as why:
            telemetry.CALLS.labels(trace.tier or "none", trace.cache, type(why).__name__).inc()
            if not isinstance(why, CallerError):
                log.warning("%s %s: %s", trace.request_id, request.path, why)
            return http_error(request, why, trace.headers())

    def _path(self, path: str) -> Path | None:
        # A model's name may have slashes of its own, though Ollama's router knows none such.
        is_model = path.startswith(_MODEL_PATH) and len(path) > len(_MODEL_PATH)
        return self._paths[_MODEL_PATH] if is_model else self._paths.get(path) if path != _MODEL_PATH else None

    def _refusal(self, request: web.Request, path: Path | None) -> web.Response | None:
        """What stops a request before its handler, in Ollama's order."""
        host, origin = request.headers.get("Host", ""), request.headers.get("Origin", "")
        if "//" in request.path:
            return redirect(request, re.sub("/+", "/", request.path), 307)
        if origin and not origins.is_origin_allowed(origin, host):
            return web.Response(status=403)
        if origin and request.method == "OPTIONS":
            return preflight(origin, path.methods if path else ())
        if self._is_local and self._keys.is_open and not origins.is_host_allowed(host, self._own_name):
            return web.Response(status=403)
        if path is not None:
            return None if request.method in path.methods else method_not_allowed(path.methods)
        slashless = self._path(request.path.rstrip("/"))
        if slashless is not None and request.method in slashless.methods:
            return redirect(request, request.path.rstrip("/"), 301 if request.method == "GET" else 307)
        return not_found()

    def _authorise(self, request: web.Request, access: Access) -> None:
        """Raises CallerError 401, 403."""
        given = request.headers.get("Authorization", ""), request.headers.get("X-Api-Key", "")
        if access is Access.CALLER:
            self._keys.caller(*given)
        elif access is Access.ADMIN:
            self._keys.admin(*given)

    @property
    def _keys(self) -> Keys:
        return self._live.rules.keys

    # --- inference and lists ------------------------------------------------------------------------------------------

    def _inference(self, endpoint: Endpoint) -> Handler:
        async def handler(request: web.Request, trace: Trace) -> web.StreamResponse:
            return await self._pipeline.answer(request, endpoint, trace)

        return handler

    async def _model(self, request: web.Request, trace: Trace) -> web.StreamResponse:
        return _openai_json(request, trace, self._listing.openai_model(request.path.removeprefix(_MODEL_PATH)))

    async def _show(self, request: web.Request, trace: Trace) -> web.StreamResponse:
        limits = self._live.rules.limits
        name = show_name(await read_body(request, limits.body_bytes, limits.between_bytes_s))
        return _json(request, trace, self._listing.show(name))

    # --- the operator's -----------------------------------------------------------------------------------------------

    async def _readyz(self, request: web.Request, trace: Trace) -> web.StreamResponse:
        missing = is_ready(self._live.snapshot, (tier.pool for tier in self._live.rules.tiers.values()))
        text = f"no instance serves: {', '.join(missing)}\n" if missing else "ready\n"
        if not self._live.is_known:
            text = "no cluster has been published yet\n"
        return whole(request, _TEXT_TYPE, text.encode(), {}, 200 if text == "ready\n" else 503)

    async def _page(self, request: web.Request, trace: Trace) -> web.StreamResponse:
        policy = (
            "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
            "frame-ancestors 'none'"
        )
        headers = {"Content-Security-Policy": policy}
        return whole(request, "text/html; charset=utf-8", self._status.page().encode(), headers)

    async def _status_json(self, request: web.Request, trace: Trace) -> web.StreamResponse:
        return _openai_json(request, trace, await self._status.read())


def _text(text: bytes) -> Handler:
    async def handler(request: web.Request, trace: Trace) -> web.StreamResponse:
        return whole(request, _TEXT_TYPE, text, {})

    return handler


def _listed(listing: Callable[[], dict[str, Any]]) -> Handler:
    async def handler(request: web.Request, trace: Trace) -> web.StreamResponse:
        return _json(request, trace, listing())

    return handler


def _openai_listed(listing: Callable[[], dict[str, Any]]) -> Handler:
    async def handler(request: web.Request, trace: Trace) -> web.StreamResponse:
        return _openai_json(request, trace, listing())

    return handler


async def _metrics(request: web.Request, trace: Trace) -> web.StreamResponse:
    body = await asyncio.to_thread(telemetry.exposition)
    return whole(request, "text/plain; version=0.0.4; charset=utf-8", body, {})


def _json(request: web.Request, trace: Trace, value: dict[str, Any]) -> web.StreamResponse:
    return whole(request, JSON_TYPE, gojson.dumps(value), {"X-Request-Id": trace.request_id})


def _openai_json(request: web.Request, trace: Trace, value: dict[str, Any]) -> web.StreamResponse:
    """Ollama ends these bodies by a newline."""
    return whole(request, OPENAI_JSON_TYPE, gojson.dumps(value) + b"\n", {"X-Request-Id": trace.request_id})


async def _never_reached(request: web.Request) -> web.StreamResponse:
    raise AssertionError("the middleware answers every request")


async def _expected(request: web.Request) -> None:
    """A caller that waits for `100 Continue` is asked for its body by who reads it: others may refuse it before."""


async def _finish_headers(request: web.Request, response: web.StreamResponse) -> None:
    """What serves this, and in which version, is nobody's business; a page that may call is told so."""
    response.headers.popall("Server", None)
    origin = request.headers.get("Origin", "")
    if not origin or response.status in (204, 403) or origins.is_own_origin(origin, request.headers.get("Host", "")):
        return
    response.headers["Access-Control-Allow-Origin"] = origin
    response.headers["Vary"] = "Origin"


def _http_log() -> logging.Logger:
    """aiohttp's errors, without a stack trace for each client that does not speak HTTP."""
    http_log = logging.getLogger(f"{__name__}.http")
    http_log.addFilter(_is_ours)
    return http_log


def _is_ours(record: logging.LogRecord) -> bool:
    why = record.exc_info[1] if record.exc_info else None
    return not isinstance(why, http_exceptions.HttpProcessingError | ConnectionError)
