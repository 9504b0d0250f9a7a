"""The rendered nginx configuration in a real nginx, before a real gateway and a real Valkey."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from orchestrator.settings import ClusterSettings
from tests.gateway.played import Played, played, pool_of
from tests.nginx.playing import (
    NAME,
    SHIPPED,
    Front,
    Instance,
    fronted,
    instance,
    listens,
    nginx_program,
    write_configuration,
)
from tests.nodes.simulators import free_port
from tests.waiting import WITHIN_S, until

MODEL = "llama3.2:3b"


@dataclass(slots=True)
class World:
    front: Front
    gateway: Played
    instance: Instance
    http: aiohttp.ClientSession

    def chat(self, text: str = "hello", *, stream: bool = True, **more: Any) -> Any:
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "stream": stream}
        return self.http.post(f"{self.front.url}/api/chat", data=orjson.dumps(body), **more)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    nginx_program()
    settings = ClusterSettings.model_validate({"models": {MODEL: {}}, "limits": {"drain_s": 0.2}})
    async with instance() as behind, played(tmp_path, settings, [pool_of(MODEL, [behind.port])]) as gateway:
        with fronted(tmp_path / "nginx", [gateway.url.removeprefix("http://")]) as front:
            await listens(front)
            async with aiohttp.ClientSession(headers={"Host": NAME}) as http:
                yield World(front, gateway, behind, http)


def test_nginx_accepts_the_shipped_file(tmp_path):
    text = SHIPPED.read_text().replace("/var/log/nginx/ollama-cluster.log", str(tmp_path / "access.log"))
    main = write_configuration(tmp_path, text.replace("0.0.0.0:80", f"127.0.0.1:{free_port()}"))
    command = [nginx_program(), "-t", "-e", str(tmp_path / "error.log"), "-p", str(tmp_path), "-c", str(main)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert "[warn]" not in told.stderr + (tmp_path / "error.log").read_text()


async def test_each_frame_reaches_the_caller_before_the_next_one_is_written(world):
    world.instance.say("one ")
    async with world.chat() as reply:
        assert reply.status == 200
        assert b'"one "' in await reply.content.readline()
        world.instance.say("two ")
        assert b'"two "' in await reply.content.readline()
        world.instance.say("", is_last=True)
        assert b'"done":true' in await reply.content.read()


async def test_a_caller_that_leaves_ends_its_call_and_frees_the_slot(world):
    world.instance.say("one ")
    async with world.chat() as reply:
        await reply.content.readline()
        assert sum((await world.gateway.in_flight()).values()) == 1
        reply.close()
    async with asyncio.timeout(WITHIN_S):
        await world.instance.left.wait()
    await world.gateway.until_idle()


async def test_a_body_of_megabytes_goes_past_whole_and_no_file_is_written_for_it(world):
    text = "şehir " * 1_300_000
    world.instance.say("read", is_last=True)
    async with world.chat(text, stream=False) as reply:
        assert reply.status == 200
    sent = orjson.loads(world.instance.asked[0])["messages"][0]["content"]
    assert hashlib.sha256(sent.encode()).digest() == hashlib.sha256(text.encode()).digest()
    assert "temporary file" not in (world.front.folder / "error.log").read_text()


async def test_a_body_too_large_is_refused_as_json(world):
    async with world.chat("x" * (16 * 2**20 + 1)) as reply:
        assert reply.status == 413
        assert "larger" in (await reply.json())["error"]
    assert world.instance.asked == []


async def test_the_callers_request_id_is_in_the_answer_and_in_nginxs_log(world):
    world.instance.say("hi", is_last=True)
    async with world.chat(headers={"X-Request-Id": "ticket-4711"}) as reply:
        assert reply.headers["X-Request-Id"] == "ticket-4711"
        await reply.read()
    world.instance.say("hi", is_last=True)
    async with world.chat() as reply:
        made = reply.headers["X-Request-Id"]
        await reply.read()
    lines = [orjson.loads(each) for each in (await _log_with(world.front, made)).splitlines()]
    told = next(each for each in lines if each["id"] == "ticket-4711")
    assert (told["tier"], told["instance"], told["cache"]) == (MODEL, "llama3.2-3b-0", "bypass; reason=drawn")
    assert told["status"] == 200
    assert "dur=" in told["timing"]


async def test_neither_prompt_nor_query_nor_key_is_in_nginxs_log(world):
    world.instance.say("hi", is_last=True)
    async with world.chat("a secret of the house", headers={"Authorization": "Bearer secret-1"}) as reply:
        await reply.read()
    async with world.http.get(f"{world.front.url}/api/version?key=secret-2") as last:
        await last.read()
    assert "secret" not in await _log_with(world.front, last.headers["X-Request-Id"])


async def test_a_foreign_name_is_refused_and_the_own_one_reaches_a_gateway_that_would_refuse_it(world):
    async with world.http.get(f"{world.front.url}/api/version", headers={"Host": "evil.example.net"}) as reply:
        assert reply.status == 421
    async with world.http.get(f"{world.gateway.url}/api/version", headers={"Host": NAME}) as reply:
        assert reply.status == 403
    async with world.http.get(f"{world.front.url}/api/version") as reply:
        assert reply.status == 200


@pytest.mark.parametrize(
    ("origin", "status"), [(f"http://{NAME}", 200), (f"http://{NAME}.evil.net", 403), (f"https://{NAME}", 403)]
)
async def test_a_page_may_call_only_where_it_was_served_from(world, origin, status):
    async with world.http.get(f"{world.front.url}/api/version", headers={"Origin": origin}) as reply:
        assert reply.status == status


@pytest.mark.parametrize(
    "path", ["/metrics", "/status", "/status.json", "//metrics", "/%6detrics", "/api/../status.json", "/metrics/"]
)
async def test_the_operators_paths_are_for_this_machine_only(world, path):
    assert await _status_of(world.front, path, source="127.0.0.2") == 403
    assert await _status_of(world.front, path, source="127.0.0.1") != 403


async def test_every_other_path_is_for_everybody(world):
    for path in ("/api/tags", "/v1/models", "/healthz", "/readyz"):
        assert await _status_of(world.front, path, source="127.0.0.2") == 200


async def test_a_second_gateway_is_asked_where_the_first_is_not_there(world, tmp_path):
    gateways = [f"127.0.0.1:{free_port()}", world.gateway.url.removeprefix("http://")]
    with fronted(tmp_path / "two", gateways) as front:
        await listens(front)
        for _ in range(3):
            world.instance.say("hi", is_last=True)
            async with World(front, world.gateway, world.instance, world.http).chat() as reply:
                assert reply.status == 200
                assert b'"done":true' in await reply.read()
    assert len(world.instance.asked) == 3


async def test_a_call_that_was_sent_is_not_sent_to_another_gateway(tmp_path):
    nginx_program()
    asked: list[int] = []
    async with _breaking(asked, 0) as one, _breaking(asked, 1) as two:
        with fronted(tmp_path / "nginx", [one, two]) as front:
            await listens(front)
            async with (
                aiohttp.ClientSession(headers={"Host": NAME}) as http,
                http.post(f"{front.url}/api/chat", data=b'{"model": "m"}') as reply,
            ):
                assert reply.status == 502
                assert "no gateway" in (await reply.json())["error"]
                assert reply.headers["Retry-After"]
    assert len(asked) == 1


# --- helpers ----------------------------------------------------------------------------------------------------------


async def _log_with(front: Front, request_id: str) -> str:
    """nginx' access log, once the call of this id is in it: nginx writes it after the answer's end."""
    await until(lambda: f'"id":"{request_id}"' in front.access_log)
    return front.access_log


async def _status_of(front: Front, path: str, *, source: str) -> int:
    """The status of a GET from another of this machine's addresses, the path sent as it is written."""
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port, local_addr=(source, 0))
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode())
        return int((await reader.readline()).split()[1])
    finally:
        writer.close()


class _breaking:
    """A gateway that reads a call and breaks the connection; the calls it read are noted."""

    def __init__(self, asked: list[int], number: int) -> None:
        self._asked, self._number = asked, number

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._read, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self._asked.append(self._number)
        writer.transport.abort()
