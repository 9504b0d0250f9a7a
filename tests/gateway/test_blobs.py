"""A file sent to several servers at once: what each of them makes of it, and who waits for whom."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from orchestrator.core.errors import CallerError
from orchestrator.gateway.blobs import Target, spread

PIECE = bytes(2**20)


@asynccontextmanager
async def taking(name: str) -> AsyncIterator[tuple[Target, dict[str, int]]]:
    """A server that takes files, and what it took of each."""
    took: dict[str, int] = {}

    async def take(request: web.Request) -> web.Response:
        async for piece in request.content.iter_any():
            took[request.path] = took.get(request.path, 0) + len(piece)
        return web.Response(status=201)

    app = web.Application()
    app.router.add_post("/api/blobs/{digest}", take)
    runner = web.AppRunner(app, shutdown_timeout=0.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    try:
        yield Target(name, "127.0.0.1", site._server.sockets[0].getsockname()[1]), took
    finally:
        await runner.cleanup()


@asynccontextmanager
async def deaf(*, leaves: bool) -> AsyncIterator[Target]:
    """A server that reads nothing of what it is sent; or leaves at once."""
    gate = asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not leaves:
            await gate.wait()
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1024)
    try:
        yield Target("deaf", "127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        gate.set()
        server.close()
        await server.wait_closed()


async def pieces(number: int, fails: str = "") -> AsyncIterator[bytes]:
    for _ in range(number):
        yield PIECE
    if fails:
        raise CallerError(400, fails)


def digest_of(number: int) -> str:
    return f"sha256:{hashlib.sha256(number * PIECE).hexdigest()}"


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_server_that_takes_nothing_is_named_and_the_others_have_it(leaves: bool) -> None:
    async with taking("good") as (good, took), deaf(leaves=leaves) as bad:
        # More than lies between two sockets.
        good_one, bad_one = await spread([good, bad], digest_of(32), 32 * len(PIECE), pieces(32), 1.0)
        assert good_one.is_done
        assert set(took.values()) == {32 * len(PIECE)}
        assert bad_one.node == "deaf"
        assert not bad_one.is_done
        assert leaves or "it took nothing for 1 s" in bad_one.error


async def test_what_its_sender_does_not_finish_no_server_takes_for_whole() -> None:
    async with taking("good") as (good, took):
        with pytest.raises(CallerError, match="cut off"):
            await spread([good], digest_of(4), 4 * len(PIECE), pieces(2, "cut off"), 5.0)
        assert sum(took.values()) < 4 * len(PIECE)


async def test_nobody_reads_a_file_that_no_server_takes() -> None:
    read = 0

    async def counted() -> AsyncIterator[bytes]:
        nonlocal read
        async for piece in pieces(1000):
            read += 1
            yield piece

    async with deaf(leaves=True) as bad:
        [outcome] = await spread([bad], digest_of(1), None, counted(), 5.0)
    assert not outcome.is_done
    assert read < 100


async def test_a_server_that_nobody_can_reach_is_said_to_be_so() -> None:
    [outcome] = await spread([Target("gone", "127.0.0.1", 1)], digest_of(1), None, pieces(1), 5.0)
    assert "Cannot connect" in outcome.error
