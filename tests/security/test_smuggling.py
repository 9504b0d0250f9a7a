"""One request is one request, to the gateway alone and behind nginx; nothing of a caller's becomes another's."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import count

import pytest
import pytest_asyncio

from orchestrator.settings import ClusterSettings
from tests.gateway.asking import connected
from tests.gateway.played import Played, played, pool_of
from tests.gateway.stand_in import standing_in
from tests.nginx.playing import NAME, Front, fronted, listens, nginx_program
from tests.security.ambiguous import HIDDEN, LAST, REFUSED, TAKEN
from tests.security.doors import door, heard, left, statuses, thrown
from tests.waiting import WITHIN_S

pytestmark = pytest.mark.asyncio(loop_scope="module")
_NUMBERS = count()
ALL = {**REFUSED, **LAST, **{kind: request for kind, (request, _) in TAKEN.items()}}


@pytest.mark.parametrize("kind", REFUSED)
async def test_what_can_be_read_in_two_ways_is_refused_and_its_connection_closed(kind):
    async with door() as opened:
        received = await thrown(opened.url, REFUSED[kind] + HIDDEN)
        assert len(statuses(received)) == 1, received
        assert statuses(received)[0] >= 400, received
        assert all(each.path != "/smuggled" for each in opened.asked)
        assert b"abc" not in opened.bodies


@pytest.mark.parametrize("kind", LAST)
async def test_behind_the_last_request_nothing_is_read(kind):
    async with door() as opened:
        received = await thrown(opened.url, LAST[kind] + HIDDEN)
        assert len(statuses(received)) == 1
        assert all(each.path != "/smuggled" for each in opened.asked)


@pytest.mark.parametrize("kind", TAKEN)
async def test_what_can_be_read_in_one_way_is_read_so_and_the_next_request_begins_behind_it(kind):
    request, body = TAKEN[kind]
    async with door() as opened:
        received = await thrown(opened.url, request + HIDDEN.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert statuses(received) == [200, 200]
        assert opened.bodies == [body]
        assert [each.path for each in opened.asked] == ["/", "/smuggled"]


@pytest.mark.parametrize("kind", ALL)
async def test_it_is_all_the_same_in_which_pieces_a_request_comes(kind):
    request = ALL[kind] + HIDDEN
    whole = await heard(request)
    assert (await heard(*(request[n : n + 1] for n in range(len(request))))).requests == whole.requests
    for at in range(1, len(request), 7):
        assert (await heard(request[:at], request[at:])).requests == whole.requests


# --- behind nginx -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class World:
    front: Front
    gateway: Played


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    nginx_program()
    folder = tmp_path_factory.mktemp("smuggling")
    settings = ClusterSettings.model_validate({"models": {"m": {}}, "limits": {"between_bytes_s": 2.0}})
    async with standing_in(1) as (instance,), played(folder, settings, [pool_of("m", [instance.port])]) as gateway:
        with fronted(folder / "nginx", [gateway.url.removeprefix("http://")]) as front:
            await listens(front)
            yield World(front, gateway)


async def answers_its_own(front: Front) -> None:
    """Whoever asks next is given the answer to its own question: nothing is left in nginx' connection behind."""
    for _ in range(3):
        own = f"own-{next(_NUMBERS)}"
        head = f"GET /api/version HTTP/1.1\r\nHost: {NAME}\r\nX-Request-Id: {own}\r\nConnection: close\r\n\r\n"
        received = await thrown(front.url, head.encode())
        assert statuses(received) == [200]
        assert re.findall(rb"X-Request-Id: (\S+)", received) == [own.encode()]


@pytest.mark.parametrize("kind", ALL)
async def test_behind_nginx_no_request_is_answered_that_nginx_did_not_see(world, kind):
    request = (ALL[kind] + HIDDEN).replace(b"POST /", b"POST /api/version").replace(b"GET /", b"GET /api/version")
    request = request.replace(b"/api/versionsmuggled", b"/status.json").replace(b"localhost", NAME.encode())
    async with connected(world.front.url) as (reader, writer):
        writer.write(request)
        writer.write_eof()
        async with asyncio.timeout(WITHIN_S):
            await left(reader)
    await answers_its_own(world.front)
    assert world.gateway.gateways[0].poll() is None
