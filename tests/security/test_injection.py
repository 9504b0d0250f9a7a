"""Nothing of a caller's or an instance's becomes a header or a path, to either side."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from orchestrator.settings import ClusterSettings
from tests.gateway.asking import ask, body_for
from tests.gateway.played import Played, played, pool_of
from tests.gateway.stand_in import StandIn
from tests.open_lines import read_request
from tests.security.doors import statuses, thrown

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(slots=True)
class Far:
    says: tuple[int, bytes] = (200, b"")
    port: int = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        status, fields = self.says
        body = b'{"error":"no"}'
        writer.write(b"HTTP/1.1 %d X\r\n%sContent-Length: %d\r\n\r\n%s" % (status, fields, len(body), body))
        writer.close()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def far() -> AsyncIterator[Far]:
    """An instance that writes whatever a test says."""
    far = Far()
    server = await asyncio.start_server(far.answer, "127.0.0.1", 0)
    far.port = server.sockets[0].getsockname()[1]
    async with server:
        yield far


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory, instance: StandIn, far: Far) -> AsyncIterator[Played]:
    written = {"models": {"m": {}, "far": {}}, "tiers": {"small": {"model": "m"}, "full": {"model": "m"}}}
    settings = ClusterSettings.model_validate({**written, "routes": {"auto": {}}})
    pools = [pool_of("m", [instance.port]), pool_of("far", [far.port])]
    async with played(tmp_path_factory.mktemp("injection"), settings, pools) as world:
        yield world
        assert "Traceback" not in world.logs()


# Every header that an answer, an instance, a log or a metric might hear of.
TOLD = (
    *("X-Request-Id", "Origin", "Host", "traceparent", "tracestate", "Authorization", "X-Api-Key", "User-Agent"),
    *("Cache-Control", "X-Cache-Tags", "X-Priority", "X-Queue-Timeout", "X-Queue-Updates", "X-Privacy"),
    *("X-Forwarded-For", "X-Real-IP", "Content-Encoding", "Content-Type", "Expect", "Connection", "Accept"),
)


@pytest.mark.parametrize("name", TOLD)
async def test_no_header_of_a_callers_brings_another_into_the_answer_or_to_an_instance(world, instance, name):
    body = json.dumps(body_for("/api/chat", "hi", "auto", stream=False)).encode()
    heads = len(instance.heads)
    for sign in ("\r\nX-Evil: 1", "\nX-Evil: 1", "\rX-Evil: 1", "\0X-Evil: 1", "%0d%0aX-Evil: 1",
                 "\u560d\u560aX-Evil: 1",
                 "\x85X-Evil: 1", " \tx", "\x7f", "é" * 50, '";<script>'):  # fmt: skip
        own = {"Host": "localhost", "Content-Length": str(len(body)), "Connection": "close", name: f"a{sign}"}
        fields = "".join(f"{each}: {value}\r\n" for each, value in own.items())
        received = await thrown(
            world.url, f"POST /api/chat HTTP/1.1\r\n{fields}\r\n".encode() + body, ends=name == "Connection"
        )
        assert len(statuses(received)) <= 1
        head = received.partition(b"\r\n\r\n")[0]
        assert all(not line.lower().startswith(b"x-evil") for line in head.splitlines())
        assert statuses(received) != [500]
    for head in instance.heads[heads:]:
        assert "x-evil" not in head.lower()
        assert [line.partition(":")[0] for line in head.splitlines()[1:] if line] == [
            "Host", "Content-Type", "Content-Length",
        ]  # fmt: skip


NAMES = ["m\r\nX-Evil: 1", "m\0", "../../etc/passwd", "m%0d%0aX-Evil: 1", "<script>", "m\u2028", "auto\r\n", "é"]


@pytest.mark.parametrize("model", NAMES)
@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages", "/api/embed"])
async def test_no_models_name_brings_a_header_into_the_answer(world, model, path):
    reply = await ask(world.url, path, "hi", model=model)
    assert reply.status in (200, 400, 404)  # blanks around a name are none of it
    assert "X-Evil" not in reply.headers
    assert reply.headers["X-Request-Id"]
    assert reply.headers["Content-Type"].startswith(("application/json", "application/x-ndjson"))


PATHS = [
    *("/api/%2e%2e/status.json", "/api/..%2fstatus.json", "/..%5cstatus.json", "/%2e/status.json", "/status.json%00"),
    *("/status.json;x", "/status.json%20", "/./status.json", "/api/../status.json", "/STATUS.JSON", "/status%2ejson/"),
    *(
        "/status/..%2f..%2f..%2fetc/passwd",
        "/status/%2e%2e/index.html",
        "/status/page.js%00.css",
        "/v1/models/..%2f..%2fapi",
    ),
    *("/%252e%252e/status.json", "/v1/models/%0d%0aX-Evil:%201", "/v1/models/" + "x" * 20_000, "/" + "a/" * 10_000),
    *("http:///status.json", "http://localhost:80:90/x", "http://[::1/x", "*", "/\\\\evil.example", "/?//evil"),
]


@pytest.mark.parametrize("path", PATHS)
async def test_no_path_leads_where_it_does_not_say(world, path):
    received = await thrown(world.url, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert statuses(received)[0] in (200, 301, 307, 400, 403, 404), received[:300]
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"root:" not in body
    assert b'"pools"' not in body
    assert b"X-Evil" not in head
    for line in head.split(b"\r\n"):
        if line.startswith(b"Location:"):
            assert line.startswith(b"Location: /")
            assert not line.startswith((b"Location: //", b"Location: /\\"))


ANSWERS = {
    "a header within a header": b"Content-Type: text/x\r\n X-Evil: 1\r\n",
    "a bare line end": b"Content-Type: text/x\nX-Evil: 1\r\n",
    "a NUL": b"Content-Type: text/x\0\r\n",
    "two lengths": b"Content-Length: 2\r\n",
    "length and chunks": b"Transfer-Encoding: chunked\r\n",
    "a cookie": b"Set-Cookie: evil=1\r\nX-Evil: 1\r\nLocation: http://evil\r\n",
    "a type beyond ASCII": b'Content-Type: text/\xe9\xff; x="\xc3\xa9"\r\n',
}


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("status", [200, 400])
async def test_no_header_of_an_instances_reaches_a_caller(world, far, kind, status):
    far.says = (status, ANSWERS[kind])
    reply = await ask(world.url, "/api/chat", "hi", model="far", stream=False)
    assert reply.status in (400, 502, 503)
    assert not {"X-Evil", "Set-Cookie", "Location"} & set(reply.headers)
