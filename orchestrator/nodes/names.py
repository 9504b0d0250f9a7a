"""Addresses behind the names of hosts, as this machine looks them up; what was found stays while nobody can be asked.

A host would look its own name up itself and find 127.0.1.1, as Debian writes it: nobody else could call what listens
there.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from orchestrator.core.errors import HostError
from orchestrator.core.model import NodeName

log = logging.getLogger(__name__)

FOUND_WITHIN_S: Final = 5.0
# A wave starts many instances of a host at once.
FRESH_FOR_S = 30.0

LookUp = Callable[[str], Awaitable[str]]


async def system_look_up(name: str) -> str:
    """The first IPv4 address that this machine's resolver has for a name: instances are called by no other kind."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(name, None, family=socket.AF_INET, type=socket.SOCK_STREAM)
    return str(found[0][4][0])


class Names:
    """What was found so far. `look_up` raises OSError, or UnicodeError, for a name that nobody knows."""

    def __init__(self, look_up: LookUp = system_look_up) -> None:
        self._look_up = look_up
        self._found: dict[str, str] = {}
        self._looked_s: dict[str, float] = {}
        self._one_at_a_time: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def known(self, host: str) -> str:
        """Its address as it was found last; the host as it is where it is an address, or was never found."""
        return self._found.get(host, host)

    async def find(self, node: NodeName, host: str) -> str:
        """Its address now; as it was found last where it cannot be looked up. Raises HostError where it never was."""
        if _is_address(host):
            return host
        async with self._one_at_a_time[host]:
            looked_s = self._looked_s.get(host)
            if looked_s is None or time.monotonic() - looked_s > FRESH_FOR_S:
                await self._renew(node, host)
        return self._found[host]

    async def find_all(self, hosts: Iterable[tuple[NodeName, str]]) -> None:
        """Look all of them up at once. One that is not found is logged, and asked for again where it is needed."""
        for each in await asyncio.gather(*(self.find(*each) for each in hosts), return_exceptions=True):
            if isinstance(each, HostError):
                log.warning("%s", each)
            elif isinstance(each, BaseException):
                raise each

    async def _renew(self, node: NodeName, host: str) -> None:
        try:
            async with asyncio.timeout(FOUND_WITHIN_S):
                found = await self._look_up(host)
        except (OSError, UnicodeError) as why:  # TimeoutError is an OSError
            said = f"nobody told within {FOUND_WITHIN_S:g} s" if isinstance(why, TimeoutError) else _reason(why)
            if host not in self._found:
                raise HostError(f"{node}: {name_unknown(host, said)}") from why
            log.warning("%s: %s is not found now (%s) and stays %s", node, host, said, self._found[host])
        else:
            self._found[host] = found
        self._looked_s[host] = time.monotonic()


def name_unknown(host: str, why: str) -> str:
    """What is wrong with a node's `address`, for people, in one line."""
    return (
        f"address: this machine finds no host of the name {host!r} ({why}); correct it, name its IP address, or have "
        "DNS or /etc/hosts here know it"
    )


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
