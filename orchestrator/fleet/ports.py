"""Ports for instances: one that is free as far as can be told, and whether it is our process that listens on it.

On a host that is reached over SSH nobody looks before an instance is started: one whose port is taken ends, and gets
another.
"""

from __future__ import annotations

import random
import socket
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

import psutil

from orchestrator.core.errors import HostError

# Below the range that outgoing connections take theirs from (ip(7)): while an instance is down, none of them can land
# on its port, and a client that keeps trying to reach it cannot be connected to itself.
_OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")
_OUTGOING_FIRST = 32_768
_WIDTH, _LOWEST = 12_000, 1024
_TRIES = 200


class Ports:
    """Those of the instances of one controller, by the address that they listen on."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._taken: defaultdict[str, set[int]] = defaultdict(set)

    def take(self, host: str, among: tuple[int, int] | None, not_these: Collection[int] = ()) -> int:
        """A port for one more: `among` the first and the last, or, on this machine, one that is free now.

        Raises HostError.
        """
        taken = self._taken[host] | set(not_these)
        port = free_port(taken, self._rng) if among is None else _drawn(host, among, taken, self._rng)
        self.keep(host, port)
        return port

    def keep(self, host: str, port: int) -> None:
        """It is an instance's already."""
        if port:
            self._taken[host].add(port)

    def forget(self, host: str, port: int) -> None:
        self._taken[host].discard(port)


def _drawn(host: str, among: tuple[int, int], taken: Collection[int], rng: random.Random) -> int:
    """Any of those left, not the next: what took one that was tried may still have it."""
    left = sorted(set(range(among[0], among[1] + 1)) - set(taken))
    if not left:
        raise HostError(f"{host}: all ports from {among[0]} to {among[1]} are taken; widen `deploy.ports`")
    return rng.choice(left)


def free_port(taken: Collection[int], rng: random.Random) -> int:
    """A loopback port that nobody has now, and none of `taken`. Raises HostError."""
    last = _first_outgoing() - 1
    first = max(_LOWEST, last - _WIDTH)
    if last - first < len(taken) + _TRIES:  # a machine that uses almost every port for outgoing connections
        first, last = _LOWEST, 65_535
    for _ in range(_TRIES):
        port = rng.randint(first, last)
        if port not in taken and _is_free(port):
            return port
    raise HostError(f"no free port from {first} to {last} on 127.0.0.1 in {_TRIES} tries; `ss -tln` lists who listens")


def listens(pid: int, port: int) -> bool:
    """Whether `pid`, or a process it started, listens on `port`. Blocks. True where the system does not tell."""
    try:
        leader = psutil.Process(pid)
        family = [leader, *leader.children(recursive=True)]
    except psutil.NoSuchProcess:
        return False
    try:
        return any(_listens(each, port) for each in family)
    except psutil.AccessDenied:
        return True


def _listens(process: psutil.Process, port: int) -> bool:
    try:
        open_now = process.net_connections(kind="tcp")
    except psutil.NoSuchProcess:
        return False
    return any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in open_now)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _first_outgoing() -> int:
    try:
        return int(_OUTGOING.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _OUTGOING_FIRST
