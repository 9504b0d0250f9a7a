"""Who is connected to this worker: how many at once, from where, and what their requests hold of its memory.

Knows addresses, counts and bytes, and nothing of HTTP: a connection that is turned away says so itself.
"""

from __future__ import annotations

import functools
import ipaddress
import resource
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from orchestrator.gateway.live import Limits

# Of the files a worker may open, those left to Redis, instances, providers and the request log.
KEPT_FREE: Final = 0.25
# So many connections, the oldest first, are looked at for one that nobody uses.
LOOKED_AT: Final = 64
# All bodies of a worker may hold so many times the largest one there may be.
LARGEST_BODIES: Final = 64


class Refusal(NamedTuple):
    """Why a connection is turned away."""

    status: int
    why: str


class Visitor(Protocol):
    """One connection."""

    @property
    def address(self) -> str:
        """Whence it comes; empty: from this machine, by a way that has no addresses."""
        ...

    @property
    def is_unused(self) -> bool:
        """Nothing is asked on it now."""
        ...

    @property
    def held_bytes(self) -> int:
        """What the bodies of its requests hold."""
        ...

    @property
    def is_reading_body(self) -> bool:
        """A body has come in part."""
        ...

    def close_unused(self) -> None: ...

    def turn_away_body(self) -> None:
        """The body under way has no room here."""
        ...


V = TypeVar("V", bound=Visitor)


class Visitors(Generic[V]):
    """The connections of one worker."""

    def __init__(self, limits: Callable[[], Limits]) -> None:
        self._limits = limits
        self._present: dict[V, None] = {}  # the oldest first
        self._by_address: Counter[str] = Counter()
        self._room: int | None = None  # None: what the files that this process may open leave
        self.is_crowded = False  # bodies hold all the memory they may

    def __len__(self) -> int:
        return len(self._present)

    def __iter__(self) -> Iterator[V]:
        return iter(self._present)

    def add(self, visitor: V) -> Refusal | None:
        """One more; why it cannot stay, if it cannot. `discard` is called for it in either case."""
        limits = self._limits()
        self._present[visitor] = None
        self._by_address[visitor.address] += 1
        # Asked each time: how many files a process may open is changed while it runs (prlimit).
        if len(self._present) > (_room() if self._room is None else self._room) and not self._make_room(visitor):
            return Refusal(503, "this gateway has as many connections as it can serve")
        most = limits.connections_per_address
        if most and self._by_address[visitor.address] > most and not _is_front(visitor.address, limits.fronts):
            return Refusal(429, f"more than {most} connections from your address (limits.connections_per_address)")
        return None

    def discard(self, visitor: V) -> None:
        """It has left."""
        if visitor in self._present:
            del self._present[visitor]
            self._by_address[visitor.address] -= 1
            if not self._by_address[visitor.address]:
                del self._by_address[visitor.address]

    def look_at_bodies(self) -> None:
        """Called each second: where bodies hold too much, those that are still coming are turned away, the largest
        first."""
        most = LARGEST_BODIES * self._limits().body_bytes
        held = sum(each.held_bytes for each in self._present)
        self.is_crowded = held > most
        if not self.is_crowded:
            return
        for each in sorted(filter(_is_reading, self._present), key=_held, reverse=True):
            if held <= most:
                break
            held -= each.held_bytes
            each.turn_away_body()

    def _make_room(self, newest: V) -> bool:
        """Close the oldest connection that nobody uses, for one that somebody may."""
        for each in islice(self._present, LOOKED_AT):
            if each.is_unused and each is not newest:
                each.close_unused()
                return True
        return False


def _is_reading(visitor: Visitor) -> bool:
    return visitor.is_reading_body


def _held(visitor: Visitor) -> int:
    return visitor.held_bytes


def _room() -> int:
    """How many connections leave enough of the files that this process may open."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**31 if files == resource.RLIM_INFINITY else int(files * (1 - KEPT_FREE))


@functools.lru_cache(maxsize=1024)
def _is_front(address: str, fronts: tuple[str, ...]) -> bool:
    """Whether many callers come from this address: it is this machine's or a proxy's."""
    if not address:
        return True
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return ip.is_loopback or any(ip in ipaddress.ip_network(each) for each in fronts)
