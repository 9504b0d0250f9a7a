"""Where a route shares its answers between API keys, a call with private matter gets and leaves one of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.settings import ClusterSettings
from tests.gateway.asking import Reply, ask
from tests.gateway.played import played, pool_of
from tests.gateway.stand_in import standing_in
from tests.gateway.test_answer_cache import DAY_S, grow_older
from tests.gateway.test_other_words import LIMIT, LIMIT_TOO, learnt
from tests.waiting import until

IBAN = "TR33 0006 1005 1978 6457 8413 26"
SETTINGS = {
    "models": {"little": {}},
    "tiers": {"small": {"model": "little"}},
    "routes": {"auto": {"full": "small", "cache_shared": True, "cache_paraphrases": True}},
    "keys": [
        {"name": "a", "secret": "a" * 16},
        {"name": "b", "secret": "b" * 16},
        {"name": "hr", "secret": "h" * 16, "privacy": "local"},
    ],
}


async def test_private_matter_is_shared_with_no_other_key_and_the_rest_is(tmp_path: Path) -> None:
    async with standing_in(1) as (instance,):
        pools = [pool_of("little", [instance.port], slots=8)]
        async with played(tmp_path, ClusterSettings.model_validate(SETTINGS), pools) as world:

            async def caches(text: str, who: str, **headers: str) -> list[str]:
                """What the cache was to each of them in turn."""
                bearers = ({"Authorization": f"Bearer {each * 16}", **headers} for each in who)
                return [
                    (await ask(world.url, "/api/chat", text, model="auto", headers=each, stream=False)).cache
                    for each in bearers
                ]

            assert await caches("Kediler neden mırlar?", "abb") == ["miss", "hit", "hit"]
            assert await caches(f"{IBAN} kimin hesabı?", "abab") == ["miss", "miss", "hit", "hit"]
            assert await caches("ali@example.com kimin adresi?", "ab") == ["miss", "miss"]
            assert await caches("Köpekler neden havlar?", "hah") == ["miss", "miss", "hit"]
            stated = {"X-Privacy": "internal"}
            assert await caches("Kuşlar neden öter?", "ab", **stated) == ["miss", "miss"]
            assert await caches("Kuşlar neden öter?", "a") == ["miss"]
            assert await caches("Kuşlar neden öter?", "b") == ["hit"]
            assert await caches("uzun " * 500, "ab") == ["miss", "miss"], "nobody searches so much before each answer"


async def test_what_is_made_anew_behind_a_call_that_states_its_class_is_its_keys_own_as_before(tmp_path: Path) -> None:
    route = {**SETTINGS["routes"]["auto"], "cache_stale_while_revalidate_s": 600}
    settings = {**SETTINGS, "routes": {"auto": route}, "cache": {"ttl_jitter": 0}}
    async with standing_in(1) as (instance,):
        pools = [pool_of("little", [instance.port], slots=8)]
        async with played(tmp_path, ClusterSettings.model_validate(settings), pools) as world:

            async def asks(text: str, key: str, **more: str) -> Reply:
                headers = {"Authorization": f"Bearer {key * 16}", **more}
                return await ask(world.url, "/api/chat", text, model="auto", headers=headers, stream=False)

            stated = {"X-Privacy": "internal"}
            assert (await asks(LIMIT, "a", **stated)).cache == "miss"
            await learnt(world)
            await grow_older(world, DAY_S + 60)
            await until(lambda: asks(LIMIT, "a", **stated), holds=lambda seen: "stale" not in seen.headers["X-Cache"])
            assert len(instance.asked) == 2
            assert (await asks(LIMIT_TOO, "a", **stated)).cache == "hit"
            assert (await asks(LIMIT_TOO, "b")).cache == "miss"


@pytest.mark.parametrize("told", [{"privacy": {"default": "local"}}, {"route": {"privacy": "local"}}])
async def test_where_a_route_or_the_default_is_local_no_answer_is_shared(tmp_path: Path, told: dict[str, Any]) -> None:
    route = {**SETTINGS["routes"]["auto"], **told.get("route", {})}
    settings = {**SETTINGS, "routes": {"auto": route}, "privacy": told.get("privacy", {})}
    async with standing_in(1) as (instance,):
        pools = [pool_of("little", [instance.port], slots=8)]
        async with played(tmp_path, ClusterSettings.model_validate(settings), pools) as world:
            for key, cache in (("a", "miss"), ("b", "miss"), ("a", "hit")):
                headers = {"Authorization": f"Bearer {key * 16}"}
                text = "Kediler neden mırlar?"
                told_by = await ask(world.url, "/api/chat", text, model="auto", headers=headers, stream=False)
                assert told_by.cache == cache, key
