"""An instance that fails in every way and says with each what it was asked: what a gateway must not repeat in a log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import orjson

from tests.open_lines import OpenLines, read_request


@dataclass(slots=True)
class Echo:
    """`does`: how it fails, one of `WAYS`."""

    port: int = 0
    does: str = "500"
    asked: int = 0
    _open: OpenLines = field(default_factory=OpenLines)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._open.serve(writer, lambda: self._fail(reader, writer))

    async def _fail(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        _, body = await read_request(reader)
        self.asked += 1
        await WAYS[self.does](writer, body)
        await writer.drain()
        return True

    def cut(self) -> None:
        self._open.cut()


Way = Callable[[asyncio.StreamWriter, bytes], Awaitable[None]]


def _status(status: int, kind: str = "error") -> Way:
    async def respond(writer: asyncio.StreamWriter, body: bytes) -> None:
        said = orjson.dumps({kind: f"CUDA error: out of memory, at prompt: {body.decode()}"})
        _whole(writer, status, said)

    return respond


async def _no_json(writer: asyncio.StreamWriter, body: bytes) -> None:
    _whole(writer, 200, b"<html>" + body)


async def _no_http(writer: asyncio.StreamWriter, body: bytes) -> None:
    writer.write(body + b"\r\n\r\n" + body)
    await writer.drain()
    writer.close()


async def _odd_head(writer: asyncio.StreamWriter, body: bytes) -> None:
    line = body.replace(b"\n", b" ")
    writer.write(b"HTTP/1.1 500 " + line + b"\r\nX-Prompt: " + line + b"\r\nContent-Length: 2\r\n\r\n{}")


async def _begin(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")


def _chunk(writer: asyncio.StreamWriter, said: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(said), said))


async def _error_first(writer: asyncio.StreamWriter, body: bytes) -> None:
    await _begin(writer)
    _chunk(writer, orjson.dumps({"error": body.decode()}) + b"\n")
    writer.write(b"0\r\n\r\n")


async def _error_midway(writer: asyncio.StreamWriter, body: bytes) -> None:
    await _begin(writer)
    frame = {"model": "m", "created_at": "2026-01-01T00:00:00Z", "done": False}
    _chunk(writer, orjson.dumps({**frame, "message": {"role": "assistant", "content": body.decode()}}) + b"\n")
    _chunk(writer, orjson.dumps({"error": body.decode()}) + b"\n")
    writer.write(b"0\r\n\r\n")


async def _cut_midway(writer: asyncio.StreamWriter, body: bytes) -> None:
    await _begin(writer)
    frame = {"model": "m", "created_at": "2026-01-01T00:00:00Z", "done": False}
    _chunk(writer, orjson.dumps({**frame, "message": {"role": "assistant", "content": body.decode()}}) + b"\n")
    await writer.drain()
    writer.close()


async def _spoiled_midway(writer: asyncio.StreamWriter, body: bytes) -> None:
    await _begin(writer)
    _chunk(writer, b'{"model":"m","message":{"role":"assistant","content":"a"},"done":false}\n')
    writer.write(b"zz " + body + b"\r\n")


def _whole(writer: asyncio.StreamWriter, status: int, said: bytes) -> None:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(said)}\r\n\r\n"
    writer.write(head.encode() + said)


WAYS: Final[dict[str, Way]] = {
    "500": _status(500),
    "503": _status(503),
    "404": _status(404),
    "429": _status(429),
    "400": _status(400),
    "callers-500": _status(500, "invalid format"),
    "odd-json": _status(200),
    "no-json": _no_json,
    "no-http": _no_http,
    "odd-head": _odd_head,
    "error-first": _error_first,
    "error-midway": _error_midway,
    "cut-midway": _cut_midway,
    "spoiled-midway": _spoiled_midway,
}


@asynccontextmanager
async def echoing() -> AsyncIterator[Echo]:
    """One of them, gone at the end."""
    here = Echo()
    server = await asyncio.start_server(here.serve, "127.0.0.1", 0, limit=2**24)
    here.port = server.sockets[0].getsockname()[1]
    try:
        yield here
    finally:
        server.close()
        here.cut()
        await server.wait_closed()
