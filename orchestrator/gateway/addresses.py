"""Where the names of instances lead: looked up beside the calls, and remembered while nobody can be asked.

Names are looked up as instances are published, and a call waits only for one that was not found yet. Others take what
was found last, while it is looked up anew: a name server that is slow or gone costs nobody anything, and no instance.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

log = logging.getLogger(__name__)

# As long as most resolvers' caches would keep it at least.
FRESH_FOR_S: Final = 10.0
# As many names are looked up at once: where nobody answers each holds a thread for as long as the resolver tries.
AT_ONCE: Final = 2

LookUp = Callable[[str], Awaitable[Sequence[str]]]


async def system_look_up(host: str) -> Sequence[str]:
    """All addresses of a name, as this machine's resolver orders them. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(each[4][0]) for each in found))


class Addresses:
    """What was found of each name so far."""

    def __init__(self, look_up: LookUp = system_look_up) -> None:
        self._look_up = look_up
        self._found: dict[str, Sequence[str]] = {}
        self._looked_s: dict[str, float] = {}  # loop time
        self._looking: dict[str, asyncio.Task[Sequence[str]]] = {}
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._lost: set[str] = set()  # names that were found once, and are not found now

    async def of(self, host: str) -> Sequence[str]:
        """The addresses to try, in this order. Raises OSError where the name was never found, and is not now."""
        if _is_address(host):
            return (host,)
        known = self._found.get(host)
        if known is None:
            return await asyncio.shield(self._look(host))
        if asyncio.get_running_loop().time() - self._looked_s[host] > FRESH_FOR_S:
            self._look(host).add_done_callback(_outcome_is_kept)
        return known

    def learn(self, hosts: Iterable[str]) -> None:
        """Look up now what will be asked for: later there may be nobody to tell."""
        for each in hosts:
            if each not in self._found and not _is_address(each):
                self._look(each).add_done_callback(_outcome_is_kept)

    def close(self) -> None:
        for each in self._looking.values():
            each.cancel()

    def _look(self, host: str) -> asyncio.Task[Sequence[str]]:
        """Look it up, once for all who ask at the same time."""
        task = self._looking.get(host)
        if task is None:
            task = self._looking[host] = asyncio.ensure_future(self._renew(host))
            task.add_done_callback(lambda _: self._looking.pop(host, None))
        return task

    async def _renew(self, host: str) -> Sequence[str]:
        loop = asyncio.get_running_loop()
        try:
            async with self._turn:
                found = await self._look_up(host)
        except (OSError, UnicodeError) as why:
            self._looked_s[host] = loop.time()
            if host not in self._found:
                raise OSError(f"nobody knows the name {host}: {why}") from why
            if host not in self._lost:
                self._lost.add(host)
                log.warning("%s is not found now (%s), and stays %s", host, why, self._found[host][0])
            return self._found[host]
        if host in self._lost:
            self._lost.remove(host)
            log.info("%s is found again: %s", host, found[0])
        self._found[host], self._looked_s[host] = found, loop.time()
        return found


def _outcome_is_kept(task: asyncio.Task[Sequence[str]]) -> None:
    """Nobody waits for it: what came of it is kept, and what did not is logged."""
    if not task.cancelled():
        task.exception()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
