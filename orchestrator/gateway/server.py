"""The HTTP edge: paths to handlers, errors to answers, one aiohttp server a worker on a shared port."""

from __future__ import annotations

import asyncio
import html
import logging
import re
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from aiohttp import web

from orchestrator import telemetry
from orchestrator.core import origins
from orchestrator.core.errors import CallerError, OrchestratorError
from orchestrator.core.model import Endpoint
from orchestrator.gateway.bodies import read_body, show_name
from orchestrator.gateway.errors import dialect_of, http_error
from orchestrator.gateway.identity import Keys
from orchestrator.gateway.listing import Listing, is_ready
from orchestrator.gateway.live import Live
from orchestrator.gateway.pipeline import Pipeline
from orchestrator.gateway.status import StatusPage
from orchestrator.gateway.trace import Trace

log = logging.getLogger(__name__)

# A caller's request id is echoed and logged: only what is harmless in both.
_REQUEST_ID = re.compile(r"[\w.:@/+=-]{1,128}")
DRAIN_TIMEOUT_S = 30.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_JSON, _OPENAI_JSON = "application/json; charset=utf-8", "application/json"


class Server:
    """One gateway worker."""

    def __init__(self, live: Live, pipeline: Pipeline, status: StatusPage) -> None:
        self._live, self._pipeline, self._status = live, pipeline, status
        self._listing = Listing(live)
        self._runner: web.AppRunner | None = None
        self._own_name = socket.gethostname()
        self._is_local = True

    async def start(self, host: str, port: int) -> None:
        """Listen beside the other workers (SO_REUSEPORT); the kernel spreads connections over them."""
        app = web.Application(middlewares=[self._guard, _answer_errors], client_max_size=2**40)
        self._add_routes(app.router)
        app.on_response_prepare.append(_finish_headers)
        self._is_local = origins.is_loopback(host)
        self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, keepalive_timeout=75, shutdown_timeout=DRAIN_TIMEOUT_S
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

    def _add_routes(self, router: web.UrlDispatcher) -> None:
        for endpoint in Endpoint:
            router.add_post(endpoint.value, self._inference(endpoint))
        router.add_get("/", self._root)
        router.add_get("/api/tags", self._listed(self._listing.tags, _JSON))
        router.add_get("/api/ps", self._listed(self._listing.running, _JSON))
        router.add_get("/api/version", self._listed(self._listing.version, _JSON))
        router.add_post("/api/show", self._show)
        router.add_get("/v1/models", self._listed(self._listing.openai_models, _OPENAI_JSON))
        router.add_get("/v1/models/{name:.+}", self._model)
        router.add_get("/healthz", self._healthz)
        router.add_get("/readyz", self._readyz)
        router.add_get("/metrics", self._metrics)
        router.add_get("/status", self._page)
        router.add_get("/status.json", self._status_json)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """403 to a browser's foreign page, and on a loopback address to a foreign name, as Ollama."""
        host, origin = request.headers.get("Host", ""), request.headers.get("Origin", "")
        if self._is_local and self._keys.is_open and not origins.is_host_allowed(host, self._own_name):
            return web.Response(status=403)
        if origin and not origins.is_origin_allowed(origin, host):
            return web.Response(status=403)
        if request.method == "OPTIONS" and origin:
            return _preflight()
        return await handler(request)

    # --- inference and lists ----------------------------------------------------------------------------------------

    def _inference(self, endpoint: Endpoint) -> Handler:
        async def handler(request: web.Request) -> web.StreamResponse:
            return await self._pipeline.answer(request, endpoint, request["trace"])

        return handler

    def _listed(self, listing: Callable[[], dict[str, Any]], content_type: str) -> Handler:
        async def handler(request: web.Request) -> web.StreamResponse:
            self._keys.caller(*_credentials(request))
            return _json(request, listing(), content_type)

        return handler

    async def _model(self, request: web.Request) -> web.StreamResponse:
        self._keys.caller(*_credentials(request))
        return _json(request, self._listing.openai_model(request.match_info["name"]), _OPENAI_JSON)

    async def _show(self, request: web.Request) -> web.StreamResponse:
        self._keys.caller(*_credentials(request))
        name = show_name(await read_body(request, self._live.rules.limits.body_bytes))
        return _json(request, self._listing.show(name), _JSON)

    # --- the operator's ---------------------------------------------------------------------------------------------

    async def _root(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text="Ollama is running")

    async def _healthz(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.StreamResponse:
        tiers = self._live.rules.tiers.values()
        missing = is_ready(self._live.snapshot, (tier.pool for tier in tiers))
        text = f"no instance serves: {', '.join(missing)}\n" if missing else "ready\n"
        return web.Response(status=503 if missing else 200, text=text)

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        self._keys.admin(*_credentials(request))
        body = await asyncio.to_thread(telemetry.exposition)
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _page(self, request: web.Request) -> web.StreamResponse:
        headers = {
            "Content-Security-Policy": "default-src 'none'; connect-src 'self'; "
            "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
        }
        return web.Response(text=self._status.page(), content_type="text/html", headers=headers)

    async def _status_json(self, request: web.Request) -> web.StreamResponse:
        self._keys.admin(*_credentials(request))
        return _json(request, await self._status.read(), _OPENAI_JSON)

    @property
    def _keys(self) -> Keys:
        return self._live.rules.keys


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give each request its trace, and each of our errors its answer in the caller's dialect."""
    given = request.headers.get("X-Request-Id", "")
    trace = Trace(given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex, time.perf_counter())
    request["trace"] = trace
    try:
        return await handler(request)
    except web.HTTPNotFound:
        return _no_such_path(request)
    except web.HTTPMethodNotAllowed as why:
        return _plain(405, "405 method not allowed", why.headers)
    except OrchestratorError as why:
        telemetry.CALLS.labels(trace.tier or "none", trace.cache, type(why).__name__).inc()
        if not isinstance(why, CallerError):
            log.warning("%s %s: %s", trace.request_id, request.path, why)
        return http_error(dialect_of(request.path), why, trace.headers())


def _credentials(request: web.Request) -> tuple[str, str]:
    return request.headers.get("Authorization", ""), request.headers.get("X-Api-Key", "")


def _json(request: web.Request, value: dict[str, Any], content_type: str) -> web.Response:
    trace: Trace = request["trace"]
    end = b"\n" if content_type == _OPENAI_JSON else b""
    return web.Response(
        body=orjson.dumps(value) + end, headers={"X-Request-Id": trace.request_id, "Content-Type": content_type}
    )


def _no_such_path(request: web.Request) -> web.Response:
    """404 in plain text, as Ollama says it; a trailing slash too many is answered by where to go, as Ollama does."""
    path = request.path
    if len(path) > 1 and path.endswith("/"):
        location = "/" + path.strip("/")
        return web.Response(
            status=301,
            headers={"Location": location},
            text=f'<a href="{html.escape(location)}">Moved Permanently</a>.\n\n',
            content_type="text/html",
        )
    if "//" in path:
        location = re.sub("/+", "/", path)
        return web.Response(
            status=307,
            headers={"Location": location},
            text=f'<a href="{html.escape(location)}">Temporary Redirect</a>.\n\n',
            content_type="text/html",
        )
    return _plain(404, "404 page not found", {})


def _plain(status: int, text: str, headers: Mapping[str, str]) -> web.Response:
    kept = {"Allow": headers["Allow"]} if "Allow" in headers else {}
    return web.Response(status=status, body=text.encode(), headers={**kept, "Content-Type": "text/plain"})


def _preflight() -> web.Response:
    headers = {
        "Access-Control-Allow-Headers": origins.ALLOWED_HEADERS,
        "Access-Control-Allow-Methods": origins.ALLOWED_METHODS,
        "Access-Control-Max-Age": "43200",
    }
    return web.Response(status=204, headers=headers)


async def _finish_headers(request: web.Request, response: web.StreamResponse) -> None:
    """What serves this, and in which version, is nobody's business; a page that may call is told so."""
    response.headers.popall("Server", None)
    if origin := request.headers.get("Origin", ""):
        response.headers["Vary"] = "Origin"
        if response.status != 403:
            response.headers["Access-Control-Allow-Origin"] = origin
