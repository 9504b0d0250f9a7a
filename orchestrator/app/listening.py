"""The endpoint's address: chosen, checked, and kept for the gateway workers that share it."""

from __future__ import annotations

import errno
import socket

from orchestrator.core.errors import HostError, SettingsError
from orchestrator.settings.syntax import host_and_port

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 11434
PORTS_TRIED = 100


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
    try:
        # Without SO_REUSEPORT first: with it, a stranger's listener on the same port would go unnoticed.
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            port = probe.getsockname()[1]
            probe.listen(1)
        kept = socket.socket(family, socket.SOCK_STREAM)
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        kept.bind((host, port))
    except socket.gaierror as why:
        raise HostError(f"cannot listen on {host}:{port}: {why}; name an address of this machine") from why
    except OSError as why:
        if why.errno == errno.EADDRINUSE:
            raise _InUseError(
                f"cannot listen on {host}:{port}: in use by another process; name another with --listen"
            ) from why
        if why.errno == errno.EACCES:
            raise HostError(
                f"cannot listen on {host}:{port}: ports below 1024 need root; name another with --listen"
            ) from why
        raise HostError(f"cannot listen on {host}:{port}: {why.strerror}; name an address of this machine") from why
    return kept


def address_of(bound: socket.socket) -> str:
    """`host:port` of a reserved socket, as a URL spells it."""
    host, port = bound.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
