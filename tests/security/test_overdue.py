"""A call that takes longer than a call may is ended: its caller is told so, and its slot is free."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from orchestrator.settings import ClusterSettings
from tests.gateway.asking import ask
from tests.gateway.played import Played, played, pool_of
from tests.gateway.stand_in import StandIn

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory, instance: StandIn) -> AsyncIterator[Played]:
    limits = {"whole_s": 1.0, "drain_s": 0.1, "hang_s": 0}
    settings = ClusterSettings.model_validate({"models": {"m": {}}, "limits": limits})
    async with played(tmp_path_factory.mktemp("overdue"), settings, [pool_of("m", [instance.port])]) as world:
        yield world
        assert "Traceback" not in world.logs()


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
async def test_an_answer_that_does_not_begin_is_given_up_for_good(world, path):
    reply = await ask(world.url, path, "hang", stream=False)
    assert (reply.status, b"limits.whole_s" in reply.body) == (504, True)
    await world.until_idle()


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/v1/chat/completions"])
async def test_an_answer_without_end_is_ended_by_an_error_and_never_as_if_it_were_whole(world, path):
    reply = await ask(world.url, path, "endless", stream=True)
    assert (reply.status, reply.is_whole) == (200, False)
    assert b"limits.whole_s" in reply.body[-1000:]
    await world.until_idle()


async def test_what_watches_the_cluster_has_no_end(world):
    async with aiohttp.ClientSession() as http, http.get(f"{world.url}/status/live") as reply:
        for _ in range(3):
            assert (await reply.content.readuntil(b"\n\n")).startswith(b"data: ")
