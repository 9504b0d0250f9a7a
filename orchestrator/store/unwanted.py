"""Leases and tickets that nobody here will use: given back to Redis when it is there, kept until then."""

from __future__ import annotations

import asyncio
import logging

from orchestrator.core.errors import StoreError
from orchestrator.core.model import LeaseId, PoolName
from orchestrator.store import scripts
from orchestrator.store.batch import in_parts
from orchestrator.store.connection import Connection
from orchestrator.store.schema import pool_keys

log = logging.getLogger(__name__)

UNWANTED_AT_MOST = 10_000  # of a pool, kept through an outage; Redis lets older ones expire by itself


class Unwanted:
    """`stirred` is set when there are some, and when they may be tried again."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._kept: dict[PoolName, list[LeaseId]] = {}
        self.stirred = asyncio.Event()

    def add(self, pool: PoolName, lease: LeaseId) -> None:
        self._kept.setdefault(pool, []).append(lease)
        self.stirred.set()

    def stir(self) -> None:
        """Redis is back."""
        if self._kept:
            self.stirred.set()

    async def give_back(self) -> None:
        """What Redis does not take is kept for the next time."""
        unwanted, self._kept = self._kept, {}
        for pool, leases in unwanted.items():
            try:
                for some in in_parts(leases):
                    await self._connection.script(scripts.CANCEL, pool_keys(pool), some, repeat=True)
            except StoreError as why:
                # Redis may keep them through an outage, and would grant slots to callers who are gone.
                self._kept[pool] = [*leases, *self._kept.get(pool, ())][-UNWANTED_AT_MOST:]
                log.warning("%s: %d leases or tickets, given up here, are given back later: %s", pool, len(leases), why)
