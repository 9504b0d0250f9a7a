"""The lines to all servers that hold the keys: one, or each master of a Redis Cluster as it changes.

It knows which line a key is asked on, and follows the cluster when masters fail or slots move.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final, Protocol

from orchestrator.core.address import address_text
from orchestrator.core.errors import StoreError
from orchestrator.store.address import Address, open_socket
from orchestrator.store.line import FIRST_DELAY_S, LONGEST_DELAY_S, Line, Listeners, Owner
from orchestrator.store.link import Link, pack
from orchestrator.store.slots import Host, Ranges, slot_of

log = logging.getLogger(__name__)

# Masters change without a word to us where nothing is asked of them meanwhile.
LOOK_AGAIN_S: Final = 30.0

MakeLine = Callable[[Address, bool], Line]


class Lines(Protocol):
    """Who is asked for what. `home` has what belongs to no key, and hears the channels."""

    @property
    def home(self) -> Line | None: ...
    @property
    def all(self) -> Sequence[Line]: ...
    @property
    def are_up(self) -> bool: ...
    @property
    def why(self) -> str:
        """Why not all of them are up."""
        ...

    def of(self, key: str | bytes) -> Line | None:
        """The line that has a key; None: nobody has it at this moment."""
        ...

    def at(self, host: Host) -> Line | None: ...
    def start(self) -> None: ...
    def stir(self) -> None:
        """A server said, or showed, that the cluster is not what we think."""
        ...

    async def close(self) -> None: ...


def lines_to(address: Address, name: str, timeout_s: float, listeners: Listeners, owner: Owner) -> Lines:
    """The lines that an address means."""

    def make(one: Address, hears: bool) -> Line:
        return Line(one, name, timeout_s, listeners, owner, hears=hears)

    return Shards(address, timeout_s, make, owner) if address.is_cluster else One(make(address, True))


class One:
    """One server, or the one that Sentinels say is the master."""

    def __init__(self, line: Line) -> None:
        self.home = line
        self.all = (line,)

    @property
    def are_up(self) -> bool:
        return self.home.link is not None

    @property
    def why(self) -> str:
        return self.home.why

    def of(self, key: str | bytes) -> Line:
        return self.home

    def at(self, host: Host) -> Line | None:
        return None

    def start(self) -> None:
        self.home.start()

    def stir(self) -> None:
        """Its line looks after itself."""

    async def close(self) -> None:
        await self.home.close()


class Shards:
    """The masters of a Redis Cluster, a line each. The first slot's is `home`: the same one for whoever asks."""

    def __init__(self, address: Address, timeout_s: float, make: MakeLine, owner: Owner) -> None:
        self._address, self._timeout_s, self._make, self._owner = address, timeout_s, make, owner
        self._ranges, self._by_slot = Ranges(), Ranges().by_slot()
        self._lines: dict[Host, Line] = {}
        self._why = "not connected yet"
        self._stirred = asyncio.Event()
        self._following: asyncio.Task[None] | None = None

    @property
    def home(self) -> Line | None:
        return self._lines.get(self._ranges.masters[0]) if self._ranges.ranges else None

    @property
    def all(self) -> Sequence[Line]:
        return tuple(self._lines.values())

    @property
    def are_up(self) -> bool:
        return self._ranges.is_whole and all(each.link is not None for each in self._lines.values())

    @property
    def why(self) -> str:
        if not self._ranges.is_whole:
            return self._why
        return "; ".join(f"{each.address}: {each.why}" for each in self._lines.values() if each.link is None)

    def of(self, key: str | bytes) -> Line | None:
        master = self._by_slot[slot_of(key.encode() if isinstance(key, str) else key)]
        return None if master is None else self._lines.get(master)

    def at(self, host: Host) -> Line | None:
        return self._lines.get(host)

    def start(self) -> None:
        if self._following is None:
            self._following = asyncio.create_task(self._follow(), name="masters of the Redis Cluster")

    def stir(self) -> None:
        self._stirred.set()

    async def close(self) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])
            self._following = None
        await asyncio.gather(*(each.close() for each in self._lines.values()))

    async def _follow(self) -> None:
        delay = FIRST_DELAY_S
        while True:
            self._stirred.clear()
            await self._look()
            if self.are_up:
                delay = FIRST_DELAY_S
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_AGAIN_S):
                        await self._stirred.wait()
            # Also after a word of a change: each of the calls that met it has said so.
            await asyncio.sleep(delay)
            delay = min(delay * 2, LONGEST_DELAY_S)

    async def _look(self) -> None:
        """Ask for the slots: of masters that are up, then of those that the settings name."""
        up = [host for host, line in self._lines.items() if line.link is not None]
        for host in dict.fromkeys((*up, *self._address.hosts, *self._lines)):
            try:
                ranges = await self._ranges_told_by(host)
            except (OSError, StoreError) as why:
                self._why = f"{address_text(*host)}: {why}"
                continue
            if not ranges.is_whole:
                self._why = f"{address_text(*host)}: not every slot has a master"
                continue
            await self._take(ranges)
            return

    async def _ranges_told_by(self, host: Host) -> Ranges:
        line = self._lines.get(host)
        async with asyncio.timeout(self._timeout_s):
            if line is not None and line.link is not None:
                return Ranges.told(await line.link.ask(pack((b"CLUSTER", b"SLOTS"))), host)
            link = await open_socket(self._of(host), lambda: Link(address_text(*host), self._timeout_s, _nothing))
            try:
                if self._address.password:
                    await link.ask(pack((b"AUTH", self._address.username or "default", self._address.password)))
                return Ranges.told(await link.ask(pack((b"CLUSTER", b"SLOTS"))), host)
            finally:
                link.close()

    async def _take(self, ranges: Ranges) -> None:
        """Have a line to each master, and none to whoever is no master any more."""
        if ranges == self._ranges:
            return
        if self._ranges.ranges:
            masters = ", ".join(address_text(*each) for each in ranges.masters)
            log.warning("the Redis Cluster has changed: its masters are %s", masters)
        gone = [self._lines.pop(each) for each in set(self._lines) - set(ranges.masters)]
        self._ranges, self._by_slot = ranges, ranges.by_slot()
        home = ranges.masters[0]
        for each in ranges.masters:
            if each in self._lines:
                self._lines[each].hear(each == home)
            else:
                self._lines[each] = self._make(self._of(each), each == home)
                self._lines[each].start()
        await asyncio.gather(*(each.close() for each in gone))
        for line in self._lines.values():
            if line.link is not None:  # the one that was missing may be among those that went
                self._owner.came_up(line)

    def _of(self, host: Host) -> Address:
        return replace(self._address, hosts=(host,), is_cluster=False)


def _nothing(channel: bytes, payload: bytes) -> None:
    """No channel is heard on a link that only asks."""
