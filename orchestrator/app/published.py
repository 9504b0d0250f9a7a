"""The store as the controller needs it: it publishes as the one that leads, sweeps, and says the load as metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from orchestrator.app.counts import set_gauges
from orchestrator.app.leading import Lead
from orchestrator.core.errors import StoreError
from orchestrator.core.model import InstanceId, PoolName, Snapshot
from orchestrator.core.numbers import AskedFor
from orchestrator.core.patience import Suspicion
from orchestrator.core.residency import Pressure
from orchestrator.store import cluster, demand, pools, suspicion
from orchestrator.store.connection import Connection

# A Redis that may have lost leases grants none for so long: gateways renew theirs first.
GRACE_S = 2.0


class PublishedCluster:
    """The store as the steward needs it: publish as the leader, sweep, and say the load as metrics."""

    def __init__(
        self,
        connection: Connection,
        holder: str,
        may_have_lost: Callable[[], Awaitable[bool]],
        *,
        is_simulated: bool,
        is_alone: bool = True,
    ) -> None:
        """`is_alone`: nobody else reaches this Redis."""
        self._connection, self._may_have_lost, self._is_simulated = connection, may_have_lost, is_simulated
        self._grace_s: float | None = None
        connection.on_up(self._forget_grace)
        self.lead = Lead(connection, holder, is_alone=is_alone)
        self.last: Snapshot | None = None

    async def publish(self, snapshot: Snapshot) -> None:
        """Publish as the leader. Raises StoreError, also while another controller leads."""
        leadership = await self.lead.renew()
        if self._grace_s is None:
            self._grace_s = GRACE_S if await self._may_have_lost() else 0.0
        if not await cluster.publish(self._connection, leadership, snapshot, grace_s=self._grace_s):
            raise StoreError("another controller leads")
        self.last = snapshot

    @property
    def term(self) -> int:
        """A number higher than that of every controller that led before; 0: no other can lead."""
        return self.lead.term

    def check(self) -> None:
        """To be asked right before each act. Raises StoreError unless this controller leads for sure."""
        self.lead.check()

    async def read(self) -> Snapshot | None:
        """What was published last, by whom ever; an emptied Redis tells nothing. Raises StoreError."""
        return await cluster.read(self._connection) or self.last

    def _forget_grace(self) -> None:
        """Redis is there again: it may be another one than before, or have lost what it had."""
        self._grace_s = None

    async def sweep(self, pool: PoolName) -> dict[InstanceId, int]:
        """End what is past its time; answer the calls in flight by instance."""
        await pools.sweep(self._connection, pool)
        load = await pools.pool_load(self._connection, pool)
        set_gauges((load,), self._is_simulated)
        return {each.instance: each.in_flight for each in load.instances}

    async def queued(self, pools: Sequence[PoolName]) -> dict[PoolName, int]:
        """Calls that wait, by pool."""
        return await demand.queued(self._connection, pools)

    async def pressure(self, instances: Mapping[PoolName, Sequence[InstanceId]]) -> dict[PoolName, Pressure]:
        """How pools are asked for."""
        return await demand.pressure(self._connection, instances)

    async def asked_for(self, pools: Sequence[PoolName]) -> dict[PoolName, AskedFor]:
        """How pools are asked for, and how long calls wait."""
        return await demand.asked_for(self._connection, pools)

    async def suspected(self, instances: Mapping[PoolName, Sequence[InstanceId]]) -> dict[InstanceId, Suspicion]:
        """Instances that gateways say answer nobody."""
        return await suspicion.suspected(self._connection, instances)

    async def acquit(self, pool: PoolName, instance: InstanceId) -> None:
        """It was seen to."""
        await suspicion.acquit(self._connection, pool, instance)
