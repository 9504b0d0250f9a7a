"""Who has told a Redis that was away of every slot that it uses: gateways that come back to it wait for each other.

It knows how that lies in Redis. Who must have told, and how long the others are waited for, is the gateway's affair.
"""

from __future__ import annotations

from typing import Final

from orchestrator.store import scripts
from orchestrator.store.admission import ms
from orchestrator.store.connection import Connection
from orchestrator.store.schema import RETURNED

REMEMBERED_S: Final = 30.0


async def told(connection: Connection, gateway: str, since_s: float) -> int:
    """Say that this gateway has told all; learn how many have, itself included, in the last `since_s`.

    Raises StoreError.
    """
    told = await connection.script(scripts.MEET, (RETURNED,), (gateway, ms(REMEMBERED_S), b""), repeat=True)
    return sum(heard_ms <= since_s * 1000 for heard_ms in told[1::3])
