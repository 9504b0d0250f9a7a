"""The store as the controller needs it: snapshots in their order, and how long it has been there without a break."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from orchestrator.core.errors import StoreError
from orchestrator.core.model import InstanceId, PoolName, Snapshot
from orchestrator.fleet.tasks import within

log = logging.getLogger(__name__)

HEARTBEAT_S = 2.0
# After the store was away, gateways need this long to say which slots they hold: zero in flight means nothing before.
SETTLE_S = 3.0


class Publishing(Protocol):
    """Both raise StoreError, `publish` also while another controller leads."""

    async def publish(self, snapshot: Snapshot) -> None: ...
    async def sweep(self, pool: PoolName) -> Mapping[InstanceId, int]: ...


class Publisher:
    """`snapshot` makes, from a version, the cluster as it is at that moment."""

    def __init__(self, store: Publishing, snapshot: Callable[[int], Snapshot]) -> None:
        self._store, self._snapshot = store, snapshot
        self._one_at_a_time = asyncio.Lock()
        self._version = 0
        self._failed_s = float("-inf")

    def begin_after(self, published: Snapshot | None) -> None:
        """Go on counting where an earlier controller stopped."""
        self._version = published.version if published is not None else 0

    async def publish(self) -> None:
        """Publish everything as it is now; none overtakes a newer one. Raises StoreError."""
        async with self._one_at_a_time:
            self._version += 1
            try:
                await self._store.publish(self._snapshot(self._version))
            except StoreError:
                self._failed_s = time.monotonic()
                raise

    async def keep(self, changed: asyncio.Event, pools: Callable[[], Iterable[PoolName]]) -> None:
        """Publish on each change, and every HEARTBEAT_S, so that an emptied Redis fills again by itself."""
        said = ""
        while True:
            changed.clear()
            try:
                await self.publish()
                for pool in pools():
                    await self.in_flight(pool)
                said = ""
            except StoreError as why:
                if str(why) != said:
                    log.warning("not published: %s", why)
                said = str(why)
            await within(HEARTBEAT_S, changed)

    async def in_flight(self, pool: PoolName) -> Mapping[InstanceId, int]:
        """Sweep the pool; answer the calls in flight by instance. Raises StoreError."""
        try:
            return await self._store.sweep(pool)
        except StoreError:
            self._failed_s = time.monotonic()
            raise

    @property
    def has_settled(self) -> bool:
        """Whether its counts can be believed."""
        return time.monotonic() - self._failed_s >= SETTLE_S
