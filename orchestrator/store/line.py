"""One server, kept at the other end of a link: connected, let in, and connected again when it is lost.

Where Sentinels know which server it is, their word counts: a link to one that they no longer name is let go at once.
What is asked on the link, and whether there is another server to ask, is left to others.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, Protocol

from orchestrator.core.errors import StoreError
from orchestrator.store.address import Address, open_socket
from orchestrator.store.link import Arg, Link, NoWritesError, not_waited_for, pack
from orchestrator.store.sentinels import Hearing, master_of
from orchestrator.store.slots import Host

log = logging.getLogger(__name__)

# Gateways must be back and have renewed their leases within the scripts' RETURN_MS, so the longest pause is half of it.
FIRST_DELAY_S: Final = 0.05
LONGEST_DELAY_S: Final = 1.0

Listeners = Mapping[bytes, Callable[[bytes], None]]


class Owner(Protocol):
    """Who is told how lines are."""

    def came_up(self, line: Line) -> None: ...

    def went_down(self, line: Line) -> None: ...

    def takes_no_writes(self, line: Line, why: NoWritesError) -> None:
        """It answers, and has just refused a write."""
        ...

    def changed(self, keys: Sequence[bytes] | None) -> None:
        """Keys that the server was asked to track are not what they were; None: no key is."""
        ...


class Line:
    """`link` is None while the server is away; then `why` says why. `hears`: whether it is subscribed to channels."""

    def __init__(
        self, address: Address, name: str, timeout_s: float, listeners: Listeners, owner: Owner, *, hears: bool = True
    ) -> None:
        self.address, self.hears = address, hears
        self.link: Link | None = None
        self.why = "not connected yet"
        self.has_failed = False  # to connect, at least once
        self._name, self._timeout_s, self._listeners, self._owner = name, timeout_s, listeners, owner
        self._keeper: asyncio.Task[None] | None = None
        self._hearing = Hearing(address, timeout_s, self._switched) if address.master else None
        self._following: asyncio.Task[None] | None = None
        self._words = 0  # of Sentinels
        self._said = asyncio.Event()  # one since the last attempt to connect
        self._host: Host | None = None  # whom the link leads to, or the attempt to have one
        self._attempt: asyncio.Timeout | None = None

    def start(self) -> None:
        """Begin to connect, and keep at it until `close`."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep_up(), name=f"line to {self.address}")
            if self._hearing is not None:
                self._hearing.start()

    async def close(self) -> None:
        if self._hearing is not None:
            await self._hearing.close()
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
            self._keeper = None
        if self.link is not None:
            self.link.close("closed")
        self.why = "closed"

    def hear(self, hears: bool) -> None:
        """Be the line that channels are heard on, or no longer."""
        if hears is self.hears:
            return
        self.hears = hears
        if self.link is not None and self._listeners:
            for channel in self._listeners:
                asked = self.link.ask(pack((b"SUBSCRIBE" if hears else b"UNSUBSCRIBE", channel)))
                asked.add_done_callback(not_waited_for)

    async def _keep_up(self) -> None:
        loop = asyncio.get_running_loop()
        delay = FIRST_DELAY_S
        while True:
            self._said.clear()
            self._host = None
            try:
                async with asyncio.timeout(self._timeout_s) as self._attempt:
                    link = await self._connect()
            except (OSError, StoreError) as why:  # TimeoutError is an OSError
                self.why, self.has_failed = str(why) or "no connection in time", True
            else:
                self._attempt, since = None, loop.time()
                self._set_up(link)
                await asyncio.shield(link.lost)
                if loop.time() - since > LONGEST_DELAY_S:
                    delay = FIRST_DELAY_S
            self._attempt = None
            with suppress(TimeoutError):  # so that gateways do not come in step
                async with asyncio.timeout(delay * random.uniform(0.5, 1.0)):  # noqa: S311 - no secret
                    await self._said.wait()
            delay = min(delay * 2, LONGEST_DELAY_S)

    async def _connect(self) -> Link:
        self._host = host = await master_of(self.address) if self.address.master else None
        link = await open_socket(self.address, lambda: Link(str(self.address), self._timeout_s, self._pushed), host)
        try:
            await self._greet(link)
            # A master that was stopped takes connections, and answers them as a master once it goes on: for some
            # seconds there would be two, and each would give all slots.
            if host is not None and await master_of(self.address) != host:
                raise StoreError(f"{self.address} has another master since")
        except BaseException:
            link.close("not let in")
            raise
        return link

    def _switched(self) -> None:
        """A Sentinel says that there is another master, or may have said so."""
        self._words += 1
        self._said.set()
        if self._following is None or self._following.done():
            self._following = asyncio.create_task(self._follow(), name=f"master of {self.address}")

    async def _follow(self) -> None:
        """Let go of whoever is the master no more, also where it is the attempt to connect that hangs there."""
        heard = 0
        while heard != self._words:  # another one may have come while they were asked
            heard = self._words
            with suppress(StoreError):  # nobody is the master now; there is another word once somebody is
                self._follow_to(await master_of(self.address))

    def _follow_to(self, host: Host) -> None:
        if self._host in (None, host):
            return
        if self.link is not None:
            log.warning("the Sentinels of %s name another master: %s:%d", self.address.master, *host)
            self.link.close("another one is the master")
        elif self._attempt is not None and not self._attempt.expired():
            self._attempt.reschedule(asyncio.get_running_loop().time())

    async def _greet(self, link: Link) -> None:
        """Log in and subscribe; PING is what a server that still loads its data refuses."""
        hello: list[Arg] = [b"HELLO", 3]
        if self.address.password:
            hello += [b"AUTH", self.address.username or "default", self.address.password]
        if self._name:
            hello += [b"SETNAME", self._name]
        commands: list[list[Arg]] = [hello]
        if self.address.db:
            commands.append([b"SELECT", self.address.db])
        told, *_ = await _ask_all(link, [*commands, [b"PING"]])
        if self.address.master and told.get(b"role") != b"master":
            raise StoreError(f"{self.address}: whom the Sentinels name is no master")
        heard: set[bytes] = set()
        # One may be added while the others are being confirmed.
        while self.hears and (missing := self._listeners.keys() - heard):
            await _ask_all(link, [[b"SUBSCRIBE", channel] for channel in missing])
            heard |= missing

    def _set_up(self, link: Link) -> None:
        if link.is_lost:
            self.why = link.lost.result()
            return
        link.on_lost = self._set_down
        link.on_changed = self._owner.changed
        link.on_refused = partial(self._owner.takes_no_writes, self)
        self.link = link
        self._owner.came_up(self)

    def _set_down(self) -> None:
        if self.link is not None:
            self.why = self.link.lost.result()
        self.link = None
        self._owner.went_down(self)

    def _pushed(self, channel: bytes, payload: bytes) -> None:
        listener = self._listeners.get(channel)
        if listener is not None and self.hears:
            listener(payload)


async def _ask_all(link: Link, commands: Sequence[Sequence[Arg]]) -> list[Any]:
    asked = (link.ask(pack(tuple(each))) for each in commands)
    replies = await asyncio.gather(*asked, return_exceptions=True)
    for reply in replies:
        if isinstance(reply, BaseException):
            raise reply
    return replies
