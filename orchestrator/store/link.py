"""One socket to Redis while it lasts: commands out in order, replies back in the same order, pushes in between.

It knows RESP3 and time limits. Which Redis, logging in and reconnecting are left to `connection`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import hiredis

from orchestrator.core.errors import StoreError

Arg = str | bytes | int | float

_NO_MORE = object()
# Replies that say "not now": this server is starting, is not the master (any more), or lost touch with its cluster.
_NOT_NOW = ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN")
# Replies that say that it takes no writes at present: out of memory, its disk full or broken, too few replicas.
_NO_WRITES = ("OOM", "MISCONF", "NOREPLICAS")


class LinkLostError(StoreError):
    """Nobody can say whether the command ran. Whoever answers repeats identically may be asked again."""


class NoWritesError(LinkLostError):
    """Redis answers, and takes no writes for now: the command did not run."""


class UnknownScriptError(StoreError):
    """Redis does not have this script (any more)."""


class MovedError(LinkLostError):
    """It was not done: another master of the cluster has the key now."""


class AskedElsewhereError(MovedError):
    """It was not done: the key's slot is on its way to another master, which is to be asked for this once."""

    def __init__(self, text: str, host: tuple[str, int]) -> None:
        super().__init__(text)
        self.host = host


def pack(args: tuple[Arg, ...]) -> bytes:
    """One command as it goes over the wire."""
    packed: bytes = hiredis.pack_command(args)  # type: ignore[arg-type]  # its stub knows tuples of one only
    return packed


def not_waited_for(asked: asyncio.Future[Any]) -> None:
    """Take note of a reply that nobody waits for: where it failed, whoever keeps the link has told why."""
    if not asked.cancelled():
        asked.exception()


class Waiter(Protocol):
    """Who is told a reply, once, as it is read. A future is one; another spares the loop a turn."""

    def done(self) -> bool:
        """It does not want the reply any more."""
        ...

    def set_result(self, reply: Any, /) -> None: ...

    def set_exception(self, why: StoreError, /) -> None: ...


class Link(asyncio.Protocol):
    """The socket's protocol. Each command has a place in the line of replies, which a caller that left keeps."""

    def __init__(self, where: str, timeout_s: float, on_push: Callable[[bytes, bytes], None]) -> None:
        self._where = where
        self._timeout_s = timeout_s
        self.on_lost: Callable[[], None] | None = None
        self.on_changed: Callable[[Sequence[bytes] | None], None] | None = None  # told of tracked keys; None: of all
        self.on_refused: Callable[[NoWritesError], None] | None = None  # each time that a write was not taken
        self._on_push = on_push
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(notEnoughData=_NO_MORE)
        self._waiting: deque[tuple[Waiter, float]] = deque()
        self._out: list[bytes] = []
        self._is_leaving = False  # at the end of this turn of the loop
        self._is_paused = False
        self._transport: asyncio.Transport | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._last_sent = self._look_due = self._loop.time()
        self.lost: asyncio.Future[str] = self._loop.create_future()

    @property
    def is_lost(self) -> bool:
        return self.lost.done()

    def ask(self, packed: bytes) -> asyncio.Future[Any]:
        """Send one packed command; what is asked within one turn of the loop leaves in one write."""
        future = self._loop.create_future()
        self.ask_for(future, packed)
        return future

    def ask_for(self, waiter: Waiter, packed: bytes, *, at_once: bool = False) -> None:
        """`ask`, for one who is told in another way. `at_once`: it has left when this returns, and all before it."""
        if self.lost.done():
            waiter.set_exception(self._lost_error())
            return
        self._last_sent = now = self._loop.time()
        self._waiting.append((waiter, now))
        self._out.append(packed)
        if at_once:
            self.flush()
        elif not self._is_leaving:
            self._is_leaving = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send now what was asked; it leaves by itself at the end of this turn of the loop."""
        self._is_leaving = False
        out = self._out
        if out and not self._is_paused and self._transport is not None:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))
            out.clear()

    def close(self, why: str = "closed") -> None:
        """Let go of the socket; everybody who waits is told why."""
        if self.lost.done():
            return
        self.lost.set_result(why)
        if self._watch is not None:
            self._watch.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._out.clear()
        while self._waiting:
            waiter, _ = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(self._lost_error())
        if self.on_lost is not None:
            self.on_lost()

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream transport, since this is a stream protocol
        self._look_again()

    def connection_lost(self, exc: Exception | None) -> None:
        self.close(f"connection lost: {exc}" if exc else "Redis closed the connection")

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self.flush()

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _NO_MORE:
                if type(reply) is hiredis.PushNotification:
                    self._pushed(reply)
                else:
                    self._answered(reply)
        except hiredis.ProtocolError as why:
            self.close(f"what answered does not speak Redis' protocol: {why}")

    # --- inside ---

    def _lost_error(self) -> LinkLostError:
        return LinkLostError(f"Redis at {self._where} does not answer: {self.lost.result()}")

    def _answered(self, reply: Any) -> None:
        if not self._waiting:
            # Redis says why it hangs up (too many clients, timeout) without having been asked.
            self.close(f"Redis: {reply}")
            return
        waiter, _ = self._waiting.popleft()
        if waiter.done():
            return  # The caller left; its place in the line did not.
        if isinstance(reply, hiredis.ReplyError):
            why = _as_error(str(reply))
            if isinstance(why, NoWritesError) and self.on_refused is not None:
                self.on_refused(why)
            waiter.set_exception(why)
            if str(reply).startswith("READONLY"):
                self.close("no longer the master")
        else:
            waiter.set_result(reply)

    def _pushed(self, push: list[Any]) -> None:
        kind = push[0]
        if kind == b"message":
            # By way of the loop: its errors are the loop's to report, and whoever was answered before runs before.
            self._loop.call_soon(self._on_push, push[1], push[2])
        elif kind == b"invalidate" and self.on_changed is not None:
            # At once, in its place among the replies: those before it were read before the change, those behind it not.
            self.on_changed(push[1])
        elif kind in (b"subscribe", b"unsubscribe"):
            # In RESP3 this is the only reply to the command: it takes that command's place in the line.
            self._answered(push)

    def _look_again(self) -> None:
        self._look_due = self._loop.time() + self._timeout_s / 4
        self._watch = self._loop.call_at(self._look_due, self._look_at_time)

    def _look_at_time(self) -> None:
        now = self._loop.time()
        if now - self._look_due > self._timeout_s / 4:
            # It is this process that was silent: paused, or on a crowded machine. What came meanwhile is read first.
            self._look_again()
            return
        if self._waiting and now - self._waiting[0][1] > self._timeout_s:
            self.close(f"no answer within {self._timeout_s:g} s")
            return
        if not self._waiting and now - self._last_sent > self._timeout_s:
            # A silent link may be a dead one. Nobody waits for this reply: should it fail, `close` has told why.
            self.ask(pack((b"PING",))).add_done_callback(not_waited_for)
        self._look_again()


def _as_error(text: str) -> StoreError:
    if text.startswith("NOSCRIPT"):
        return UnknownScriptError(text)
    if text.startswith("MOVED "):
        return MovedError(f"Redis: {text}")
    if text.startswith("ASK "):
        host, _, port = text.rpartition(" ")[2].rpartition(":")
        return AskedElsewhereError(f"Redis: {text}", (host, int(port)))
    if text.startswith(_NOT_NOW):
        return LinkLostError(f"Redis: {text}")
    if text.startswith(_NO_WRITES):
        return NoWritesError(text.partition(" script: ")[0])
    return StoreError(f"Redis: {text.partition(', with args beginning with')[0]}")  # what they are is no log's matter
