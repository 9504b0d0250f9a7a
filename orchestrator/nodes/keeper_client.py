"""Asks the keeper of a state folder over its control socket, a connection a request: a new keeper is found at once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.core.errors import HostError
from orchestrator.nodes.keeper_units import (
    LONGEST_LINE_BYTES,
    Unit,
    UnitEvent,
    UnitStatus,
    read_answer,
    read_event,
    read_statuses,
    to_line,
)

_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class About:
    """The supervisor: the code it runs, how often it has become another in its process, whether the cluster answers,
    and what it does about its workers just now."""

    build: str
    times: int
    is_ready: bool
    step: str


class KeeperClient:
    """Every method raises HostError: nobody listens, or what the keeper itself says."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def start(self, unit: Unit) -> None:
        """Have `unit` run; where it says when it is ready, it is when this returns."""
        await self._ask({"verb": "start", "unit": unit})

    async def stop(self, name: str) -> None:
        """Have no unit of this name; it has ended when this returns."""
        await self._ask({"verb": "stop", "name": name})

    async def restart(self, name: str) -> None:
        await self._ask({"verb": "restart", "name": name})

    async def list(self) -> tuple[UnitStatus, ...]:
        return read_statuses((await self._ask({"verb": "list"}))["units"])

    async def about(self) -> About:
        """Of whoever keeps the keeper. An older one knows no such question, and refuses."""
        return About(**await self._ask({"verb": "about"}))

    async def renew(self, program: str) -> None:
        """Have the supervisor become the code that this Python finds; it is about to when this returns."""
        await self._ask({"verb": "renew", "program": program})

    async def roll(self, drain_s: float) -> None:
        """Have every gateway worker succeeded by a new one; the old ones have ended when this returns."""
        await self._ask({"verb": "roll", "drain_s": drain_s})

    async def exchange_redis(self) -> None:
        """Have the cluster's own Redis followed by the program on disk, on its data; it serves when this returns."""
        await self._ask({"verb": "redis"})

    async def shutdown(self) -> None:
        """Have the keeper end with all its units; they have ended when this returns."""
        async with self._connected() as (reader, writer):
            await self._exchange(reader, writer, {"verb": "shutdown"})
            # The connection is the last thing the keeper lets go.
            await self._drained(reader)

    async def events(self) -> AsyncIterator[UnitEvent]:
        """What happens to units from now on. Raises HostError when the keeper ends."""
        async with self._connected() as (reader, writer):
            await self._exchange(reader, writer, {"verb": "events"})
            while line := await self._line(reader):
                yield read_event(line)

    async def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        async with self._connected() as (reader, writer):
            return await self._exchange(reader, writer, request)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[_Streams]:
        try:
            reader, writer = await asyncio.open_unix_connection(os.fspath(self._path), limit=LONGEST_LINE_BYTES)
        except PermissionError as why:
            raise HostError(f"{self._path} belongs to another user; ask as that one") from why
        except OSError as why:
            raise HostError(
                f"no supervisor listens on {self._path}: start one with `ollamactl up`, or name its folder with --state"
            ) from why
        try:
            yield reader, writer
        finally:
            writer.close()

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: dict[str, Any]
    ) -> dict[str, Any]:
        writer.write(to_line(request))
        return read_answer(await self._line(reader))

    async def _line(self, reader: asyncio.StreamReader) -> bytes:
        """The next whole line. Raises HostError where the keeper is gone before its end."""
        try:
            return await reader.readuntil(b"\n")
        except (ConnectionError, asyncio.IncompleteReadError) as why:
            raise HostError(f"the supervisor on {self._path} has ended") from why

    async def _drained(self, reader: asyncio.StreamReader) -> None:
        try:
            await reader.read()
        except ConnectionError:
            return  # it was killed: it has ended too
