"""Files of a cluster that each of its machines is to have, as they lie in Redis: whole, with a digest each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from orchestrator.core.errors import StoreError
from orchestrator.store import scripts
from orchestrator.store.connection import Connection
from orchestrator.store.schema import KEPT


@dataclass(frozen=True, slots=True)
class Kept:
    """One of them."""

    digest: str
    content: bytes


class Version(NamedTuple):
    """Which state they are in: `number` is higher with each change of the ones begun at `epoch`; '': there are none."""

    epoch: str = ""
    number: int = 0


async def version(connection: Connection) -> Version:
    """Raises StoreError."""
    epoch, number = await connection.command(b"HMGET", KEPT, b" ", b"")
    return Version() if epoch is None else Version(epoch.decode(), int(number or 0))


async def read(connection: Connection) -> dict[str, Kept]:
    """All of them, by name. Raises StoreError."""
    found = await connection.command(b"HGETALL", KEPT)
    return {name.decode(): _kept(name, value) for name, value in found.items() if name.strip()}


async def put(connection: Connection, name: str, before: str, kept: Kept | None) -> bool:
    """Put one there in the place of what had the digest `before`, or remove it. False: it was changed meanwhile.

    Raises StoreError.
    """
    digest, content = (kept.digest, kept.content) if kept is not None else ("", b"")
    return bool(await connection.script(scripts.KEEP, (KEPT,), (name, before, digest, content), repeat=True))


def _kept(name: bytes, value: bytes) -> Kept:
    digest, space, content = value.partition(b" ")
    if not space:
        raise StoreError(f"{KEPT}: {name!r} cannot be read")
    return Kept(digest.decode(), content)
