"""What a web page of somebody else's can make a browser send to a gateway on this machine, and what it is told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from orchestrator.settings import ClusterSettings
from tests.gateway.asking import body_for, get
from tests.gateway.played import Played, played, pool_of
from tests.gateway.stand_in import StandIn
from tests.security.doors import statuses, thrown

pytestmark = pytest.mark.asyncio(loop_scope="module")
CALL = json.dumps(body_for("/api/chat", "from a page", stream=False)).encode()
EVIL = "https://evil.example"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory, instance: StandIn) -> AsyncIterator[Played]:
    settings = ClusterSettings.model_validate({"models": {"m": {}}})
    async with played(tmp_path_factory.mktemp("browsers"), settings, [pool_of("m", [instance.port])]) as world:
        yield world


async def sent(world: Played, line: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    fields = {"Host": world.url.removeprefix("http://"), "Connection": "close", **headers}
    fields |= {"Content-Length": str(len(body))} if body else {}
    head = f"{line} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return await thrown(world.url, head.encode() + b"\r\n" + body)


# What a form, a script without leave (`no-cors`) or an image of a foreign page brings along.
FORMS = {
    "a form": {"Origin": EVIL, "Content-Type": "text/plain", "Sec-Fetch-Site": "cross-site"},
    "a form of a page without a name": {"Origin": "null", "Content-Type": "text/plain"},
    "a form of a browser that tells no Origin": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    "a script without leave": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    "a script of another name here": {"Origin": "http://localhost.evil.example:11434"},
    "two Origins": {"Origin": f"http://localhost, {EVIL}"},
    "an Origin with a name before it": {"Origin": "http://localhost@evil.example"},
    "an Origin with a path": {"Origin": "http://localhost/.evil.example"},
    "an Origin with a backslash": {"Origin": "http://localhost\\.evil.example"},
}


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/api/show", "/status/act", "/api/pull"])
async def test_a_foreign_page_asks_nothing_of_a_model_and_changes_nothing(world, instance, kind, path):
    before = len(instance.asked)
    received = await sent(world, f"POST {path}", FORMS[kind], CALL)
    assert statuses(received) == [403]
    assert b"Access-Control-Allow" not in received
    assert len(instance.asked) == before


@pytest.mark.parametrize("path", ["/status.json", "/api/tags", "/metrics", "/status/live", "/status/page.js"])
async def test_a_foreign_page_embeds_nothing_of_here(world, path):
    assert statuses(await sent(world, f"GET {path}", FORMS["a script without leave"])) == [403]


async def test_who_follows_a_link_is_welcome_and_so_are_the_pages_own_calls(world):
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert statuses(await sent(world, "GET /status", link)) == [200]
    own = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors", "Origin": world.url}
    assert statuses(await sent(world, "POST /api/chat", own, CALL)) == [200]
    desktop = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors", "Origin": "app://obsidian.md"}
    assert statuses(await sent(world, "POST /api/chat", desktop, CALL)) == [200]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:11434", "127.0.0.1.evil.example", "localhost.evil.example"]
)
async def test_a_name_that_was_bound_anew_to_this_machine_reaches_nothing(world, host):
    for line in ("GET /status", "GET /status.json", "GET /api/tags", "POST /api/chat", "GET /"):
        body = CALL if line.startswith("POST") else b""
        assert statuses(await sent(world, line, {"Host": host}, body)) == [403]
        assert statuses(await sent(world, line, {"Host": host, "Origin": f"http://{host}"}, body)) == [403]
        # A target with a host in it names the host, whatever the header says.
        method, path = line.split()
        assert statuses(await sent(world, f"{method} http://{host}{path}", {}, body)) == [403]


async def test_a_target_with_this_machines_name_is_served(world):
    assert statuses(await sent(world, "GET http://localhost/api/tags", {"Host": "evil.example"})) == [200]
    assert statuses(await sent(world, "GET http://localhost", {})) == [200]
    assert statuses(await sent(world, "GET http://localhost?x", {})) == [200]


async def test_no_page_is_let_into_a_private_network(world):
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Private-Network": "true"}
    for origin, status in ((EVIL, 403), ("http://localhost:3000", 204)):
        received = await sent(world, "OPTIONS /api/chat", {"Origin": origin, **asks})
        assert statuses(received) == [status]
        assert b"Private-Network" not in received
        assert b"Access-Control-Allow-Credentials" not in received


async def test_a_websocket_is_a_request_like_any_other(world):
    offer = {
        "Connection": "Upgrade, close",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "x",
    }
    for line in ("GET /api/tags", "GET /status/live"):
        received = await sent(world, line, {**offer, "Origin": EVIL})
        assert statuses(received) == [403]
        assert b"101 Switching" not in received


async def test_the_page_runs_nothing_but_its_own_and_is_shown_in_no_frame(world):
    for path in ("/status", "/status/page.css", "/status/page.js"):
        headers = (await get(world.url, path)).headers
        policy = dict(each.strip().split(" ", 1) for each in headers["Content-Security-Policy"].split(";"))
        assert (
            policy["default-src"]
            == policy["base-uri"]
            == policy["form-action"]
            == policy["frame-ancestors"]
            == "'none'"
        )
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Opener-Policy"] == headers["Cross-Origin-Resource-Policy"] == "same-origin"
