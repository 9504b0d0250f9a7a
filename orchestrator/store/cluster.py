"""The cluster as published: one controller leads and writes, every gateway reads and watches.

It knows how a `Snapshot` lies in Redis, and that only the leader with the last token writes it. What is in it is the
controller's affair.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from orchestrator.core.errors import StoreError
from orchestrator.core.model import Snapshot
from orchestrator.store import scripts
from orchestrator.store.admission import ms
from orchestrator.store.connection import Connection
from orchestrator.store.pools import pool_names, publish_pool
from orchestrator.store.schema import LEADER, POOLS, PROGRESS, SNAPSHOT, SNAPSHOT_CHANNEL, TOKEN

log = logging.getLogger(__name__)

FORMAT = 1  # of the snapshot's bytes; rises when an older reader could no longer make sense of them
LOOK_AGAIN_S = 10.0  # a message may be lost, so watchers look by themselves, too

_SNAPSHOT: TypeAdapter[Snapshot] = TypeAdapter(Snapshot)


@dataclass(frozen=True, slots=True)
class Leadership:
    """The right to publish, as long as it is renewed. Its token is higher than every one given before."""

    holder: str
    token: int


async def lead(connection: Connection, holder: str, ttl_s: float) -> Leadership | None:
    """Become the leader or stay it; None while another controller is. To be asked again well within `ttl_s`."""
    token, leader = await connection.script(scripts.LEAD, (LEADER, TOKEN), (holder, ms(ttl_s)), repeat=True)
    return Leadership(holder, int(token)) if leader.decode() == holder else None


async def resign(connection: Connection, leadership: Leadership) -> None:
    """Let another controller lead at once."""
    await connection.script(scripts.RESIGN, (LEADER,), (leadership.token,), repeat=True)


async def publish(connection: Connection, leadership: Leadership, snapshot: Snapshot, *, grace_s: float = 2.0) -> bool:
    """Set the snapshot and the slots of its pools. False: this controller no longer leads, and nothing was changed.

    To be called again whenever the connection has come up: Redis may have lost everything.
    `grace_s`: see `publish_pool`.
    """
    payload = orjson.dumps({"format": FORMAT, "snapshot": snapshot})
    args = (leadership.token, payload, SNAPSHOT_CHANNEL)
    if not await connection.script(scripts.ANNOUNCE, (LEADER, SNAPSHOT), args, repeat=True):
        return False
    for pool in snapshot.pools:
        slots = {each.id: slots for each in pool.instances if (slots := each.slots_offered) is not None}
        if not await publish_pool(connection, pool.name, slots, token=leadership.token, grace_s=grace_s):
            return False
    for name in set(await pool_names(connection)) - {each.name for each in snapshot.pools}:
        # What still runs there is settled as usual; nothing new gets in.
        if await publish_pool(connection, name, {}, token=leadership.token):
            await connection.command(b"SREM", POOLS, name)
    return True


async def read(connection: Connection) -> Snapshot | None:
    """The snapshot last published; None before the first. Raises StoreError if its bytes make no sense here."""
    payload = await connection.command(b"GET", SNAPSHOT)
    return None if payload is None else _decode(payload)


def _decode(payload: bytes) -> Snapshot:
    try:
        envelope: dict[str, Any] = orjson.loads(payload)
        if envelope["format"] != FORMAT:
            raise StoreError(f"the cluster was published in format {envelope['format']}, this version reads {FORMAT}")
        return _SNAPSHOT.validate_python(envelope["snapshot"])
    except (orjson.JSONDecodeError, ValidationError, KeyError, TypeError) as why:
        raise StoreError(f"the published cluster cannot be read: {why}") from why


class Watch:
    """Calls back with each snapshot that differs from the one before, the present one first, until closed."""

    def __init__(self, connection: Connection, callback: Callable[[Snapshot], None]) -> None:
        self._connection = connection
        self._callback = callback
        self._stirred = asyncio.Event()
        self._seen: Snapshot | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._connection.on_up(self._stirred.set)
        await self._connection.subscribe(SNAPSHOT_CHANNEL, lambda _: self._stirred.set())
        self._stirred.set()
        self._task = asyncio.create_task(self._follow(), name="watch of the cluster")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def _follow(self) -> None:
        while True:
            with suppress(TimeoutError):  # Nobody said a word for so long: a look is due all the same.
                async with asyncio.timeout(LOOK_AGAIN_S):  # wait_for can swallow a cancellation (CPython 86296)
                    await self._stirred.wait()
            self._stirred.clear()
            try:
                snapshot = await read(self._connection)
            except StoreError as why:
                log.warning("serving by the last snapshot: %s", why)
                continue
            # An emptied Redis is no news of the cluster: the last snapshot stands until a controller publishes.
            if snapshot is not None and snapshot != self._seen:
                self._seen = snapshot
                self._callback(snapshot)


async def watch(connection: Connection, callback: Callable[[Snapshot], None]) -> Watch:
    """Start a `Watch`."""
    watching = Watch(connection, callback)
    await watching.start()
    return watching


async def set_progress(connection: Connection, name: str, line: str | None) -> None:
    """What is being done for `name`, one line for people; None: nothing any more."""
    if line is None:
        await connection.command(b"HDEL", PROGRESS, name)
    else:
        await connection.command(b"HSET", PROGRESS, name, line)


async def progress(connection: Connection) -> dict[str, str]:
    lines = await connection.command(b"HGETALL", PROGRESS)
    return {name.decode(): line.decode() for name, line in lines.items()}
