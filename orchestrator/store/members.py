"""Who shares this Redis: the gateways and the controller of each place, heard of again and again, forgotten by time.

It knows how they lie in Redis. What follows from who is there is `core.members`'s and the controller's affair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import orjson
from pydantic import TypeAdapter, ValidationError

from orchestrator.core.errors import StoreError
from orchestrator.core.members import FORGOTTEN_AFTER_S, Member
from orchestrator.store import scripts
from orchestrator.store.admission import ms
from orchestrator.store.connection import Connection
from orchestrator.store.schema import LEADER, MEMBERS

Kind = Literal["gateways", "controller"]

BEAT_S = 2.0
# A controller says so much more often that it is there; gateways are remembered as long as their share is kept.
TTL_S: Mapping[Kind, float] = {"gateways": FORGOTTEN_AFTER_S, "controller": 5 * BEAT_S}

_MEMBER = TypeAdapter(Member)


@dataclass(frozen=True, slots=True)
class Met:
    """One who is there."""

    kind: Kind
    member: Member
    heard_s: float  # ago


async def meet(connection: Connection, kind: Kind, member: Member) -> tuple[Met, ...]:
    """Say that these gateways, or this controller, are there; learn who is, themselves included. Raises StoreError."""
    return await _met(connection, f"{kind}:{member.place}", TTL_S[kind], orjson.dumps(member))


async def who_is_there(connection: Connection) -> tuple[Met, ...]:
    """Everybody who was heard of. Raises StoreError."""
    return await _met(connection, "", 0.0, b"")


async def leaving(connection: Connection, kind: Kind, place: str) -> None:
    """They end in order, and are nobody's concern any more. Raises StoreError."""
    await connection.command(b"HDEL", MEMBERS, f"{kind}:{place}")


async def leader(connection: Connection) -> str:
    """The place whose controller leads; '' none does. Raises StoreError."""
    told = await connection.command(b"GET", LEADER)
    return "" if told is None else told.decode().partition(" ")[2]


def gateways_of(met: tuple[Met, ...]) -> tuple[Member, ...]:
    """The gateways among them, by place."""
    return tuple(each.member for each in met if each.kind == "gateways")


async def _met(connection: Connection, field: str, ttl_s: float, words: bytes) -> tuple[Met, ...]:
    told = await connection.script(scripts.MEET, (MEMBERS,), (field, ms(ttl_s), words), repeat=True)
    return tuple(_one(*told[at : at + 3]) for at in range(0, len(told), 3))


def _one(field: bytes, heard_ms: int, words: bytes) -> Met:
    kind = field.decode().partition(":")[0]
    try:
        member = _MEMBER.validate_json(words)
    except ValidationError as why:
        raise StoreError(f"who shares this Redis cannot be read: {field!r}: {why}") from why
    return Met("controller" if kind == "controller" else "gateways", member, heard_ms / 1000)
