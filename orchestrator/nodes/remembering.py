"""Names of instances looked up for the controller's own questions, and remembered while no name server answers.

Else an instance that serves well would be taken for one that is down, because nobody tells where its name leads.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

log = logging.getLogger(__name__)

# Of a probe's time, what may go for finding out where to.
KNOWN_WITHIN_S: Final = 1.0


class RememberingResolver(AbstractResolver):
    """What the system's resolver says; what it said last, where it says nothing in time."""

    def __init__(self, system: AbstractResolver | None = None) -> None:
        self._system = system or ThreadedResolver()
        self._known: dict[tuple[str, int, int], list[ResolveResult]] = {}
        self._lost: set[str] = set()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Raises OSError for a name that was never found."""
        asked = host, port, int(family)
        known = self._known.get(asked)
        try:
            async with asyncio.timeout(None if known is None else KNOWN_WITHIN_S):
                found = await self._system.resolve(host, port, family)
        except OSError as why:  # TimeoutError is one
            if known is None:
                raise
            if host not in self._lost:
                self._lost.add(host)
                log.warning("%s is not found now (%s), and stays %s", host, why or "no answer", known[0]["host"])
            return known
        if host in self._lost:
            self._lost.remove(host)
            log.info("%s is found again: %s", host, found[0]["host"])
        self._known[asked] = found
        return found

    async def close(self) -> None:
        await self._system.close()
