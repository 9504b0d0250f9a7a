"""Who keeps the processes of each node: this machine's keeper, or a host's systemd over SSH; side by side.

A host that cannot be reached is known here, and is no error for the others: nothing is changed on it, and what runs on
it is as it was seen last. What the units are good for is the steward's affair.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from typing import Protocol

from orchestrator.core.errors import HostError
from orchestrator.core.model import NodeName
from orchestrator.fleet.made import marks_of
from orchestrator.fleet.ports import listens
from orchestrator.nodes.keeper_client import KeeperClient
from orchestrator.nodes.keeper_units import Unit, UnitEvent, UnitStatus
from orchestrator.nodes.keeping import Keeping


class HostKeeping(Keeping, Protocol):
    """The systemd of one host."""

    async def run(self) -> None:
        """Keep the connection there, until cancelled."""


class LocalKeeping(KeeperClient):
    """The keeper of this machine, and what its processes tell."""

    async def marks(self) -> Mapping[str, str]:
        """What running units say they are, by unit."""
        return await asyncio.to_thread(marks_of, await self._pids())

    async def listens(self, name: str, port: int) -> bool:
        """Whether it is a process of this unit that listens on the port."""
        pid = (await self._pids()).get(name)
        return pid is not None and await asyncio.to_thread(listens, pid, port)

    async def _pids(self) -> dict[str, int]:
        return {each.name: each.pid for each in await self.list() if each.pid is not None}


class Claimed:
    """A host's keeping that nobody changes anything through who has not claimed the host. Looking is free."""

    def __init__(self, keeping: HostKeeping, claim: Callable[[], Awaitable[None]]) -> None:
        """`claim` raises HostError where the host is another's, has seen a newer deployment or a newer controller."""
        self._keeping, self._claim = keeping, claim

    async def run(self) -> None:
        await self._keeping.run()

    async def start(self, unit: Unit) -> None:
        await self._claim()
        await self._keeping.start(unit)

    async def stop(self, name: str) -> None:
        await self._claim()
        await self._keeping.stop(name)

    async def restart(self, name: str) -> None:
        await self._claim()
        await self._keeping.restart(name)

    async def list(self) -> tuple[UnitStatus, ...]:
        return await self._keeping.list()

    def events(self) -> AsyncIterator[UnitEvent]:
        return self._keeping.events()

    async def marks(self) -> Mapping[str, str]:
        return await self._keeping.marks()

    async def listens(self, name: str, port: int) -> bool:
        return await self._keeping.listens(name, port)


class Post:
    """One keeper, and how it was last seen."""

    def __init__(
        self, keeping: Keeping, host: NodeName | None = None, run: Callable[[], Awaitable[None]] | None = None
    ):
        """`host` None: this machine's, without which nothing goes on."""
        self.keeping, self.host, self.run = keeping, host, run
        self.problem = ""  # why it cannot be reached; empty: it can, or nobody tried yet
        self.is_known = False  # what runs there was asked for since it can be reached
        self.looked = asyncio.Event()  # somebody tried
        self.stirred = asyncio.Event()  # something happened there: look at once

    @property
    def is_away(self) -> bool:
        """Whether what runs there is not known now."""
        return bool(self.problem) or not self.is_known

    def check(self) -> None:
        """Raises HostError while nobody knows what runs there."""
        if self.is_away:
            raise HostError(self.problem or f"{self.host}: nobody has asked yet what runs there")


class Keepers:
    """Posts by node. All nodes that are not hosts of their own are this machine's."""

    def __init__(self, here: Keeping, hosts: Mapping[NodeName, HostKeeping] | None = None) -> None:
        self._here = Post(here)
        self._hosts: dict[NodeName, Post] = {}
        self.changed = asyncio.Event()  # there are other posts
        self.set_hosts(hosts or {}, ())

    def set_hosts(self, hosts: Mapping[NodeName, HostKeeping], in_use: Collection[NodeName]) -> None:
        """The hosts from now on. One that is gone from the settings stays while it is `in_use`: to be left in order."""
        kept = {name: post for name, post in self._hosts.items() if name in in_use and name not in hosts}
        for name, keeping in hosts.items():
            was = self._hosts.get(name)
            is_same = was is not None and was.keeping is keeping
            kept[name] = was if was is not None and is_same else Post(keeping, name, keeping.run)
        self._hosts = kept
        self.changed.set()

    def of(self, node: NodeName) -> Post:
        """Who keeps what runs on the node."""
        return self._hosts.get(node, self._here)

    @property
    def posts(self) -> tuple[Post, ...]:
        return (self._here, *self._hosts.values())

    @property
    def away(self) -> frozenset[NodeName]:
        """Hosts of which nobody knows now what runs there."""
        return frozenset(name for name, post in self._hosts.items() if post.is_away)

    @property
    def unreachable(self) -> Mapping[NodeName, str]:
        """Hosts that cannot be reached, each with a sentence."""
        return {name: post.problem for name, post in self._hosts.items() if post.problem}
