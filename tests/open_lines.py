"""Connections of a server that a test plays: one exchange after the other, and cut as if the server was killed."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable


class OpenLines:
    """Those that are open."""

    def __init__(self) -> None:
        self._open: set[asyncio.StreamWriter] = set()

    async def serve(self, writer: asyncio.StreamWriter, exchange: Callable[[], Awaitable[bool]]) -> None:
        """One connection, until `exchange` says that it was the last one, or its client leaves."""
        self._open.add(writer)
        try:
            while await exchange():
                pass
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass  # its client has left
        finally:
            self._open.discard(writer)
            writer.close()

    def cut(self) -> None:
        """Every one is reset."""
        for each in tuple(self._open):
            each.transport.abort()


async def read_request(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    """The next request: its line and headers, and its body, which has a length where there is one.

    Raises IncompleteReadError where there is no more.
    """
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    lengths = [int(line[15:]) for line in head.splitlines() if line.lower().startswith("content-length:")]
    return head, await reader.readexactly(lengths[0] if lengths else 0)
