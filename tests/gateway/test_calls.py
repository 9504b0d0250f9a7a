"""Calls that go well: both dialects, streamed and not; who answered; what the cache may answer; what is counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from orchestrator.settings import ClusterSettings
from orchestrator.store import usage
from tests.gateway.asking import STREAMS, ask, get
from tests.gateway.played import Played, played, played_before_three, pool_of
from tests.gateway.stand_in import WORDS, StandIn, standing_in
from tests.waiting import WITHIN_S, until

TEXT = "".join(WORDS)
EASY, HARD = "hello", "Prove step by step that the sum of two odd numbers is even, then write a Python program for it."
FAQ = "- questions: [otoyol hız limiti]\n  answer: 120 km/h\n  language: tr\n"
SETTINGS: dict[str, Any] = {
    "models": {"little:1b": {}, "big:8b": {}, "m": {}},
    "tiers": {"small": {"model": "little:1b", "backup": "full"}, "full": {"model": "big:8b"}},
    "routes": {"auto": {}},
}
Start = Callable[..., Awaitable[tuple[Played, list[StandIn]]]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a gateway before three stand-ins: the pools little:1b, big:8b and m."""
    async with AsyncExitStack() as stack:

        async def begin(**changes: Any) -> tuple[Played, list[StandIn]]:
            return await stack.enter_async_context(played_before_three(tmp_path, {**SETTINGS, **changes}))

        yield begin


async def test_every_path_answers_streamed_and_whole_with_the_same_text(start):
    world, _ = await start()
    for path in STREAMS:
        streamed = await ask(world.url, path, "hi", stream=True)
        whole = await ask(world.url, path, "hi", stream=False)
        assert (streamed.status, whole.status) == (200, 200)
        assert streamed.text == whole.text == TEXT
    await world.until_idle()


async def test_an_instance_at_an_ipv6_address_is_asked_by_that_address(tmp_path):
    async with standing_in(1, host="::1") as (here,):
        pool = pool_of("m", [here.port], host="::1")
        async with played(tmp_path, ClusterSettings.model_validate({"models": {"m": {}}}), [pool]) as world:
            assert (await ask(world.url, "/api/chat", EASY, model="m")).text == TEXT
    assert f"Host: [::1]:{here.port}" in here.heads[0].splitlines()


async def test_an_answer_says_where_it_came_from_and_where_its_time_went(start):
    world, _ = await start()
    reply = await ask(world.url, "/api/chat", EASY, model="auto", stream=False)
    assert reply.headers["X-Tier"] == "small"
    assert reply.headers["X-Instance"] == "little-1b-0"
    assert reply.cache == "miss"
    assert reply.headers["X-Simulated"] == "true"
    assert len(reply.headers["X-Request-Id"]) == 32
    parts = dict(part.strip().split(";dur=") for part in reply.headers["Server-Timing"].split(","))
    assert list(parts) == ["queue", "route", "overhead"]
    assert all(float(ms) >= 0 for ms in parts.values())


async def test_auto_asks_the_small_tier_what_is_easy_and_the_full_one_what_is_hard(start):
    world, (little, big, _) = await start()
    for path in STREAMS:
        fresh = {"Cache-Control": "no-store"}
        easy = await ask(world.url, path, EASY, model="auto", stream=True, headers=fresh)
        hard = await ask(world.url, path, HARD, model="auto", stream=True, headers=fresh)
        assert (easy.headers["X-Tier"], hard.headers["X-Tier"]) == ("small", "full")
        assert easy.frames()[0]["model"] == "little:1b"
        assert hard.frames()[0]["model"] == "big:8b"
    assert (len(little.asked), len(big.asked)) == (4, 4)


async def test_a_tier_that_cannot_answer_is_stood_in_for_by_its_backup(start):
    world, (little, _, _) = await start()
    await little.stop()
    reply = await ask(world.url, "/api/chat", EASY, model="auto", stream=False)
    assert (reply.status, reply.headers["X-Tier"]) == (200, "full")


async def test_a_sane_request_id_is_echoed_and_a_hostile_one_replaced(start):
    world, _ = await start()
    for given, is_kept in (
        ("req-1.a:b/c", True),
        ("a b", False),
        ("x" * 129, False),
        ("<script>", False),
        ("é", False),
    ):
        reply = await ask(world.url, "/api/chat", "hi", headers={"X-Request-Id": given}, stream=False)
        assert (reply.headers["X-Request-Id"] == given) == is_kept


async def test_an_unknown_model_is_not_found_in_the_callers_dialect_and_a_header_names_those_there_are(start):
    world, _ = await start()
    there = "auto, little:1b, big:8b, m"
    for path in ("/api/chat", "/api/generate"):
        reply = await ask(world.url, path, "hi", model="nope")
        assert (reply.status, reply.json()) == (404, {"error": "model 'nope' not found"})
        assert reply.headers["X-Models"] == there
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"):
        reply = await ask(world.url, path, "hi", model="nope")
        assert (reply.status, reply.headers["X-Models"]) == (404, there)
        assert reply.json()["error"]["type"] == "not_found_error"
    for path in ("/api/embed", "/v1/embeddings"):
        reply = await ask(world.url, path, "hi", model="auto")
        assert (reply.status, reply.headers["X-Models"]) == (404, "little:1b, big:8b, m")
    assert "X-Models" not in (await ask(world.url, "/api/chat", "hi", model="m")).headers


async def test_a_model_is_known_by_every_spelling_of_its_name_and_answers_under_the_callers(start):
    world, (little, _, m) = await start()
    for name in ("m", "M", "m:latest", "library/m", "registry.ollama.ai/library/m:latest"):
        reply = await ask(world.url, "/api/chat", "hi", model=name, stream=False)
        assert reply.status == 200
        assert reply.json()["model"] == name
    assert len(m.asked) == 5
    assert not little.asked


async def test_a_route_call_repeated_is_answered_by_the_cache_in_the_form_and_the_dialect_it_is_asked_in(start):
    world, (little, _, _) = await start()
    for number, path in enumerate(STREAMS):
        first = await ask(world.url, path, EASY, model="auto", stream=True)
        again = await ask(world.url, path, EASY, model="auto", stream=False)
        third = await ask(world.url, path, EASY, model="auto", stream=True)
        assert [each.cache for each in (first, again, third)] == ["hit" if number else "miss", "hit", "hit"]
        assert again.headers["X-Tier"] == third.headers["X-Tier"] == "cache"
        assert first.text == again.text == third.text == TEXT
    assert len(little.asked) == 1
    whole = await ask(world.url, "/api/generate", "another", model="auto", stream=False)
    streamed = await ask(world.url, "/api/generate", "another", model="auto", stream=True)
    assert (whole.cache, streamed.cache) == ("miss", "hit")
    assert streamed.frames()[-1]["done"] is True


async def test_a_cached_openai_answer_tells_its_tokens(start):
    world, _ = await start()
    for path in ("/v1/chat/completions", "/v1/completions"):
        await ask(world.url, path, EASY, model="auto", stream=True)
        again = await ask(world.url, path, EASY, model="auto", stream=False)
        assert again.cache == "hit"
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        assert again.json()["usage"] == {**usage, "prompt_tokens_details": {"cached_tokens": 7}}


async def test_a_named_model_is_answered_from_the_cache_only_where_the_caller_asked_for_a_certain_answer(start):
    world, (_, _, m) = await start()
    certain = {"options": {"temperature": 0}, "stream": False}
    states = [(await ask(world.url, "/api/chat", "hi", **certain)).cache for _ in range(2)]
    free = [(await ask(world.url, "/api/chat", "hi", stream=False)).cache for _ in range(2)]
    assert (states, free) == (["miss", "hit"], ["bypass", "bypass"])
    assert len(m.asked) == 3


async def test_a_model_that_was_pulled_anew_is_not_answered_for_by_what_the_old_one_said(start):
    world, (_, _, m) = await start()
    certain = {"options": {"temperature": 0}, "stream": False}
    await ask(world.url, "/api/chat", "hi", **certain)
    await world.publish([replace(pool, details={"tags": {"digest": "new"}}) for pool in world.pools])
    async with asyncio.timeout(WITHIN_S):
        while len(m.asked) < 2:  # until the worker has heard of it
            reply = await ask(world.url, "/api/chat", "hi", **certain)
    assert reply.cache == "miss"


async def test_no_store_neither_reads_the_cache_nor_writes_it(start):
    world, (little, _, _) = await start()
    private = {"Cache-Control": "no-store"}
    first = await ask(world.url, "/api/chat", EASY, model="auto", stream=False, headers=private)
    second = await ask(world.url, "/api/chat", EASY, model="auto", stream=False)
    third = await ask(world.url, "/api/chat", EASY, model="auto", stream=False, headers=private)
    assert [each.cache for each in (first, second, third)] == ["bypass", "miss", "bypass"]
    assert len(little.asked) == 3


async def test_answers_made_for_one_key_are_not_given_to_another(start):
    keys = [{"name": name, "secret": name * 16} for name in ("a", "b")]
    world, (little, _, _) = await start(keys=keys)
    seen = []
    for name in ("a", "b", "a"):
        headers = {"Authorization": f"Bearer {name * 16}"}
        reply = await ask(world.url, "/api/chat", EASY, model="auto", stream=False, headers=headers)
        seen.append(reply.cache)
    assert seen == ["miss", "miss", "hit"]
    assert len(little.asked) == 2


async def test_a_curated_answer_is_given_before_anything_is_asked(start, tmp_path):
    (tmp_path / "faq.yaml").write_text(FAQ, encoding="utf-8")
    world, instances = await start(cache={"faq": [str(tmp_path / "faq.yaml")]})
    for path in STREAMS:
        for is_stream in (True, False):
            reply = await ask(world.url, path, "Otoyol hız limiti?", model="auto", stream=is_stream)
            assert (reply.status, reply.cache, reply.text) == (200, "faq", "120 km/h")
    assert not any(each.asked for each in instances)


async def test_a_curated_answer_says_which_entry_it_is_and_how_its_question_was_found(start, tmp_path):
    (tmp_path / "faq.yaml").write_text(FAQ, encoding="utf-8")
    world, _ = await start(cache={"faq": [str(tmp_path / "faq.yaml")]})
    for question, how in (("Otoyol hız limiti?", "words"), ("otobanda hız sınırı nedir", "paraphrase; likeness=0.9")):
        reply = await ask(world.url, "/api/chat", question, model="auto", stream=False)
        assert (reply.cache, reply.text) == ("faq", "120 km/h")
        assert reply.headers["X-FAQ"].startswith(f"faq.yaml:1; match={how}")
    for question in ("şehir içi hız limiti", "otoyol hız limiti yok mu", "otoyolda kamyon hız limiti"):
        reply = await ask(world.url, "/api/chat", question, model="auto", stream=False)
        assert (reply.cache, reply.headers.get("X-FAQ")) == ("miss", None)


async def test_paraphrases_of_curated_questions_can_be_turned_off(start, tmp_path):
    (tmp_path / "faq.yaml").write_text(FAQ, encoding="utf-8")
    world, _ = await start(cache={"faq": [str(tmp_path / "faq.yaml")], "faq_paraphrases": False})
    reply = await ask(world.url, "/api/chat", "otobanda hız sınırı nedir", model="auto", stream=False)
    assert reply.cache == "miss"


async def test_a_cache_that_is_off_says_so_and_answers_nothing(start):
    world, (little, _, _) = await start(cache={"enabled": False})
    seen = [(await ask(world.url, "/api/chat", EASY, model="auto", stream=False)).cache for _ in range(2)]
    assert seen == ["off", "off"]
    assert len(little.asked) == 2


@pytest.mark.parametrize("question", ["cut here", "end early", "hang-midway for ever"])
async def test_an_answer_that_was_not_whole_is_not_kept(start, question):
    world, instances = await start(limits={"between_bytes_s": 0.3})
    for _ in range(2):
        reply = await ask(world.url, "/api/chat", question, model="auto", stream=True)
        assert reply.cache == "miss"
        assert "error" in reply.frames()[-1]
    assert sum(len(each.asked) for each in instances) == 2


async def test_an_answer_too_long_for_the_cache_is_given_and_not_kept(start):
    world, instances = await start(cache={"max_answer_bytes": 1024})
    for _ in range(2):
        reply = await ask(world.url, "/api/generate", "long-context", model="auto", stream=True)
        assert (reply.status, reply.cache) == (200, "miss")
    assert sum(len(each.asked) for each in instances) == 2


async def test_a_last_line_longer_than_a_read_of_the_socket_is_a_whole_answer(start):
    world, _ = await start()
    reply = await ask(world.url, "/api/generate", "long-context", stream=True)
    assert reply.frames()[-1]["done"] is True
    assert len(reply.frames()[-1]["context"]) == 200_000
    await counted(world, "m", "tier:m:completion_tokens", 3)


async def test_a_stream_whose_caller_asked_for_no_usage_is_counted_and_shows_none(start):
    world, (_, _, m) = await start()
    for n, path in enumerate(("/v1/chat/completions", "/v1/completions"), 1):
        reply = await ask(world.url, path, "hi", stream=True)
        assert b"usage" not in reply.body
        assert reply.body.endswith(b"data: [DONE]\n\n")
        assert m.bodies[-1]["stream_options"] == {"include_usage": True}
        await counted(world, "m", "tier:m:completion_tokens", 3 * n)
        await counted(world, "m", "tier:m:prompt_tokens", 7 * n)
    asked = await ask(world.url, "/v1/chat/completions", "hi", stream=True, stream_options={"include_usage": True})
    assert asked.frames()[-1]["usage"]["total_tokens"] == 10


async def counted(world: Played, pool: str, name: str, amount: int) -> None:
    """Wait until Redis counts so many: settling comes after the answer's last byte."""
    day = datetime.now(UTC).date().isoformat()
    await until(lambda: usage.read(world.connection, day), holds=lambda seen: seen.get(pool, {}).get(name) == amount)


async def test_what_would_reload_a_model_is_not_passed_on(start):
    world, (_, _, m) = await start()
    options = {"num_ctx": 512, "num_gpu": 1, "temperature": 0.5}
    reply = await ask(world.url, "/api/chat", "hi", stream=False, keep_alive="1s", options=options)
    assert reply.status == 200
    assert m.bodies[-1]["options"] == {"num_ctx": 4096, "temperature": 0.5}
    assert "keep_alive" not in m.bodies[-1]


async def test_conversations_that_began_alike_go_on_each_where_it_went_last(tmp_path):
    async with standing_in(3) as instances:
        pool = pool_of("m", [each.port for each in instances], slots=1)
        settings = ClusterSettings.model_validate({"models": {"m": {}}})
        async with played(tmp_path, settings, [pool]) as world:

            async def say(*texts: str) -> str:
                turns = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]
                reply = await ask(world.url, "/api/chat", "", stream=False, messages=turns)
                await world.until_idle()
                return reply.headers["X-Instance"]

            await say("q")
            both = asyncio.gather(*(say("q", "a", f"wait {each}") for each in (1, 2)))
            await until(lambda: sum(each.active for each in instances) >= 2)
            for each in instances:
                each.gate.set()
            one, other = await both
            assert one != other
            for at in range(3):
                assert await say("q", "a", "wait 1", "b", f"why {at}?") == one
                assert await say("q", "a", "wait 2", "b", f"why {at}?") == other


async def test_who_asks_for_what_would_reload_a_model_is_named_in_metrics(start):
    world, _ = await start(keys=[{"name": "greedy", "secret": "g" * 16, "admin": True}])
    key = {"Authorization": f"Bearer {'g' * 16}"}
    options = {"num_ctx": 512, "num_gpu": 1, "temperature": 0.5}
    for question, more in (("hi", {"options": options, "keep_alive": "1s"}), ("", {"keep_alive": 0})):
        assert (await ask(world.url, "/api/generate", question, stream=False, headers=key, **more)).status == 200
    plain = {"options": {"num_ctx": 4096, "seed": 1}}
    assert (await ask(world.url, "/api/generate", "hi", stream=False, headers=key, **plain)).status == 200
    told = (await get(world.url, "/metrics", headers=key)).body.decode()
    counted = {line for line in told.splitlines() if line.startswith("olm_reloading_options_total{")}
    kept = (("keep_alive", "dropped"), ("keep_alive", "ignored"), ("num_ctx", "clamped"), ("num_gpu", "dropped"))
    assert counted == {
        f'olm_reloading_options_total{{caller="greedy",done="{done}",option="{name}"}} 1.0' for name, done in kept
    }


async def test_a_request_to_load_or_unload_is_answered_and_disturbs_no_instance(start):
    world, instances = await start()
    for body in ({}, {"keep_alive": 0}):
        reply = await ask(world.url, "/api/generate", "", stream=False, **body)
        assert reply.json()["done_reason"] == ("unload" if body else "load")
    assert not any(each.asked for each in instances)


async def test_the_lists_name_routes_beside_models(start):
    world, _ = await start()
    assert "auto" in [each["name"] for each in (await get(world.url, "/api/tags")).json()["models"]]
    assert "auto" in [each["id"] for each in (await get(world.url, "/v1/models")).json()["data"]]
    assert (await get(world.url, "/v1/models/auto")).json()["id"] == "auto"


async def test_readiness_names_the_pools_that_nobody_serves(start):
    world, _ = await start()
    assert (await get(world.url, "/readyz")).status == 200
    await world.publish([pool for pool in world.pools if pool.name != "big:8b"])
    await world.until_known()
    reply = await get(world.url, "/readyz")
    assert (reply.status, reply.body) == (503, b"no instance serves: big:8b\n")
    assert (await get(world.url, "/healthz")).status == 200
