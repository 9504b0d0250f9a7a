"""One exchange with one instance: the request sent, the answer's bytes handed on, the end judged.

Knows nothing of leases, tiers or retries. It promises that a failure before the first byte went out raises an
`InstanceError` with `answered=False`, so that `pipeline` may ask another instance, and that what the client got is
either whole or visibly not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from orchestrator.core.dialects.errors import error_frame
from orchestrator.core.dialects.outcome import End, read_end
from orchestrator.core.errors import CallerError, InstanceError
from orchestrator.core.model import Call, Instance
from orchestrator.gateway.client_stream import ClientStream
from orchestrator.gateway.hidden_usage import UsageHider
from orchestrator.gateway.upstream import Connections, Exchange, Head

# What the end of an answer is judged by: the last writes that ended with a whole line. The last of /api/generate tells
# its context token by token, some hundred KB where that is long, in many pieces.
TAIL_WRITES = 4
TAIL_BYTES_AT_MOST = 8 * 2**20
# An instance's error text; more of it helps nobody.
ERROR_BODY_BYTES = 65_536


class Translation(Protocol):
    """From the engine's answer to the caller's dialect, without input or output of its own."""

    def feed(self, data: bytes) -> bytes: ...
    def finish(self) -> bytes: ...
    def error(self, status: int, body: bytes) -> CallerError | None: ...


@dataclass(frozen=True, slots=True)
class Order:
    """What to ask of which instance, and how its answer becomes the caller's. `translation` None: bytes go past."""

    call: Call
    instance: Instance
    path: str
    body: bytes
    content_type: str
    translation: Translation | None
    first_byte_s: float
    between_bytes_s: float
    keep_bytes: int  # how much of the answer to keep for the answer cache; 0: none
    hides_usage: bool = False  # the counts in a stream were asked for by us: the caller does not see them


class ClientGoneError(Exception):
    """The client left, or read nothing for too long: nobody is there for the rest of the answer."""


@dataclass(slots=True)
class Relayed:
    """An answer handed on: how it ended, and its bytes where they were wanted and not too many."""

    end: End
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Refused:
    """The instance says the request itself is wrong: handed to the caller as it stands."""

    status: int
    content_type: str
    body: bytes


@dataclass(slots=True)
class _Kept:
    """The answer's pieces as the instance told them: all of them up to a limit, or only the last few writes."""

    limit: int
    pieces: list[bytes] = field(default_factory=list)
    size: int = 0
    line_ends: int = 0  # among the pieces
    is_whole: bool = True

    def add(self, piece: bytes) -> None:
        self.pieces.append(piece)
        self.size += len(piece)
        self.line_ends += piece.endswith(b"\n")
        if self.is_whole and self.size > self.limit:
            self.is_whole = False
        while not self.is_whole and (self.line_ends > TAIL_WRITES or self.size > self.limit + TAIL_BYTES_AT_MOST):
            dropped = self.pieces.pop(0)
            self.size -= len(dropped)
            self.line_ends -= dropped.endswith(b"\n")

    def body(self) -> bytes | None:
        """All of it; None where that was not wanted or too much."""
        return b"".join(self.pieces) if self.is_whole and self.limit else None

    def tail(self) -> bytes:
        """The last lines."""
        if not self.is_whole:
            return b"".join(self.pieces)
        ends = [at for at, piece in enumerate(self.pieces) if piece.endswith(b"\n")]
        start = ends[-TAIL_WRITES - 1] + 1 if len(ends) > TAIL_WRITES else 0
        return b"".join(self.pieces[start:])


async def relay(
    connections: Connections, order: Order, client: ClientStream | None, on_answer: Callable[[], None]
) -> Relayed | Refused:
    """Carry one call to its instance; a stream goes to `client` as it comes, a whole body is returned.

    `on_answer` is called when the instance has begun to answer a stream, or has answered a whole body.
    Raises InstanceError, and where a stream was under way the client has had an error frame; ClientGoneError;
    CallerError where the engine's refusal had to be put into other words.
    """
    instance = order.instance
    exchange, was_used = await connections.take(instance.id, instance.host, instance.port)
    try:
        try:
            head = await _ask(exchange, order)
        except InstanceError:
            if not was_used or exchange.was_answered or not exchange.was_closed:
                raise
            # A kept connection may have been closed by the instance as the request went out: ask once more, afresh.
            exchange = await connections.connect(instance.id, instance.host, instance.port)
            head = await _ask(exchange, order)
        if head.status != 200:
            refused = await _refusal(exchange, order, head)
            on_answer()
            return refused
        if client is None:
            relayed = await _whole(exchange, order)
            on_answer()
            return relayed
        return await _stream(exchange, order, client, on_answer)
    except BaseException:
        exchange.is_reusable = False
        raise
    finally:
        connections.give_back(instance.host, instance.port, exchange)


async def _ask(exchange: Exchange, order: Order) -> Head:
    exchange.send(order.path, f"{order.instance.host}:{order.instance.port}", order.body)
    try:
        async with asyncio.timeout(order.first_byte_s):
            return await exchange.head()
    except TimeoutError as why:
        exchange.close()
        raise InstanceError(order.instance.id, f"silent for {order.first_byte_s:g} s") from why


async def _read_all(exchange: Exchange, order: Order, limit: int) -> bytes:
    pieces: list[bytes] = []
    size = 0

    def keep(piece: bytes) -> None:
        nonlocal size
        size += len(piece)
        if size <= limit:
            pieces.append(piece)

    exchange.attach(keep)
    with _Watch(exchange, order, lambda: False):
        await exchange.done()
    return b"".join(pieces)


async def _refusal(exchange: Exchange, order: Order, head: Head) -> Refused:
    """An error status: the caller's mistake goes back to the caller, the instance's own is raised."""
    body = await _read_all(exchange, order, ERROR_BODY_BYTES)
    if order.translation is not None:
        if (fault := order.translation.error(head.status, body)) is not None:
            raise fault
    elif is_callers_mistake(head.status, body):
        return Refused(head.status, head.content_type, body)
    text = body[:300].decode("utf-8", "replace").strip()
    raise InstanceError(order.instance.id, f"answered {head.status}: {text}")


# Ollama answers 500 to some mistakes of the caller too; counting those as failures would let one bad client take every
# instance out (its texts: server/routes.go and api/types.go, v0.33).
_CALLERS_500 = (b"must be of ", b"invalid format", b"does not support", b"exceeds the context")


def is_callers_mistake(status: int, body: bytes) -> bool:
    """Whether an instance's error status says that the request, not the instance, is wrong."""
    if status == 404:  # we only ask for what the instance is there to serve: it has lost its model
        return False
    if status < 499:
        return status not in (408, 429)
    return status == 501 or (status == 500 and any(text in body for text in _CALLERS_500))


async def _whole(exchange: Exchange, order: Order) -> Relayed:
    """A body that is one JSON document: read to its end before anything is said, so any failure can be retried."""
    body = await _read_all(exchange, order, limit=2**31)
    if order.translation is not None:
        body = order.translation.feed(body) + order.translation.finish()
    end = read_end(order.call.endpoint, False, body)
    if not end.is_whole:
        raise InstanceError(order.instance.id, end.error or "its answer has no end")
    return Relayed(end, body)


async def _stream(exchange: Exchange, order: Order, client: ClientStream, on_answer: Callable[[], None]) -> Relayed:
    first = await _first_pieces(exchange, order)
    on_answer()
    await _start(client, order)
    kept, flow = _Kept(order.keep_bytes), _Flow(exchange)
    hider = UsageHider() if order.hides_usage else None

    def show(out: bytes) -> None:
        kept.add(out)
        client.write(out if hider is None else hider.feed(out), flow.pause, flow.resume)

    for piece in first:
        show(piece)
    exchange.attach(show if order.translation is None else _translated(order.translation, show))
    watch = _Watch(exchange, order, lambda: client.is_stalled)
    try:
        with watch:
            await exchange.done()
        if order.translation is not None and (rest := order.translation.finish()):
            show(rest)
    except (InstanceError, CallerError) as why:
        if watch.is_client_stalled:
            raise ClientGoneError("read nothing for too long") from why
        client.fail(error_frame(order.call.endpoint, f"the answer was cut off: {why.message}"))
        raise InstanceError(order.instance.id, why.message, answered=True) from why
    finally:
        flow.end()
    if hider is not None:
        client.write(hider.finish())
    end = read_end(order.call.endpoint, True, kept.tail())
    if not end.is_whole and end.error is None:
        # Ollama ends such a stream as if it were whole (OLLAMA.md 1.3, 1.4): the client is told that it is not.
        client.fail(error_frame(order.call.endpoint, "the answer ended before it was whole"))
    return Relayed(end, kept.body())


async def _start(client: ClientStream, order: Order) -> None:
    try:
        await client.start(order.content_type)
    except ConnectionError as why:
        raise ClientGoneError("left as its answer began") from why


def _translated(translation: Translation, show: Callable[[bytes], None]) -> Callable[[bytes], None]:
    def hand_on(piece: bytes) -> None:
        if out := translation.feed(piece):
            show(out)

    return hand_on


async def _first_pieces(exchange: Exchange, order: Order) -> list[bytes]:
    """Wait for the first bytes that the caller is to see. An error in their place is raised: another may try."""
    came: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    pieces: list[bytes] = []

    def hold(piece: bytes) -> None:
        pieces.append(piece)
        if not came.done():
            came.set_result(None)

    exchange.attach(hold if order.translation is None else _translated(order.translation, hold))
    ended = asyncio.ensure_future(exchange.done())
    try:
        async with asyncio.timeout(order.first_byte_s):
            await asyncio.wait((came, ended), return_when=asyncio.FIRST_COMPLETED)
    except TimeoutError as why:
        exchange.close()
        raise InstanceError(order.instance.id, f"no first token within {order.first_byte_s:g} s") from why
    finally:
        ended.cancel()
    if not pieces:
        await exchange.done()
        raise InstanceError(order.instance.id, "its answer is empty")
    if pieces[0].startswith((b'{"error":', b'data: {"error":', b"error:")):
        raise InstanceError(order.instance.id, pieces[0][:300].decode("utf-8", "replace").strip())
    return pieces


class _Flow:
    """A slow client's hold on its instance's bytes, for as long as the exchange is its own."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange: Exchange | None = exchange

    def pause(self) -> None:
        if self._exchange is not None:
            self._exchange.pause()

    def resume(self) -> None:
        if self._exchange is not None:
            self._exchange.resume()

    def end(self) -> None:
        """The connection may serve another client from now on."""
        self._exchange = None


class _Watch:
    """Cuts an exchange that is silent for too long; one timer a stream, none a chunk.

    A client that does not read for as long stops the instance's bytes too, and is cut the same way;
    `is_client_stalled` then says whose fault it was.
    """

    def __init__(self, exchange: Exchange, order: Order, is_stalled: Callable[[], bool]) -> None:
        self._exchange, self._limit_s, self._is_stalled = exchange, order.between_bytes_s, is_stalled
        self._loop = asyncio.get_running_loop()
        self.is_client_stalled = False

    def __enter__(self) -> None:
        self._timer = self._loop.call_later(self._limit_s, self._check)

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _check(self) -> None:
        silent_s = self._loop.time() - self._exchange.last_read_s
        if silent_s < self._limit_s:
            self._timer = self._loop.call_later(self._limit_s - silent_s, self._check)
            return
        self.is_client_stalled = self._is_stalled()
        self._exchange.fail("the client does not read" if self.is_client_stalled else f"silent for {silent_s:.0f} s")
        self._exchange.close()
