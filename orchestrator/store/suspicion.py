"""Instances that gateways suspect of answering nobody any more: a small key each, that is there while it is said again.

No call writes or reads them. Gateways say what they saw, the controller reads it, and takes it back once it has seen to
the instance.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import orjson

from orchestrator.core.model import InstanceId, PoolName
from orchestrator.core.patience import Suspicion
from orchestrator.store.connection import Connection
from orchestrator.store.schema import pool_suspect

KEPT_MS: Final = 15_000  # a controller that was away for longer looks for itself


def suspect(connection: Connection, pool: PoolName, instance: InstanceId, what: Suspicion) -> None:
    """Say so; sent and not waited for."""
    key, told = pool_suspect(pool, instance), orjson.dumps(what._asdict())
    connection.post_command(f"suspicion of {instance}", b"SET", key, told, b"PX", KEPT_MS)


async def suspected(
    connection: Connection, instances: Mapping[PoolName, Sequence[InstanceId]]
) -> dict[InstanceId, Suspicion]:
    """Which of these are under suspicion, and of what. Raises StoreError."""
    asked = [(pool, several) for pool, several in instances.items() if several]
    told = await asyncio.gather(*(_of_pool(connection, pool, several) for pool, several in asked))
    return {
        instance: Suspicion(**orjson.loads(each))
        for (_, several), found in zip(asked, told, strict=True)
        for instance, each in zip(several, found, strict=True)
        if each is not None
    }


async def _of_pool(connection: Connection, pool: PoolName, instances: Sequence[InstanceId]) -> list[bytes | None]:
    found: list[bytes | None] = await connection.command(b"MGET", *(pool_suspect(pool, each) for each in instances))
    return found


async def acquit(connection: Connection, pool: PoolName, instance: InstanceId) -> None:
    """It was seen to. Raises StoreError."""
    await connection.command(b"DEL", pool_suspect(pool, instance))
