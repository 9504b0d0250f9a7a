"""When what calls want of their pools leaves for Redis: together with as much else as costs nobody anything.

What is asked of a pool in one run is gathered by `batch`; what is asked at all is left to `leases`.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from orchestrator.core.errors import StoreError
from orchestrator.core.model import PoolName
from orchestrator.store import scripts
from orchestrator.store.batch import Batch
from orchestrator.store.connection import Connection

# A slot given back leaves with the next call that comes, or after this: one write and one waking of Redis for both.
# Against seconds of an answer nothing; between a call's end and the next one's beginning, in a busy gateway, a lot.
# Nor does a call wait for longer to leave with others.
LATER_S = 0.001


class Batches:
    """What has not left yet, a batch a pool.

    It leaves at the end of this turn of the loop; while Redis is at work for this gateway, behind its reply: the busier
    the gateway, the more calls share a run, and where there are few none waits for that.
    """

    __slots__ = ("_batches", "_by", "_connection", "_is_soon", "_later", "_under_way")

    def __init__(self, connection: Connection, by: bytes) -> None:
        self._connection, self._by = connection, by
        self._batches: dict[PoolName, Batch] = {}
        self._is_soon = False
        self._later: asyncio.TimerHandle | None = None
        self._under_way = 0  # runs that Redis has not answered

    def of(self, pool: PoolName, *, is_urgent: bool) -> Batch:
        """The pool's calls that leave next."""
        batch = self._batches.get(pool)
        if batch is None or batch.is_full:
            self.leave()
            batch = self._batches[pool] = Batch(pool, self._by)
        if is_urgent and not self._under_way:
            if not self._is_soon:
                self._is_soon = True
                asyncio.get_running_loop().call_soon(self.leave)
        elif self._later is None:
            self._later = asyncio.get_running_loop().call_later(LATER_S, self.leave)
        return batch

    def leave(self) -> None:
        """Let go of what is there."""
        self._is_soon = False
        if self._later is not None:
            self._later.cancel()  # what comes from now on has a time of its own, and need not leave alone
            self._later = None
        batches, self._batches = self._batches, {}
        for each in batches.values():
            self._under_way += 1
            self._connection.send(scripts.CALLS, *each.asked(), partial(self._told, each))

    def _told(self, batch: Batch, replies: Any, why: StoreError | None) -> None:
        self._under_way -= 1
        batch.told(replies, why)
        if self._batches and not self._under_way:
            self.leave()
