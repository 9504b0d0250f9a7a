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
# So many connections, those used longest ago first, are looked at for one that nobody uses.
LOOKED_AT: Final = 64
# The large bodies of a worker may hold so many times the largest one there may be; those of one caller, a part of it.
LARGEST_BODIES: Final = 64
OF_ONE_CALLER: Final = 0.25


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

    def close_unused(self) -> None: ...


V = TypeVar("V", bound=Visitor)


class Visitors(Generic[V]):
    """The connections of one worker."""

    def __init__(self, limits: Callable[[], Limits]) -> None:
        self._limits = limits
        self._present: dict[V, None] = {}  # those used longest ago first
        self._by_address: Counter[str] = Counter()
        self._room: int | None = None  # None: what the files that this process may open leave
        self.held_bytes = 0  # by large bodies
        self._held_by: Counter[tuple[str, str]] = Counter()  # (address, ""), or ("", the key's name)

    def __len__(self) -> int:
        return len(self._present)

    def __iter__(self) -> Iterator[V]:
        return iter(self._present)

    def add(self, visitor: V) -> Refusal | None:
        """One more; why it cannot stay, if it cannot. `discard` is called for it in either case."""
        limits = self._limits()
        self._present[visitor] = None
        self._by_address[counted_as(visitor.address)] += 1
        # Asked each time: how many files a process may open is changed while it runs (prlimit).
        if len(self._present) > (_room() if self._room is None else self._room) and not self._make_room(visitor):
            return Refusal(503, "this gateway has as many connections as it can serve")
        most = limits.connections_per_address
        here = self._by_address[counted_as(visitor.address)]
        if most and here > most and not _is_front(visitor.address, limits.fronts):
            return Refusal(429, f"more than {most} connections from your address (limits.connections_per_address)")
        return None

    def used(self, visitor: V) -> None:
        """It was answered just now. The client may be about to ask on it again: others are closed before it."""
        if visitor in self._present:
            del self._present[visitor]
            self._present[visitor] = None

    def discard(self, visitor: V) -> None:
        """It has left."""
        if visitor in self._present:
            del self._present[visitor]
            whence = counted_as(visitor.address)
            self._by_address[whence] -= 1
            if not self._by_address[whence]:
                del self._by_address[whence]

    # --- what large bodies hold ---------------------------------------------------------------------------------------

    def refusal(self, address: str, caller: str, more: int) -> Refusal | None:
        """Why a large body of this caller, or without one of this address, cannot hold so many bytes more."""
        limits = self._limits()
        most = LARGEST_BODIES * limits.body_bytes
        if self._held_by[_whose(address, caller)] + more > most * OF_ONE_CALLER and (
            caller or not _is_front(address, limits.fronts)
        ):
            whose = "with this key" if caller else "from your address"
            return Refusal(429, f"too many large requests {whose} are held here at once: wait for their answers")
        if self.held_bytes + more > most:
            return Refusal(503, "too many large requests are held here at once")
        return None

    def hold(self, address: str, caller: str, more: int) -> Refusal | None:
        """Hold so many bytes more; why not, where they cannot be. `let_go` is called for what is held."""
        refusal = self.refusal(address, caller, more)
        if refusal is None:
            self.held_bytes += more
            self._held_by[_whose(address, caller)] += more
        return refusal

    def let_go(self, address: str, caller: str, less: int) -> None:
        """Hold so many bytes less."""
        self.held_bytes -= less
        whose = _whose(address, caller)
        self._held_by[whose] -= less
        if not self._held_by[whose]:
            del self._held_by[whose]

    # --- inside -------------------------------------------------------------------------------------------------------

    def _make_room(self, newest: V) -> bool:
        """Close the connection that nobody has used for longest, for one that somebody may use."""
        for each in tuple(islice(self._present, LOOKED_AT)):
            if each.is_unused and each is not newest:
                each.close_unused()
                return True
            self.used(each)  # it is in use now: who rests is looked for among the others the next time
        return False


def _whose(address: str, caller: str) -> tuple[str, str]:
    return ("", caller) if caller else (counted_as(address), "")


def _room() -> int:
    """How many connections leave enough of the files that this process may open."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**31 if files == resource.RLIM_INFINITY else int(files * (1 - KEPT_FREE))


@functools.lru_cache(maxsize=1024)
def counted_as(address: str) -> str:
    """Whose connection it is: an IPv4 address, or the IPv6 network of one caller, who has all 2**64 addresses of it.

    On the link itself many neighbours have one network: there each address is one of them.
    """
    if ":" not in address:
        return address
    ip = ipaddress.IPv6Address(address.partition("%")[0])
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return address if ip.is_link_local else str(ipaddress.ip_network(f"{ip}/64", strict=False))


@functools.lru_cache(maxsize=1024)
def _is_front(address: str, fronts: tuple[str, ...]) -> bool:
    """Whether many callers come from this address: it is this machine's or a proxy's."""
    if not address:
        return True
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return ip.is_loopback or any(ip in ipaddress.ip_network(each) for each in fronts)
