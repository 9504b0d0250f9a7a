"""How pools are asked for at this moment: for who decides what is loaded, and how many instances there should be."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from orchestrator.core.model import InstanceId, PoolName
from orchestrator.core.numbers import AskedFor
from orchestrator.core.residency import Pressure
from orchestrator.store.connection import Connection
from orchestrator.store.pools import PoolLoad, pool_load
from orchestrator.store.schema import pool_keys


async def queued(connection: Connection, pools: Iterable[PoolName]) -> dict[PoolName, int]:
    """Tickets that wait, by pool."""
    names = list(pools)
    depths = await asyncio.gather(*(connection.command(b"ZCARD", pool_keys(each)[5]) for each in names))
    return {name: int(depth) for name, depth in zip(names, depths, strict=True)}


async def asked_for(connection: Connection, pools: Iterable[PoolName]) -> dict[PoolName, AskedFor]:
    """Calls under way and waiting, and how long these wait; a pool that nobody has published is left out."""
    loads = await asyncio.gather(*(pool_load(connection, each) for each in pools))
    return {each.pool: _asked_for(each) for each in loads if each.is_known}


def _asked_for(load: PoolLoad) -> AskedFor:
    busy = sum(each.in_flight for each in load.instances)
    return AskedFor(busy, load.queued, load.oldest_wait_s, load.expected_wait_s)


async def pressure(
    connection: Connection, instances: Mapping[PoolName, Sequence[InstanceId]]
) -> dict[PoolName, Pressure]:
    """Calls waiting and under way, and how long one takes; read without a script: who loads models looks often."""
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
