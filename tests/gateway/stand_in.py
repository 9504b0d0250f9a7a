"""An instance under a test's hand: it speaks Ollama's API over a real socket, and stalls, cuts and refuses on demand.

What it does with a request is said by the first word of the question, or by `does` for all of them. It counts how many
requests it works on at once, which is what a gateway must keep within the slots.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import orjson

from orchestrator.core.dialects.frames import Stats, body_type, content_frame, final_frame, head_of, stream_type
from orchestrator.core.dialects.parse import parse_call, turns
from orchestrator.core.dialects.render import render_body
from orchestrator.core.dialects.streams import open_stream
from orchestrator.core.dialects.vectors import embeddings_body
from orchestrator.core.model import Answer, Call, Dialect, Endpoint, Finish, ToolCall
from tests.open_lines import OpenLines, read_request
from tests.ports import free_port
from tests.waiting import WITHIN_S, until

BULKY_FRAMES = 4000
WORDS = ("one ", "two ", "three")

T = TypeVar("T", bound="StandIn")


@dataclass(slots=True)
class Asked:
    """One request on its connection."""

    call: Call
    text: str
    body: dict[str, Any]
    writer: asyncio.StreamWriter


@dataclass(slots=True)
class StandIn:
    """`does`: what every request meets, in place of what its question says. `gate` holds those that wait for it."""

    port: int = 0
    host: str = "127.0.0.1"
    does: str = ""
    active: int = 0
    most: int = 0
    connections: int = 0
    asked: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    written: int = 0
    whole: int = 0  # streams that waited midway and came to their end
    _server: asyncio.Server | None = None
    _open: OpenLines = field(default_factory=OpenLines)

    async def start(self) -> None:
        self.port = self.port or free_port()  # its own also while it is stopped
        self._server = await asyncio.start_server(self._serve, self.host, self.port, limit=2**24)

    async def stop(self) -> None:
        """As if it was killed: nobody listens, every connection is reset."""
        if self._server is not None:
            self._server.close()
            self._open.cut()
            await self._server.wait_closed()
            self._server = None

    async def until(self, active: int) -> None:
        """Wait until it works on so many requests."""
        await until(lambda: self.active == active)

    async def until_still(self) -> None:
        """Wait until nothing more can be written: every buffer behind this is full."""
        async with asyncio.timeout(WITHIN_S):
            before = -1
            while before != self.written:
                before = self.written
                await asyncio.sleep(0.3)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await self._open.serve(writer, lambda: self._exchange(reader, writer))

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head, raw = await read_request(reader)
        call = parse_call(Endpoint(head.split()[1]), raw)
        asked = Asked(call, turns(call)[-1].text, orjson.loads(raw), writer)
        self.asked.append(asked.text)
        self.bodies.append(asked.body)
        self.heads.append(head)
        self.active += 1
        self.most = max(self.most, self.active)
        work = asyncio.ensure_future(self._behave(asked))
        gone = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.active -= 1
            for each in (work, gone):
                each.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
        return not work.cancelled() and work.exception() is None and not writer.transport.is_closing()

    async def _behave(self, asked: Asked) -> None:
        word = self.does or asked.text.split(" ")[0]
        if word.startswith("once "):  # it is well again for who asks to go on
            word = "" if _behind(asked.call, WORDS)[0] else word.removeprefix("once ")
        await _BEHAVIOURS.get(word, _answer)(self, asked)


# --- what it can do --------------------------------------------------------------------------------------------------


async def _answer(here: StandIn, asked: Asked) -> None:
    if asked.call.endpoint.is_embedding:
        await _respond(asked, 200, *embeddings_body(asked.call, asked.call.model, [(0.0, 1.0)], Stats(prompt_tokens=7)))
    elif asked.call.is_stream:
        await _stream_head(asked)
        for frame in frames(asked.call):
            await _chunk(here, asked, frame)
        asked.writer.write(b"0\r\n\r\n")
    else:
        answer = Answer("".join(WORDS), prompt_tokens=7, completion_tokens=3)
        body = render_body(asked.call, asked.call.model, answer, datetime.now(UTC))[1]
        await _respond(asked, 200, body_type(asked.call.endpoint), body)
    await asked.writer.drain()


def frames(call: Call, words: Sequence[str] = WORDS) -> list[bytes]:
    """The stream of an answer, as Ollama writes it; of one that the caller has begun, the rest."""
    now = datetime.now(UTC)
    head = head_of(call, call.model, now)
    stream = open_stream(head)
    before, words = _behind(call, words)
    told = [frame for word in words for frame in stream.content(now, text=word)]
    stats = Stats(total_ns=9, prompt_tokens=7 + before, completion_tokens=3 - before)
    return [*told, *stream.end(now, "stop", stats)]


def _behind(call: Call, words: Sequence[str]) -> tuple[int, list[str]]:
    """How many words the caller has begun the answer with, and those behind them."""
    said = turns(call)
    raw = bool(call.body.get("raw")) and said[-1].text.find(words[0])
    begun = said[-1].text if said[-1].role == "assistant" else said[-1].text[raw:] if raw and raw > 0 else ""
    left, before = list(words), 0
    while begun and left and begun.startswith(left[0]):
        begun, before = begun.removeprefix(left.pop(0)), before + 1
    if begun and left and left[0].startswith(begun):  # within a word
        left[0], before = left[0].removeprefix(begun), before + 1
    return before, left


async def _when_told(here: StandIn, asked: Asked) -> None:
    await here.gate.wait()
    await _answer(here, asked)


async def _close_after(here: StandIn, asked: Asked) -> None:
    await _answer(here, asked)
    asked.writer.close()


async def _die(here: StandIn, asked: Asked) -> None:
    asked.writer.transport.abort()


async def _begin(here: StandIn, asked: Asked, words: int = 2) -> None:
    await _stream_head(asked)
    before = 2 if asked.call.endpoint is Endpoint.ANTHROPIC_MESSAGES else 0  # events that say nothing yet
    for frame in frames(asked.call)[: before + words]:
        await _chunk(here, asked, frame)


async def _cut(here: StandIn, asked: Asked) -> None:
    await _begin(here, asked)
    await asyncio.sleep(0)
    asked.writer.close()


async def _cut_behind_one(here: StandIn, asked: Asked) -> None:
    await _begin(here, asked, 1)
    asked.writer.close()


async def _die_midway(here: StandIn, asked: Asked) -> None:
    await _begin(here, asked)
    asked.writer.transport.abort()


async def _runner_dies(here: StandIn, asked: Asked) -> None:
    """As Ollama ends a stream whose runner was killed (OLLAMA.md 1.3)."""
    await _begin(here, asked)
    error = {"error": "an error was encountered while running the model: unexpected EOF"}
    if asked.call.endpoint.dialect is Dialect.OLLAMA:
        await _chunk(here, asked, orjson.dumps(error) + b"\n")
    asked.writer.write(b"0\r\n\r\n")


async def _repeat(here: StandIn, asked: Asked) -> None:
    """As Ollama ends a stream whose model says the same again and again (OLLAMA.md 1.4)."""
    await _stream_head(asked)
    for frame in frames(asked.call, [" no"] * 32)[:31]:
        await _chunk(here, asked, frame)
    asked.writer.write(b"0\r\n\r\n")


async def _cut_within(here: StandIn, asked: Asked) -> None:
    """Killed in the middle of a write: the third frame has no end."""
    await _begin(here, asked)
    await _chunk(here, asked, _third(asked.call)[:-5])
    asked.writer.close()


async def _cut_between_lines(here: StandIn, asked: Asked) -> None:
    """Of the third event only the blank line behind it is missing."""
    await _begin(here, asked)
    await _chunk(here, asked, _third(asked.call).rstrip(b"\n") + b"\n")
    asked.writer.close()


def _third(call: Call) -> bytes:
    """The frame behind the two words that were said."""
    return frames(call)[4 if call.endpoint is Endpoint.ANTHROPIC_MESSAGES else 2]


def _garble(
    wrong: Callable[[bytes], bytes], *, words: int = 2, cuts: int = 1, is_glued: bool = False, ends: bool = False
) -> Callable[[StandIn, Asked], Awaitable[None]]:
    """The frame behind so many words is not as it should be, and all others are.

    It comes once `gate` is open, in so many chunks; `is_glued`: in one with the frame before it. `ends`: the stream is
    over, and the connection goes on.
    """

    async def garble(here: StandIn, asked: Asked) -> None:
        told = frames(asked.call)
        if asked.call.endpoint is Endpoint.ANTHROPIC_MESSAGES and words:
            told[:3] = [b"".join(told[:3])]  # events that say nothing yet
        await _stream_head(asked)
        for each in told[: words - is_glued]:
            await _chunk(here, asked, each)
        if words:
            await here.gate.wait()
        data = b"".join(told[words - is_glued : words]) + wrong(told[words])
        size = -(-len(data) // cuts)
        for at in range(0, len(data), size):
            await _chunk(here, asked, data[at : at + size])
            await asyncio.sleep(0.005 if cuts > 1 else 0)
        for each in [] if ends else told[words + 1 :]:
            await _chunk(here, asked, each)
        asked.writer.write(b"0\r\n\r\n")
        await asked.writer.drain()

    return garble


def _half(frame: bytes) -> bytes:
    """Cut, and ended as if it were whole."""
    end = frame[len(frame.rstrip()) :]
    return frame[: len(frame) // 2] + end


def _no_frame(frame: bytes) -> bytes:
    return b"upstream request timeout" + frame[len(frame.rstrip()) :]


def _bare_quote(frame: bytes) -> bytes:
    return frame.replace(b"thr", b't"hr')


def _no_utf8(frame: bytes) -> bytes:
    return frame.replace(b"t", b"\xff")


def _zeros(frame: bytes) -> bytes:
    """As of a file that was never written."""
    return bytes(len(frame.rstrip())) + frame[len(frame.rstrip()) :]


def _garbled_body(body: bytes) -> Callable[[StandIn, Asked], Awaitable[None]]:
    async def respond(here: StandIn, asked: Asked) -> None:
        await _respond(asked, 200, body_type(asked.call.endpoint), body)

    return respond


def _odd(**told: Any) -> Callable[[StandIn, Asked], Awaitable[None]]:
    """A whole answer of OpenAI's chat that tells its finish, or its tokens, as what is neither a word nor a number."""
    finish, tokens = told.get("finish", "stop"), told.get("tokens", 3)
    usage = {"prompt_tokens": tokens, "completion_tokens": tokens, "total_tokens": 9}

    async def respond(here: StandIn, asked: Asked) -> None:
        message = {"role": "assistant", "content": "".join(WORDS)}
        if not asked.call.is_stream:
            body = {"choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": usage}
            await _respond(asked, 200, body_type(asked.call.endpoint), orjson.dumps(body))
            return
        await _stream_head(asked)
        for frame in (
            {"choices": [{"index": 0, "delta": message, "finish_reason": None}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}], "usage": usage},
        ):
            await _chunk(here, asked, b"data: %b\n\n" % orjson.dumps(frame))
        await _chunk(here, asked, b"data: [DONE]\n\n")
        asked.writer.write(b"0\r\n\r\n")
        await asked.writer.drain()

    return respond


async def _end_early(here: StandIn, asked: Asked) -> None:
    """As Ollama does where a model repeats itself, or its runner dies under /v1: a clean end without a last frame."""
    await _begin(here, asked)
    asked.writer.write(b"0\r\n\r\n")


async def _hang(here: StandIn, asked: Asked) -> None:
    await asyncio.Event().wait()


async def _hang_midway(here: StandIn, asked: Asked) -> None:
    await _begin(here, asked)
    await asyncio.Event().wait()


async def _wait_midway(here: StandIn, asked: Asked) -> None:
    await _begin(here, asked)
    await here.gate.wait()
    for frame in frames(asked.call)[2:]:
        await _chunk(here, asked, frame)
    asked.writer.write(b"0\r\n\r\n")
    here.whole += 1


async def _say_otherwise(here: StandIn, asked: Asked) -> None:
    """Another answer than all the others'."""
    await _stream_head(asked)
    for frame in frames(asked.call, ("something ", "else")):
        await _chunk(here, asked, frame)
    asked.writer.write(b"0\r\n\r\n")


async def _cut_when_told(here: StandIn, asked: Asked) -> None:
    await _begin(here, asked)
    await here.gate.wait()
    asked.writer.close()


async def _endless(here: StandIn, asked: Asked) -> None:
    await _stream_head(asked)
    now = datetime.now(UTC)
    frame = content_frame(head_of(asked.call, asked.call.model, now), now, text="x" * 8000)
    while True:
        await _chunk(here, asked, frame)
        await asyncio.sleep(0)


async def _bulky(here: StandIn, asked: Asked) -> None:
    """More than the buffers between here and a client take."""
    await _stream_head(asked)
    now = datetime.now(UTC)
    head = head_of(asked.call, asked.call.model, now)
    for _ in range(BULKY_FRAMES):
        await _chunk(here, asked, content_frame(head, now, text="x" * 8000))
    await _chunk(here, asked, final_frame(head, now, "stop", Stats(total_ns=9, prompt_tokens=7, completion_tokens=3)))
    asked.writer.write(b"0\r\n\r\n")
    await asked.writer.drain()


async def _beyond_context(here: StandIn, asked: Asked) -> None:
    """As Ollama hands on its runner's refusal (OLLAMA.md 2; recorded as `chat_prompt_too_long_notruncate`)."""
    told = "request (610 tokens) exceeds the available context size (256 tokens), try increasing it"
    error = {"code": 400, "message": told, "type": "exceed_context_size_error", "n_prompt_tokens": 610, "n_ctx": 256}
    text = orjson.dumps({"error": error}).decode()
    await _respond(asked, 400, "application/json; charset=utf-8", orjson.dumps({"error": text}))


def _whole(answer: Answer) -> Callable[[StandIn, Asked], Awaitable[None]]:
    """This very answer, as a body."""

    async def respond(here: StandIn, asked: Asked) -> None:
        body = render_body(asked.call, asked.call.model, answer, datetime.now(UTC))[1]
        await _respond(asked, 200, body_type(asked.call.endpoint), body)

    return respond


_TOOL_CALL = ToolCall("call_1", "send_mail", {"to": "ops"})


def _status(status: int, message: str) -> Callable[[StandIn, Asked], Awaitable[None]]:
    async def refuse(here: StandIn, asked: Asked) -> None:
        await _respond(asked, status, "application/json; charset=utf-8", orjson.dumps({"error": message}))

    return refuse


async def _busy_once(here: StandIn, asked: Asked) -> None:
    """Takes no calls for ten minutes, by its own word, and then does all the same."""
    here.does = ""
    body = b'{"error":"busy"}'
    head = (
        f"HTTP/1.1 503 X\r\nRetry-After: 600\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    asked.writer.write(head.encode() + body)
    await asked.writer.drain()


async def _long_context(here: StandIn, asked: Asked) -> None:
    """An answer whose last line is far longer than what is read from a socket at once."""
    await _stream_head(asked)
    now = datetime.now(UTC)
    head = head_of(asked.call, asked.call.model, now)
    await _chunk(here, asked, content_frame(head, now, text="x"))
    stats = Stats(total_ns=9, prompt_tokens=7, completion_tokens=3)
    await _chunk(here, asked, final_frame(head, now, "stop", stats, context=list(range(200_000))))
    asked.writer.write(b"0\r\n\r\n")
    await asked.writer.drain()


_TOO_LONG = _whole(Answer("one two", Finish.LENGTH, prompt_tokens=7, completion_tokens=3))


async def _too_long_when_told(here: StandIn, asked: Asked) -> None:
    await here.gate.wait()
    await _TOO_LONG(here, asked)


_BEHAVIOURS: dict[str, Callable[[StandIn, Asked], Awaitable[None]]] = {
    "wait": _when_told,
    "close": _close_after,
    "die": _die,
    "cut": _cut,
    "cut-behind-one": _cut_behind_one,
    "die-midway": _die_midway,
    "runner-dies": _runner_dies,
    "repeat": _repeat,
    "cut-within": _cut_within,
    "cut-between-lines": _cut_between_lines,
    "end": _end_early,
    "garble": _garble(_half),
    "garble-first": _garble(_half, words=0),
    "garble-in-pieces": _garble(_half, cuts=7),
    "garble-behind-one": _garble(_half, is_glued=True),
    "garble-no-frame": _garble(_no_frame),
    "garble-quotes": _garble(_bare_quote),
    "garble-letters": _garble(_no_utf8),
    "garble-zeros": _garble(_zeros),
    "end-within": _garble(lambda frame: frame[: len(frame) // 2], ends=True),
    "body-page": _garbled_body(b"<html><body>gateway timeout</body></html>"),
    "body-cut": _garbled_body(b'{"model":"m","message":{"role":"assis'),
    "body-list": _garbled_body(b'["m"]'),
    "odd-finish-list": _odd(finish=["stop"]),
    "odd-finish-object": _odd(finish={"a": 1}),
    "odd-finish-number": _odd(finish=7),
    "odd-tokens-text": _odd(tokens="x"),
    "odd-tokens-list": _odd(tokens=["a"]),
    "odd-tokens-yes": _odd(tokens=True),
    "odd-tokens-half": _odd(tokens=1.5),
    "odd-tokens-below-zero": _odd(tokens=-5),
    "odd-tokens-beyond": _odd(tokens=10**18),
    "hang": _hang,
    "hang-midway": _hang_midway,
    "wait-midway": _wait_midway,
    "endless": _endless,
    "say-otherwise": _say_otherwise,
    "cut-when-told": _cut_when_told,
    "callers-500": _status(500, 'option "num_ctx" must be of type integer'),
    "callers-400": _status(400, "invalid image input"),
    "own-500": _status(500, "llama-server process has terminated: exit status 1"),
    "busy-503": _status(503, "server busy, please try again.  maximum pending requests exceeded"),
    "once-busy-for-600": _busy_once,
    "bulky": _bulky,
    "long-context": _long_context,
    "beyond-context": _beyond_context,
    "too-long": _TOO_LONG,
    "too-long-later": _too_long_when_told,
    "call-tool": _whole(Answer("", Finish.TOOL_CALLS, "", (_TOOL_CALL,), prompt_tokens=7, completion_tokens=3)),
}


async def _stream_head(asked: Asked) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {stream_type(asked.call.endpoint)}\r\nTransfer-Encoding: chunked\r\n\r\n"
    asked.writer.write(head.encode())
    await asked.writer.drain()


async def _chunk(here: StandIn, asked: Asked, frame: bytes) -> None:
    asked.writer.write(b"%x\r\n%b\r\n" % (len(frame), frame))
    here.written += len(frame)
    await asked.writer.drain()


async def _respond(asked: Asked, status: int, content_type: str, body: bytes) -> None:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    asked.writer.write(head.encode() + body)
    await asked.writer.drain()


@asynccontextmanager
async def standing_in(count: int, host: str = "127.0.0.1") -> AsyncIterator[list[StandIn]]:
    """So many of them, gone at the end."""
    async with standing(StandIn(host=host) for _ in range(count)) as instances:
        yield instances


@asynccontextmanager
async def standing(made: Iterable[T]) -> AsyncIterator[list[T]]:
    """Stand-ins of whatever kind, gone at the end."""
    instances = [*made]
    for each in instances:
        await each.start()
    try:
        yield instances
    finally:
        for each in instances:
            with suppress(ConnectionError):
                await each.stop()
