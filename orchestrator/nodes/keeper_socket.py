"""The keeper's control socket: one line of JSON asks, one answers. Only the keeper's own user and root are heard.

`events` turns a connection into a stream of what happens, one line each. What the verbs do is the keeper's.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from orchestrator.core.errors import HostError, OrchestratorError
from orchestrator.nodes.keeper_units import (
    LONGEST_LINE_BYTES,
    Request,
    Unit,
    UnitEvent,
    UnitStatus,
    read_request,
    to_line,
)

# A subscriber that has this much unread is cut off: the keeper waits for nobody.
_UNREAD_BYTES = 2**20


class Controls(Protocol):
    """The keeper, as its socket needs it."""

    async def start(self, unit: Unit) -> None: ...
    async def stop(self, name: str) -> None: ...
    async def restart(self, name: str) -> None: ...
    def status(self) -> tuple[UnitStatus, ...]: ...
    def subscribe(self, listener: Callable[[UnitEvent], None]) -> Callable[[], None]: ...


Verb = Callable[[Request], Awaitable[dict[str, Any]]]


class ControlSocket:
    def __init__(
        self, path: Path, keeper: Controls, on_shutdown: Callable[[], None], verbs: Mapping[str, Verb] | None = None
    ) -> None:
        """`verbs`: those of who keeps the keeper."""
        self._path, self._keeper, self._on_shutdown = path, keeper, on_shutdown
        self._verbs = verbs or {}
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Listen. Raises HostError where the socket cannot be had."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Whoever holds the state folder's lock is the only keeper: a socket that lies there is a dead one's.
            self._path.unlink(missing_ok=True)
            listener.bind(os.fspath(self._path))
            self._path.chmod(0o600)  # nobody can connect before `listen`
            self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=LONGEST_LINE_BYTES)
        except OSError as why:
            listener.close()
            raise HostError(f"{self._path}: cannot listen: {why}; a shorter --state may help") from why

    async def close(self) -> None:
        """Refuse new connections and end those there are."""
        if self._server is None:
            return
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if _is_ours(writer):
                await self._talk(reader, writer)
            else:
                writer.write(to_line({"error": "this keeper belongs to another user"}))
        except (ConnectionError, asyncio.CancelledError):
            return  # the peer went, or the keeper is closing: either way there is nobody left to answer
        finally:
            self._connections.discard(task)
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await _read_line(reader, writer):
            try:
                request = read_request(line)
                if request.verb == "events":
                    await self._stream_events(reader, writer)
                    return
                if own := self._verbs.get(request.verb):
                    answer = await own(request)
                else:
                    answer = await self._answer(request.verb, request.unit, request.name)
            except OrchestratorError as why:
                answer = {"error": str(why)}
            writer.write(to_line(answer))
            await writer.drain()
            if _asks_to_end(answer):
                self._on_shutdown()

    async def _answer(self, verb: str, unit: Unit | None, name: str | None) -> dict[str, Any]:
        match verb:
            case "start" if unit is not None:
                await self._keeper.start(unit)
            case "stop" if name is not None:
                await self._keeper.stop(name)
            case "restart" if name is not None:
                await self._keeper.restart(name)
            case "list":
                return {"units": self._keeper.status()}
            case "shutdown":
                return {"shutdown": True}
            case _:
                raise HostError(
                    f"not a request to the keeper: {verb!r}; it knows start (unit), stop (name), restart (name), list, "
                    "events, shutdown"
                )
        return {}

    async def _stream_events(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Every event from now on, until the peer goes."""

        def pass_on(event: UnitEvent) -> None:
            writer.write(to_line(event))
            if writer.transport.get_write_buffer_size() > _UNREAD_BYTES:
                writer.transport.abort()

        writer.write(to_line({}))
        unsubscribe = self._keeper.subscribe(pass_on)
        try:
            while await reader.read(LONGEST_LINE_BYTES):
                continue  # there is nothing more to ask on this connection
        finally:
            unsubscribe()


def _asks_to_end(answer: dict[str, Any]) -> bool:
    return answer.get("shutdown") is True


async def _read_line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """The next line; empty at the end, and after a line that is too long to be read to its own end."""
    try:
        return await reader.readline()
    except ValueError:
        writer.write(to_line({"error": f"not a request to the keeper: longer than {LONGEST_LINE_BYTES} bytes"}))
        return b""


def _is_ours(writer: asyncio.StreamWriter) -> bool:
    """Whether the peer runs as the keeper's user, or root (SO_PEERCRED, unix(7))."""
    size = struct.calcsize("3i")
    credentials = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _, uid, _ = struct.unpack("3i", credentials)
    return uid in (os.getuid(), 0)
