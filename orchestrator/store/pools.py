"""The pools from the controller's side: what they offer, what is past its time, how they stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from orchestrator.core.model import InstanceId, PoolName
from orchestrator.store import scripts
from orchestrator.store.admission import ms
from orchestrator.store.connection import Connection
from orchestrator.store.schema import POOLS, pool_keys

KEYS_TOLD = 20


@dataclass(frozen=True, slots=True)
class InstanceLoad:
    instance: InstanceId
    slots: int  # 0: no longer published, finishing what it has
    in_flight: int
    failures: int  # in a row
    ejected_for_s: float
    service_s: float | None = None  # that a served call held its slot lately; None: none was served yet


@dataclass(frozen=True, slots=True)
class KeyLoad:
    """An API key as a pool's queue knows it."""

    key: str
    waiting: int
    tokens: int  # charged: a prompt's once, an answer's twice. The key with the fewest is next


@dataclass(frozen=True, slots=True)
class PoolLoad:
    pool: PoolName
    is_known: bool  # a controller has published it
    instances: tuple[InstanceLoad, ...]
    queued: int
    oldest_wait_s: float
    drift: tuple[tuple[str, str], ...] = ()  # what contradicts itself; never anything, and tests look
    expected_wait_s: float | None = None  # of a call that came now; None: not known yet
    keys: tuple[KeyLoad, ...] = ()  # those that wait first, then those that were charged most

    @property
    def service_s(self) -> float | None:
        """Seconds that a served call held its slot lately, over the slots of the pool."""
        timed = [(each.slots, each.service_s) for each in self.instances if each.slots and each.service_s]
        return sum(slots for slots, _ in timed) / sum(slots / took for slots, took in timed) if timed else None


@dataclass(frozen=True, slots=True)
class Swept:
    leases_expired: int
    tickets_expired: int
    granted: int
    queued: int


async def publish_pool(
    connection: Connection, pool: PoolName, slots: Mapping[InstanceId, int], *, token: int, grace_s: float = 0.0
) -> bool:
    """Set the instances that serve a pool and their slots; 0: calls may wait for it. False: a newer controller has
    published.

    `grace_s` applies to a pool that Redis does not know: it leases nothing for that long, so that gateways can say
    which slots they hold already.
    """
    await connection.command(b"SADD", POOLS, pool)
    args: list[str | int] = [token, ms(grace_s)]
    for instance in sorted(slots):
        args += [instance, slots[instance]]
    return bool(await connection.script(scripts.PUBLISH, pool_keys(pool), args, repeat=True))


async def sweep(connection: Connection, pool: PoolName) -> Swept:
    """End what is past its time in a pool and grant what came free. For each second, and whenever it matters."""
    return Swept(*await connection.script(scripts.SWEEP, pool_keys(pool), repeat=True))


async def pool_load(connection: Connection, pool: PoolName) -> PoolLoad:
    """One pool as it stands, its counts made anew from its records."""
    seen = orjson.loads(await connection.script(scripts.INSPECT, pool_keys(pool), (KEYS_TOLD,), repeat=True))
    return PoolLoad(
        pool,
        seen["is_known"],
        tuple(_instance(name, each) for name, each in sorted(seen["instances"].items())),
        seen["queued"],
        seen["oldest_wait_ms"] / 1000,
        tuple(sorted(seen["drift"].items())),
        None if seen["expected_ms"] < 0 else seen["expected_ms"] / 1000,
        # Lua has one kind of table: an empty list comes as an empty object.
        tuple(KeyLoad(each["key"], each["waiting"], each["tokens"]) for each in seen["keys"] or ()),
    )


def _instance(name: str, told: dict[str, int]) -> InstanceLoad:
    service_s = told["took_us"] / 1e6 if told["samples"] else None
    return InstanceLoad(
        InstanceId(name), told["slots"], told["in_flight"], told["failures"], told["ejected_ms"] / 1000, service_s
    )


async def pool_names(connection: Connection) -> tuple[PoolName, ...]:
    return tuple(sorted(PoolName(each.decode()) for each in await connection.command(b"SMEMBERS", POOLS)))


async def in_flight(connection: Connection) -> tuple[PoolLoad, ...]:
    """Every pool as it stands: in flight an instance, queue, oldest wait."""
    return tuple([await pool_load(connection, each) for each in await pool_names(connection)])
