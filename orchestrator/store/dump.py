"""What a backup keeps of Redis: counts, budgets and what is known of routes, key by key, for whatever Redis comes next.

Not a server's own file: that would hold leases and queues of processes long gone, and fit one kind of server alone.
Kept answers stay out: they are made anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from orchestrator.core.errors import StoreError
from orchestrator.store.connection import Connection
from orchestrator.store.schema import DRIFT, POOLS, REPLAYED, ROUTES

_KEYS: Final = (POOLS, ROUTES, DRIFT, REPLAYED)
_PATTERNS: Final = ("olm:pool:*:usage:*", "olm:usage:*", "olm:answered:*", "olm:budget:*")
# Of a budget: what goes on at this moment, and is over by the time that it is brought back.
_PASSING: Final = ("olm:budget:{all}:reserved:",)
_PASSING_ENDS: Final = (":minute", ":held")


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Kept:
    """One key, and of `hash`, `members` and `text` the one that it is. Bytes stand as Latin-1."""

    key: str
    ttl_ms: int | None = None
    hash: Mapping[str, str] | None = None
    members: Sequence[str] | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Dump:
    """Who leads is no part of it: fencing tokens are at least the time, and rise by themselves."""

    keys: Sequence[Kept]


DUMP: TypeAdapter[Dump] = TypeAdapter(Dump)


async def dump(connection: Connection) -> Dump:
    """All that is to be kept. Raises StoreError."""
    return Dump([each for key in await _names(connection) if (each := await _kept(connection, key)) is not None])


async def refuse_counts(connection: Connection) -> None:
    """Raise StoreError where there is something of the kind already: nothing is added up."""
    if there := await _names(connection):
        raise StoreError(
            f"this Redis has counts of a cluster already ({len(there)} keys, such as {there[0]!r}); "
            "restore into an empty one"
        )


async def load(connection: Connection, dumped: Dump) -> None:
    """Bring it back. Raises StoreError."""
    for each in dumped.keys:
        key = each.key.encode("latin-1")
        for command in _commands(key, each):
            await connection.command(*command)
        if each.ttl_ms is not None:
            await connection.command(b"PEXPIRE", key, each.ttl_ms)


async def _names(connection: Connection) -> list[str]:
    names = {each for each in _KEYS if await connection.command(b"EXISTS", each)}
    for pattern in _PATTERNS:
        async for some in connection.scan(pattern):
            names |= {each.decode("latin-1") for each in some}
    return sorted(each for each in names if not (each.startswith(_PASSING) or _is_passing(each)))


def _is_passing(key: str) -> bool:
    return key.startswith("olm:budget:") and key.endswith(_PASSING_ENDS)


async def _kept(connection: Connection, key: str) -> Kept | None:
    """None where it has just gone. Raises StoreError for what is of no kind that is known here."""
    name = key.encode("latin-1")
    kind = _text(await connection.command(b"TYPE", name))
    left_ms = int(await connection.command(b"PTTL", name))
    ttl_ms = left_ms if left_ms >= 0 else None
    if kind == "hash":
        told = await connection.command(b"HGETALL", name)
        return Kept(key, ttl_ms, hash={_text(field): _text(value) for field, value in told.items()}) if told else None
    if kind == "set":
        return Kept(key, ttl_ms, members=sorted(_text(each) for each in await connection.command(b"SMEMBERS", name)))
    if kind == "string":
        told = await connection.command(b"GET", name)
        return None if told is None else Kept(key, ttl_ms, text=_text(told))
    if kind == "none":
        return None
    raise StoreError(f"{key} is a {kind}, and no such thing is kept in a backup; is it another program's?")


def _commands(key: bytes, kept: Kept) -> list[tuple[bytes, ...]]:
    if kept.hash:
        pairs = [_bytes(each) for pair in kept.hash.items() for each in pair]
        return [(b"HSET", key, *pairs)]
    if kept.members:
        return [(b"SADD", key, *map(_bytes, kept.members))]
    return [(b"SET", key, _bytes(kept.text))] if kept.text is not None else []


def _text(told: Any) -> str:
    return told.decode("latin-1") if isinstance(told, bytes) else str(told)


def _bytes(text: str) -> bytes:
    return text.encode("latin-1")
