"""An Ollama of the past: an instance that answers whatever it is asked by one recording, byte for byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.open_lines import OpenLines, read_request
from tests.wire_replay import Case


@dataclass(slots=True)
class RecordedInstance:
    """`answer` is what it answers to calls; its lists and descriptions are those of `cases`."""

    cases: Mapping[str, Case]
    answer: Case
    port: int = 0
    asked: int = 0
    _open: OpenLines = field(default_factory=OpenLines)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until its client closes it."""
        await self._open.serve(writer, lambda: self._exchange(reader, writer))

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head, _ = await read_request(reader)
        case = self._listed(head.split()[1])
        if case is None:
            case, self.asked = self.answer, self.asked + 1
        await _respond(writer, case)
        return True

    def close(self) -> None:
        """Cut what its clients keep open."""
        self._open.cut()

    def _listed(self, path: str) -> Case | None:
        name = {"/api/version": "version", "/api/tags": "tags", "/api/ps": "ps_two_loaded", "/api/show": "show_ok"}
        return self.cases[name[path]] if path in name else None


async def _respond(writer: asyncio.StreamWriter, case: Case) -> None:
    """Each chunk is a write of its own, as Ollama's are."""
    fields = [f"{name}: {value}" for name, value in case.answer_headers if name != "Connection"]
    is_chunked = case.framing != "length"
    if case.framing == "close":  # it was told to an HTTP/1.0 client: one line a write
        fields.append("Transfer-Encoding: chunked")
    writer.write("\r\n".join([f"HTTP/1.1 {case.status} X", *fields, "", ""]).encode())
    for chunk in case.chunks if case.framing != "close" else b"".join(case.chunks).splitlines(keepends=True):
        writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if is_chunked else chunk)
        await writer.drain()
        await asyncio.sleep(0)  # the event loop may join what is written within one turn
    if is_chunked:
        writer.write(b"0\r\n\r\n")
    await writer.drain()


@asynccontextmanager
async def recorded_instance(cases: Mapping[str, Case]) -> AsyncIterator[RecordedInstance]:
    """It listens until the end."""
    instance = RecordedInstance(cases, cases["generate_nonstream"])
    server = await asyncio.start_server(instance.serve, "127.0.0.1", 0)
    instance.port = server.sockets[0].getsockname()[1]
    async with server:
        try:
            yield instance
        finally:
            instance.close()
