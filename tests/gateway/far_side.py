"""A provider under a test's hand: a real HTTPS server on loopback that speaks OpenAI's chat completions, strictly.

It is no provider and its answers are no model's: it says fixed words, refuses every field that OpenAI's reference does
not have, and writes down what it was asked. What it does is said by the first word of the question, or by `does`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
import trustme

from tests.open_lines import OpenLines, read_request
from tests.waiting import until

KEY = "sk-far-0123456789abcdef"
MODEL = "far-8b"
WORDS = ("one ", "two ", "three")
USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 9,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 16},
    "completion_tokens_details": {"reasoning_tokens": 4},
}
_FIELDS = frozenset({
    *("model", "messages", "stream", "stream_options", "temperature", "top_p", "presence_penalty", "frequency_penalty"),
    *("stop", "seed", "max_tokens", "max_completion_tokens", "n", "logprobs", "top_logprobs", "logit_bias", "user"),
    *("tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort", "metadata", "store"),
})  # fmt: skip
_OF_MESSAGES = frozenset({"role", "content", "name", "tool_calls", "tool_call_id"})
_HEAD = {"id": "chatcmpl-far", "created": 1760000000, "model": MODEL}


@dataclass(slots=True)
class Heard:
    """One request: its line, its headers in small letters, its body."""

    line: str
    headers: dict[str, str]
    body: Any


@dataclass(slots=True)
class FarSide:
    """`does`: what every request meets. `says`: headers of every answer."""

    ca: trustme.CA = field(default_factory=trustme.CA)
    does: str = ""
    says: dict[str, str] = field(default_factory=dict)
    models: tuple[str, ...] = (MODEL, "far-70b")
    port: int = 0
    connections: int = 0
    heard: list[Heard] = field(default_factory=list)
    left: int = 0  # connections that ended while an answer was under way
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    _server: asyncio.Server | None = None
    _open: OpenLines = field(default_factory=OpenLines)

    async def start(self, name: str = "localhost", *, is_tls: bool = True) -> None:
        """Listen, with a certificate for `name`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["h2", "http/1.1"])
        self.ca.issue_cert(name).configure_cert(context)
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=context if is_tls else None, limit=2**24
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.hang_up()
        await self._server.wait_closed()

    def hang_up(self) -> None:
        """End every connection, as a balancer does with idle ones."""
        self._open.cut()

    @property
    def bodies(self) -> list[Any]:
        return [each.body for each in self.heard]

    async def until_left(self, count: int) -> None:
        """Wait until so many callers have gone in the middle of an answer."""
        await until(lambda: self.left >= count)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._open.serve(writer, lambda: self._exchange(reader, writer))
        finally:
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head, raw = await read_request(reader)
        line, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)}
        heard = Heard(line, headers, orjson.loads(raw) if raw else None)
        self.heard.append(heard)
        refusal = self._refusal(heard)
        if refusal is not None:
            self._write(writer, *refusal)
        elif heard.line.startswith("GET "):
            self._write(writer, 200, {"object": "list", "data": [{"id": each} for each in self.models]})
        else:
            await _BEHAVIOURS.get(self.does or _question(heard.body).split(" ")[0], _answer)(self, heard, writer)
        await writer.drain()
        return not writer.transport.is_closing()

    def _refusal(self, heard: Heard) -> tuple[int, Any] | None:
        if heard.headers.get("authorization") != f"Bearer {KEY}":
            return 401, _error(f"Incorrect API key provided: {heard.headers.get('authorization')}", "invalid_api_key")
        if heard.line == "GET /v1/models HTTP/1.1":
            return None
        if heard.line != "POST /v1/chat/completions HTTP/1.1":
            return 404, _error(f"Unknown request URL: {heard.line}")
        unknown = [*(heard.body.keys() - _FIELDS)]
        unknown += [f"messages.{name}" for each in heard.body["messages"] for name in each.keys() - _OF_MESSAGES]
        if unknown:
            return 400, _error(f"Unrecognized request argument supplied: {unknown[0]}")
        if heard.body["model"] not in self.models:
            return 404, _error(f"The model `{heard.body['model']}` does not exist", "model_not_found")
        return None

    def _write(self, writer: asyncio.StreamWriter, status: int, body: Any, **more: str) -> None:
        raw = orjson.dumps(body)
        told = {"Content-Type": "application/json", "Content-Length": str(len(raw)), **self.says, **more}
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in told.items())
        writer.write(f"HTTP/1.1 {status} Said\r\n{head}\r\n".encode() + raw)

    def begin(self, writer: asyncio.StreamWriter) -> None:
        told = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked", **self.says}
        head = "".join(f"{name}: {value}\r\n" for name, value in told.items())
        writer.write(f"HTTP/1.1 200 OK\r\n{head}\r\n".encode())

    def chunk(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(b"%x\r\n%b\r\n" % (len(data), data))

    def event(
        self, writer: asyncio.StreamWriter, part: dict[str, Any], finish: str | None = None, logprobs: Any = None
    ) -> None:
        choice = {"index": 0, "delta": part, "finish_reason": finish, "logprobs": logprobs}
        frame = {**_HEAD, "object": "chat.completion.chunk", "choices": [choice]}
        self.chunk(writer, b"data: " + orjson.dumps(frame) + b"\n\n")

    def end(self, writer: asyncio.StreamWriter, body: Any) -> None:
        if (body.get("stream_options") or {}).get("include_usage"):
            frame = {**_HEAD, "object": "chat.completion.chunk", "choices": [], "usage": USAGE}
            self.chunk(writer, b"data: " + orjson.dumps(frame) + b"\n\n")
        self.chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")


def _question(body: Any) -> str:
    content = body["messages"][-1].get("content") or ""
    return content if isinstance(content, str) else content[0]["text"]


def _error(message: str, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}


# --- what it can do --------------------------------------------------------------------------------------------------


async def _say(here: FarSide, heard: Heard, writer: asyncio.StreamWriter, message: dict[str, Any], finish: str) -> None:
    if not heard.body.get("stream"):
        choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
        here._write(writer, 200, {**_HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE})
        return
    here.begin(writer)
    for name, value in message.items():
        for part in WORDS if value == "".join(WORDS) else (value,):
            here.event(writer, {"role": "assistant", name: part})
    here.event(writer, {}, finish)
    here.end(writer, heard.body)


async def _answer(here: FarSide, heard: Heard, writer: asyncio.StreamWriter) -> None:
    await _say(here, heard, writer, {"content": "".join(WORDS)}, "stop")


async def _think(here: FarSide, heard: Heard, writer: asyncio.StreamWriter) -> None:
    await _say(here, heard, writer, {"reasoning_content": "hm", "content": "".join(WORDS)}, "stop")


async def _call_tool(here: FarSide, heard: Heard, writer: asyncio.StreamWriter) -> None:
    function = {"name": "weather", "arguments": '{"city": "Ankara"}'}
    call = {"index": 0, "id": "call_far", "type": "function", "function": function}
    await _say(here, heard, writer, {"content": None, "tool_calls": [call]}, "tool_calls")


async def _refuse(here: FarSide, heard: Heard, writer: asyncio.StreamWriter) -> None:
    await _say(here, heard, writer, {"content": "I'm sorry, but I can't help with that."}, "stop")


async def _doubt(here: FarSide, heard: Heard, writer: asyncio.StreamWriter) -> None:
    """Words of which it is not sure, and says so to who asks."""
    told = [{"token": each, "logprob": -4.0, "bytes": None, "top_logprobs": []} for each in WORDS]
    is_asked = bool(heard.body.get("logprobs"))
    if not heard.body.get("stream"):
        choice = {"index": 0, "message": {"role": "assistant", "content": "".join(WORDS)}, "finish_reason": "stop"}
        choice |= {"logprobs": {"content": told}} if is_asked else {}
        here._write(writer, 200, {**_HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE})
        return
    here.begin(writer)
    for each in told:
        here.event(writer, {"content": each["token"]}, logprobs={"content": [each]} if is_asked else None)
    here.event(writer, {}, "stop")
    here.end(writer, heard.body)


async def _busy(here: FarSide, heard: Heard, writer: asyncio.StreamWriter) -> None:
    here._write(writer, 429, _error("slow down"), Retry_After="7")


async def _wrong(here: FarSide, heard: Heard, writer: asyncio.StreamWriter) -> None:
    here._write(writer, 400, _error(f"temperature is too high, says the key {KEY}"))


async def _down(here: FarSide, heard: Heard, writer: asyncio.StreamWriter) -> None:
    here._write(writer, 503, _error("overloaded"))


async def _cut(here: FarSide, heard: Heard, writer: asyncio.StreamWriter) -> None:
    here.begin(writer)
    here.event(writer, {"content": "one "})
    await writer.drain()
    await here.gate.wait()
    writer.transport.abort()


async def _say_no_done(here: FarSide, heard: Heard, writer: asyncio.StreamWriter) -> None:
    """A whole stream that ends without `[DONE]`."""
    here.begin(writer)
    for part in WORDS:
        here.event(writer, {"content": part})
    here.event(writer, {}, "stop")
    writer.write(b"0\r\n\r\n")


async def _hang(here: FarSide, heard: Heard, writer: asyncio.StreamWriter) -> None:
    """An answer without an end, until who asked has gone."""
    here.begin(writer)
    try:
        while not writer.transport.is_closing():
            here.event(writer, {"content": "and "})
            await writer.drain()
            await asyncio.sleep(0.01)
    finally:
        here.left += 1


_BEHAVIOURS: dict[str, Callable[[FarSide, Heard, asyncio.StreamWriter], Awaitable[None]]] = {
    "think": _think,
    "tool": _call_tool,
    "sorry": _refuse,
    "unsure": _doubt,
    "busy": _busy,
    "wrong": _wrong,
    "too-long": _wrong,  # an instance answers this, cut at its length
    "down": _down,
    "cut": _cut,
    "endless": _hang,
    "undone": _say_no_done,
}


@asynccontextmanager
async def far_side(**more: Any) -> AsyncIterator[FarSide]:
    """One that listens, and is gone at the end."""
    name, is_tls = more.pop("name", "localhost"), more.pop("is_tls", True)
    here = FarSide(**more)
    await here.start(name, is_tls=is_tls)
    try:
        yield here
    finally:
        await here.stop()
