"""Large bodies share the memory of a worker: counted unpacked, as they come, and no caller takes all of it."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest

from orchestrator.core.errors import CallerError, OrchestratorError
from orchestrator.gateway.connection import Connection
from orchestrator.gateway.replies import Reply, whole
from orchestrator.gateway.request import SMALL_BYTES, Request
from orchestrator.gateway.unpacking import Unpacking
from orchestrator.gateway.visitors import LARGEST_BODIES, OF_ONE_CALLER, Visitors
from orchestrator.settings import ClusterSettings
from tests.gateway.asking import body_for, connected
from tests.gateway.played import played, pool_of
from tests.gateway.stand_in import standing_in
from tests.security.doors import PATIENCE_S, limits, statuses
from tests.waiting import until

LARGEST = 256 * 1024
ROOM = LARGEST_BODIES * LARGEST
LARGE = b"x" * (LARGEST - 1000)
PACKED = gzip.compress(LARGE)
GZIP = b"Content-Encoding: gzip\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Seen(Visitors[Connection]):
    """Remembers the most that was held."""

    most = 0

    def hold(self, address, caller, more):  # type: ignore[no-untyped-def]
        refusal = super().hold(address, caller, more)
        self.most = max(self.most, self.held_bytes)
        return refusal


@dataclass(slots=True)
class Queue:
    """A gateway's door: whose body was read waits until `goes_on`. Who asks is said by X-Api-Key."""

    visitors: Seen
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: list[Request] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    url: str = ""

    async def serve(self, request: Request, _: Connection) -> Reply:
        if request.header(b"x-api-key"):
            request.asked_by(request.header(b"x-api-key"))
        try:
            body = await request.body(LARGEST, 60.0)
        except OrchestratorError as why:
            self.refused.append(getattr(why, "status", 500))
            return whole("text/plain", str(why).encode(), status=self.refused[-1])
        self.waiting.append(request)
        await self.goes_on.wait()
        return whole("text/plain", str(len(body)).encode())

    async def until(self, answered: int) -> None:
        """So many have been read or refused."""
        await until(lambda: len(self.waiting) + len(self.refused) >= answered)

    async def until_held(self, held: int) -> None:
        await until(lambda: self.visitors.held_bytes == held)


@asynccontextmanager
async def queue() -> AsyncIterator[Queue]:
    allowed = limits(body_bytes=LARGEST)
    opened = Queue(Seen(lambda: allowed))
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(opened.serve, opened.visitors), "127.0.0.1", 0)
    opened.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield opened
    finally:
        opened.goes_on.set()
        server.close()
        for each in tuple(opened.visitors):
            each.transport.abort()
        await until(lambda: not len(opened.visitors) and not opened.visitors.held_bytes)
        assert not opened.visitors._held_by


def head(*more: bytes, key: bytes = b"", length: int | None = None) -> bytes:
    framing = b"Transfer-Encoding: chunked\r\n" if length is None else b"Content-Length: %d\r\n" % length
    lines = b"POST / HTTP/1.1\r\nHost: localhost\r\n" + framing + b"".join(more)
    return lines + (b"X-Api-Key: %b\r\n" % key if key else b"") + b"\r\n"


def asking(body: bytes, *more: bytes, key: bytes = b"") -> bytes:
    return head(*more, key=key, length=len(body)) + body


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


async def ask(stack: AsyncExitStack, opened: Queue, sent: bytes) -> Streams:
    """On a connection that stays; what is refused before it was all sent may be reset."""
    reader, writer = await stack.enter_async_context(connected(opened.url))
    writer.write(sent)
    return reader, writer


async def status(streams: Streams) -> int:
    async with asyncio.timeout(PATIENCE_S):
        return statuses(await streams[0].readuntil(b"\r\n"))[0]


# --- packed -----------------------------------------------------------------------------------------------------------


async def test_packed_bodies_count_as_what_they_grow_to_and_the_last_are_refused_before_that_is_kept():
    asked = LARGEST_BODIES + 16
    assert len(PACKED) * asked < LARGEST
    async with queue() as opened, AsyncExitStack() as stack:
        streams = [await ask(stack, opened, asking(PACKED, GZIP)) for _ in range(asked)]
        await opened.until(asked)
        assert opened.visitors.held_bytes == len(opened.waiting) * len(LARGE)
        assert opened.visitors.most <= ROOM
        assert opened.refused
        assert set(opened.refused) == {503}
        opened.goes_on.set()
        assert sorted([await status(each) for each in streams]) == [200] * len(opened.waiting) + opened.refused
        await opened.until_held(0)


async def test_what_a_call_was_made_from_is_let_go_of_while_it_waits():
    async with queue() as opened, AsyncExitStack() as stack:
        await ask(stack, opened, asking(LARGE))
        await ask(stack, opened, asking(PACKED, GZIP))
        await opened.until(2)
        assert [each._pieces for each in opened.waiting] == [[], []]
        assert opened.visitors.held_bytes == 2 * len(LARGE)


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
@pytest.mark.parametrize("size", [0, 1, SMALL_BYTES - 1, SMALL_BYTES, SMALL_BYTES + 1, 200_000, LARGEST])
async def test_a_packed_body_of_any_size_is_unpacked_as_it_was(pack, size):
    body = (b"%08d" * (size // 8 + 1) % tuple(range(size // 8 + 1)))[:size]
    async with queue() as opened, AsyncExitStack() as stack:
        opened.goes_on.set()
        kind = b"Content-Encoding: %b\r\n" % (b"gzip" if pack is gzip.compress else b"deflate")
        reader, _ = streams = await ask(stack, opened, asking(pack(body), kind))
        assert await status(streams) == 200
        async with asyncio.timeout(PATIENCE_S):
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(len(str(size))) == str(size).encode()
        await opened.until_held(0)


@pytest.mark.parametrize("at_most", [1, 1000, 100_000])
def test_no_more_is_unpacked_at_once_than_is_asked_for(at_most):
    body = bytes(range(256)) * 40
    pieces = unpacked(gzip.compress(body), at_most)
    assert b"".join(pieces) == body
    assert max(map(len, pieces)) <= at_most


@pytest.mark.parametrize(
    ("raw", "why"),
    [(PACKED[:-1], "cut off"), (PACKED + b"x", "something follows"), (PACKED * 2, "something follows"), (b"x", "")],
)
def test_what_is_not_packed_right_is_refused_wherever_it_is_wrong(raw, why):
    with pytest.raises(CallerError, match=f"could not be unpacked: .*{why}"):
        unpacked(raw, 1000)


def unpacked(raw: bytes, at_most: int) -> list[bytes]:
    unpacking, pieces = Unpacking(raw, "gzip"), [b""]
    while not unpacking.is_done:
        pieces.append(unpacking.next(at_most))
    return pieces


# --- each caller ------------------------------------------------------------------------------------------------------


async def test_one_key_holds_a_quarter_of_the_room_and_others_have_theirs():
    share = int(ROOM * OF_ONE_CALLER)
    async with queue() as opened, AsyncExitStack() as stack:
        for _ in range(20):
            await ask(stack, opened, asking(LARGE, key=b"greedy"))
        await opened.until(20)
        assert share - len(LARGE) < opened.visitors.held_bytes <= share
        assert set(opened.refused) == {429}
        others = await ask(stack, opened, asking(LARGE, key=b"other"))
        packed = await ask(stack, opened, asking(PACKED, GZIP, key=b"greedy"))
        assert await status(packed) == 429
        opened.goes_on.set()
        assert await status(others) == 200
        small = await ask(stack, opened, asking(b"x" * SMALL_BYTES, key=b"greedy"))
        assert await status(small) == 200


def test_without_keys_an_address_holds_a_quarter_of_the_room_and_a_proxy_all_of_it():
    allowed = limits(body_bytes=LARGEST, fronts=("10.9.0.0/16",))
    visitors: Visitors[Connection] = Visitors(lambda: allowed)
    share = ROOM // 4
    assert visitors.hold("192.0.2.1", "", share) is None
    refusal = visitors.hold("192.0.2.1", "", 1)
    assert refusal is not None
    assert refusal.status == 429
    assert visitors.hold("192.0.2.1", "with a key", share) is None
    assert visitors.hold("10.9.0.1", "", 2 * share) is None
    refusal = visitors.hold("192.0.2.2", "", 1)
    assert refusal is not None
    assert refusal.status == 503
    visitors.let_go("10.9.0.1", "", 2 * share)
    assert visitors.hold("192.0.2.2", "", share) is None
    assert visitors.held_bytes == 3 * share


# --- with no room left ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def full() -> AsyncIterator[Queue]:
    """Others hold all the room there is."""
    async with queue() as opened:
        assert opened.visitors.hold("", "", ROOM) is None
        opened.goes_on.set()
        try:
            yield opened
        finally:
            opened.visitors.let_go("", "", ROOM)


SMALL = b"x" * SMALL_BYTES


@pytest.mark.parametrize(
    "sent",
    [
        asking(SMALL),
        asking(SMALL, b"Expect: 100-continue\r\n"),
        head() + chunked(SMALL[1:]) + chunked(b"x") + b"0\r\n\r\n",
        asking(gzip.compress(SMALL), GZIP),
    ],
    ids=["announced", "asked for", "of unknown length", "packed"],
)
async def test_a_small_body_has_room_whatever_others_hold(sent):
    async with full() as opened, AsyncExitStack() as stack:
        reader, _ = await ask(stack, opened, sent)
        received = b""
        async with asyncio.timeout(PATIENCE_S):
            while b" 200 " not in received:
                received += await reader.readuntil(b"\r\n\r\n")
        assert statuses(received)[-1] == 200


@pytest.mark.parametrize(
    "sent",
    [
        asking(LARGE),
        head(length=len(LARGE)),
        head(b"Expect: 100-continue\r\n", length=len(LARGE)),
        head() + chunked(SMALL) + chunked(b"x"),
        asking(PACKED, GZIP),
    ],
    ids=["sent at once", "announced", "asked for", "of unknown length", "packed"],
)
async def test_a_large_body_is_refused_and_nothing_of_it_kept(sent):
    async with full() as opened, AsyncExitStack() as stack:
        assert await status(await ask(stack, opened, sent)) == 503
        assert (opened.visitors.held_bytes, opened.waiting) == (ROOM, [])


# --- who leaves -------------------------------------------------------------------------------------------------------


async def test_who_leaves_holds_nothing_however_far_the_body_has_come():
    async with queue() as opened:
        for sent, held in (
            (asking(LARGE), len(LARGE)),
            (head(length=len(LARGE)) + LARGE[:100_000], 100_000),
            (asking(b"{}") + head(length=len(LARGE)) + LARGE[:70_000], 70_000),
        ):
            async with connected(opened.url) as (_, writer):
                writer.write(sent)
                await opened.until_held(held)
            await opened.until_held(0)


# --- a gateway --------------------------------------------------------------------------------------------------------


async def test_a_key_that_fills_its_share_is_told_when_to_come_back_and_nobody_else_notices(tmp_path):
    secrets = {name: f"{name}-of-this-test-which-is-long-enough" for name in ("greedy", "other")}
    keys = [{"name": name, "secret": secret} for name, secret in secrets.items()]
    told = {"models": {"m": {}}, "keys": keys, "limits": {"body_bytes": LARGEST}}
    settings = ClusterSettings.model_validate(told)
    async with (
        standing_in(1) as (instance,),
        played(tmp_path, settings, [pool_of("m", [instance.port])]) as world,
        AsyncExitStack() as stack,
    ):
        for _ in range(LARGEST_BODIES + 1):
            _, writer = await stack.enter_async_context(connected(world.url))
            with suppress(ConnectionError):
                writer.write(posted(secrets["greedy"], LARGE)[:-1])  # its last byte never comes
                await writer.drain()
        refused = await until_refused(world.url, posted(secrets["greedy"], LARGE))
        assert b"\r\nRetry-After: " in refused
        assert b"with this key" in refused
        small = json.dumps(body_for("/api/chat", "hi", stream=False)).encode()
        large = json.dumps(body_for("/api/chat", "x" * 200_000, stream=False)).encode()
        for name, body in (("greedy", small), ("other", small), ("other", large)):
            assert statuses(await answered(world.url, posted(secrets[name], body))) == [200]


def posted(secret: str, body: bytes) -> bytes:
    lines = f"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {secret}\r\n"
    return lines.encode() + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body


async def answered(url: str, sent: bytes) -> bytes:
    async with connected(url) as (reader, writer), asyncio.timeout(PATIENCE_S):
        with suppress(ConnectionError):
            writer.write(sent)
            await writer.drain()
        received = b""
        with suppress(ConnectionError):
            while piece := await reader.read(65_536):
                received += piece
        return received


async def until_refused(url: str, sent: bytes) -> bytes:
    """What is not refused yet is no call: its body is no JSON."""
    return await until(lambda: answered(url, sent), holds=lambda told: statuses(told) == [429])
