"""The endpoint's address: chosen, checked, and kept for the gateway workers that share it.

Each worker accepts on a socket of its own (SO_REUSEPORT: the kernel spreads connections over them), and the supervisor
has that socket open as well: whoever has connected and was not accepted yet waits in it for the worker's next life.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping
from types import TracebackType

from orchestrator.core.address import address_text
from orchestrator.core.errors import HostError, SettingsError
from orchestrator.settings.syntax import host_and_port

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 11434
PORTS_TRIED = 100


# Connections that may wait for their worker; the kernel allows net.core.somaxconn of them, 4096 by default.
BACKLOG = 4096


class Listeners:
    """`with Listeners(reserved) as listeners:` has a socket for each name asked for, until its end."""

    def __init__(self, reserved: socket.socket, handed: Mapping[str, int] | None = None) -> None:
        """`handed`: descriptors of sockets that the program before this one in the same process had made."""
        self._reserved = reserved
        self._sockets = {name: taken_over(number) for name, number in (handed or {}).items()}

    def __enter__(self) -> Listeners:
        return self

    def __exit__(self, kind: type[BaseException] | None, why: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def address(self) -> str:
        return address_of(self._reserved)

    def descriptor(self, name: str) -> int:
        """Of a socket that accepts connections at the address, for one process to accept them. Raises HostError."""
        if name not in self._sockets:
            host, port = self._reserved.getsockname()[:2]
            try:
                made = _shared(self._reserved.family, host, port)
                made.listen(BACKLOG)
            except OSError as why:
                raise HostError(f"cannot listen on {self.address} once more: {why.strerror}") from why
            self._sockets[name] = made
        return self._sockets[name].fileno()

    def drop(self, name: str) -> None:
        """Nobody accepts on it for a while: what waits in it is reset, and new connections go to the others."""
        if found := self._sockets.pop(name, None):
            found.close()

    def drop_all(self) -> None:
        """Whoever comes from now on is refused, as soon as no worker accepts any more; the address stays reserved."""
        for name in tuple(self._sockets):
            self.drop(name)

    def hand_over(self) -> tuple[int, dict[str, int]]:
        """The descriptors, open beyond an execve(2): of what keeps the address, and of each socket."""
        for each in (self._reserved, *self._sockets.values()):
            each.set_inheritable(True)
        return self._reserved.fileno(), {name: each.fileno() for name, each in self._sockets.items()}

    def close(self) -> None:
        for each in (self._reserved, *self._sockets.values()):
            each.close()


def taken_over(descriptor: int) -> socket.socket:
    """A socket that was handed over, for this program and those that it is given to by number."""
    os.set_inheritable(descriptor, False)
    return socket.socket(fileno=descriptor)


def reserve(listen: str | None) -> socket.socket:
    """A socket bound to the endpoint's address that keeps others off it; workers bind beside it (SO_REUSEPORT).

    Without `listen`: 127.0.0.1:11434, Ollama's own, or the next free port. Raises HostError where a given address
    cannot be had, saying why.
    """
    if listen is not None:
        try:
            host, port = host_and_port(listen)
        except ValueError as why:
            raise SettingsError(f"listen: {why}") from why
        return _bind(host, port)
    for port in range(DEFAULT_PORT, DEFAULT_PORT + PORTS_TRIED):
        try:
            return _bind(DEFAULT_HOST, port)
        except _InUseError:
            continue
    raise HostError(f"no free port from {DEFAULT_PORT} to {DEFAULT_PORT + PORTS_TRIED - 1}; name one with --listen")


class _InUseError(HostError):
    """Another process has the address."""


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    where = address_text(host, port)
    try:
        # Without SO_REUSEPORT first: with it, a stranger's listener on the same port would go unnoticed.
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            port = probe.getsockname()[1]
            probe.listen(1)
        kept = _shared(family, host, port)
    except socket.gaierror as why:
        raise HostError(f"cannot listen on {where}: {why}; name an address of this machine") from why
    except OSError as why:
        if why.errno == errno.EADDRINUSE:
            raise _InUseError(
                f"cannot listen on {where}: in use by another process; name another with --listen"
            ) from why
        if why.errno == errno.EACCES:
            raise HostError(
                f"cannot listen on {where}: ports below 1024 need root; name another with --listen"
            ) from why
        raise HostError(f"cannot listen on {where}: {why.strerror}; name an address of this machine") from why
    return kept


def _shared(family: int, host: str, port: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind((host, port))
    except BaseException:
        made.close()
        raise
    return made


def address_of(bound: socket.socket) -> str:
    """`host:port` of a reserved socket, as a URL spells it."""
    return address_text(*bound.getsockname()[:2])
