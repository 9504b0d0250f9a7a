"""What routes do is counted by day, and what their tiers answer may be rated by who was given it, once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from orchestrator.settings import ClusterSettings
from orchestrator.store import routed
from orchestrator.store.routed import Routed
from tests.gateway.asking import STREAMS, Reply, ask, get
from tests.gateway.played import Played, played, pool_of
from tests.gateway.stand_in import StandIn, standing_in
from tests.waiting import until

KEYS = [{"name": name, "secret": name * 16, "admin": name == "a"} for name in ("a", "b")]
SETTINGS: dict[str, Any] = {
    "models": {"m": {}},
    "tiers": {"small": {"model": "m"}, "full": {"model": "m"}},
    "routes": {
        "my.auto": {},
        "doubtful": {"primary": "small", "escalate_to": "full", "escalate_if": [{"length_cut": True}]},
    },
    "keys": KEYS,
}
World = tuple[Played, StandIn]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """One gateway before one stand-in."""
    async with standing_in(1) as (instance,):
        settings = ClusterSettings.model_validate(SETTINGS)
        async with played(tmp_path, settings, [pool_of("m", [instance.port])]) as gateway:
            yield gateway, instance


def bearer(who: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {who * 16}"}


async def chat(gateway: Played, text: str, *, path: str = "/api/chat", **headers: str) -> Reply:
    return await ask(gateway.url, path, text, model="my.auto", stream=False, headers={**bearer("a"), **headers})


async def rate(gateway: Played, key: str, verdict: str, who: str = "a") -> tuple[int, Any]:
    told = {"key": key, "verdict": verdict}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{gateway.url}/api/feedback", json=told, headers=bearer(who)) as reply,
    ):
        return reply.status, await reply.json()


async def until_counted(gateway: Played, wanted: Routed, route: str = "my.auto") -> None:
    """Counts are written once a second."""
    day = datetime.now(UTC).date().isoformat()
    await until(lambda: routed.read(gateway.connection, day), f"{wanted}", holds=lambda seen: seen.get(route) == wanted)


async def test_what_tiers_answer_is_counted_once_and_neither_hits_nor_evaluations_are(world: World) -> None:
    gateway, instance = world
    for path in STREAMS:
        await chat(gateway, f"hello, {path}", path=path)
    hit = await chat(gateway, f"hello, {STREAMS[0]}")
    assert hit.cache == "hit"
    await chat(gateway, "a set's question", **{"X-Replay": "1"})
    assert len(instance.asked) == len(STREAMS) + 1
    await until_counted(gateway, Routed({"small": len(STREAMS)}))
    metrics = (await get(gateway.url, "/metrics", headers=bearer("a"))).body.decode()
    assert f'olm_routed_total{{route="my.auto",tier="small"}} {len(STREAMS)}.0' in metrics


async def test_an_escalated_call_counts_once_under_the_tier_that_answered_and_why_it_was(world: World) -> None:
    gateway, instance = world
    for text in ("too-long please", "hello"):
        headers = {**bearer("a"), "Cache-Control": "no-store"}
        await ask(gateway.url, "/api/chat", text, model="doubtful", stream=False, headers=headers)
    assert instance.asked == ["too-long please", "too-long please", "hello"]
    await until_counted(gateway, Routed({"full": 1, "small": 1}, {"length_cut": 1}), "doubtful")
    metrics = (await get(gateway.url, "/metrics", headers=bearer("a"))).body.decode()
    assert 'olm_escalated_total{reason="length_cut",route="doubtful"} 1.0' in metrics


async def test_a_tiers_answer_is_rated_once_and_by_who_was_given_it(world: World) -> None:
    gateway, _ = world
    first, second = [(await chat(gateway, text)).headers["X-Answer-Key"] for text in ("hello", "hello there")]
    assert (await rate(gateway, first, "wrong", who="b"))[0] == 404
    assert (await rate(gateway, first[:-1] + "0", "wrong"))[0] == 404
    assert await rate(gateway, first, "wrong") == (200, {"status": "counted", "layer": "tier"})
    assert await rate(gateway, first, "right") == (200, {"status": "known", "layer": "tier"})
    assert await rate(gateway, second, "right") == (200, {"status": "counted", "layer": "tier"})
    status, told = await rate(gateway, second, "so-so")
    assert status == 400
    assert "X-Answer-Key" in told["error"]
    await until_counted(gateway, Routed({"small": 2}, right=1, wrong=1))


async def test_a_hit_has_a_key_of_its_own_and_cannot_be_called_right(world: World) -> None:
    gateway, _ = world
    await chat(gateway, "hello")
    hit = await chat(gateway, "hello")
    assert "X-Answer-Key" not in hit.headers
    assert (await rate(gateway, hit.headers["X-Cache-Key"], "right"))[0] == 400
    assert (await rate(gateway, hit.headers["X-Cache-Key"], "wrong"))[1] == {"status": "dropped", "layer": "exact"}


async def test_an_answer_of_a_pool_asked_for_by_name_has_nothing_to_be_rated_by(world: World) -> None:
    gateway, _ = world
    told = await ask(gateway.url, "/api/chat", "hello", model="m", stream=False, headers=bearer("a"))
    assert "X-Answer-Key" not in told.headers
