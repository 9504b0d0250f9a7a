"""One client's connection: HTTP/1.1 parsed strictly (llhttp), its requests answered one after the other.

Knows framing, keep-alive, pipelining and time limits, and when the client has left. What is asked and answered is left
to `server`. An own protocol instead of aiohttp's server because what that does for any application costs more than the
rest of a call (docs/decisions/0010).
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, cast
from urllib.parse import unquote

import httptools

from orchestrator.core.model import Endpoint
from orchestrator.gateway.replies import Reply, plain, rendered
from orchestrator.gateway.request import Request, Room
from orchestrator.gateway.visitors import Visitors

log = logging.getLogger(__name__)

HEAD_BYTES_AT_MOST: Final = 32_768
HEADERS_AT_MOST: Final = 200
# Without a request between them, and with half a request's head.
IDLE_S, HEAD_S = 75.0, 15.0
# A client that reads nothing for so long of an answer that was written as a whole.
UNREAD_S = 60.0
# No length of 64 bits has more digits, and Python refuses to read one of thousands.
LENGTH_DIGITS: Final = 19
# How long a client may go on sending a body that was refused; closing at once could cost it the answer.
LINGER_S = 3.0
# Of a worker that has a successor: a client may be about to ask on a connection that rests.
LEAVING_S = 3.0
# Requests of a client that sends ahead: the next one is parsed while one is answered, others wait in the socket.
AHEAD: Final = 1

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_TOO_LARGE: Final = "the request's head is too large"

# What nearly every request has, as it is asked for.
_METHODS: Final = {b"POST": "POST", b"GET": "GET"}
# Of headers, in small letters; each once, however many requests have it.
_NAMES: Final = {
    written: name
    for name in (
        b"accept",
        b"accept-encoding",
        b"authorization",
        b"connection",
        b"content-length",
        b"content-type",
        b"host",
        b"user-agent",
        b"x-api-key",
    )
    for written in (name, name.title())
}
# Nobody reads a body of these.
_BODILESS: Final = frozenset({"GET", "HEAD"})
_PLAIN_PATHS: Final = {each.value.encode(): each.value for each in Endpoint}

Serve = Callable[[Request, "Connection"], Awaitable[Reply | None]]


class Stream(Protocol):
    """An answer that goes out piece by piece."""

    def write(self, pieces: list[bytes]) -> None: ...
    def abandon(self) -> None: ...


class Wanted(Protocol):
    """An answer that others may wait for, too."""

    def outlive(self, task: asyncio.Task[None]) -> bool:
        """Its own client has left. Whether `task` makes it to its end all the same."""


class _NotTakenError(ValueError):
    """A head that llhttp reads, and that is refused here: others may read it otherwise."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


def _nothing() -> None:
    """Nobody waits for this client to read."""


class Connection(asyncio.Protocol):
    """Reads requests and has `serve` answer each: by a reply, or by itself through `transport` (None)."""

    __slots__ = (
        "_asked",
        "_has_moved",
        "_head_size",
        "_header_count",
        "_headers",
        "_is_deaf",
        "_is_last",
        "_is_leaving",
        "_is_paused",
        "_loop",
        "_next",
        "_opened",
        "_parsed",
        "_parser",
        "_raw_size",
        "_serve",
        "_since_s",
        "_target",
        "_task",
        "_unread_size",
        "address",
        "is_full",
        "is_overdue",
        "on_drained",
        "stream",
        "transport",
        "until_s",
        "wanted",
    )

    def __init__(self, serve: Serve, opened: Visitors[Connection]) -> None:
        self._serve, self._opened = serve, opened
        self._loop = asyncio.get_running_loop()
        self._parser: httptools.HttpRequestParser | None = None  # made when bytes come
        self._parsed: Request | None = None  # the request whose bytes come now
        self._next: tuple[Request, ...] = ()  # a few at most, and none as a rule: that takes no room
        self._task: asyncio.Task[None] | None = None
        self._asked: Request | None = None  # the one that is being answered
        self._target = b""
        self._headers: dict[bytes, bytes] = {}  # where those that come now belong
        self._raw_size = self._head_size = self._header_count = 0
        self._has_moved = False
        self._since_s = self._loop.time()
        self._is_last = False  # nothing is read any more, or the server stops
        self._is_deaf = False  # what comes is dropped
        self._is_leaving = False  # what is asked from now on is the last
        self._is_paused = False
        self._unread_size = 0  # of what was written, as it was last looked at
        self.address = ""
        self.until_s = math.inf  # loop time at which the answer under way must have ended
        self.is_overdue = False  # it had not
        self.stream: Stream | None = None  # the answer under way has begun, and goes out piece by piece
        self.transport: asyncio.Transport
        self.is_full = False  # the client reads slower than it is written to
        self.on_drained: Callable[[], None] = _nothing
        # Asked where the client leaves.
        self.wanted: Wanted | None = None

    # --- for who answers ----------------------------------------------------------------------------------------------

    def send(self, request: Request, reply: Reply) -> None:
        """Write a whole answer."""
        if not request.is_whole and not request.has_little_left:
            self._is_last = True
        if not self.transport.is_closing():
            self.transport.write(rendered(reply, request, is_last=self.is_last(request)))

    def is_last(self, request: Request) -> bool:
        """Whether the connection ends behind this request's answer."""
        return self._is_last or not request.keeps_alive

    def end_within(self, seconds: float) -> None:
        """From now on; otherwise the answer under way is ended, and said to be overdue."""
        self.until_s = self._loop.time() + seconds

    def send_continue(self) -> None:
        self.transport.write(_CONTINUE)

    def pause_body(self) -> None:
        self.transport.pause_reading()

    def resume_body(self) -> None:
        if not self._is_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def begin_stream(self, stream: Stream) -> None:
        """The answer under way goes out piece by piece from now on.

        It may last, and nothing is parsed meanwhile, as a rule: the parser need not be held.
        """
        self.stream = stream
        if self._parsed is None and self._asked is not None and self._asked.keeps_alive:
            self._parser = None

    def end_after(self) -> None:
        """Close the connection behind what has been written."""
        self._is_last = True

    def abort(self) -> None:
        """Cut the connection: what is still buffered for the client is dropped."""
        self._is_last = True
        self.transport.abort()

    # --- for the server -----------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Take no more requests; one under way is finished."""
        self._is_last = True
        if self._task is None:
            self.transport.close()

    def leave(self) -> None:
        """Answer what comes within a moment, and say with it that the connection ends; then end.

        An answer that has begun said nothing of that: its client may ask once more behind it.
        """
        if not self._is_leaving:
            self._is_leaving = True
            self._since_s = self._loop.time()

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The answer under way."""
        return self._task

    def look_at_time(self, now_s: float) -> None:
        """Called each second: end what has been silent for too long."""
        if self._task is not None:
            if now_s > self.until_s:
                self.until_s, self.is_overdue = math.inf, True
                self._task.cancel()
            return
        silent_s = now_s - self._since_s
        if self.is_full or self.transport.is_closing():
            self._look_at_reader(now_s)
        elif self._is_leaving and self._parsed is None and silent_s > LEAVING_S:
            self.transport.close()
        elif self._is_deaf and silent_s > LINGER_S:
            self.transport.abort()
        elif self._parsed is not None and not self._parsed.method and silent_s > HEAD_S:
            self._refuse(408, "the request's head did not come within time")
        elif silent_s > (IDLE_S if self._parsed is None else HEAD_S):
            self.transport.close()

    def _look_at_reader(self, now_s: float) -> None:
        """A client that reads nothing of its answers: they would lie here for good."""
        unread_size = self.transport.get_write_buffer_size()
        if unread_size < self._unread_size:
            self._since_s = now_s
        self._unread_size = unread_size
        if now_s - self._since_s > UNREAD_S:
            self.transport.abort()

    # --- for who counts connections -----------------------------------------------------------------------------------

    @property
    def is_unused(self) -> bool:
        return self._task is None and self._parsed is None and not self._next and not self.transport.is_closing()

    def close_unused(self) -> None:
        self.transport.close()

    @property
    def room(self) -> Room:
        return self._opened

    # --- asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's transports are not its subclasses
        peer = transport.get_extra_info("peername")
        self.address = sys.intern(str(peer[0])) if isinstance(peer, tuple) else ""
        refusal = self._opened.add(self)
        if refusal is not None:
            self._refuse(*refusal)

    def connection_lost(self, exc: Exception | None) -> None:
        self._opened.discard(self)
        self._is_last = self._is_deaf = True
        for request in (self._parsed, *self._next):
            if request is not None and request is not self._asked:
                request.drop()
        if self._task is not None and (self.wanted is None or not self.wanted.outlive(self._task)):
            self._task.cancel()
            if self._asked is not None:
                self._asked.drop()  # a task that has not begun comes to no end of its own

    def pause_writing(self) -> None:
        self.is_full = True

    def resume_writing(self) -> None:
        self.is_full = False
        on_drained, self.on_drained = self.on_drained, _nothing
        on_drained()

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        if self._parser is None:
            self._parser = httptools.HttpRequestParser(self)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as stopped:
            self._pass_over_offers(data, stopped)
        except httptools.HttpParserError as why:
            self._refuse_garbled(why)
        else:
            if self._parsed is not None:
                # Bytes that brought neither a request's beginning nor any of its body: a head without an end, or what
                # stands around a body's chunks and behind them.
                self._raw_size = 0 if self._has_moved else self._raw_size + len(data)
                self._has_moved = False
            if self._raw_size > HEAD_BYTES_AT_MOST or self._head_size > HEAD_BYTES_AT_MOST:
                self._garbled(_TOO_LARGE, status=431)
        if self._task is None and not self.is_full:
            self._go_on()
        elif len(self._next) >= AHEAD and not self._is_paused:
            self._is_paused = True
            self.transport.pause_reading()

    # --- httptools callbacks ------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._parsed = request = Request(self)
        self._headers = request.headers
        self._target = b""
        self._raw_size = self._head_size = self._header_count = 0
        self._has_moved = True
        self._since_s = self._loop.time()

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_size += len(name) + len(value)
        self._header_count += 1
        if self._header_count > HEADERS_AT_MOST:
            raise _NotTakenError(431, _TOO_LARGE)
        headers, name = self._headers, _NAMES.get(name) or name.lower()
        headers[name] = value if name not in headers else headers[name] + b", " + value

    def on_headers_complete(self) -> None:
        request, parser = self._parsed, self._parser
        assert request is not None
        assert parser is not None
        self._head_size += len(self._target)
        if self._head_size > HEAD_BYTES_AT_MOST:
            raise _NotTakenError(431, _TOO_LARGE)
        self._headers = {}  # behind the body: who looked at the head has not seen those, so they say nothing here
        version = parser.get_http_version()
        request.is_http_11 = version == "1.1"
        if not request.is_http_11 and version != "1.0":
            raise _NotTakenError(505, "HTTP/1.1 is spoken here, and HTTP/1.0")
        path = _PLAIN_PATHS.get(self._target)
        if path:
            request.path, request.query = path, ""
        else:
            request.path, request.query = _path_and_query(self._target, request.headers)
        _check_framing(request)
        request.keeps_alive = parser.should_keep_alive()
        method = parser.get_method()
        request.method = _METHODS.get(method) or method.decode("ascii")
        if request.method in _BODILESS:
            request.drop()
        self._next += (request,)

    def on_body(self, piece: bytes) -> None:
        assert self._parsed is not None
        self._has_moved = True
        self._parsed.take(piece)

    def on_message_complete(self) -> None:
        assert self._parsed is not None
        self._parsed.end()
        self._parsed = None

    # --- inside -------------------------------------------------------------------------------------------------------

    def _pass_over_offers(self, data: bytes, stopped: httptools.HttpParserUpgrade) -> None:
        """Parse what came as if nobody had offered another protocol, as Java's client does with its first request.

        The parser stops behind such a head: it takes what follows for that protocol's.
        """
        rest = memoryview(data)
        while True:
            rest = rest[stopped.args[0] :]
            if self._next[-1].headers.pop(b"upgrade", None) is None:
                self._garbled("no connection is passed on here")  # CONNECT
                return
            head, self._parser = self._head_again(), httptools.HttpRequestParser(self)
            try:
                self._parser.feed_data(head)
                self._parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as again:
                stopped = again
            except httptools.HttpParserError as why:
                self._refuse_garbled(why)
                return

    def _head_again(self) -> bytes:
        """The head of the request that came last, which is no request any more."""
        request, self._next = self._next[-1], self._next[:-1]
        version = b"1.1" if request.is_http_11 else b"1.0"
        fields = b"".join(b"%b: %b\r\n" % each for each in request.headers.items())
        return b"%b %b HTTP/%b\r\n%b\r\n" % (request.method.encode(), self._target, version, fields)

    def _refuse_garbled(self, why: httptools.HttpParserError) -> None:
        own = why.__context__
        if isinstance(own, _NotTakenError):
            self._garbled(own.why, own.status)
        else:
            self._garbled(f"this is not HTTP: {why}")

    def _go_on(self) -> None:
        """Answer the next request, if one has come."""
        if self._next:
            request = self._asked = self._next[0]
            self._next = self._next[1:]
            if self._is_leaving and not self._next:
                request.keeps_alive = False
            self._task = self._loop.create_task(self._answer(request))

    async def _answer(self, request: Request) -> None:
        try:
            reply = await self._serve(request, self)
            if reply is not None:
                self.send(request, reply)
        finally:
            self._answered(request)

    def _answered(self, request: Request) -> None:
        request.drop()
        self._opened.used(self)
        self._task = self._asked = self.stream = None
        self.until_s, self.is_overdue, self._unread_size = math.inf, False, 0
        self._since_s = self._loop.time()
        if self.is_last(request):
            if request.is_whole or request.expects_continue or self.transport.is_closing():
                self.transport.close()
            else:
                # The rest of its body is dropped as it comes: closing now could cost the client the answer.
                self._is_deaf = True
        elif self.is_full:
            self.on_drained = self._take_next  # answers that nobody reads are not added to
        else:
            self._take_next()

    def _take_next(self) -> None:
        self._go_on()
        if self._is_paused:
            self._is_paused = False
            self.transport.resume_reading()

    def _garbled(self, why: str, status: int = 400) -> None:
        """Not HTTP: nothing behind it can be understood. What was asked before it is answered first."""
        self._is_last = self._is_deaf = True
        request, self._parsed = self._parsed, None
        if request is not None and request.method:
            request.fail(why)
        elif self._task is None and not self._next:
            self._refuse(status, why)

    def _refuse(self, status: int, why: str) -> None:
        """Answer what is no request, and end the connection."""
        self._is_last = self._is_deaf = True
        self.transport.write(plain(status, why))
        self.transport.close()


def _check_framing(request: Request) -> None:
    """Raises _NotTakenError for a head that leaves open where its body ends or whom it is for (RFC 9112, 3.2 and 6.1).

    llhttp refuses what is wrong in itself: both lengths, two of one, bare line ends, folded lines.
    """
    headers = request.headers
    host = headers.get(b"host")
    if host is None:
        if request.is_http_11:
            raise _NotTakenError(400, "a Host header is needed")
    elif b"," in host:
        raise _NotTakenError(400, "one Host header is needed, not several")
    length = headers.get(b"content-length")
    if length is not None:
        if len(length) > LENGTH_DIGITS:
            raise _NotTakenError(400, "its Content-Length is none")
        request.length = int(length)
    elif b"transfer-encoding" in headers:
        if not request.is_http_11:
            raise _NotTakenError(400, "HTTP/1.0 knows no Transfer-Encoding")
        if headers[b"transfer-encoding"].strip().lower() != b"chunked":
            raise _NotTakenError(501, "no Transfer-Encoding but chunked is known here")


def _path_and_query(target: bytes, headers: dict[bytes, bytes]) -> tuple[str, str]:
    """What a request line asks for; the path without its percent signs.

    A proxy's client names the host in it, which holds whatever its Host header says (RFC 9112, 3.2.2).
    """
    if not target.startswith(b"/") and b"://" in target:
        host, slash, rest = target.partition(b"://")[2].partition(b"/")
        if not slash:
            host, mark, asked = host.partition(b"?")
            rest = mark + asked
        if not host:
            raise _NotTakenError(400, "the request names no host")
        if b"host" in headers:
            headers[b"host"] = host
        target = b"/" + rest
    path, _, query = target.decode("latin-1").partition("?")
    return unquote(path) if "%" in path else path, query
