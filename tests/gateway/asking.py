"""How the gateway's tests ask: over aiohttp where only the answer counts, over a bare socket where the wire does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from tests.waiting import until

STREAMS = ("/api/chat", "/api/generate", "/v1/chat/completions", "/v1/completions")


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes
    is_whole: bool = True

    def json(self) -> Any:
        return json.loads(self.body)

    def frames(self) -> list[Any]:
        """The JSON of each line or event, `[DONE]` left out."""
        lines = (line.removeprefix(b"data: ") for line in self.body.split(b"\n"))
        return [json.loads(line) for line in lines if line and line != b"[DONE]"]

    @property
    def cache(self) -> str:
        """What the answer cache was to it: the first word of `X-Cache`."""
        return self.headers["X-Cache"].partition(";")[0]

    @property
    def text(self) -> str:
        """What the answer says, in either dialect, streamed or not."""
        is_body = b"\n" not in self.body.strip() and not self.body.startswith(b"data:")
        told = [self.json()] if is_body else self.frames()
        return "".join(map(_text, told))


def _text(frame: dict[str, Any]) -> str:
    part = (frame["choices"] or [{}])[0] if "choices" in frame else frame
    part = part.get("delta") or part.get("message") or part
    return str(part.get("content") or part.get("response") or part.get("text") or "")


def body_for(path: str, text: str, model: str = "m", **more: Any) -> dict[str, Any]:
    """A call of `path` that asks `text`."""
    asked: dict[str, Any] = {"model": model}
    if "chat" in path or "messages" in path:
        asked["messages"] = [{"role": "user", "content": text}]
        asked |= {"max_tokens": 99} if "messages" in path else {}
    elif path == "/v1/responses" or ("embed" in path and path != "/api/embeddings"):
        asked["input"] = text
    else:
        asked["prompt"] = text
    return {**asked, **more}


async def ask(url: str, path: str, text: str, *, headers: Mapping[str, str] | None = None, **more: Any) -> Reply:
    """Ask on a connection of its own; an answer that was cut comes back as far as it came."""
    connector = aiohttp.TCPConnector(force_close=True)
    asked = body_for(path, text, **more)
    async with (
        aiohttp.ClientSession(connector=connector) as http,
        http.post(url + path, json=asked, headers=headers) as reply,
    ):
        pieces: list[bytes] = []
        try:
            async for piece in reply.content.iter_any():
                pieces.append(piece)
        except aiohttp.ClientPayloadError:
            return Reply(reply.status, reply.headers, b"".join(pieces), is_whole=False)
        return Reply(reply.status, reply.headers, b"".join(pieces))


async def get(url: str, path: str, *, headers: Mapping[str, str] | None = None) -> Reply:
    async with aiohttp.ClientSession() as http, http.get(url + path, headers=headers) as reply:
        return Reply(reply.status, reply.headers, await reply.read())


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A bare connection."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def request_bytes(path: str, body: Mapping[str, Any] | bytes, headers: Mapping[str, str] | None = None) -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(raw)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + raw


async def until_queued(url: str, n: int) -> None:
    """Wait until so many calls stand in queues."""
    async with aiohttp.ClientSession() as http:

        async def queued() -> int:
            async with http.get(f"{url}/status.json") as reply:
                return sum(pool["queue_depth"] for pool in (await reply.json())["pools"])

        await until(queued, f"{n} wait", holds=lambda seen: seen == n)
