"""One exchange with one instance: the request sent, the answer's bytes handed on, the end judged.

Knows nothing of leases, tiers or retries. It promises that a failure before the first byte went out raises an
`InstanceError` with `answered=False`, so that `pipeline` may ask another instance, and that what the client got is
either whole or visibly not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple, Protocol

from orchestrator.core.address import address_text
from orchestrator.core.dialects.errors import ERROR_STARTS
from orchestrator.core.dialects.frames import SSE_TYPE
from orchestrator.core.dialects.framing import is_object
from orchestrator.core.dialects.outcome import End, read_end
from orchestrator.core.errors import CallerError, InstanceError
from orchestrator.core.model import Call, Instance
from orchestrator.core.told import told_from
from orchestrator.gateway.client_stream import ClientStream
from orchestrator.gateway.doubting import Escalated, Watching
from orchestrator.gateway.framed import Framed
from orchestrator.gateway.kept import Kept
from orchestrator.gateway.making import Making
from orchestrator.gateway.shown import CutShort, Shown
from orchestrator.gateway.upstream import Connections, Exchange, Head, Sink, Stage

# An instance's error text; more of it helps nobody.
ERROR_BODY_BYTES: Final = 65_536
_, _HEAD, _BODY, _DONE = Stage


class Translation(Protocol):
    """From the engine's answer to the caller's dialect, without input or output of its own."""

    def feed(self, data: bytes) -> bytes: ...
    def finish(self) -> bytes: ...
    def error(self, status: int, body: bytes) -> CallerError | bytes | None:
        """Whose trouble an error status is: the caller's, nobody's (an answer all the same), or None: the engine's."""
        ...


class Attempt(Protocol):
    """Who watches how long nothing comes (`patience`)."""

    def sent(self, exchange: Exchange) -> None: ...


@dataclass(frozen=True, slots=True)
class Door:
    """The headers that open a provider's endpoint, "Name: value" and a line's end each. They hold its key."""

    fields: str = field(repr=False)


class Destination(Protocol):
    """Whom to ask: an instance, or a provider's endpoint outside."""

    @property
    def id(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...


class Order(NamedTuple):
    """What to ask of whom, and how the answer becomes the caller's. `translation` None: bytes go past."""

    call: Call
    instance: Destination
    path: str
    body: bytes
    content_type: str
    translation: Translation | None
    first_byte_s: float
    between_bytes_s: float
    keep_bytes: int  # how much of the answer to keep for the answer cache; 0: none
    hides_usage: bool = False  # the counts in a stream were asked for by us: the caller does not see them
    outside: Door | None = None  # what a provider's endpoint is told with each request; None: an instance is asked
    watching: Watching | None = None  # judges the answer before it is shown; None: it is taken as it is
    traced: str = ""  # headers that tell whom of the call's trace, "name: value" and a line's end each
    continues: bool = False  # where its stream breaks, another instance may tell the rest: no error is shown yet
    behind: Shown | None = None  # the beginning of the answer, which another instance has told


class ClientGoneError(Exception):
    """The client left, or read nothing for too long: nobody is there for the rest of the answer."""


class Relayed(NamedTuple):
    """An answer handed on: how it ended, and its bytes where they were wanted and not too many."""

    end: End
    body: bytes | None


class Refused(NamedTuple):
    """The instance says the request itself is wrong: handed to the caller as it stands."""

    status: int
    content_type: str
    body: bytes


async def relay(
    connections: Connections,
    order: Order,
    client: ClientStream | None,
    on_answer: Callable[[], None],
    on_left: Callable[[Exchange], None] | None,
    attempt: Attempt,
    making: Making | None = None,
) -> Relayed | Refused:
    """Carry one call to its instance; a stream goes to `client` as it comes, a whole body is returned.

    `on_answer` is called when the instance has begun to answer a stream, or has answered a whole body. Where the client
    leaves within a stream, `on_left` is handed the exchange to read on (`drain`); without it the stream is cut.
    `attempt` is told of the exchange once its request is out; `making`, of a stream, what comes.
    Raises InstanceError, and where a stream was under way the client has had an error frame, or CutShort where it may
    be continued; ClientGoneError; CallerError where the engine's refusal had to be put into other words; Escalated,
    with nothing shown.
    """
    instance = order.instance
    exchange: Exchange | None = connections.idle(instance.host, instance.port)
    was_used = exchange is not None
    if exchange is None:
        exchange = await connections.connect(instance.id, instance.host, instance.port)
    try:
        try:
            _send(exchange, order, attempt)
            await exchange.until(_HEAD)
        except InstanceError:
            if not was_used or exchange.was_answered or not exchange.was_closed:
                raise
            # A kept connection may have been closed by the instance as the request went out: ask once more, afresh.
            exchange = await connections.connect(instance.id, instance.host, instance.port)
            _send(exchange, order, attempt)
            await exchange.until(_HEAD)
        if exchange.head.status != 200:
            refused = await _refusal(exchange, order)
            on_answer()
            return refused
        if client is None:
            relayed = await _whole(exchange, order)
            on_answer()
            return relayed if order.watching is None else _judged_whole(order.watching, relayed)
        return await _stream(exchange, order, client, on_answer, making)
    except BaseException as why:
        if on_left is not None and _is_left(why, order, client) and exchange.stage is _BODY:
            handed_over, exchange = exchange, None
            on_left(handed_over)
        elif not isinstance(why, Escalated) or exchange.stage is not _DONE:
            exchange.is_reusable = False
        raise
    finally:
        if exchange is not None:
            connections.give_back(instance.host, instance.port, exchange)


def _is_left(why: BaseException, order: Order, client: ClientStream | None) -> bool:
    """Whether an instance writes a stream that nobody is going to read."""
    if client is None or not isinstance(why, asyncio.CancelledError | ClientGoneError | Escalated):
        return False
    return client.is_started or order.watching is not None


async def drain(connections: Connections, instance: Instance, exchange: Exchange, within_s: float) -> bool:
    """Read a stream nobody wants any more to its end, or cut it after `within_s`; whether it came to its end."""
    exchange.attach(lambda _: None)
    exchange.allow_silence(within_s)
    exchange.resume()
    try:
        async with asyncio.timeout(within_s):
            await exchange.until(_DONE)
    except (TimeoutError, InstanceError):
        return False
    finally:
        # Not whole, it is not reusable: then it is closed.
        connections.give_back(instance.host, instance.port, exchange)
    return True


def _send(exchange: Exchange, order: Order, attempt: Attempt) -> None:
    instance, body = order.instance, order.body
    fields = _host_field(instance.host, instance.port) if order.outside is None else order.outside.fields
    head = (
        f"POST {order.path} HTTP/1.1\r\n{fields}{order.traced}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    exchange.send(head.encode("ascii"), body, order.first_byte_s)
    attempt.sent(exchange)


@lru_cache(maxsize=1024)
def _host_field(host: str, port: int) -> str:
    """The instance's own address: Ollama refuses a foreign one with 403."""
    return f"Host: {address_text(host, port)}\r\n"


async def _refusal(exchange: Exchange, order: Order) -> Refused | Relayed:
    """An error status: the caller's mistake goes back to the caller, the instance's own is raised."""
    head = exchange.head
    exchange.allow_silence(order.between_bytes_s)
    pieces: list[bytes] = []
    exchange.attach(lambda came: pieces.extend(came) if sum(map(len, pieces)) < ERROR_BODY_BYTES else None)
    await exchange.until(_DONE)
    body = b"".join(pieces)
    if order.behind is not None and is_callers_mistake(head.status, body):
        # It does not take what a stream goes on from: no instance of this engine would.
        raise CallerError(head.status, body[:300].decode("utf-8", "replace").strip())
    if order.translation is not None:
        fault = order.translation.error(head.status, body)
        if isinstance(fault, bytes):
            return Relayed(End(True, "stop"), fault)
        if fault is not None:
            raise fault
    elif is_callers_mistake(head.status, body):
        return Refused(head.status, head.content_type, body)
    text = body[:300].decode("utf-8", "replace").strip()
    said = f"answered {head.status}"
    raise InstanceError(order.instance.id, said, quoted=text, status=head.status, retry_after_s=_alone_s(head))


def _alone_s(head: Head) -> float:
    """For how long who is busy wants no calls; 0: it did not say."""
    if head.status not in (429, 503) or not head.retry_after:
        return 0.0
    return told_from({"retry-after": head.retry_after.decode("latin-1")}, time.time()).retry_after_s or 0.0


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
    watching = order.watching
    is_under_way = exchange.stage is not _DONE  # most come with their head
    if is_under_way:
        exchange.allow_silence(order.between_bytes_s)
    if watching is not None:
        await exchange.until(_BODY)
        watching.began()
    if is_under_way:
        await exchange.until(_DONE)
    body = exchange.body()
    if order.translation is not None:
        if exchange.head.content_type.startswith(SSE_TYPE):  # asked to stream, and put together here
            body = _whole_frames(order, body)
        body = order.translation.feed(body) + order.translation.finish()
    end = read_end(order.call.endpoint, False, body)
    if not end.is_whole:
        said = "its answer has no end" if is_object(body) else "its answer is no JSON object"
        raise InstanceError(order.instance.id, "" if end.error else said, quoted=end.error or "")
    return Relayed(end, body)


def _whole_frames(order: Order, body: bytes) -> bytes:
    """A stream that has come to its end. Raises InstanceError where a frame of it is none."""
    framed, frames = _framed(order), list[bytes]()
    framed.before(frames.extend)([body])
    framed.finish(frames.extend)
    return b"".join(frames)


def _judged_whole(watching: Watching, relayed: Relayed) -> Relayed:
    """A whole body without what only we asked for. Raises Escalated where it is doubted."""
    body = watching.body(relayed.body or b"")
    if watching.doubt is not None:
        raise watching.escalated(body)
    return relayed._replace(body=body)


async def _stream(
    exchange: Exchange, order: Order, client: ClientStream, on_answer: Callable[[], None], making: Making | None
) -> Relayed:
    watching = order.watching
    framed = _framed(order)
    if watching is None:
        first = await _first_pieces(exchange, order, framed)
        on_answer()
    else:
        first = await _first_judged(exchange, order, framed, watching, on_answer)
    client.start(order.content_type)
    shown = order.behind or _shown_of(order, client, making)
    shown.hear(exchange)
    shown.show(first)
    del first  # a stream may last, and it is kept elsewhere where it is kept
    show = shown.show if watching is None else _judged(watching, shown.show)
    sink = show if order.translation is None else _translated(order.translation, show)
    exchange.attach(framed.before(sink))
    exchange.allow_silence(order.between_bytes_s, shown)
    try:
        await exchange.until(_DONE)
        framed.finish(sink)
        if watching is not None and (last := watching.rest()):
            shown.show(last)
        if order.translation is not None and (rest := order.translation.finish()):
            show([rest])
    except (InstanceError, CallerError) as why:
        if exchange.is_client_stalled:
            raise ClientGoneError("read nothing for too long") from why
        raise _broken(order, shown, why) from why
    finally:
        shown.leave()
    end = read_end(order.call.endpoint, True, shown.kept.tail() + shown.held)
    if not end.is_whole and order.continues:
        said = "" if end.error else "its answer ended before it was whole"
        broken = InstanceError(order.instance.id, said, answered=True, quoted=end.error or "")
        is_told = end.error is not None and not shown.held  # the engine's own word, among the last frames
        raise CutShort(broken, shown, "" if is_told else "the answer ended before it was whole", "cut")
    if not end.is_whole and end.error is None:
        # Ollama ends such a stream as if it were whole (OLLAMA.md 1.3, 1.4): the client is told that it is not.
        shown.fail("the answer ended before it was whole")
    shown.end()
    return Relayed(end, shown.kept.body())


def _shown_of(order: Order, client: ClientStream, making: Making | None) -> Shown:
    """A stream whose first piece is there."""
    kept = Kept(order.keep_bytes, packs=order.continues)
    shown = Shown(
        client,
        order.call.endpoint,
        order.content_type,
        kept,
        making,
        hides_usage=order.hides_usage,
        packs=order.continues,
    )
    if making is not None:
        making.stream(shown)
    return shown


def _broken(order: Order, shown: Shown, why: InstanceError | CallerError) -> InstanceError:
    """A stream that came to no end: the client is told so, unless it may be continued."""
    told = why if isinstance(why, InstanceError) else InstanceError("", "", quoted=why.message)
    broken = InstanceError(order.instance.id, told.said, answered=True, quoted=told.quoted)
    text = f"the answer was cut off: {why.message}"
    if order.continues:
        return CutShort(broken, shown, text)
    shown.fail(text)
    return broken


def _framed(order: Order) -> Framed:
    return Framed(order.instance.id, order.path, is_outside=order.outside is not None)


def _translated(translation: Translation, show: Sink) -> Sink:
    def hand_on(pieces: list[bytes]) -> None:
        if told := [out for each in pieces if (out := translation.feed(each))]:
            show(told)

    return hand_on


def _judged(watching: Watching, show: Sink) -> Sink:
    def hand_on(pieces: list[bytes]) -> None:
        if passed := watching.feed(pieces):
            show(passed)

    return hand_on


async def _first_judged(
    exchange: Exchange, order: Order, framed: Framed, watching: Watching, on_answer: Callable[[], None]
) -> list[bytes]:
    """Wait until the beginning of the answer has been judged, or was held back for long enough; what may be shown.

    A stream that breaks until then is an answer that never began. Raises Escalated where it is doubted.
    """
    pieces: list[bytes] = []
    judged = _judged(watching, pieces.extend)
    sink = judged if order.translation is None else _translated(order.translation, judged)
    exchange.attach(framed.before(sink))
    await exchange.until(_BODY)
    watching.began()
    on_answer()
    exchange.allow_silence(order.between_bytes_s)
    now_s = asyncio.get_running_loop().time
    began_s, until_s = now_s(), None if watching.watch.is_buffered else now_s() + watching.watch.hold_s
    try:
        while not pieces and watching.doubt is None and exchange.stage < _DONE:
            try:
                async with asyncio.timeout_at(until_s):
                    await exchange.more()
            except TimeoutError:
                pieces += watching.let_go()
                until_s = None
    finally:
        watching.on_held(now_s() - began_s)
    if exchange.stage is _DONE:
        framed.finish(sink)
        pieces += watching.rest()
    if watching.is_holding and watching.doubt is None and order.translation is not None:
        judged([order.translation.finish()])  # some say why they end, and then end without another word
    if watching.is_holding and watching.doubt is None:
        raise _ended_too_soon(order, watching)
    if watching.doubt is not None:
        raise watching.escalated()
    return _begun(order, pieces)


def _ended_too_soon(order: Order, watching: Watching) -> InstanceError:
    """The stream is over, and what was held back of it is no whole answer."""
    error = next((each for each in watching.let_go() if each.startswith(ERROR_STARTS)), b"")
    told = error[:300].decode("utf-8", "replace").strip()
    return InstanceError(order.instance.id, "" if told else "its answer ended before it was whole", quoted=told)


async def _first_pieces(exchange: Exchange, order: Order, framed: Framed) -> list[bytes]:
    """Wait for the first bytes that the caller is to see. An error in their place is raised: another may try."""
    pieces: list[bytes] = []
    show: Sink = pieces.extend
    sink = show if order.translation is None else _translated(order.translation, show)
    exchange.attach(framed.before(sink))
    while not pieces and exchange.stage < _DONE:  # the instance's first bytes may be none for the caller
        await exchange.more()
    if exchange.stage is _DONE:
        framed.finish(sink)
    return _begun(order, pieces)


def _begun(order: Order, pieces: list[bytes]) -> list[bytes]:
    """The first pieces of an answer; raises where they are none, or an error in its place."""
    if not pieces:
        raise InstanceError(order.instance.id, "its answer is empty")
    if pieces[0].startswith(ERROR_STARTS):
        raise InstanceError(order.instance.id, "", quoted=pieces[0][:300].decode("utf-8", "replace").strip())
    return pieces
