"""The hosts of the settings, as the controller has them: their systemd as a keeper each, and what is seen of them.

Both follow the settings while they change. Nothing is changed on a host that is not this place's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

from orchestrator.core.errors import HostError, StoreError
from orchestrator.core.model import NodeName
from orchestrator.fleet.fenced import Leading
from orchestrator.fleet.inventory import Reach, Sight, address_of
from orchestrator.fleet.keepers import Claimed, HostKeeping
from orchestrator.fleet.lookout import Lookout
from orchestrator.nodes.host_keys import HostKeys
from orchestrator.nodes.hoststeps import Owner, check_held
from orchestrator.nodes.ssh import SshHost, connected
from orchestrator.nodes.systemd import SystemdKeeper
from orchestrator.settings import ClusterSettings

Connect = Callable[[], AbstractAsyncContextManager[SshHost]]

# One look at who owns a host is good for what is done there in the next moment: a wave starts many at once.
HELD_FOR_S = 1.0


class Fence:
    """Whether a host is still `owner`'s to change; asked on a connection of its own.

    The first time under a controller's token the host is told of it: from then on it refuses those of before.
    """

    def __init__(self, connect: Connect, owner: Callable[[], Owner], leading: Leading) -> None:
        self._connect, self._owner, self._leading = connect, owner, leading
        self._told = 0  # the token that the host was told of
        self._checked: tuple[Owner, float] | None = None
        self._one_at_a_time = asyncio.Lock()

    async def check(self) -> None:
        """Raises HostError where it is another's, has taken a newer deployment, or another controller leads."""
        async with self._one_at_a_time:
            owner, now_s = self._owner(), time.monotonic()
            if self._checked is None or self._checked[0] != owner or now_s - self._checked[1] >= HELD_FOR_S:
                self._checked = None
                async with self._connect() as host:
                    await check_held(host, owner, is_dry=owner.leader <= self._told)
                self._told = owner.leader
                self._checked = (owner, time.monotonic())
            try:
                self._leading.check()
            except StoreError as why:
                raise HostError(str(why)) from why


class Hosts:
    """`place` is whose hosts they must be, `number` that of the deployment in force; `on_sight` is called with each
    look that differs from the one before."""

    def __init__(
        self,
        keys: HostKeys,
        place: str,
        number: Callable[[], int],
        on_sight: Callable[[Sight], None],
        leading: Leading,
    ) -> None:
        """`leading`: see `Fence`."""
        self._keys, self._place, self._number, self._on_sight, self._leading = keys, place, number, on_sight, leading
        self._settings: ClusterSettings | None = None
        self._kept: dict[object, HostKeeping] = {}
        self._changed = asyncio.Event()

    def take(self, settings: ClusterSettings) -> dict[NodeName, HostKeeping]:
        """The keepers of the hosts named now; one whose settings are the same is the same."""
        before, self._settings = self._settings, settings
        if before is None or (before.nodes, before.ssh) != (settings.nodes, settings.ssh):
            self._changed.set()
        kept, found = self._kept, {}
        self._kept = {}
        for node in settings.hosts:
            key = (node, settings.ssh, settings.deploy.user)
            self._kept[key] = kept.get(key) or self._keeper(settings, NodeName(node.name))
            found[NodeName(node.name)] = self._kept[key]
        return found

    async def watch(self) -> None:
        """Until cancelled: look at all of them, always at those that the settings name."""
        while True:
            self._changed.clear()
            assert self._settings is not None
            lookout = Lookout(self._settings.hosts, self._reach(self._settings), self._on_sight)
            looking = asyncio.create_task(lookout.run(), name="lookout")
            try:
                await self._changed.wait()
            finally:
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)

    def _keeper(self, settings: ClusterSettings, name: NodeName) -> HostKeeping:
        node = next(each for each in settings.hosts if each.name == name)
        connect = partial(connected, address_of(node), self._keys, self._reach(settings).waits)

        def owner() -> Owner:
            return Owner(self._place, self._number(), leader=self._leading.term)

        fence = Fence(connect, owner, self._leading)
        return Claimed(SystemdKeeper(name, connect, user=settings.deploy.user), fence.check)

    def _reach(self, settings: ClusterSettings) -> Reach:
        return Reach(self._keys, settings.ssh)
