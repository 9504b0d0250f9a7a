"""How pools are asked for at this moment, read without a script: who decides what is loaded looks often."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from orchestrator.core.model import InstanceId, PoolName
from orchestrator.core.residency import Pressure
from orchestrator.store.connection import Connection
from orchestrator.store.schema import pool_keys


async def queued(connection: Connection, pools: Iterable[PoolName]) -> dict[PoolName, int]:
    """Tickets that wait, by pool."""
    names = list(pools)
    depths = await asyncio.gather(*(connection.command(b"ZCARD", pool_keys(each)[5]) for each in names))
    return {name: int(depth) for name, depth in zip(names, depths, strict=True)}


async def pressure(
    connection: Connection, instances: Mapping[PoolName, Sequence[InstanceId]]
) -> dict[PoolName, Pressure]:
    """Calls waiting and under way, and how long one takes."""
    names = list(instances)
    told = await asyncio.gather(*(_of_pool(connection, each, instances[each]) for each in names))
    return dict(zip(names, told, strict=True))


async def _of_pool(connection: Connection, pool: PoolName, instances: Sequence[InstanceId]) -> Pressure:
    slots, load, *_ = keys = pool_keys(pool)
    if not instances:
        return Pressure(int(await connection.command(b"ZCARD", keys[5])))
    depth, taken, paces = await asyncio.gather(
        connection.command(b"ZCARD", keys[5]),
        connection.command(b"HMGET", load, *instances),
        connection.command(b"HMGET", slots, *(f"\tp{each}" for each in instances)),
    )
    in_flight = {each: int(count or 0) for each, count in zip(instances, taken, strict=True)}
    return Pressure(int(depth), in_flight, _service_s([int(each) for each in paces if each]))


def _service_s(paces: Sequence[int]) -> float | None:
    """The mean of the instances' own means; each is kept as microseconds * 1024 + samples (lua/shared/state.lua)."""
    samples = sum(each % 1024 for each in paces)
    if not samples:
        return None
    return sum((each // 1024) * (each % 1024) for each in paces) / samples / 1e6
