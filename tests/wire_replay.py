"""Recorded exchanges with a real Ollama, played again against an endpoint that claims to speak as one.

`load_cases` and `load_scenarios` read the recordings, `replay_config` makes a simulator that knows their answers,
`send` plays a case's request over a raw socket and keeps what came back chunk by chunk, `compare` says in sentences how
the two differ.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.wire_cases import OLDER, RECORDINGS, Case, Scenario, load_cases, load_scenarios
from tests.wire_script import REGISTRY_MODEL, replay_config

__all__ = [
    "OLDER",
    "RECORDINGS",
    "REGISTRY_MODEL",
    "Case",
    "Exchange",
    "Scenario",
    "compare",
    "load_cases",
    "load_scenarios",
    "replay_config",
    "send",
    "send_in_turn",
]

# Told after each chunk how many there are; the next one is read when it is done.
OnChunk = Callable[[int], Awaitable[None]]

# What differs each time: moments, durations, and names drawn by chance.
VOLATILE = frozenset({
    "created_at", "created", "expires_at", "modified_at", "id", "total_duration", "load_duration",
    "prompt_eval_duration", "eval_duration", "request_id", "completed_at", "item_id", "call_id",
})  # fmt: skip


@dataclass(slots=True)
class Exchange:
    """What came back, chunk by chunk. `is_whole`: it ended as its framing says. `interim`: a 100 Continue before it."""

    status: int = 0
    status_line: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    framing: str = "none"
    chunks: list[bytes] = field(default_factory=list)
    is_whole: bool = False
    interim: str = ""

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


# --- playing a case --------------------------------------------------------------------------------------------------


async def send(
    case: Case,
    base_url: str,
    *,
    headers: Mapping[str, str] | None = None,
    on_chunk: OnChunk | None = None,
    leave_after: int = 0,
) -> Exchange:
    """Send the case's request to `base_url` on a connection of its own, with `headers` beside the recorded ones.

    `leave_after`: the client closes after so many chunks.
    """
    async with _connected(base_url) as connection:
        return await _exchange(case, base_url, connection, headers or {}, on_chunk, leave_after)


async def send_in_turn(cases: Iterable[Case], base_url: str) -> list[Exchange]:
    """Send one request after the other on one connection."""
    async with _connected(base_url) as connection:
        return [await _exchange(case, base_url, connection, {}, None, 0) for case in cases]


@asynccontextmanager
async def _connected(base_url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    parts = urlsplit(base_url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):  # the other side was first
            await writer.wait_closed()


async def _exchange(
    case: Case,
    base_url: str,
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    headers: Mapping[str, str],
    on_chunk: OnChunk | None,
    leave_after: int,
) -> Exchange:
    reader, writer = connection
    head, body = _request(case, urlsplit(base_url).netloc, headers)
    writer.write(head)
    exchange = Exchange()
    if dict(case.headers).get("Expect"):
        exchange.interim = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()[0]
    writer.write(body)
    await _read(reader, exchange, case.method == "HEAD", on_chunk, leave_after)
    return exchange


def _request(case: Case, netloc: str, more: Mapping[str, str]) -> tuple[bytes, bytes]:
    given = {**dict(case.headers), **more}
    given.pop("HTTP-Version", None)
    if given.get("Host", "127.0.0.1").startswith("127.0.0.1"):
        given["Host"] = netloc
    body = case.body
    if given.get("Transfer-Encoding") == "chunked":
        given.pop("Content-Length", None)
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    elif body:
        given["Content-Length"] = str(len(body))
    version = "1.0" if case.is_http10 else "1.1"
    lines = [f"{case.method} {case.path} HTTP/{version}", *(f"{key}: {value}" for key, value in given.items())]
    return "\r\n".join([*lines, "", ""]).encode(), body


async def _read(
    reader: asyncio.StreamReader, exchange: Exchange, is_head: bool, on_chunk: OnChunk | None, leave_after: int
) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    exchange.status_line, exchange.status = head[0], int(head[0].split()[1])
    exchange.headers = [(key, value.strip()) for key, _, value in (line.partition(":") for line in head[1:] if line)]
    length = exchange.header("Content-Length")
    if is_head or exchange.status in (204, 304):
        exchange.is_whole = True
    elif exchange.header("Transfer-Encoding") == "chunked":
        exchange.framing = "chunked"
        await _read_chunks(reader, exchange, on_chunk, leave_after)
    elif length is not None:
        exchange.framing = "length"
        body = await reader.readexactly(int(length))
        exchange.chunks, exchange.is_whole = [body] if body else [], True
    else:
        exchange.framing, exchange.chunks = "close", [await reader.read()]
        exchange.is_whole = True


async def _read_chunks(
    reader: asyncio.StreamReader, exchange: Exchange, on_chunk: OnChunk | None, leave_after: int
) -> None:
    try:
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            exchange.chunks.append(await reader.readexactly(size))
            await reader.readexactly(2)
            if on_chunk is not None:
                await on_chunk(len(exchange.chunks))
            if len(exchange.chunks) == leave_after:
                return
        await reader.readexactly(2)
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return
    exchange.is_whole = True


# --- comparing -------------------------------------------------------------------------------------------------------


def compare(
    case: Case,
    exchange: Exchange,
    *,
    tolerate: Collection[str] = (),
    headers: Collection[str] = (),
    ignore: Collection[str] = (),
    frames: bool = True,
) -> list[str]:
    """How `exchange` differs from the recording, one sentence each; an empty list where it does not.

    JSON is compared with the order of its keys. Of fields in `tolerate` (and those that differ each time) only the
    kind of value is compared. `headers` may come on top of the recorded ones. `ignore` leaves out whole comparisons:
    "headers", "framing". `frames` False: chunks may be cut otherwise, only their joined content is compared.
    Chunks that the recording leaves out may be as many as they are.
    """
    differences = []
    if exchange.status != case.status:
        differences.append(f"status {exchange.status} instead of {case.status}: {exchange.body[:200]!r}")
    if exchange.is_whole != case.is_whole:
        differences.append("the answer was cut" if case.is_whole else "the answer was not cut")
    recorded_type = case.content_type
    if (exchange.header("Content-Type") or "") != recorded_type:
        differences.append(f"content type {exchange.header('Content-Type')!r} instead of {recorded_type!r}")
    if "framing" not in ignore and exchange.framing != case.framing:
        differences.append(f"framing {exchange.framing} instead of {case.framing}")
    if "headers" not in ignore:
        differences += _compare_headers(case, exchange, headers)
    differences += _compare_bodies(case, exchange, VOLATILE | set(tolerate), frames=frames)
    return differences


def _compare_headers(case: Case, exchange: Exchange, extra: Collection[str]) -> list[str]:
    allowed = {name.lower() for name in extra}
    names = [name for name, _ in exchange.headers if name.lower() not in allowed]
    recorded = [name for name, _ in case.answer_headers]
    if names != recorded:
        return [f"headers {names} instead of {recorded}"]
    fixed = set(recorded) - {"Date", "Content-Length"}
    ours = [each for each in exchange.headers if each[0] in fixed]
    theirs = [each for each in case.answer_headers if each[0] in fixed]
    return [] if ours == theirs else [f"headers {ours} instead of {theirs}"]


def _compare_bodies(case: Case, exchange: Exchange, volatile: Collection[str], *, frames: bool) -> list[str]:
    recorded, ours = list(case.chunks), _recorded_ones(case, exchange.chunks)
    if frames and len(recorded) != len(ours):
        return [f"{len(ours)} chunks instead of {len(recorded)}: {ours[-2:]!r}"]
    pairs = zip(recorded, ours, strict=True) if frames else [(b"".join(recorded), b"".join(ours))]
    found = []
    for n, (theirs, mine) in enumerate(pairs):
        found += [f"chunk {n}: {each}" for each in _compare_texts(theirs, mine, volatile)]
    return found


def _recorded_ones(case: Case, chunks: list[bytes]) -> list[bytes]:
    """Those of `chunks` that stand where the recording has some."""
    if case.omitted_at is None or len(chunks) <= len(case.chunks):
        return chunks
    return [*chunks[: case.omitted_at], *chunks[len(chunks) - len(case.chunks) + case.omitted_at :]]


def _compare_texts(theirs: bytes, mine: bytes, volatile: Collection[str]) -> list[str]:
    if theirs.endswith(b"\n") != mine.endswith(b"\n"):
        return [f"ends with {mine[-2:]!r} instead of {theirs[-2:]!r}"]
    lines, own = theirs.split(b"\n"), mine.split(b"\n")
    if len(lines) != len(own):
        return [f"{len(own)} lines instead of {len(lines)}"]
    found = []
    for line, ours in zip(lines, own, strict=True):
        if line[:1] == b"{" or line[:7] == b"data: {":
            if line[:1] != ours[:1]:
                return [f"{ours!r} instead of {line!r}"]
            try:
                given = json.loads(ours.removeprefix(b"data: "))
            except json.JSONDecodeError:
                return [f"not JSON: {ours!r}"]
            found += list(_compare_values(json.loads(line.removeprefix(b"data: ")), given, "", volatile))
        elif line != ours:
            found.append(f"{ours!r} instead of {line!r}")
    return found


def _compare_values(theirs: Any, mine: Any, path: str, volatile: Collection[str]) -> Iterable[str]:
    name = path.rpartition(".")[2]
    if _kind(theirs) != _kind(mine):
        yield f"{path or 'value'} is {mine!r} instead of {theirs!r}"
    elif name in volatile and not isinstance(theirs, dict):
        return
    elif isinstance(theirs, dict):
        if list(theirs) != list(mine):
            yield f"{path or 'keys'}: {list(mine)} instead of {list(theirs)}"
        for key in [key for key in theirs if key in mine]:
            yield from _compare_values(theirs[key], mine[key], f"{path}.{key}", volatile)
    elif isinstance(theirs, list):
        if len(theirs) != len(mine):
            yield f"{path} has {len(mine)} entries instead of {len(theirs)}"
        for n, (left, right) in enumerate(zip(theirs, mine, strict=False)):
            yield from _compare_values(left, right, f"{path}[{n}]", volatile)
    elif theirs != mine:
        yield f"{path} is {mine!r} instead of {theirs!r}"


def _kind(value: Any) -> str:
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
