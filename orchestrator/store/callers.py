"""Callers by token that may use so much: seen by some gateway of late, and told of wherever budgets are.

No settings name them, so nobody else knows who they are. What they have used lies with all budgets.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

import orjson
from pydantic import TypeAdapter, ValidationError

from orchestrator.core.limits import DAY_MS
from orchestrator.core.target import Budget
from orchestrator.store.connection import Connection
from orchestrator.store.schema import CALLERS

log = logging.getLogger(__name__)

# The last ones that asked. An issuer may know more people than anybody wants to read of.
KEPT: Final = 200
KEPT_S: Final = DAY_MS // 1000

_CALLER: Final = TypeAdapter(tuple[str, Budget])


async def note(connection: Connection, asked: Mapping[str, tuple[Budget, int]]) -> None:
    """These have asked: by the scope of each its budget, and when (unix ms). Raises StoreError."""
    told = [(at_ms, orjson.dumps((scope, budget))) for scope, (budget, at_ms) in asked.items()]
    if not told:
        return
    newest = sorted(told, reverse=True)[:KEPT]
    await connection.command(b"ZADD", CALLERS, *(each for one in newest for each in one))
    await connection.command(b"ZREMRANGEBYRANK", CALLERS, 0, -KEPT - 1)
    await connection.command(b"EXPIRE", CALLERS, KEPT_S)


async def seen(connection: Connection, now_unix_ms: int) -> dict[str, Budget]:
    """Those that asked within a day, the last one first, by scope with what each may use. Raises StoreError."""
    since = now_unix_ms - DAY_MS
    found: dict[str, Budget] = {}
    for each in await connection.command(b"ZREVRANGEBYSCORE", CALLERS, b"+inf", since):
        try:
            scope, budget = _CALLER.validate_json(each)
        except ValidationError as why:
            log.warning("a caller in Redis cannot be read, and is not told of: %d mistakes", why.error_count())
            continue
        found.setdefault(scope, budget)  # one whose grant is another by now is told of by that
    return found
