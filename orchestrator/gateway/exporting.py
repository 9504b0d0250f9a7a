"""Spans sent to a collector, by OTLP over HTTP in JSON: gathered in memory, sent in batches behind all calls.

A collector that is away, slow or full costs a call nothing: what it does not take waits in a bounded list, and what
finds no room there is dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Final

import orjson

from orchestrator import __version__, telemetry
from orchestrator.core.otlp import Value, request_of, span_of
from orchestrator.gateway.live import TraceRules
from orchestrator.gateway.tracing import Told, spans_of

if TYPE_CHECKING:
    import aiohttp  # loaded by who first asks: a worker that asks nobody is spared its 9 MiB

log = logging.getLogger(__name__)

SEND_EVERY_S: Final = 1.0
CALLS_AT_ONCE: Final = 256
# Calls whose spans wait: some 10 MB.
WAITING_AT_MOST: Final = 2048
TIMEOUT_S: Final = 10.0
LAST_WORD_S: Final = 2.0
LONGEST_PAUSE_S: Final = 30.0
# What the protocol says may be sent again.
_AGAIN: Final = frozenset({429, 502, 503, 504})
_SCOPE: Final = ("ollamactl.gateway", __version__)


class _NotTakenError(Exception):
    """The collector did not take a batch; `again`: it may take it later."""

    def __init__(self, why: str, *, again: bool) -> None:
        super().__init__(why)
        self.again = again


class SpanExporter:
    """`rules`: where to, at this moment; None: nowhere, and what waits is dropped."""

    def __init__(self, rules: Callable[[], TraceRules | None], worker: str) -> None:
        self._rules = rules
        self._resource: dict[str, Value] = {
            "service.name": "ollamactl",
            "service.version": __version__,
            "service.instance.id": f"{worker}-{uuid.uuid4().hex}",
        }
        self._waiting: deque[Told] = deque()
        self._is_much = asyncio.Event()
        self._sending: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None
        self._problem = ""

    def start(self) -> None:
        self._sending = asyncio.get_running_loop().create_task(self._send_on())

    async def close(self) -> None:
        """Send what is left, if it is taken at once."""
        if self._sending is not None:
            self._sending.cancel()
            with suppress(asyncio.CancelledError):
                await self._sending
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORD_S):
                while self._waiting and await self._send():
                    pass
        self._drop(tuple(self._waiting))
        if self._session is not None:
            await self._session.close()

    def take(self, told: Told) -> None:
        """A call has ended that is to be told of."""
        if len(self._waiting) >= WAITING_AT_MOST:
            self._drop((told,))
            return
        self._waiting.append(told)
        if len(self._waiting) >= CALLS_AT_ONCE:
            self._is_much.set()

    async def _send_on(self) -> None:
        pause_s = SEND_EVERY_S
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    # While the collector takes nothing, much that waits is no reason to hurry.
                    await (self._is_much.wait() if pause_s == SEND_EVERY_S else asyncio.Event().wait())
            self._is_much.clear()
            is_taken = True
            while self._waiting and is_taken:
                is_taken = await self._send()
            pause_s = SEND_EVERY_S if is_taken else min(LONGEST_PAUSE_S, 2 * pause_s)

    async def _send(self) -> bool:
        """Send the oldest that wait; whether the collector can be asked for more."""
        batch, rules = tuple(islice(self._waiting, CALLS_AT_ONCE)), self._rules()
        if rules is None:
            self._done(batch)
            self._drop(batch)
            return True
        try:
            rejected = await self._post(rules, await self._body(batch))
        except _NotTakenError as why:
            if not why.again:
                self._done(batch)
                self._drop(batch)
            self._say(f"{rules.url} takes no spans, calls go on: {why}")
            return not why.again
        self._done(batch)
        telemetry.TALLY.count(telemetry.SPANS, ("sent",), max(0, _spans_in(batch) - rejected))
        if rejected:
            telemetry.TALLY.count(telemetry.SPANS, ("dropped",), rejected)
        self._say("")
        return True

    async def _post(self, rules: TraceRules, body: bytes) -> int:
        """How many spans of it were rejected. Raises _NotTakenError."""
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(TIMEOUT_S))
        headers = {**rules.headers, "Content-Type": "application/json"}
        try:
            async with self._session.post(rules.url, data=body, headers=headers, allow_redirects=False) as reply:
                told = await reply.content.read(65_536)
                if not reply.ok:
                    raise _NotTakenError(f"it answers {reply.status}", again=reply.status in _AGAIN)
        except (aiohttp.ClientError, TimeoutError, OSError) as why:
            raise _NotTakenError(str(why) or type(why).__name__, again=True) from why
        return _rejected(told)

    async def _body(self, batch: Sequence[Told]) -> bytes:
        """Made call by call: what is asked for meanwhile comes between. A thread would hold all of it up for longer."""
        spans: list[orjson.Fragment] = []
        for told in batch:
            spans += [orjson.Fragment(orjson.dumps(span_of(each))) for each in spans_of(told)]
            await asyncio.sleep(0)
        return orjson.dumps(request_of(spans, self._resource, _SCOPE))

    def _done(self, batch: Sequence[Told]) -> None:
        for _ in batch:
            self._waiting.popleft()

    def _drop(self, batch: Sequence[Told]) -> None:
        if batch:
            telemetry.TALLY.count(telemetry.SPANS, ("dropped",), _spans_in(batch))

    def _say(self, problem: str) -> None:
        if problem and not self._problem:
            log.error("%s", problem)
        elif self._problem and not problem:
            log.info("spans are taken again")
        self._problem = problem


def _spans_in(batch: Sequence[Told]) -> int:
    return sum(1 + len(each.story.parts) for each in batch)


def _rejected(told: bytes) -> int:
    """Of an answer's `partialSuccess`; a collector that says nothing has taken all."""
    try:
        success = orjson.loads(told)["partialSuccess"]
        return int(success.get("rejectedSpans", 0))
    except (ValueError, KeyError, TypeError, AttributeError):
        return 0
