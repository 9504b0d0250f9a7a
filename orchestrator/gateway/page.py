"""The page at /status: its files as they are shipped, and the state of the cluster to all who watch, once a second.

However many watch, the state is read once; who reads slower than it comes misses some of it, and costs no memory.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from importlib.resources import files
from typing import Any, Final
from urllib.parse import parse_qsl

import orjson

from orchestrator.core.dialects.frames import SSE_TYPE
from orchestrator.core.errors import CallerError, CapacityError, OrchestratorError
from orchestrator.gateway.client_stream import ClientStream
from orchestrator.gateway.connection import Connection
from orchestrator.gateway.identity import NEVER, Caller
from orchestrator.gateway.live import Live
from orchestrator.gateway.replies import Reply, field, whole
from orchestrator.gateway.request import Request
from orchestrator.gateway.status import StatusPage
from orchestrator.gateway.vitals import vitals

log = logging.getLogger(__name__)

EVERY_S: Final = 1.0
WATCHERS_AT_MOST: Final = 64
CALLS_SHOWN: Final = 50
# A page asks for calls by these columns of their records.
FILTERS: Final = ("tier", "model", "caller", "instance", "cache", "outcome", "id", "escalated")
# Nothing but the page's own files, and nothing that frames it.
_POLICY: Final = (
    "default-src 'none'; connect-src 'self'; style-src 'self'; script-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_FILES: Final = {
    "": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
PATHS: Final = tuple(f"/status{each}" for each in _FILES)

# The last calls of the request log that have these values, the newest first; `failed`: that were not answered.
ReadCalls = Callable[[Mapping[str, str], bool, int], Awaitable[list[dict[str, Any]]]]
# What an admin wants done: an act, and to what. Raises OrchestratorError.
Act = Callable[[Caller, str, str], Awaitable[str]]


class Page:
    """What the page is made of, and what it asks for."""

    def __init__(self, live: Live, status: StatusPage, read_calls: ReadCalls, act: Act) -> None:
        self._live, self._status, self._read_calls, self._act = live, status, read_calls, act
        self._watchers: set[ClientStream] = set()
        self._telling: asyncio.Task[None] | None = None
        self._rules = live.rules
        self._turned = asyncio.Event()  # who watches has to ask anew
        self._is_over = False
        folder = files("orchestrator") / "data" / "page"
        fields = "".join((
            field("Content-Security-Policy", _POLICY),
            field("X-Content-Type-Options", "nosniff"),
            field("Referrer-Policy", "no-referrer"),
            field("Cross-Origin-Opener-Policy", "same-origin"),
            field("Cross-Origin-Resource-Policy", "same-origin"),
            field("Cache-Control", "no-cache"),
        ))  # fmt: skip
        self._files = {
            f"/status{path}": whole(kind, (folder / name).read_bytes(), fields) for path, (name, kind) in _FILES.items()
        }

    def file(self, path: str) -> Reply:
        """One of the page's own files."""
        return self._files[path]

    def end(self) -> None:
        """Tell nobody any more: who watches would keep the gateway from ending."""
        self._is_over = True
        self._turned.set()
        if self._telling is not None:
            self._telling.cancel()

    async def watch(
        self, request: Request, connection: Connection, fields: Callable[[], str], until_s: float = NEVER
    ) -> None:
        """Tell one watcher, each second, until he leaves, or until then (Unix seconds): what he watches by has ended.

        Where the settings have changed he has to ask anew, as the page does by itself: his key may be gone.
        Raises CapacityError where too many watch.
        """
        if len(self._watchers) >= WATCHERS_AT_MOST:
            raise CapacityError(f"{WATCHERS_AT_MOST} pages watch this gateway already", retry_after_s=30)
        stream = ClientStream(request, connection, lambda: fields() + field("Cache-Control", "no-store"))
        self._watchers.add(stream)  # counted before anything is waited for
        turned = self._turned
        try:
            stream.start(SSE_TYPE)
            stream.write([await self._event()])
            if self._telling is None or self._telling.done():
                self._rules = self._live.rules
                self._telling = asyncio.get_running_loop().create_task(self._tell())
            with suppress(TimeoutError):
                async with asyncio.timeout(None if until_s == NEVER else until_s - time.time()):
                    await turned.wait()  # a connection that ends cancels this
        finally:
            self._watchers.discard(stream)
        await stream.finish(EVERY_S)

    async def calls(self, request: Request) -> list[dict[str, Any]]:
        """Calls behind a number. Raises CallerError for a filter there is not."""
        wanted = _query_of(request.query)
        failed = wanted.pop("failed", "") == "1"
        if unknown := wanted.keys() - set(FILTERS):
            raise CallerError(400, f"no calls are chosen by {sorted(unknown)[0]!r}; there are {', '.join(FILTERS)}")
        return await self._read_calls(wanted, failed, CALLS_SHOWN)

    async def act(self, body: bytes, caller: Caller) -> dict[str, str]:
        """Do what an admin wants. Raises CallerError: 403 where there are no keys, so that anybody might want it."""
        if self._live.rules.keys.is_open:
            raise CallerError(403, "configure `keys` with an admin among them: without keys nothing is changed here")
        try:
            wanted = orjson.loads(body)
            act, what = wanted["act"], wanted["what"]
        except (orjson.JSONDecodeError, KeyError, TypeError) as why:
            raise CallerError(400, '{"act": "drain", "what": "INSTANCE"} is wanted') from why
        if not isinstance(act, str) or not isinstance(what, str):
            raise CallerError(400, "`act` and `what` are texts")
        return {"done": await self._act(caller, act, what)}

    async def _tell(self) -> None:
        while self._watchers:
            await asyncio.sleep(EVERY_S)
            if self._live.rules is not self._rules and not self._is_over:
                self._rules = self._live.rules
                turned, self._turned = self._turned, asyncio.Event()
                turned.set()
            event = await self._event()
            for each in tuple(self._watchers):
                if not each.is_stalled:
                    each.write([event])

    async def _event(self) -> bytes:
        try:
            told: dict[str, Any] = {"status": await self._status.read(), "vitals": await asyncio.to_thread(vitals)}
        except OrchestratorError as why:
            told = {"error": str(why)}
        except Exception:  # a mistake of ours: those who watch are told so, and more in a second
            log.exception("the state of the cluster could not be read")
            told = {"error": "a mistake of ours: the gateway's log says which"}
        return b"data: " + orjson.dumps(told, default=str) + b"\n\n"


def _query_of(query: str) -> dict[str, str]:
    return dict(parse_qsl(query, keep_blank_values=True)[:16])
