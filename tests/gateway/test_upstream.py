"""A connection to an instance, as `relay` uses it; the far side is a socket that says what the test wants."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import pytest

from orchestrator.core.errors import InstanceError
from orchestrator.gateway.upstream import Connections, Exchange, Stage

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
FRAMES = [b'{"a":1}\n', b'{"b":2}\n', b'{"c":3}\n']
END = b"0\r\n\r\n"

Ask = Callable[..., Awaitable[Exchange]]


def chunk(frame: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(frame), frame)


@pytest.fixture
async def ask() -> AsyncIterator[Ask]:
    """Answers every request by these bytes, and gives the exchange that has asked."""
    said: list[bytes] = []
    answering: set[asyncio.Task[None] | None] = set()
    connections = Connections()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.add(asyncio.current_task())
        with suppress(ConnectionError):
            while await reader.readline():
                writer.write(said[0])
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def begin(at_first: bytes) -> Exchange:
        said[:] = [at_first]
        exchange = await connections.connect("gpu-1", "127.0.0.1", port)
        exchange.send(b"ask\r\n", b"", 5)
        await exchange.until(Stage.HEAD)
        return exchange

    yield begin
    server.close()
    await asyncio.gather(*filter(None, answering))


async def test_frames_of_one_read_are_handed_on_together_and_keep_their_borders(ask: Ask) -> None:
    exchange = await ask(HEAD + b"".join(map(chunk, FRAMES)) + END)
    got: list[list[bytes]] = []
    exchange.attach(got.append)
    await exchange.until(Stage.DONE)
    assert got == [FRAMES]
    exchange.close()


async def test_a_connection_serves_one_answer_after_the_other(ask: Ask) -> None:
    connections = Connections()
    exchange = await ask(HEAD + chunk(FRAMES[0]) + END)
    for frame in FRAMES:
        await exchange.until(Stage.DONE)
        assert exchange.is_reusable
        assert exchange.body()
        connections.give_back("there", 1, exchange)
        assert connections.idle("there", 1) is exchange
        exchange.send(b"ask\r\n", b"", 5)
        await exchange.until(Stage.HEAD)
        assert exchange.head.status == 200, frame
    exchange.close()


async def test_what_cannot_be_handed_on_fails_the_answer_though_its_end_has_come(ask: Ask) -> None:
    def refuse(_: list[bytes]) -> None:
        raise ValueError("no such frame")

    exchange = await ask(HEAD)
    exchange.attach(refuse)
    exchange.data_received(chunk(FRAMES[0]) + END)  # as one read, whatever the sockets make of it
    with pytest.raises(InstanceError, match="could not be handed on: no such frame"):
        await exchange.until(Stage.DONE)
    assert not exchange.is_reusable


async def test_frames_before_what_is_not_http_are_handed_on(ask: Ask) -> None:
    exchange = await ask(HEAD + chunk(FRAMES[0]) + b"not a length\r\n")
    got: list[bytes] = []
    exchange.attach(got.extend)
    with pytest.raises(InstanceError, match="not HTTP"):
        await exchange.until(Stage.DONE)
    assert got == FRAMES[:1]


async def test_each_answer_is_given_its_own_time_to_be_silent(ask: Ask) -> None:
    patient, second, first = [await ask(HEAD) for _ in range(3)]
    for exchange, seconds in ((patient, 30), (second, 0.3), (first, 0.05)):
        exchange.allow_silence(seconds)
    with pytest.raises(InstanceError, match=r"silent for 0\.05 s"):
        await first.until(Stage.DONE)
    with pytest.raises(InstanceError, match=r"silent for 0\.3 s"):
        await second.until(Stage.DONE)
    assert asyncio.get_running_loop().time() - second.last_read_s >= 0.299
    patient.data_received(chunk(FRAMES[0]) + END)
    await patient.until(Stage.DONE)
    patient.close()


async def test_a_kept_connection_holds_nothing_of_its_last_answer(ask: Ask) -> None:
    class Shown:
        is_held_up = False

        def show(self, pieces: list[bytes]) -> None:
            """Nobody looks."""

    shown = Shown()
    held = weakref.ref(shown)
    exchange = await ask(HEAD + chunk(FRAMES[0]) + END)
    exchange.attach(shown.show)
    exchange.allow_silence(5, shown)
    await exchange.until(Stage.DONE)
    del shown
    assert held() is not None
    connections = Connections()
    connections.give_back("there", 1, exchange)
    assert connections.idle("there", 1) is exchange
    assert held() is None
    exchange.close()
