"""Redis as the doctor sees it: its own words about memory, disk and time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from orchestrator.app.held_up import held_up
from orchestrator.core.doctor import Clock, Redis, Unseen
from orchestrator.core.errors import OrchestratorError, StoreError
from orchestrator.core.origins import is_loopback
from orchestrator.store.address import Address, parse_url
from orchestrator.store.connection import Connection

WAIT_S = 2.0


@dataclass(frozen=True, slots=True)
class RedisSeen:
    """What it says of itself, its clock against ours, and whom a change of the authority waits for ('' nobody)."""

    redis: Redis | Unseen
    clocks: tuple[Clock, ...] = ()
    held_up: str = ""


async def look_at_redis(url: str, *, is_embedded: bool = False) -> RedisSeen:
    """Changes nothing."""
    try:
        address = parse_url(url)
        connection = Connection(url, name="doctor")
    except OrchestratorError as why:
        return RedisSeen(Unseen(str(why)))
    try:
        await connection.open(WAIT_S)
        return await _look(connection, address, is_embedded=is_embedded)
    except StoreError as why:
        return RedisSeen(Redis(str(address), problem=str(why), is_embedded=is_embedded))
    finally:
        await connection.close()


async def _look(connection: Connection, address: Address, *, is_embedded: bool) -> RedisSeen:
    before_s = time.time()
    seconds, microseconds = await connection.command("TIME")
    after_s = time.time()
    ahead_s = int(seconds) + int(microseconds) / 1e6 - (before_s + after_s) / 2
    told = _pairs(await connection.command("INFO"))
    log = told.get("aof_enabled")
    redis = Redis(
        address=str(address),
        is_embedded=is_embedded,
        is_open=_is_open(address),
        version=f"{told.get('server_name', 'redis')} {told.get('valkey_version') or told.get('redis_version', '')}",
        policy=told.get("maxmemory_policy"),
        memory_limit_bytes=int(told.get("maxmemory", 0)),
        memory_used_bytes=int(told.get("used_memory", 0)),
        evicted_keys=int(told.get("evicted_keys", 0)),
        has_log=None if log is None else log == "1",
        snapshots=await _snapshots(connection),
        is_write_failing=_is_write_failing(told),
        is_replica=told.get("role") == "slave",
    )
    clock = Clock(f"Redis at {address}", ahead_s, (after_s - before_s) / 2)
    return RedisSeen(redis, (clock,), await held_up(connection))


def _pairs(info: Any) -> dict[str, str]:
    text = info.decode(errors="replace") if isinstance(info, bytes) else str(info)
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#"))


def _is_open(address: Address) -> bool:
    """Whether it let us in over the network without a password."""
    return bool(address.hosts) and not address.password and any(not is_loopback(host) for host, _ in address.hosts)


def _is_write_failing(told: dict[str, str]) -> bool:
    log_failed = told.get("aof_enabled") == "1" and told.get("aof_last_write_status", "ok") != "ok"
    return log_failed or told.get("rdb_last_bgsave_status", "ok") != "ok"


async def _snapshots(connection: Connection) -> str | None:
    """Its `save` setting; None where CONFIG is not for us, as with providers of Redis."""
    try:
        told = await connection.command("CONFIG", "GET", "save")
    except StoreError:
        return None
    value = told.get(b"save", b"") if isinstance(told, dict) else b""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
