"""What callers get wrong, by mistake or on purpose: the right status, a clear word, and a gateway that serves on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from orchestrator.app.rules import rules_from
from orchestrator.core.model import Endpoint
from orchestrator.gateway.live import Live
from orchestrator.gateway.page import PATHS as PAGE_PATHS
from orchestrator.gateway.server import Access, Server
from orchestrator.settings import ClusterSettings
from tests.gateway.asking import Reply, ask, body_for, connected, get, request_bytes
from tests.gateway.played import Played, played, pool_of
from tests.gateway.stand_in import standing_in
from tests.waiting import WITHIN_S

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATHS = [each.value for each in Endpoint]
CHAT = ("/api/chat", "/v1/chat/completions")
MIB = 2**20


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Played]:
    async with standing_in(1) as (instance,):
        settings = ClusterSettings.model_validate({"models": {"m": {}}, "limits": {"between_bytes_s": 1.0}})
        pool = pool_of("m", [instance.port])
        async with played(tmp_path_factory.mktemp("bad"), settings, [pool]) as world:
            yield world
            assert world.gateways[0].poll() is None


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def still_serves(world: Played) -> AsyncIterator[None]:
    """Whatever a test did, the next caller is answered and no slot is taken."""
    yield
    assert (await ask(world.url, "/api/chat", "hi", stream=False)).status == 200
    await world.until_idle()


async def post(world: Played, path: str, raw: bytes) -> Reply:
    async with aiohttp.ClientSession() as http, http.post(world.url + path, data=raw) as reply:
        return Reply(reply.status, reply.headers, await reply.read())


async def raw_reply(world: Played, sent: bytes, *, ends: bool = False) -> bytes:
    """What comes back for these bytes, until the connection is closed or an answer's head is there."""
    async with connected(world.url) as (reader, writer):
        writer.write(sent)
        if ends:
            writer.write_eof()
        async with asyncio.timeout(WITHIN_S):
            return await reader.read(65_536)


def error_text(path: str, reply: Reply) -> str:
    """The error's words; its shape must be the dialect's."""
    error = reply.json()["error"]
    if path.startswith("/v1/messages"):
        assert reply.json()["type"] == "error"
        assert list(error) == ["type", "message"]
        return str(error["message"])
    if path.startswith("/v1/"):
        assert list(error) == ["message", "type", "param", "code"]
        return str(error["message"])
    assert isinstance(error, str)
    return error


BODIES = {
    "malformed": b'{"model": "m", ',
    "an array": b'[{"model": "m"}]',
    "empty": b"",
    "a number": b"7",
    "null bytes": b"\0\0\0",
    "the wrong type": b'{"model": 7}',
    "no UTF-8": b'{"model": "\xff\xfe", "messages": 3, "input": {}, "prompt": {}}',
    "nested deeply": b'{"model": "m", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "cut in a string": b'{"model": "m',
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", BODIES)
async def test_a_body_that_is_no_request_is_refused_in_the_callers_dialect(world, path, kind):
    reply = await post(world, path, BODIES[kind])
    assert 400 <= reply.status < 500
    assert error_text(path, reply)


@pytest.mark.parametrize("path", CHAT)
@pytest.mark.parametrize("field", [{"messages": "hi"}, {"messages": [7]}, {"stream": "yes"}, {"model": ["m"]}])
async def test_a_field_of_the_wrong_type_is_refused(world, path, field):
    reply = await post(world, path, json.dumps({**body_for(path, "hi"), **field}).encode())
    assert reply.status == 400
    assert error_text(path, reply)


async def test_what_is_nested_deeply_and_allowed_is_passed_on(world):
    tree: Any = {}
    for _ in range(400):
        tree = {"properties": {"a": tree}}
    reply = await ask(world.url, "/api/chat", "hi", stream=False, keep_alive="5m", format=tree)
    assert reply.status in (200, 400)


async def test_a_body_of_20_mb_is_refused_before_it_was_sent(world):
    for path in CHAT:
        async with connected(world.url) as (reader, writer):
            writer.write(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {20 * MIB}\r\n\r\n".encode())
            async with asyncio.timeout(WITHIN_S):
                head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 413")
    reply = await post(world, "/v1/chat/completions", b" " * (20 * MIB))
    assert (reply.status, "larger than 16777216 bytes" in error_text("/v1/", reply)) == (413, True)


async def test_a_body_of_20_mb_in_chunks_is_refused_once_it_is_too_large(world):
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * MIB

    async with aiohttp.ClientSession() as http, http.post(f"{world.url}/api/chat", data=pieces()) as reply:
        assert reply.status == 413
        assert "limits.body_bytes" in (await reply.json())["error"]


async def test_a_body_announced_with_expect_is_refused_instead_of_asked_for(world):
    head = f"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: {20 * MIB}\r\n\r\n"
    assert (await raw_reply(world, head.encode())).startswith(b"HTTP/1.1 413")


async def test_a_body_below_the_limit_is_answered(world):
    reply = await ask(world.url, "/api/chat", "hi " + "x" * (12 * MIB), stream=False)
    assert reply.status == 200


HEADERS = {
    "many": "".join(f"X-Many-{n}: {n}\r\n" for n in range(5000)),
    "one that is long": f"X-Long: {'x' * 200_000}\r\n",
    "one without end": f"X-Long: {'x' * 2_000_000}",
    "one with a blank in its name": "X Bad: 1\r\n",
    "two lengths": "Content-Length: 2\r\nContent-Length: 3\r\n",
    "length and chunks": "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
    "a negative length": "Content-Length: -1\r\n",
    "a length that is none": "Content-Length: abc\r\n",
    "a bare line end": "X-One: 1\n X-Two: 2\r\n",
}


@pytest.mark.parametrize("kind", HEADERS)
async def test_headers_that_are_too_much_or_wrong_are_refused(world, kind):
    received = await raw_reply(world, f"POST /api/chat HTTP/1.1\r\nHost: localhost\r\n{HEADERS[kind]}\r\n\r\n".encode())
    assert received.split(b" ")[1] in (b"400", b"431")


@pytest.mark.parametrize(
    "sent",
    [b"\x16\x03\x01\x02\x00\x01\x00", b"GARBAGE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET\r\n\r\n", b"\r\n\r\n\r\n\0"],
    ids=["tls", "no request line", "version", "no path", "zero"],
)
async def test_what_is_not_http_is_answered_400_or_not_at_all(world, sent):
    received = await raw_reply(world, sent, ends=True)
    assert not received or received.split(b" ")[1] == b"400"


async def test_garbage_behind_a_request_ends_the_connection_at_the_latest_after_its_answer(world):
    body = {**body_for("/api/chat", "hi"), "stream": False}
    async with connected(world.url) as (reader, writer):
        writer.write(request_bytes("/api/chat", body) + b"\x00garbage\r\n\r\n")
        async with asyncio.timeout(WITHIN_S):
            received = await reader.read()
    assert received.split(b" ")[1] in (b"200", b"400")


async def test_requests_sent_ahead_are_answered_one_after_the_other(world):
    asked = [request_bytes("/api/chat", {**body_for("/api/chat", "hi"), "stream": bool(n % 2)}) for n in range(4)]
    async with connected(world.url) as (reader, writer):
        writer.write(b"".join(asked))
        received = b""
        async with asyncio.timeout(WITHIN_S):
            while received.count(b'"done":true') < 4:
                received += await reader.read(65_536)
    assert received.count(b"HTTP/1.1 200 OK") == 4


async def test_half_a_request_holds_up_nobody_else(world):
    half = request_bytes("/api/chat", body_for("/api/chat", "hi"))
    async with connected(world.url) as (_, one), connected(world.url) as (reader, two):
        one.write(half[:20])
        two.write(half[:-5])
        assert (await ask(world.url, "/api/chat", "hi")).status == 200
        # The body that does not come is waited for, and no longer than a silent instance would be.
        async with asyncio.timeout(30):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 408")


async def test_a_client_that_leaves_within_its_body_harms_nobody(world):
    async with connected(world.url) as (_, writer):
        writer.write(request_bytes("/api/chat", body_for("/api/chat", "hi"))[:-5])
        await writer.drain()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/chat", 405),
        ("DELETE", "/api/tags", 405),
        ("POST", "/", 405),
        ("PUT", "/v1/chat/completions", 405),
        ("GET", "/nope", 404),
        ("POST", "/api/pull", 403),
        ("GET", "/api/pull", 405),
        ("HEAD", "/api/blobs/", 404),
        ("GET", "/v1/models/", 301),
        ("GET", "/api/../status.json/x", 404),
        ("GET", "/v1/models/nope", 404),
        ("GET", "/api/tags/", 301),
        ("POST", "/api/chat/", 307),
        ("GET", "//example.com/api/tags", 307),
    ],
)
async def test_a_path_or_method_that_is_not_there_is_answered_as_ollama_does(world, method, path, status):
    received = await raw_reply(world, f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert received.split(b" ")[1] == str(status).encode()


@pytest.mark.parametrize("path", ["//%5cexample.com/", "/%5cexample.com//", "//%0d%0aX-Evil:%201"])
async def test_a_redirect_leads_nowhere_else_and_carries_no_header_of_the_callers(world, path):
    received = await raw_reply(world, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    location = next(line for line in received.split(b"\r\n") if line.startswith(b"Location: "))
    assert b"\\" not in location
    assert location.startswith((b"Location: /%", b"Location: /X"))
    assert b"\r\nX-Evil" not in received


async def test_nothing_tells_which_software_answers(world):
    for path in ("/", "/api/tags", "/nope"):
        reply = await get(world.url, path)
        assert "Server" not in reply.headers


# --- keys ------------------------------------------------------------------------------------------------------------

USER, ADMIN = "u" * 16, "a" * 16
OPEN = ("/", "/healthz", "/readyz", "/status")
FOR_CALLERS = ("/api/tags", "/api/ps", "/api/version", "/v1/models", "/v1/models/m")
FOR_ADMINS = ("/metrics", "/status.json")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Played]:
    keys = [{"name": "user", "secret": USER}, {"name": "admin", "secret": ADMIN, "admin": True}]
    async with standing_in(1) as (instance,):
        settings = ClusterSettings.model_validate({"models": {"m": {}}, "keys": keys})
        folder: Path = tmp_path_factory.mktemp("keys")
        details = {"tags": {"name": "m", "modified_at": "2026-01-01T00:00:00Z"}, "show": {"modelfile": ""}}
        async with played(folder, settings, [pool_of("m", [instance.port], details=details)]) as world:
            yield world


WRONG = [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {USER}"}, {"X-Api-Key": "x"},
         {"Authorization": "Bearer "}, {"Authorization": f"Bearer {USER}x"}]  # fmt: skip


@pytest.mark.parametrize("headers", WRONG)
async def test_without_a_right_key_nothing_is_told_but_that_the_gateway_lives(guarded, headers):
    for path in OPEN:
        assert (await get(guarded.url, path, headers=headers)).status == 200
    for path in (*FOR_CALLERS, *FOR_ADMINS):
        reply = await get(guarded.url, path, headers=headers)
        assert reply.status == 401
        assert reply.headers["WWW-Authenticate"] == "Bearer"
        assert error_text(path, reply)
    for path in (*PATHS, "/api/show"):
        reply = await ask(guarded.url, path, "hi", headers=headers)
        assert reply.status == 401
        assert USER not in reply.body.decode()


async def test_every_path_that_is_served_says_who_may_ask_and_none_is_open_by_having_been_forgotten():
    # Nothing is asked of it: only what it serves is read.
    asked, changed = SimpleNamespace(answer=None), SimpleNamespace(change=None, blob=None)
    server = Server(Live(rules_from(ClusterSettings())), asked, *[None] * 5, changed, None)  # type: ignore[arg-type]
    served = {access: {path for path, each in server._paths.items() if each.access is access} for access in Access}
    logging_in = {"/status/login", "/status/login/back", "/status/logout", "/status/session"}
    assert served[Access.ANYONE] == {*OPEN, *PAGE_PATHS, *logging_in}
    assert served[Access.ADMIN] == {*FOR_ADMINS, "/status/live", "/status/calls", "/status/act"}
    assert served[Access.INFER] == {*map(str, Endpoint), "/api/feedback"}
    assert served[Access.CALLER] == {*FOR_CALLERS[:-1], "/v1/models/", "/api/show"}
    changes = ("pull", "push", "create", "copy", "delete", "blobs/")
    assert served[Access.MODELS] == {f"/api/{each}" for each in changes}


async def test_a_key_opens_what_callers_use_and_not_what_is_the_operators(guarded):
    for headers in ({"Authorization": f"Bearer {USER}"}, {"X-Api-Key": USER}):
        for path in FOR_CALLERS:
            assert (await get(guarded.url, path, headers=headers)).status == 200
        for path in CHAT:
            assert (await ask(guarded.url, path, "hi", headers=headers)).status == 200
        for path in FOR_ADMINS:
            assert (await get(guarded.url, path, headers=headers)).status == 403


async def test_an_admins_key_opens_everything(guarded):
    headers = {"Authorization": f"Bearer {ADMIN}"}
    for path in (*OPEN, *FOR_CALLERS, *FOR_ADMINS):
        assert (await get(guarded.url, path, headers=headers)).status == 200


async def test_a_key_is_asked_for_before_a_body_is_read(guarded):
    head = f"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: {20 * MIB}\r\n\r\n"
    assert (await raw_reply(guarded, head.encode())).startswith(b"HTTP/1.1 401")


async def test_a_page_of_another_site_may_not_call(world):
    foreign = {"Origin": "https://example.com"}
    assert (await get(world.url, "/api/tags", headers=foreign)).status == 403
    assert (await ask(world.url, "/api/chat", "hi", headers=foreign)).status == 403
    assert (await get(world.url, "/api/tags", headers={"Host": "example.com"})).status == 403
    assert (await get(world.url, "/api/tags", headers={"Origin": "http://[zz]"})).status == 403
