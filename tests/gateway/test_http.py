"""HTTP as clients really speak it: packed bodies, upgrades, old versions, connections kept; and the queue's headers."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from typing import Any, cast

import aiohttp
import pytest
import pytest_asyncio

from orchestrator.app.rules import rules_from
from orchestrator.gateway.connection import Connection
from orchestrator.gateway.live import Live
from orchestrator.gateway.page import Page
from orchestrator.gateway.request import Request
from orchestrator.gateway.visitors import Visitors
from orchestrator.settings import ClusterSettings
from tests.gateway.asking import Reply, ask, body_for, connected, request_bytes, until_queued
from tests.gateway.played import Played, played, pool_of
from tests.gateway.stand_in import StandIn, standing_in
from tests.waiting import WITHIN_S

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = json.dumps(body_for("/api/chat", "hi", stream=False)).encode()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def instance() -> AsyncIterator[StandIn]:
    async with standing_in(1) as (instance,):
        yield instance


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def closed_gate(instance: StandIn) -> None:
    instance.gate.clear()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory, instance: StandIn) -> AsyncIterator[Played]:
    limits = {"between_bytes_s": 2.0, "body_bytes": 100_000}
    settings = ClusterSettings.model_validate({"models": {"m": {}}, "limits": limits})
    pool = pool_of("m", [instance.port], slots=1)
    async with played(tmp_path_factory.mktemp("http"), settings, [pool]) as world:
        yield world


async def packed(world: Played, raw: bytes, coding: str) -> Reply:
    headers = {"Content-Encoding": coding}
    async with aiohttp.ClientSession() as http, http.post(f"{world.url}/api/chat", data=raw, headers=headers) as reply:
        return Reply(reply.status, reply.headers, await reply.read())


async def answered(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of the next answer, told by its length."""
    async with asyncio.timeout(WITHIN_S):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        return head, await reader.readexactly(int(length[15:]))


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_a_packed_body_is_unpacked(world, coding, pack):
    assert (await packed(world, pack(CHAT), coding)).status == 200


async def test_a_small_packed_body_that_grows_beyond_the_limit_is_refused(world):
    reply = await packed(world, gzip.compress(b" " * 50_000_000 + CHAT), "gzip")
    assert (reply.status, "limits.body_bytes" in reply.json()["error"]) == (413, True)


@pytest.mark.parametrize(
    ("raw", "coding", "status"),
    [(CHAT, "gzip", 400), (gzip.compress(CHAT)[:-9], "gzip", 400), (CHAT, "br", 415), (CHAT, "identity", 200)],
    ids=["not packed", "cut off", "unknown", "not packed and said so"],
)
async def test_a_body_that_is_packed_otherwise_than_said_is_refused(world, raw, coding, status):
    assert (await packed(world, raw, coding)).status == status


@pytest.mark.parametrize("name", ["Upgrade", "upgrade", "UPGRADE", "uPgRaDe"])
@pytest.mark.parametrize("cut", [0, 40, -len(CHAT) - 2, -len(CHAT), -1])
async def test_a_client_that_offers_http_2_is_answered_in_http_1(world, name, cut):
    offer = {"Connection": f"{name}, HTTP2-Settings", name: "h2c", "HTTP2-Settings": "AAMAAABkAAQAoAAAAAIAAAAA"}
    request = request_bytes("/api/chat", CHAT, offer)
    async with connected(world.url) as (reader, writer):
        for _ in range(2):
            writer.write(request[:cut])
            await asyncio.sleep(0.01 if cut else 0)  # what is written within one turn comes in one read
            writer.write(request[cut:])
            head, body = await answered(reader)
            assert head.startswith(b"HTTP/1.1 200")
            assert b'"done":true' in body


async def test_http_2_may_be_offered_with_each_of_the_requests_that_a_client_sends_ahead(world):
    offer = {"Connection": "Upgrade", "Upgrade": "h2c"}
    async with connected(world.url) as (reader, writer):
        writer.write(3 * request_bytes("/api/chat", CHAT, offer))
        for _ in range(3):
            assert b'"done":true' in (await answered(reader))[1]


async def test_http_2_may_be_offered_more_often_than_functions_can_call_each_other(world):
    offers = 2000
    offer = b"GET /api/version HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    async with connected(world.url) as (reader, writer):
        writer.write(offers * offer + b"GET /api/version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).count(b"HTTP/1.1 200") == offers + 1


async def test_no_connection_is_passed_on(world):
    async with connected(world.url) as (reader, writer):
        writer.write(b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n" + request_bytes("/api/chat", CHAT))
        received = await reader.read()
        assert received.startswith(b"HTTP/1.1 40")
        assert received.count(b"HTTP/1.1") == 1


async def test_a_target_with_scheme_and_host_is_understood(world):
    async with connected(world.url) as (reader, writer):
        writer.write(request_bytes(f"{world.url}/api/chat", CHAT))
        assert (await answered(reader))[0].startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(("origin", "status"), [("http://localhost:3000", 204), ("https://example.com", 403)])
async def test_anthropics_client_may_be_used_by_a_page_of_this_machine_and_by_no_other(world, origin, status):
    wanted = "anthropic-dangerous-direct-browser-access,anthropic-version,content-type,x-api-key,x-stainless-timeout"
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": wanted, "Origin": origin}
    async with aiohttp.ClientSession() as http, http.options(f"{world.url}/v1/messages", headers=asks) as reply:
        allowed = reply.headers.get("Access-Control-Allow-Headers", "").lower().split(",")
        assert (reply.status, set(wanted.split(",")) <= set(allowed)) == (status, status == 204)
    answer = await ask(world.url, "/v1/messages", "hi", headers={"Origin": origin})
    assert (answer.headers.get("Access-Control-Allow-Origin") == origin) is (status == 204)
    if status == 204:
        exposed = answer.headers["Access-Control-Expose-Headers"].split(",")
        assert {"Request-Id", "X-Request-Id", "Retry-After"} <= set(exposed)
        assert answer.headers["Request-Id"]


async def test_an_old_clients_connection_is_kept_where_it_asks_for_that(world):
    async with connected(world.url) as (reader, writer):
        for _ in range(2):
            old = request_bytes("/api/chat", CHAT, {"Connection": "keep-alive"}).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
            writer.write(old)
            head, _ = await answered(reader)
            assert b"Connection: keep-alive" in head
        writer.write(request_bytes("/api/chat", CHAT).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        await answered(reader)
        assert await reader.read() == b""


async def test_an_answer_that_came_before_the_body_was_sent_costs_no_connection(world):
    request = request_bytes("/api/none", b"x" * 1000)
    async with connected(world.url) as (reader, writer):
        writer.write(request[:-1000])
        head, _ = await answered(reader)
        assert head.startswith(b"HTTP/1.1 404")
        assert b"Connection: close" not in head
        writer.write(request[-1000:] + request_bytes("/api/chat", CHAT))
        assert (await answered(reader))[0].startswith(b"HTTP/1.1 200")


async def test_a_body_comes_in_as_many_pieces_as_it_likes(world):
    async with connected(world.url) as (reader, writer):
        for byte in request_bytes("/api/chat", CHAT):
            writer.write(bytes((byte,)))
            await writer.drain()
        assert (await answered(reader))[0].startswith(b"HTTP/1.1 200")


async def test_a_head_without_an_end_is_refused_before_it_fills_the_memory(world):
    async with connected(world.url) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Long: ")
        writer.write(b"x" * 1_000_000)
        async with asyncio.timeout(WITHIN_S):
            # Its end, if not its word: what was sent and not read may reset the connection under the answer.
            try:
                received = await reader.read()
            except ConnectionResetError:
                received = b""
        assert received == b"" or received.startswith(b"HTTP/1.1 431")
    assert (await ask(world.url, "/api/chat", "hi", stream=False)).status == 200


# --- what a call's headers say of the queue, and what it is told ------------------------------------------------------


async def test_a_client_of_events_that_asks_for_it_hears_where_it_stands(world, instance):
    first = asyncio.create_task(ask(world.url, "/api/chat", "wait"))
    await instance.until(active=1)
    body = body_for("/v1/chat/completions", "hi", stream=True)
    async with connected(world.url) as (reader, writer):
        writer.write(request_bytes("/v1/chat/completions", body, {"X-Queue-Updates": "1"}))
        async with asyncio.timeout(WITHIN_S):
            head = await reader.readuntil(b"\r\n\r\n")
            told = await reader.readuntil(b"\n\n")
            instance.gate.set()
            rest = await reader.readuntil(b"[DONE]")
    assert b"text/event-stream" in head
    assert b": queue position=0" in told
    assert b'"content"' in rest
    assert (await first).status == 200


async def test_who_waited_is_told_behind_how_many(world, instance):
    first = asyncio.create_task(ask(world.url, "/api/chat", "wait"))
    await instance.until(active=1)
    second = asyncio.create_task(ask(world.url, "/api/chat", "hi"))
    await until_queued(world.url, 1)
    instance.gate.set()
    assert (await second).headers["X-Queue-Position"] == "0"
    assert "X-Queue-Position" not in (await first).headers


async def test_a_call_with_a_deadline_of_its_own_is_refused_when_it_has_passed(world, instance):
    first = asyncio.create_task(ask(world.url, "/api/chat", "wait"))
    await instance.until(active=1)
    late = await ask(world.url, "/api/chat", "hi", headers={"X-Queue-Timeout": "0.2"})
    assert (late.status, int(late.headers["Retry-After"]) >= 1) == (503, True)
    instance.gate.set()
    assert (await first).status == 200


async def test_a_deadline_that_passes_after_the_first_word_ends_the_stream_with_an_error(world, instance):
    first = asyncio.create_task(ask(world.url, "/api/chat", "wait"))
    await instance.until(active=1)
    headers = {"X-Queue-Updates": "1", "X-Queue-Timeout": "0.2"}
    late = await ask(world.url, "/v1/chat/completions", "hi", stream=True, headers=headers)
    assert (late.status, late.is_whole) == (200, False)
    assert b'data: {"error":' in late.body
    instance.gate.set()
    assert (await first).status == 200


@pytest.mark.parametrize("header", [{"X-Queue-Timeout": "soon"}, {"X-Priority": "-1"}, {"X-Priority": "nan"}])
async def test_a_queue_header_that_is_no_number_is_named(world, header):
    reply = await ask(world.url, "/api/chat", "hi", headers=header)
    assert (reply.status, next(iter(header)) in reply.json()["error"]) == (400, True)


# --- the page's own stream --------------------------------------------------------------------------------------------


class FailsOnce:
    """The cluster's state, which cannot be read the second time."""

    def __init__(self) -> None:
        self.reads = 0

    async def read(self) -> dict[str, int]:
        self.reads += 1
        if self.reads == 2:
            raise RuntimeError("a mistake of ours")
        return {"reads": self.reads}


async def test_who_watches_is_told_more_after_a_state_that_could_not_be_read() -> None:
    nobody = cast(Any, None)
    page = Page(Live(rules_from(ClusterSettings())), cast(Any, FailsOnce()), nobody, nobody)

    async def serve(request: Request, connection: Connection) -> None:
        await page.watch(request, connection, lambda: "")

    opened: Visitors[Connection] = Visitors(lambda: rules_from(ClusterSettings()).limits)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(serve, opened), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/status/live"
    try:
        async with asyncio.timeout(WITHIN_S), aiohttp.ClientSession() as http, http.get(url) as reply:
            told = [json.loads((await reply.content.readuntil(b"\n\n")).removeprefix(b"data: ")) for _ in range(3)]
    finally:
        page.end()
        server.close()
        await server.wait_closed()
    assert [each.get("status") for each in told] == [{"reads": 1}, None, {"reads": 3}]
    assert told[1]["error"].startswith("a mistake of ours")
