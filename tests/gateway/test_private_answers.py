"""Where a route shares its answers between API keys, a call with private matter gets and leaves one of its own."""

from __future__ import annotations

from pathlib import Path

from orchestrator.settings import ClusterSettings
from tests.gateway.asking import ask
from tests.gateway.played import played, pool_of
from tests.gateway.stand_in import standing_in

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
