"""The answer cache as callers and operators meet it: ages, policies, tenants, wrong hits, seals, room, words."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from orchestrator.app import settings_in_use
from orchestrator.app.paths import StatePaths
from orchestrator.settings import ClusterSettings
from orchestrator.store.answers import Answers
from tests.gateway.asking import STREAMS, Reply, ask, get
from tests.gateway.played import Played, played, pool_of
from tests.gateway.stand_in import StandIn, standing_in
from tests.waiting import until

FAQ = "- questions: [otoyol hız limiti]\n  answer: 120 km/h\n  language: tr\n"
KEYS = [{"name": name, "secret": name * 16} for name in ("a", "b")]
SETTINGS: dict[str, Any] = {
    "models": {"little:1b": {}, "big:8b": {}},
    "tiers": {"small": {"model": "little:1b", "backup": "full"}, "full": {"model": "big:8b"}},
    "routes": {"auto": {}},
}
DAY_S = 86_400
Start = Callable[..., Awaitable[tuple[Played, list[StandIn]]]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts gateways before two stand-ins: the pools little:1b and big:8b."""
    async with AsyncExitStack() as stack:

        async def begin(workers: int = 1, **changes: Any) -> tuple[Played, list[StandIn]]:
            instances = await stack.enter_async_context(standing_in(2))
            pools = [pool_of(name, [each.port]) for name, each in zip(SETTINGS["models"], instances, strict=True)]
            settings = ClusterSettings.model_validate({**SETTINGS, **changes})
            return await stack.enter_async_context(played(tmp_path, settings, pools, workers=workers)), instances

        yield begin


async def auto(world: Played, text: str = "hello", who: str = "", **more: Any) -> Reply:
    headers = {**more.pop("headers", {}), **({"Authorization": f"Bearer {who * 16}"} if who else {})}
    return await ask(world.url, "/api/chat", text, model="auto", headers=headers, **{"stream": False, **more})


async def keys_of(world: Played) -> list[bytes]:
    found: list[bytes] = []
    for pattern in ("olm:answers:*", "olm:pool:*:answer:*"):
        found += await world.connection.command("KEYS", pattern)
    return found


async def until_kept(world: Played, n: int = 1) -> list[bytes]:
    return await until(lambda: keys_of(world), holds=lambda found: len(found) == n)


async def grow_older(world: Played, seconds: float, n: int = 1) -> None:
    """As if every answer had been kept that much earlier."""
    for key in await until_kept(world, n):
        entry = orjson.loads(await world.connection.command("GET", key))
        for name in ("kept_at_s", "fresh_until_s", "ends_s"):
            entry[name] -= seconds
        await world.connection.command("SET", key, orjson.dumps(entry), "KEEPTTL")


async def status_of(world: Played, is_right: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The cache's part of the status, once it is as wanted: the books are told once a second."""

    async def told() -> dict[str, Any]:
        return (await get(world.url, "/status.json")).json()["cache"]

    return await until(told, holds=is_right)


# --- what a hit tells -------------------------------------------------------------------------------------------------


async def test_a_hit_tells_its_layer_and_its_age_and_costs_no_tokens_of_a_prompt(start):
    world, _ = await start()
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    for n, path in enumerate(STREAMS, 1):
        text = f"hello {n}"
        assert (await ask(world.url, path, text, model="auto", stream=True)).headers["X-Cache"] == "miss"
        await grow_older(world, 0 if n > 1 else 100, n)
        hit = await ask(world.url, path, text, model="auto", stream=True, stream_options={"include_usage": True})
        word, layer, age = hit.headers["X-Cache"].split("; ")
        assert (word, layer) == ("hit", "layer=exact")
        assert 0 <= int(age.removeprefix("age=")) - (100 if n == 1 else 0) < 60
        last = hit.frames()[-1]
        if path.startswith("/v1"):
            assert last["usage"] == {**usage, "prompt_tokens_details": {"cached_tokens": 7}}
        else:
            assert (last["prompt_eval_count"], last["eval_count"]) == (7, 3)
            assert last["total_duration"] > 0
            assert not {"load_duration", "prompt_eval_duration", "eval_duration"} & last.keys()


async def test_a_call_that_is_not_cached_says_why(start):
    world, _ = await start(routes={"auto": {}, "never": {"cache": "off"}})
    drawn = await ask(world.url, "/api/chat", "hi", model="little:1b", stream=False)
    private = await auto(world, headers={"Cache-Control": "no-store"})
    off = await ask(world.url, "/api/chat", "hi", model="never", stream=False)
    told = [each.headers["X-Cache"] for each in (drawn, private, off)]
    assert told == ["bypass; reason=drawn", "bypass; reason=no_store", "bypass; reason=off"]


# --- policies ---------------------------------------------------------------------------------------------------------


async def test_a_plain_question_of_a_route_is_one_however_it_is_typed_and_a_models_counts_by_its_letter(start):
    world, _ = await start()
    first = await auto(world, "Otoyol  hız limiti nedir?")
    await until_kept(world)
    again = await auto(world, "OTOYOL HIZ LİMİTİ NEDİR")
    assert again.headers["X-Cache"].startswith("hit; layer=exact")
    assert again.json()["message"] == first.json()["message"]
    for text in ("What is this?", "what is this"):
        told = await ask(world.url, "/api/chat", text, model="little:1b", stream=False, options={"temperature": 0})
        assert told.headers["X-Cache"].startswith("miss")


async def test_a_route_may_take_questions_by_their_letter(start):
    world, _ = await start(routes={"auto": {"cache_spellings": False}})
    await auto(world, "What is this?")
    await until_kept(world)
    assert (await auto(world, "what is this")).headers["X-Cache"].startswith("miss")


async def test_no_cache_has_an_answer_made_anew_and_kept_in_place_of_the_old_one(start):
    world, (little, _) = await start()
    await auto(world)
    await grow_older(world, 100)
    anew = await auto(world, headers={"Cache-Control": "max-age=9, no-cache"})
    again = await auto(world)
    assert anew.headers["X-Cache"] == "miss; reason=no_cache"
    assert len(little.asked) == 2
    assert int(again.headers["X-Cache"].rpartition("=")[2]) < 100


async def test_max_age_takes_no_answer_that_is_older(start):
    world, (little, _) = await start()
    await auto(world)
    await grow_older(world, 100)
    assert (await auto(world, headers={"Cache-Control": "max-age=5000"})).cache == "hit"
    assert (await auto(world, headers={"Cache-Control": "max-age=50"})).headers["X-Cache"] == "miss; reason=old"
    assert (await auto(world, headers={"Cache-Control": "max-age=50"})).cache == "hit"
    assert len(little.asked) == 2


async def test_an_answer_past_its_time_is_not_given(start):
    world, (little, _) = await start()
    await auto(world)
    await grow_older(world, DAY_S)
    assert (await auto(world)).headers["X-Cache"] == "miss; reason=old"
    assert len(little.asked) == 2


async def test_an_answer_past_its_time_is_given_at_once_and_made_anew_behind_it_where_the_route_says_so(start):
    world, (little, _) = await start(routes={"auto": {"cache_stale_while_revalidate_s": 600}}, cache={"ttl_jitter": 0})
    await auto(world, "hello")
    await grow_older(world, DAY_S + 60)
    little.does = "wait"
    late = [await auto(world, stream=is_stream) for is_stream in (False, True)]
    assert [each.headers["X-Cache"].rpartition("; ")[2] for each in late] == ["stale=revalidate"] * 2
    await little.until(1)  # once for both
    little.gate.set()
    await little.until(0)
    await status_of(world, lambda told: told["hits"].get("exact:stale") == 2)
    fresh = await until(lambda: auto(world), holds=lambda seen: "stale" not in seen.headers["X-Cache"])
    assert fresh.headers["X-Cache"].startswith("hit; layer=exact; age=")
    assert len(little.asked) == 2


async def test_an_answer_past_its_time_is_given_where_no_instance_can_answer(start):
    world, instances = await start(cache={"models": "all", "ttl_jitter": 0}, limits={"queue_wait_s": 30})
    first = await auto(world)
    await ask(world.url, "/api/chat", "hi", model="little:1b", stream=True)
    await grow_older(world, DAY_S, 2)
    for each in instances:
        await each.stop()
    for is_stream in (False, True):
        late = await auto(world, stream=is_stream)
        assert (late.status, late.text, late.headers["X-Tier"]) == (200, first.text, "cache")
        assert late.headers["X-Cache"].endswith("; stale=error")
        named = await ask(world.url, "/api/chat", "hi", model="little:1b", stream=is_stream)
        assert (named.status, named.headers["X-Cache"].endswith("; stale=error")) == (200, True)
    await world.until_idle()


async def test_without_a_time_for_need_an_old_answer_is_given_to_nobody(start):
    world, instances = await start(cache={"stale_if_error_s": 0}, limits={"queue_wait_s": 1})
    await auto(world)
    await grow_older(world, DAY_S)
    for each in instances:
        await each.stop()
    assert (await auto(world)).status in (502, 503)


@pytest.mark.parametrize(
    ("question", "more", "is_kept"),
    [
        ("too-long", {}, False),
        ("too-long", {"options": {"num_predict": 3}}, True),
        ("too-long", {"options": {"num_predict": 9}}, False),
        ("call-tool", {}, False),
    ],
)
async def test_an_answer_is_kept_only_where_it_is_the_one_that_was_asked_for(start, question, more, is_kept):
    world, _ = await start()
    seen = [(await auto(world, f"{question} now", **more)).cache for _ in range(2)]
    assert seen == ["miss", "hit" if is_kept else "miss"]


async def test_answers_that_call_tools_are_kept_where_the_settings_say_so(start):
    world, _ = await start(cache={"tool_calls": True})
    replies = [await auto(world, "call-tool now") for _ in range(2)]
    assert [each.cache for each in replies] == ["miss", "hit"]
    assert replies[0].json()["message"]["tool_calls"] == replies[1].json()["message"]["tool_calls"]


async def test_what_is_used_least_is_forgotten_where_room_is_short(start):
    world, _ = await start(cache={"max_bytes": 65_536})
    for at in range(100):
        await auto(world, f"question {at}")
        await auto(world, "question 0")
    told = await status_of(world, lambda told: told["evicted"] > 0 and told["answers"] < 100)
    assert told["bytes"] <= 65_536
    assert (await auto(world, "question 0")).cache == "hit"


# --- tenants and wrong hits -------------------------------------------------------------------------------------------


async def test_a_route_may_share_its_answers_between_keys(start):
    routes = {"auto": {"cache_shared": True}, "own": {}}
    world, _ = await start(routes=routes, keys=KEYS)
    shared = [(await auto(world, who=who)).cache for who in "ab"]
    own = [
        (await ask(world.url, "/api/chat", "hi", model="own", stream=False, headers=bearer(who))).cache for who in "ab"
    ]
    assert (shared, own) == (["miss", "hit"], ["miss", "miss"])


async def test_one_tenants_calls_neither_read_nor_replace_nor_end_what_was_kept_for_another(start):
    world, (little, _) = await start(keys=KEYS)
    await auto(world, who="a")
    (place,) = await until_kept(world)
    before = await world.connection.command("GET", place)
    # Whatever b asks, and however: the same question, the same made anew, a report with what a was given.
    hit = await auto(world, who="a")
    for directive in ("", "no-cache", "max-age=0", "no-store"):
        assert (await auto(world, who="b", headers={"Cache-Control": directive})).cache != "hit" or not directive
    stolen = await report(world, hit.headers["X-Cache-Key"], "b")
    assert stolen.status == 404
    assert await world.connection.command("GET", place) == before
    assert (await auto(world, who="a")).cache == "hit"
    assert (await auto(world, who="b")).cache == "hit"  # its own
    assert len(little.asked) == 5


def bearer(who: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {who * 16}"} if who else {}


async def report(world: Played, key: Any, who: str = "", verdict: str = "wrong") -> Reply:
    asked = {"key": key, "verdict": verdict}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{world.url}/api/feedback", json=asked, headers=bearer(who)) as reply,
    ):
        return Reply(reply.status, reply.headers, await reply.read())


async def test_a_hit_that_is_reported_as_wrong_is_given_to_nobody_again(start):
    world, (little, _) = await start(routes={"auto": {"cache_shared": True}}, keys=[*KEYS, ADMIN])
    await auto(world, who="a")
    hit = await auto(world, who="b")
    told = await report(world, hit.headers["X-Cache-Key"], "b")
    assert (told.status, told.json()) == (200, {"status": "dropped", "layer": "exact"})
    assert (await auto(world, who="a")).cache == "miss"
    assert len(little.asked) == 2
    metrics = (await get(world.url, "/metrics", headers=bearer("o"))).body.decode()
    assert 'olm_cache_false_hits_total{layer="exact"} 1.0' in metrics


ADMIN = {"name": "ops", "secret": "o" * 16, "admin": True}


async def test_a_curated_answer_that_is_reported_as_wrong_stays_and_is_counted_where_people_see_it(start, tmp_path):
    (tmp_path / "faq.yaml").write_text(FAQ, encoding="utf-8")
    world, _ = await start(cache={"faq": [str(tmp_path / "faq.yaml")]})
    for question in ("otoyol hız limiti", "otobanda hız sınırı nedir"):
        hit = await auto(world, question)
        told = await report(world, hit.headers["X-Cache-Key"])
        assert told.json() == {"status": "counted", "layer": "faq", "entry": "faq.yaml:1"}
    assert (await auto(world, question)).text == "120 km/h"
    wrong = (await status_of(world, lambda told: len(told["reported_wrong"]) == 3))["reported_wrong"]
    assert wrong == {"faq:faq.yaml:1": 2, "faq:paraphrase": 1, "faq:words": 1}


@pytest.mark.parametrize("key", ["", "x", "0" * 24 + ".r.1.auto", 7, None])
async def test_what_was_never_given_cannot_be_reported(start, key):
    world, _ = await start()
    assert (await report(world, key)).status in (400, 404)
    assert (await report(world, key, verdict="right")).status == 400


# --- sealed answers ---------------------------------------------------------------------------------------------------

SEALED = {"encryption_key": "0123456789abcdef"}


async def test_sealed_answers_are_given_and_redis_sees_no_word_of_them(start):
    world, _ = await start(cache=SEALED)
    first = await auto(world)
    (place,) = await until_kept(world)
    assert b"one" not in await world.connection.command("GET", place)
    again = await auto(world)
    assert (again.cache, again.text) == ("hit", first.text)


async def test_an_answer_that_cannot_be_opened_is_a_miss_and_no_error(start):
    world, _ = await start(cache=SEALED)
    await auto(world)
    (place,) = await until_kept(world)
    sealed = await world.connection.command("GET", place)
    plain = orjson.dumps({"answer": {"text": "planted"}})
    for planted in (sealed[:-1] + b"\x00", sealed[:7], b"\x01", plain, b"\xff"):
        await world.connection.command("SET", place, planted)
        reply = await auto(world, headers={"Cache-Control": "max-age=900"})
        assert (reply.status, reply.headers["X-Cache"]) == (200, "miss; reason=unreadable")
        assert reply.text == "one two three"


async def test_a_changed_key_reads_what_was_sealed_with_one_of_before_that_is_named(start):
    world, _ = await start(cache=SEALED)
    await auto(world)
    await until_kept(world)
    new = {"encryption_key": "f" * 16}
    for cache, seen in (({**new, "old_encryption_keys": ["0123456789abcdef"]}, "hit"), (new, "miss")):
        await take_over(world, cache=cache)
        assert (await auto(world, headers={"Cache-Control": "max-age=999"})).cache == seen


async def take_over(world: Played, **changes: Any) -> None:
    """New settings in force in every worker."""
    said = world.logs().count("settings taken over")
    settings_in_use.write(StatePaths(world.state), ClusterSettings.model_validate({**SETTINGS, **changes}))
    for each in world.gateways:
        each.send_signal(signal.SIGHUP)
    await until(lambda: world.logs().count("settings taken over") >= said + len(world.gateways))


# --- loud -------------------------------------------------------------------------------------------------------------


async def test_hits_and_misses_are_counted_by_layer_and_reason_in_status_and_metrics(start, tmp_path):
    (tmp_path / "faq.yaml").write_text(FAQ, encoding="utf-8")
    world, _ = await start(cache={"faq": [str(tmp_path / "faq.yaml")]})
    for question in ("otoyol hız limiti", "hello", "hello"):
        await auto(world, question)
    await ask(world.url, "/api/chat", "hi", model="little:1b", stream=False)
    told = await status_of(world, lambda told: sum(told["misses"].values()) == 4)
    assert told["hits"] == {"exact:fresh": 1, "faq:words": 1}
    assert told["misses"] == {"exact:absent": 1, "exact:drawn": 1, "faq:no_entry": 2}
    assert (told["answers"], told["bytes"] > 0) == (1, True)
    assert [(each["name"], each["is_on"]) for each in told["layers"]] == [
        ("faq", True),
        ("routes", True),
        ("paraphrases", False),
        ("models", True),
    ]
    metrics = (await get(world.url, "/metrics")).body.decode()
    for line in (
        'olm_cache_hits_total{how="words",layer="faq"} 1.0',
        'olm_cache_hits_total{how="fresh",layer="exact"} 1.0',
        'olm_cache_misses_total{layer="exact",reason="drawn"} 1.0',
        'olm_cache_misses_total{layer="faq",reason="no_entry"} 2.0',
        f"olm_cache_bytes {float(told['bytes'])}",
    ):
        assert line in metrics


async def test_a_cache_that_sees_calls_and_no_hit_is_warned_of_with_the_reason(start):
    world, _ = await start(cache={"warn_after": 5})
    for at in range(6):
        await ask(world.url, "/api/chat", f"hi {at % 2}", model="little:1b", stream=False)
    told = await status_of(world, lambda told: bool(told["warning"]))
    assert "no hit in 6 calls; of 6 they ask for no certain answer" in told["warning"]
    assert told["warning"] in world.logs()
    assert told["warning"] in (await get(world.url, "/status.json")).json()["notes"]
    for _ in range(2):
        await auto(world)
    await status_of(world, lambda told: not told["warning"])


async def test_what_is_on_and_off_is_said_at_the_start_and_when_it_changes(start):
    world, _ = await start(routes={"auto": {"cache": "off"}})
    assert "answer cache, routes: OFF: auto: off" in world.logs()
    assert "answer cache, models: ON: `cache.models` is deterministic" in world.logs()
    await take_over(world, cache={"enabled": False})
    assert "answer cache, models: OFF: `cache.enabled` is false" in world.logs()


async def test_turned_on_and_off_under_load_no_call_fails_and_the_state_is_shown_as_it_is(start):
    world, _ = await start(workers=2)
    is_over, statuses = asyncio.Event(), set()

    async def go_on(number: int) -> None:
        while not is_over.is_set():
            reply = await auto(world, f"question {number % 3}", stream=bool(number % 2))
            statuses.add((reply.status, reply.is_whole))

    async with asyncio.TaskGroup() as callers:
        for number in range(8):
            callers.create_task(go_on(number))
        for is_on in (False, True) * 3:
            await take_over(world, cache={"enabled": is_on})
            # Each worker has said that it took them over: from now on each shows it, and does it.
            shown = {(await get(world.url, "/status.json")).json()["cache"]["state"] for _ in range(8)}
            assert shown == {"ON" if is_on else "OFF"}
            seen = {(await auto(world, "question 1")).cache for _ in range(4)}
            assert seen <= ({"hit", "joined", "miss"} if is_on else {"off"})
        is_over.set()
    assert statuses == {(200, True)}


async def test_purged_answers_are_made_anew(start):
    world, (little, _) = await start()
    await auto(world, headers={"X-Cache-Tags": "law, 2026"})
    await until_kept(world)
    assert await Answers(world.connection).purge_route("auto") == 1
    assert (await auto(world)).cache == "miss"
    assert len(little.asked) == 2
