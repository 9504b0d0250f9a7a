"""A call as it was asked: by whom, how its answer is to go out, and what its headers say of its place in the queue."""

from __future__ import annotations

import time
from typing import NamedTuple

from orchestrator.core.cache_policy import NO_WISH, Wish
from orchestrator.core.dialects.frames import SSE_TYPE, stream_headers, stream_type
from orchestrator.core.errors import CallerError, CapacityError
from orchestrator.core.model import Call, Pool
from orchestrator.core.prefix import prefix_of
from orchestrator.gateway.admission import OnQueued, Wanted
from orchestrator.gateway.client_stream import ClientStream
from orchestrator.gateway.connection import Connection
from orchestrator.gateway.live import Tier
from orchestrator.gateway.making import Making
from orchestrator.gateway.replies import cors_fields, field
from orchestrator.gateway.request import Request
from orchestrator.gateway.trace import Trace

# Seconds from its arrival within which a call is to be begun, if it is to be of use: later it is begun nowhere.
DEADLINE = b"x-deadline"
# What a caller may say of its place in the queue: class 0 to 9, 0 goes first; seconds to wait at most; "1" to be told.
PRIORITY, QUEUE_TIMEOUT, QUEUE_UPDATES = b"x-priority", b"x-queue-timeout", b"x-queue-updates"
# An evaluation's call: it says nothing of what users ask.
REPLAY = b"x-replay"
# The tier that is to answer a route's call, and no other: for who measures it, with the scope `admin`.
TIER = b"x-tier"
# Instances asked for one call at most: a call that fails three of them is more likely to be at fault than they are.
TRIES = 3
# Of a request's bytes, for a first guess at its prompt: texts have 3 to 5 a token.
BYTES_A_TOKEN = 4


class Asked(NamedTuple):
    """A call and where its answer may come from: the tiers to try in turn, and its key in the answer cache, or ''."""

    request: Request
    connection: Connection
    call: Call
    size: int  # of its body, unpacked
    name: str  # of the pool or route that was asked for
    tiers: tuple[Tier, ...]
    cache_key: str
    is_route: bool
    trace: Trace
    client: ClientStream | None  # of a call that is to be streamed
    wish: Wish = NO_WISH  # what its Cache-Control says
    void: str = ""  # the lease of a worker that should have made it, and does not
    has_answer: bool = False  # another tier has answered, if badly: what this one refuses is nobody's answer
    making: Making | None = None  # who else waits for its answer

    def leading(self, making: Making) -> Asked:
        """The call, made for others, too."""
        return Asked(*self[:-1], making)

    @property
    def may_be_kept(self) -> bool:
        """The cache may have its answer already."""
        return bool(self.cache_key) and self.wish.may_read


def names_tier(request: Request) -> bool:
    """The call says itself which tier is to answer it. An empty header says nothing."""
    return bool(request.headers.get(TIER))


def client_of(request: Request, connection: Connection, call: Call, trace: Trace) -> ClientStream:
    """The client's side of a streamed answer."""
    is_last = connection.is_last(request)
    headers = (each for each in stream_headers(call.endpoint) if not (is_last and each[0] == "Connection"))
    more = "".join(field(*each) for each in headers) + cors_fields(request)
    return ClientStream(request, connection, (lambda: trace.fields() + more) if more else trace.fields)


def wanted_of(asked: Asked, pool: Pool, *, is_begun: bool = False) -> Wanted:
    """What the call asks of the pool's queue. Raises CallerError for a header that is no number.

    `is_begun`: it is in the middle of its answer, and no header says how long it waits to go on.
    """
    prefix = prefix_of(asked.call)
    return Wanted(
        caller=asked.trace.caller.name,
        affinity=prefix.sought,
        answer_key=asked.cache_key if asked.wish.may_read and not asked.is_route else "",
        excluded=(),
        priority=priority_of(asked),
        wait_s=None if is_begun else wait_of(asked),
        prompt_tokens=min(asked.size // BYTES_A_TOKEN, pool.context),
        remembered=prefix.left,
        making=asked.cache_key if asked.making is not None else "",
        void=asked.void,
    )


def priority_of(asked: Asked) -> int:
    """Its class, 0 to 9; 0 goes first, and its key says how far forward it may go.

    Raises CallerError for a header that is no number.
    """
    best = asked.trace.caller.priority
    return max(best, int(_number(asked, PRIORITY, 9))) if PRIORITY in asked.request.headers else best


def wait_of(asked: Asked) -> float | None:
    """How long it would wait for a slot at most; None: as long as the settings let it.

    Raises CallerError, and CapacityError where its answer would come too late however soon it was begun.
    """
    headers = asked.request.headers
    wait_s = _number(asked, QUEUE_TIMEOUT, 86_400) if QUEUE_TIMEOUT in headers else None
    if DEADLINE not in headers:
        return wait_s
    left_s = _until_deadline_s(asked)
    if left_s <= 0:
        raise CapacityError("the call's deadline has passed before it could be answered", 1, status=504)
    return left_s if wait_s is None else min(wait_s, left_s)


def may_wait_yet_s(asked: Asked, waited_s: float, at_most_s: float) -> float:
    """Seconds that it may wait yet, where it has waited so long and the settings let it wait `at_most_s` in all.

    Raises CallerError for a header that is no number.
    """
    headers = asked.request.headers
    if QUEUE_TIMEOUT in headers:
        at_most_s = min(at_most_s, _number(asked, QUEUE_TIMEOUT, 86_400))
    left_s = at_most_s - waited_s
    if DEADLINE in headers:
        left_s = min(left_s, _until_deadline_s(asked))
    return left_s


def _until_deadline_s(asked: Asked) -> float:
    return _number(asked, DEADLINE, 86_400) - (time.perf_counter() - asked.trace.began_s)


def _number(asked: Asked, header: bytes, at_most: float) -> float:
    given = asked.request.header(header)
    try:
        number = float(given)
    except ValueError:
        number = -1.0
    if not 0 <= number <= at_most:
        raise CallerError(400, f"{header.decode().title()}: a number from 0 to {at_most:g} is wanted, not {given!r}")
    return number


def on_queued(asked: Asked) -> OnQueued | None:
    """How a client that asks for it is told where it stands: by comments, which clients of SSE pass over."""
    client = asked.client
    if client is None or asked.request.headers.get(QUEUE_UPDATES) != b"1":
        return None
    if stream_type(asked.call.endpoint) != SSE_TYPE:
        return None

    def tell(position: int, expected_wait_s: float | None) -> None:
        expected = "" if expected_wait_s is None else f" expected_wait_s={expected_wait_s:.1f}"
        client.comment(f"queue position={position}{expected}")

    return tell
