"""The HTTP edge: paths to handlers, errors to answers, one server a worker on a shared port."""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from orchestrator import telemetry
from orchestrator.core import origins
from orchestrator.core.dialects import gojson
from orchestrator.core.dialects.errors import JSON_TYPE, OPENAI_JSON_TYPE, error_frame
from orchestrator.core.errors import CallerError, CapacityError, OrchestratorError
from orchestrator.core.model import Dialect, Endpoint
from orchestrator.gateway import login
from orchestrator.gateway.bodies import show_name
from orchestrator.gateway.connection import Connection
from orchestrator.gateway.counted import count_overhead
from orchestrator.gateway.door import Door
from orchestrator.gateway.errors import http_error
from orchestrator.gateway.feedback import Feedback
from orchestrator.gateway.identity import ADMIN, ANYBODY, INFER, MODELS, Caller, with_scope
from orchestrator.gateway.listing import Listing, is_ready
from orchestrator.gateway.live import Live
from orchestrator.gateway.managing import BLOB_PATH, METHODS, Managing
from orchestrator.gateway.page import PATHS as PAGE_PATHS
from orchestrator.gateway.page import Page
from orchestrator.gateway.pipeline import Pipeline
from orchestrator.gateway.replies import (
    Reply,
    cors_fields,
    field,
    method_not_allowed,
    not_found,
    preflight,
    redirect,
    whole,
)
from orchestrator.gateway.request import Request
from orchestrator.gateway.request_log import RequestLog
from orchestrator.gateway.status import StatusPage
from orchestrator.gateway.trace import Trace, request_id
from orchestrator.gateway.tracing import Tracing
from orchestrator.gateway.visitors import Visitors

log = logging.getLogger(__name__)

DRAIN_TIMEOUT_S = 30.0
BACKLOG = 4096
# Connections are looked at, and tallies handed on, this often.
TICK_S = 1.0
# A worker that knows no pool yet would refuse calls which the worker beside it can answer.
KNOWN_WITHIN_S = 3.0
# Of a call whose client left before it had an answer; nginx's word for it.
LEFT: Final = 499
OVERDUE: Final = 504
SMALL_BODY_BYTES: Final = 65_536
_TEXT_TYPE: Final = "text/plain; charset=utf-8"
_MODEL_PATH: Final = "/v1/models/"
# Of paths that end by a name.
_PREFIXES: Final = (_MODEL_PATH, BLOB_PATH)

Handler = Callable[[Request, Connection, Trace], Awaitable[Reply | None]]


class Access(Enum):
    """Who may ask a path. A path says so itself, so that none is open by having been forgotten.

    `scope`: what a key must be good for; empty: for anything. Told once, since each call asks: an enumeration looks up
    its members and their values by Python code.
    """

    ANYONE = True, ""
    CALLER = False, ""
    INFER = False, INFER
    MODELS = False, MODELS
    ADMIN = False, ADMIN

    def __init__(self, is_for_anyone: bool, scope: str) -> None:
        self.is_for_anyone, self.scope = is_for_anyone, scope


@dataclass(frozen=True, slots=True)
class Path:
    """One path that is served."""

    methods: tuple[str, ...]
    access: Access
    handler: Handler
    is_logged: bool = False  # in the request log
    is_anthropics: bool = False


class Server:
    """One gateway worker."""

    def __init__(
        self,
        live: Live,
        pipeline: Pipeline,
        status: StatusPage,
        feedback: Feedback,
        records: RequestLog,
        page: Page,
        tracing: Tracing,
        managing: Managing,
        door: Door,
    ) -> None:
        self._live, self._pipeline, self._status, self._feedback = live, pipeline, status, feedback
        self._records, self._page, self._tracing = records, page, tracing
        self._managing, self._door = managing, door
        self._listing = Listing(live)
        self._listening: asyncio.Server | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._opened: Visitors[Connection] = Visitors(lambda: live.rules.limits)
        self._own_name = socket.gethostname()
        self._is_local = True
        self._paths = self._served()

    async def start(self, host: str, port: int, handed: socket.socket | None = None) -> None:
        """Listen beside the other workers (SO_REUSEPORT); the kernel spreads connections over them.

        `handed` is such a socket that somebody else keeps open as well: what waits in it outlives this worker.
        """
        await self._live.until_known(KNOWN_WITHIN_S)
        self._is_local = origins.is_loopback(host)
        shared = handed or _listener(host, port)
        loop = asyncio.get_running_loop()
        self._ticking = loop.create_task(self._tick())
        serve, opened = self._serve, self._opened
        self._listening = await loop.create_server(lambda: Connection(serve, opened), sock=shared, backlog=BACKLOG)

    async def leave(self) -> None:
        """Another worker takes the new connections; answer those that are here, until each has ended by itself.

        Who asks once more is told that this connection ends behind the answer. Cut short by `stop`.
        """
        if self._listening is None:
            return
        self._listening.close()
        self._page.end()
        self._managing.end()
        while self._opened:
            for each in tuple(self._opened):
                each.leave()  # also those that were accepted a moment ago
            await asyncio.sleep(TICK_S / 4)

    async def stop(self) -> None:
        """Take no new connections, finish what is under way (up to DRAIN_TIMEOUT_S), close."""
        if self._listening is None or self._ticking is None:
            return
        self._listening.close()
        self._page.end()
        self._managing.end()
        for each in tuple(self._opened):
            each.stop()
        deadline_s = time.monotonic() + DRAIN_TIMEOUT_S
        while tasks := [each.task for each in self._opened if each.task is not None]:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                for task in tasks:
                    task.cancel()
            await asyncio.wait(tasks, timeout=max(left_s, TICK_S))
        for each in tuple(self._opened):
            each.transport.close()
        self._ticking.cancel()
        telemetry.TALLY.flush()

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK_S)
            telemetry.TALLY.flush()
            for each in tuple(self._opened):
                each.look_at_time(loop.time())

    def _served(self) -> dict[str, Path]:
        def get(access: Access, handler: Handler) -> Path:
            return Path(("GET", "HEAD"), access, handler)

        listing = self._listing
        return {
            **{each.value: self._call(each) for each in Endpoint},
            "/": get(Access.ANYONE, _text(b"Ollama is running")),
            "/api/tags": get(Access.CALLER, _listed(listing.tags)),
            "/api/ps": get(Access.CALLER, _listed(listing.running)),
            "/api/version": get(Access.CALLER, _listed(listing.version)),
            "/api/show": Path(("POST",), Access.CALLER, self._show),
            "/api/feedback": Path(("POST",), Access.INFER, self._take_feedback),
            "/v1/models": get(Access.CALLER, _openai_listed(listing.openai_models)),
            _MODEL_PATH: Path(("GET", "HEAD", "DELETE"), Access.CALLER, self._model),
            **{path: Path(methods, Access.MODELS, self._managing.change) for path, methods in METHODS.items()},
            BLOB_PATH: Path(("HEAD", "POST"), Access.MODELS, self._managing.blob),
            "/healthz": get(Access.ANYONE, _text(b"ok\n")),
            "/readyz": get(Access.ANYONE, self._readyz),
            "/metrics": get(Access.ADMIN, _metrics),
            **{each: get(Access.ANYONE, self._page_file) for each in PAGE_PATHS},
            "/status.json": get(Access.ADMIN, self._status_json),
            "/status/live": Path(("GET",), Access.ADMIN, self._watch),  # it has no end, so HEAD has no sense
            "/status/calls": get(Access.ADMIN, self._calls),
            "/status/act": Path(("POST",), Access.ADMIN, self._act),
            login.PATH: Path(("GET",), Access.ANYONE, self._log_in),
            login.BACK_PATH: Path(("GET",), Access.ANYONE, self._logged_in),
            login.SESSION_PATH: get(Access.ANYONE, self._session),
            login.OUT_PATH: Path(("POST",), Access.ANYONE, self._log_out),
        }

    # --- one request --------------------------------------------------------------------------------------------------

    async def _serve(self, request: Request, connection: Connection) -> Reply | None:
        """Give the request its trace, its handler, and each of our errors its answer in the caller's dialect."""
        trace = Trace(request_id(request.header(b"x-request-id")), time.perf_counter(), ANYBODY)
        path = self._path(request.path)
        refused = self._refusal(request, path)
        if refused is not None or path is None:
            reply: Reply | None = refused or not_found()
        elif path.is_logged:
            status, rules = LEFT, self._live.rules
            trace.is_anthropics = path.is_anthropics
            if rules.traces is not None:
                self._tracing.begin(request, trace, rules.traces)
            connection.end_within(rules.limits.whole_s)
            try:
                reply = await self._handled(request, connection, trace, path)
                status = 200 if reply is None else reply.status
            except asyncio.CancelledError:
                if not connection.is_overdue:
                    raise
                reply, status = self._overdue(request, connection, trace), OVERDUE
            finally:
                self._records.add(request, trace, status)
                count_overhead(trace)
                if trace.story is not None:
                    self._tracing.end(request, trace, status)
        else:
            reply = await self._handled(request, connection, trace, path)
        return reply if reply is None or b"origin" not in request.headers else _for_origin(request, reply)

    async def _handled(self, request: Request, connection: Connection, trace: Trace, path: Path) -> Reply | None:
        try:
            trace.caller = await self._authorised(request, path.access)
            if trace.caller is not ANYBODY:
                request.asked_by(trace.caller.name)
            return await path.handler(request, connection, trace)
        except OrchestratorError as why:
            trace.outcome = type(why).__name__
            telemetry.TALLY.count(telemetry.CALLS, (trace.tier or "none", trace.cache, trace.outcome))
            if not isinstance(why, CallerError):
                log.warning("%s %s: %s", trace.request_id, request.path, why)
            return _told_or_cut(request, connection, trace, why)
        except Exception:  # a mistake of ours: said in the log, and the caller is not left without an answer
            trace.outcome = "error"
            log.exception("%s %s", trace.request_id, request.path)
            return _told_or_cut(request, connection, trace, OrchestratorError("a mistake of ours"))

    def _overdue(self, request: Request, connection: Connection, trace: Trace) -> Reply | None:
        """What a caller is told whose call was ended because it took too long."""
        trace.outcome = "overdue"
        text = f"the call took longer than {self._live.rules.limits.whole_s:g} s (limits.whole_s)"
        log.warning("%s %s: %s", trace.request_id, request.path, text)
        if connection.stream is None:
            why = CapacityError(text, retry_after_s=0, status=OVERDUE)
            return http_error(request.path, why, trace.fields(), trace.request_id)
        connection.stream.write([error_frame(Endpoint(request.path), text)])
        connection.stream.abandon()
        return None

    def _path(self, path: str) -> Path | None:
        known = self._paths.get(path)
        if known is not None:
            return known if path not in _PREFIXES else None
        # A model's name may have slashes of its own, though Ollama's router knows none such.
        return next((self._paths[each] for each in _PREFIXES if path.startswith(each)), None)

    def _refusal(self, request: Request, path: Path | None) -> Reply | None:
        """What stops a request before its handler, in Ollama's order."""
        if "//" in request.path:
            return redirect(request, re.sub("/+", "/", request.path), 307)
        if origin := request.header(b"origin"):
            if not origins.is_origin_allowed(origin, request.header(b"host")):
                return Reply(403, "")
            if request.method == "OPTIONS":
                return preflight(origin, path.methods if path else ())
        elif b"sec-fetch-site" in request.headers and _is_of_another_site(request):
            return Reply(403, "")
        if (
            self._is_local
            and self._live.rules.keys.is_open
            and not _is_host_allowed(request.header(b"host"), self._own_name)
        ):
            return Reply(403, "")
        if path is not None:
            return None if request.method in path.methods else method_not_allowed(path.methods)
        slashless = self._path(request.path.rstrip("/"))
        if slashless is not None and request.method in slashless.methods:
            return redirect(request, request.path.rstrip("/"), 301 if request.method == "GET" else 307)
        return not_found()

    async def _authorised(self, request: Request, access: Access) -> Caller:
        """Who asks. Raises CallerError 401, 403; CapacityError where it cannot be known yet."""
        if access.is_for_anyone:
            return ANYBODY
        caller = self._door.caller(request)
        if not isinstance(caller, Caller):
            caller = await caller
        return with_scope(caller, access.scope) if access.scope else caller

    # --- inference and lists ------------------------------------------------------------------------------------------

    def _call(self, endpoint: Endpoint) -> Path:
        answer = self._pipeline.answer

        def handler(request: Request, connection: Connection, trace: Trace) -> Awaitable[Reply | None]:
            return answer(request, connection, endpoint, trace)

        is_anthropics = endpoint.dialect is Dialect.ANTHROPIC
        return Path(("POST",), Access.INFER, handler, is_logged=True, is_anthropics=is_anthropics)

    async def _model(self, request: Request, _: Connection, trace: Trace) -> Reply:
        if request.method == "DELETE":
            trace.caller = await self._authorised(request, Access.MODELS)
            return await self._managing.delete_openai(request, request.path.removeprefix(_MODEL_PATH), trace)
        return _openai_json(trace, self._listing.openai_model(request.path.removeprefix(_MODEL_PATH), trace.caller))

    async def _show(self, request: Request, _: Connection, trace: Trace) -> Reply:
        name = show_name(await self._small_body(request))
        return _json(trace, self._listing.show(name, trace.caller))

    async def _take_feedback(self, request: Request, _: Connection, trace: Trace) -> Reply:
        return _json(trace, await self._feedback.take(await self._small_body(request), trace.caller))

    async def _small_body(self, request: Request) -> bytes:
        """A body that is no call: a name or two."""
        limits = self._live.rules.limits
        return await request.body(min(limits.body_bytes, SMALL_BODY_BYTES), limits.between_bytes_s, limits.body_s)

    # --- the operator's -----------------------------------------------------------------------------------------------

    async def _readyz(self, _: Request, __: Connection, ___: Trace) -> Reply:
        tiers = self._live.rules.tiers.values()
        missing = is_ready(self._live.snapshot, (tier.pool for tier in tiers if not tier.is_outside))
        text = f"no instance serves: {', '.join(missing)}\n" if missing else "ready\n"
        if not self._live.is_known:
            text = "no cluster has been published yet\n"
        return whole(_TEXT_TYPE, text.encode(), status=200 if text == "ready\n" else 503)

    async def _page_file(self, request: Request, _: Connection, __: Trace) -> Reply:
        return self._page.file(request.path)

    async def _watch(self, request: Request, connection: Connection, trace: Trace) -> None:
        fields = field("X-Request-Id", trace.request_id)
        await self._page.watch(request, connection, lambda: fields, trace.caller.until_s)

    async def _calls(self, request: Request, _: Connection, trace: Trace) -> Reply:
        return _openai_json(trace, {"calls": await self._page.calls(request)})

    async def _act(self, request: Request, _: Connection, trace: Trace) -> Reply:
        return _json(trace, await self._page.act(await self._small_body(request), trace.caller))

    async def _log_in(self, request: Request, _: Connection, __: Trace) -> Reply:
        return await self._door.logins.begin(request)

    async def _logged_in(self, request: Request, _: Connection, __: Trace) -> Reply:
        return await self._door.logins.back(request)

    async def _log_out(self, request: Request, _: Connection, __: Trace) -> Reply:
        return self._door.logins.end(request)

    async def _session(self, request: Request, _: Connection, trace: Trace) -> Reply:
        return _json(trace, self._door.logins.told(request))

    async def _status_json(self, _: Request, __: Connection, trace: Trace) -> Reply:
        return _openai_json(trace, await self._status.read())


def _told_or_cut(request: Request, connection: Connection, trace: Trace, why: OrchestratorError) -> Reply | None:
    """What a caller is told of an error; one whose stream is out has it ended without its end."""
    if connection.stream is None:
        return http_error(request.path, why, trace.fields(), trace.request_id)
    connection.stream.abandon()
    return None


def _listener(host: str, port: int) -> socket.socket:
    shared = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    shared.bind((host, port))
    return shared


# The same few hosts ask again and again.
_is_host_allowed = functools.lru_cache(maxsize=256)(origins.is_host_allowed)


def _is_of_another_site(request: Request) -> bool:
    site, mode = request.header(b"sec-fetch-site"), request.header(b"sec-fetch-mode")
    return origins.is_of_another_site(site, mode, is_reading=request.method in ("GET", "HEAD"))


def _text(text: bytes) -> Handler:
    async def handler(_: Request, __: Connection, ___: Trace) -> Reply:
        return whole(_TEXT_TYPE, text)

    return handler


def _listed(listing: Callable[[Caller], dict[str, Any]]) -> Handler:
    async def handler(_: Request, __: Connection, trace: Trace) -> Reply:
        return _json(trace, listing(trace.caller))

    return handler


def _openai_listed(listing: Callable[[Caller], dict[str, Any]]) -> Handler:
    async def handler(_: Request, __: Connection, trace: Trace) -> Reply:
        return _openai_json(trace, listing(trace.caller))

    return handler


async def _metrics(_: Request, __: Connection, ___: Trace) -> Reply:
    telemetry.TALLY.flush()
    body = await asyncio.to_thread(telemetry.exposition)
    return whole("text/plain; version=0.0.4; charset=utf-8", body)


def _json(trace: Trace, value: dict[str, Any]) -> Reply:
    return whole(JSON_TYPE, gojson.dumps(value), field("X-Request-Id", trace.request_id))


def _openai_json(trace: Trace, value: dict[str, Any]) -> Reply:
    """Ollama ends these bodies by a newline."""
    return whole(OPENAI_JSON_TYPE, gojson.dumps(value) + b"\n", field("X-Request-Id", trace.request_id))


def _for_origin(request: Request, reply: Reply) -> Reply:
    """A page that may call is told so."""
    if reply.status in (204, 403):
        return reply
    return reply._replace(fields=reply.fields + cors_fields(request))
