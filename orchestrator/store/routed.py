"""What routes did, by day: calls by the tier that answered, escalations by reason, answers rated by their callers.

The counts stand among a route's other ones (`usage`), under names of their own. Beside them is kept what is known of
their drift, what evaluations found, and which answers have been rated. Days are UTC.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from orchestrator.store.connection import Connection
from orchestrator.store.schema import DRIFT, REPLAYED, ROUTES, route_rated, route_usage

RATED_S = 7 * 86_400  # an answer can be rated once in that time


@dataclass(frozen=True, slots=True)
class Routed:
    """One route's day."""

    tiers: Mapping[str, int] = field(default_factory=dict)  # calls, by the tier that answered them
    escalated: Mapping[str, int] = field(default_factory=dict)  # those that a lower tier answered first, by reason
    right: int = 0  # answers that their callers rated so
    wrong: int = 0

    @property
    def calls(self) -> int:
        return sum(self.tiers.values())

    @property
    def escalations(self) -> int:
        return sum(self.escalated.values())

    @property
    def told(self) -> dict[str, Any]:
        """As the status and `ollamactl drift --json` have it."""
        return {
            "calls": self.calls,
            "tiers": dict(self.tiers),
            "escalated": self.escalations,
            "escalated_why": dict(self.escalated),
            "right": self.right,
            "wrong": self.wrong,
        }


def fields(tier: str, escalated: str = "") -> dict[str, int]:
    """A call that `tier` answered, as `usage.add` takes it. `escalated`: why a lower tier's answer was not enough."""
    counts = {f"routed:tier:{tier}": 1}
    return {**counts, f"routed:escalated:{escalated}": 1} if escalated else counts


async def read(connection: Connection, day: str) -> dict[str, Routed]:
    """By route; those without any are left out."""
    found = {}
    for route in sorted(each.decode() for each in await connection.command(b"SMEMBERS", ROUTES)):
        counts = _split(await connection.command(b"HGETALL", route_usage(route, day)))
        if counts:
            rated = counts["rated"]
            found[route] = Routed(counts["tier"], counts["escalated"], rated["right"], rated["wrong"])
    return found


def _split(counts: Mapping[bytes, bytes]) -> dict[str, Counter[str]]:
    """Empty where nothing was routed."""
    split: dict[str, Counter[str]] = {"tier": Counter(), "escalated": Counter(), "rated": Counter()}
    for name, amount in counts.items():
        kind, _, rest = name.decode().removeprefix("routed:").partition(":")
        if name.startswith(b"routed:") and kind in split:
            split[kind][rest] += int(amount)
    return split if any(split.values()) else {}


async def rate(connection: Connection, route: str, day: str, receipt: str, *, is_right: bool) -> bool:
    """Count what a caller says of an answer; False: it has been rated already."""
    if not await connection.command(b"SET", route_rated(route, receipt), b"", b"NX", b"EX", RATED_S):
        return False
    await connection.command(b"SADD", ROUTES, route)
    await connection.command(b"HINCRBY", route_usage(route, day), f"routed:rated:{'right' if is_right else 'wrong'}", 1)
    return True


# --- what was found, as JSON objects by name --------------------------------------------------------------------------


async def drifts(connection: Connection) -> dict[str, dict[str, Any]]:
    """What is known of each route's drift, as it was kept."""
    return await _objects(connection, DRIFT)


async def keep_drift(connection: Connection, route: str, told: Mapping[str, Any]) -> None:
    await connection.command(b"HSET", DRIFT, route, orjson.dumps(told))


async def forget_drift(connection: Connection, route: str) -> None:
    await connection.command(b"HDEL", DRIFT, route)


async def accept_drift(connection: Connection, route: str) -> bool:
    """What is usual is learnt anew, from the calls that come; False: nothing is known of that route.

    The counters that have been read stay read: the day so far shall not be learnt from.
    """
    told = (await drifts(connection)).get(route)
    if told is None:
        return False
    anew = {what: {"watched": {"seen": each["watched"]["seen"]}} for what, each in told.items()}
    await keep_drift(connection, route, anew)
    return True


async def replayed(connection: Connection) -> dict[str, dict[str, Any]]:
    """What the last evaluations found, by target."""
    return await _objects(connection, REPLAYED)


async def keep_replayed(connection: Connection, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Nothing of targets that are asked no more."""
    before = await connection.command(b"HKEYS", REPLAYED)
    for name, told in found.items():
        await connection.command(b"HSET", REPLAYED, name, orjson.dumps(told))
    for name in before:
        if name.decode() not in found:
            await connection.command(b"HDEL", REPLAYED, name)


async def _objects(connection: Connection, key: str) -> dict[str, dict[str, Any]]:
    return {name.decode(): orjson.loads(told) for name, told in (await connection.command(b"HGETALL", key)).items()}
