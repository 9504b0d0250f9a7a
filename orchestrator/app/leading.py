"""Whether this controller is the one that acts: led by one at a time, renewed while it runs, asked before each act.

Redis says who leads; here is what this process may still believe of it. A process that was paused, or that has not
heard of Redis for a while, does not know what others do meanwhile, and believes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from orchestrator.core.errors import StoreError
from orchestrator.store import cluster
from orchestrator.store.cluster import Leadership
from orchestrator.store.connection import Connection

log = logging.getLogger(__name__)

# A controller that dies is followed after this and one try more. Renewed five times within it: one that is slow on a
# busy machine, or whose Redis is busy, shall not be taken for dead.
TTL_S: Final = 3.0
RENEW_S: Final = 0.6
TRY_S: Final = 0.5


def _now_s() -> float:
    """By a clock that goes on while this machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Lead:
    """One controller's. `is_alone`: its Redis is its own, so that nobody else can lead, whatever happens.

    `over` is set once another controller leads, or did in between: until the next `stand_by` this one then does not.
    """

    def __init__(self, connection: Connection, holder: str, *, is_alone: bool = True) -> None:
        self._connection, self._holder, self._is_alone = connection, holder, is_alone
        self._leadership: Leadership | None = None
        self._until_s = float("-inf")
        self.over = asyncio.Event()

    @property
    def leads(self) -> bool:
        """Whether this controller led when it was last said."""
        return self._leadership is not None and not self.over.is_set()

    @property
    def token(self) -> int:
        """Higher than that of every controller that led before; 0: this one never did."""
        return self._leadership.token if self._leadership is not None else 0

    @property
    def term(self) -> int:
        """The token; 0 where no other controller can lead."""
        return 0 if self._is_alone else self.token

    def check(self) -> None:
        """To be asked right before each act. Raises StoreError unless this controller leads for sure."""
        if self.over.is_set():
            raise StoreError("another controller leads")
        if not self._is_alone and _now_s() >= self._until_s:
            raise StoreError("whether this controller still leads is not known: nothing is changed until it is")

    async def stand_by(self) -> None:
        """Until this controller leads."""
        self._leadership, self._until_s = None, float("-inf")
        self.over.clear()
        said = ""
        while True:
            try:
                await self.renew()
            except StoreError as why:
                if str(why) != said:
                    log.info("stands by: %s", why)
                said = str(why)
                self.over.clear()
                await asyncio.sleep(TRY_S)
            else:
                log.info("leads, with token %d", self.token)
                return

    async def keep(self) -> None:
        """Stay the one that leads; over once another does, or did in between."""
        while not self.over.is_set():
            await asyncio.sleep(RENEW_S)
            try:
                await self.renew()
            except StoreError as why:
                log.debug("not renewed: %s", why)
        log.warning("leads no longer")

    async def renew(self) -> Leadership:
        """Lead, or go on leading. Raises StoreError; and where another controller led meanwhile, for good."""
        if self.over.is_set():
            raise StoreError("another controller leads")
        asked_s = _now_s()
        found = await cluster.lead(self._connection, self._holder, TTL_S)
        # With another token somebody else led meanwhile, or Redis was emptied and nobody can tell.
        is_another = found is None or (self._leadership is not None and found != self._leadership)
        if is_another and not self._is_alone:
            self.over.set()
        if found is None or self.over.is_set():
            raise StoreError("another controller leads")
        self._leadership, self._until_s = found, asked_s + TTL_S
        return found

    async def resign(self) -> None:
        """Let another controller lead at once."""
        self.over.set()
        if self._leadership is not None and self._connection.is_up:
            await cluster.resign(self._connection, self._leadership)
