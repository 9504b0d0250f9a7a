"""Answers that are not good enough: a higher tier answers and nobody saw them, or their last frame says so."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anthropic
import ollama
import openai
import pytest

from orchestrator.core.model import Engine, PoolName
from orchestrator.settings import ClusterSettings
from orchestrator.store.pools import pool_load
from tests.gateway.asking import Reply, ask, body_for, connected, get, request_bytes
from tests.gateway.judged import Judged, judged, until_asked
from tests.gateway.played import Played, played, pool_of
from tests.waiting import WITHIN_S, until

NATIVE = ("/api/chat", "/api/generate", "/v1/chat/completions")
OTHERS = ("/v1/completions", "/v1/messages", "/v1/responses")
CERTAIN: dict[str, Any] = {"temperature": 0, "options": {"temperature": 0}}
CONFIDENT = [{"confidence_below": 0.6}]
Start = Callable[..., Awaitable[tuple[Played, Judged, Judged]]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a worker before `small` and `big`: route `r` escalates from the one to the other, `plain` does not."""
    async with AsyncExitStack() as stack:

        async def begin(
            doubts: list[dict[str, Any]] | None = None,
            *,
            engine: Engine = Engine.OLLAMA,
            smalls: int = 1,
            workers: int = 1,
            **route: Any,
        ) -> tuple[Played, Judged, Judged]:
            instances = await stack.enter_async_context(judged(smalls + 1))
            *small, big = instances
            small_pool = pool_of("small", [each.port for each in small], engine=engine)
            usual: dict[str, Any] = {"cache": "off"}
            if not route.get("buffered"):
                usual |= {
                    "hold_tokens": 3,
                    "hold_s": 60,
                }  # until it is judged, however long a busy machine takes for that
            told: dict[str, Any] = {
                "models": {"small": {}, "big": {}},
                "tiers": {"low": {"model": "small"}, "high": {"model": "big"}},
                "routes": {
                    "r": {"primary": "low", "escalate_to": "high", "escalate_if": doubts or CONFIDENT} | usual | route,
                    "plain": {"primary": "low", "cache": "off"},
                },
            }
            big.default = "sure"
            big.plans = {"sure": big.plans["json"]._replace(words=[("big answers", -0.01)])}
            pools = [small_pool, pool_of("big", [big.port])]
            world = await stack.enter_async_context(
                played(tmp_path, ClusterSettings.model_validate(told), pools, workers=workers, apart=workers > 1)
            )
            begin.smalls = small  # type: ignore[attr-defined]
            return world, small[0], big

        yield begin


def ask_route(world: Played, path: str, text: str, **more: Any) -> Awaitable[Reply]:
    return ask(world.url, path, text, **{"model": "r", **more})


async def counted(world: Played, metric: str, worker: int = 0) -> dict[str, float]:
    told = (await get(world.urls[worker], "/metrics")).body.decode()
    found = (re.fullmatch(rf"{metric}(\{{.*\}})? (\S+)", line) for line in told.splitlines())
    return {each[1] or "": float(each[2]) for each in found if each}


async def until_counted(world: Played, metric: str, labels: str, times: float) -> None:
    await until(lambda: counted(world, metric), holds=lambda seen: seen.get(labels, 0) == times)


# --- what is doubted before anything is shown -------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [Engine.OLLAMA, Engine.LLAMA_CPP])
async def test_an_unsure_answer_is_never_seen_and_the_higher_tier_answers_in_every_dialect(start, engine):
    world, small, big = await start(engine=engine)
    for path in (*NATIVE, *OTHERS):
        for is_stream in (True, False):
            reply = await ask_route(world, path, "unsure", stream=is_stream)
            assert (reply.status, reply.is_whole, reply.headers["X-Tier"]) == (200, True, "high"), path
            assert b"big answers" in reply.body
            assert b"certain" not in reply.body
            assert b"-4.0" not in reply.body
            assert "confidence" in reply.headers["X-Route-Why"]
    assert len(small.asked) == len(big.asked) == 12
    assert not any("logprobs" in body for body in big.bodies)
    await until_counted(world, "olm_escalated_total", '{reason="confidence_below",route="r"}', 12)
    await world.until_idle()


async def test_a_sure_answer_is_byte_for_byte_what_it_is_without_a_watch(start):
    world, small, _ = await start()
    for path in NATIVE:
        for is_stream in (True, False):
            watched = await ask_route(world, path, "sure", stream=is_stream)
            plain = await ask(world.url, path, "sure", model="plain", stream=is_stream)
            assert watched.body == plain.body
            assert (watched.headers["X-Tier"], watched.headers["Content-Type"]) == (
                "low",
                plain.headers["Content-Type"],
            )
    assert [bool(body.get("logprobs")) for body in small.bodies] == [True, False] * 6


async def test_a_sure_answer_of_the_other_apis_says_the_same_as_without_a_watch(start):
    world, _, _ = await start()
    for path in OTHERS:
        for is_stream in (True, False):
            watched = await ask_route(world, path, "sure", stream=is_stream)
            plain = await ask(world.url, path, "sure", model="plain", stream=is_stream)
            assert _timeless(watched.body) == _timeless(plain.body)


def _timeless(body: bytes) -> str:
    """Without what differs from one answer to the next: ids and moments."""
    told = re.sub(rb'"(id|item_id|created|created_at|completed_at|model)":("[^"]*"|\d+)', b"", body)
    return re.sub(rb"(msg|resp|cmpl|rs|fc)_?-?[0-9a-f]+", b"", told).decode()


async def test_a_caller_who_asks_for_log_probabilities_gets_them(start):
    world, _, _ = await start()
    reply = await ask_route(world, "/api/chat", "sure", stream=True, logprobs=True)
    assert [len(frame["logprobs"]) for frame in reply.frames()[:-1]] == [1] * 6
    plain = await ask(world.url, "/api/chat", "sure", model="plain", stream=True, logprobs=True)
    assert reply.body == plain.body


async def test_each_condition_sends_the_call_on(start):
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    form = {
        "format": schema,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
    }
    tools = {"tools": [{"type": "function", "function": {"name": "send_mail", "parameters": {"type": "object"}}}]}
    every = [{"refusal": True}, {"length_cut": True}, {"schema_invalid": True}, {"tools_needed": "> 1"}]
    world, _, _ = await start(every, hold_tokens=50)
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("refuse", {}, "refusal"),
        ("long", {}, "length_cut"),
        ("no-json", form, "schema_invalid"),
        ("two-tools", tools, "tools_needed"),
        ("unsure", {}, ""),
        ("json", form, ""),
        ("no-json", {}, ""),
        ("one-tool", tools, ""),
    ]
    for text, more, reason in cases:
        for path in ("/api/chat", "/v1/chat/completions"):
            for is_stream in (True, False):
                reply = await ask_route(world, path, text, stream=is_stream, **more)
                assert (reply.status, reply.headers["X-Tier"]) == (200, "high" if reason else "low"), text
                assert (b"big answers" in reply.body) == bool(reason), text
    for reason in ("refusal", "length_cut", "schema_invalid", "tools_needed"):
        await until_counted(world, "olm_escalated_total", f'{{reason="{reason}",route="r"}}', 4)
    await world.until_idle()


async def test_an_instance_that_says_nothing_in_time_is_left_for_the_higher_tier(start):
    world, small, _ = await start([{"timeout": 2}])
    for is_stream in (True, False):
        small.gate.clear()
        reply = await ask_route(world, "/api/chat", "silent", stream=is_stream)
        assert (reply.headers["X-Tier"], reply.text) == ("high", "big answers")
        small.gate.set()
        reply = await ask_route(world, "/api/chat", "silent", stream=is_stream)
        assert reply.headers["X-Tier"] == "low"
    await until_counted(world, "olm_escalated_total", '{reason="timeout",route="r"}', 2)
    # Two prompts of 7 tokens that were answered, and what the other two may have been: it has read those, too.
    assert (await counted(world, "olm_tokens_total"))['{kind="prompt",tier="low"}'] > 14
    await world.until_idle()


async def test_a_buffered_stream_is_judged_whole_before_any_of_it_is_shown(start):
    world, small, _ = await start(buffered=True)
    small.gate.set()
    reply = await ask_route(world, "/api/chat", "later", stream=True)
    assert (reply.headers["X-Tier"], reply.text) == ("high", "big answers")
    reply = await ask_route(world, "/api/chat", "sure", stream=True)
    plain = await ask(world.url, "/api/chat", "sure", model="plain", stream=True)
    assert reply.body == plain.body
    assert small.whole == 3


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_a_last_frame_whose_line_does_not_end_is_told(start, path):
    world, small, _ = await start()
    small.ends_lines = False
    watched = await ask_route(world, path, "sure", stream=True)
    plain = await ask(world.url, path, "sure", model="plain", stream=True)
    assert (watched.is_whole, watched.headers["X-Tier"]) == (True, "low")
    assert watched.frames() == plain.frames()
    assert "instance" not in world.logs(), "it is not blamed"


async def test_a_doubted_answer_is_given_to_who_was_told_of_the_queue_where_the_higher_tier_refuses(start):
    world, small, big = await start(buffered=True)
    big.refuses = True
    busy = [asyncio.create_task(ask(world.url, "/api/chat", "slow", model="small", stream=False)) for _ in range(2)]
    await until_asked(small, 2)
    told = asyncio.create_task(
        ask_route(world, "/v1/chat/completions", "unsure", stream=True, headers={"X-Queue-Updates": "1"})
    )
    await until(lambda: pool_load(world.connection, PoolName("small")), holds=lambda load: load.queued == 1)
    small.gate.set()
    reply = await told
    assert b": " in reply.body
    assert b"certain" in reply.body
    assert b"invalid image input" not in reply.body
    await asyncio.gather(*busy)
    await world.until_idle()


# --- what is doubted later --------------------------------------------------------------------------------------------


async def test_what_is_doubted_once_it_was_shown_is_said_at_the_end_and_not_taken_back(start):
    world, small, big = await start(cache="all")
    for times, path in enumerate(sorted((*NATIVE, *OTHERS) * 2), 1):  # twice each: it is not kept either
        asked = asyncio.create_task(ask_route(world, path, "later", stream=True, **CERTAIN))
        await until_counted(world, "olm_confidence_count", '{judged="early",route="r"}', times)
        small.gate.set()
        reply = await asked
        small.gate.clear()
        assert (reply.status, reply.is_whole, reply.headers["X-Tier"]) == (200, True, "low")
        assert reply.cache != "hit"
        assert b"doubtful5" in reply.body
        trailer = _trailer(path, reply.body)
        assert trailer["reason"] == "confidence_below"
        assert float(trailer["confidence"]) < 0.6
    assert not big.asked
    await until_counted(world, "olm_doubted_late_total", '{reason="confidence_below",route="r"}', 12)


async def test_clients_pass_over_what_is_doubted_late(start):
    world, small, _ = await start()
    asked: Any = [{"role": "user", "content": "later"}]
    whole = "".join(word for word, _ in small.plans["later"].words)

    async def by_ollama() -> str:
        told = [each async for each in await ollama.AsyncClient(world.url).chat("r", asked, stream=True)]
        assert told[-1].done
        return "".join(each.message.content or "" for each in told)

    async def by_openai() -> str:
        async with openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key="none") as client:
            told = [each async for each in await client.chat.completions.create(model="r", messages=asked, stream=True)]
            return "".join(each.choices[0].delta.content or "" for each in told)

    async def by_responses() -> str:
        async with openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key="none") as client:
            told = [each async for each in await client.responses.create(model="r", input="later", stream=True)]
            return "".join(each.delta for each in told if each.type == "response.output_text.delta")

    async def by_anthropic() -> str:
        async with (
            anthropic.AsyncAnthropic(base_url=world.url, api_key="none") as client,
            client.messages.stream(model="r", messages=asked, max_tokens=99) as told,
        ):
            return await told.get_final_text()

    for times, client in enumerate((by_ollama, by_openai, by_responses, by_anthropic), 1):
        answer = asyncio.create_task(client())
        await until_counted(world, "olm_confidence_count", '{judged="early",route="r"}', times)
        small.gate.set()
        assert await answer == whole
        small.gate.clear()
    await until_counted(world, "olm_doubted_late_total", '{reason="confidence_below",route="r"}', 4)


def _trailer(path: str, body: bytes) -> dict[str, Any]:
    if path.startswith("/api"):
        last = json.loads(body.splitlines()[-1])
        assert last["done"] is True
        return dict(last["doubt"])
    comments = [line for line in body.decode().splitlines() if line.startswith(": doubt ")]
    assert len(comments) == 1
    last_events = {"/v1/messages": "event: message_stop", "/v1/responses": "event: response.completed"}
    assert body.index(comments[0].encode()) < body.rindex(last_events.get(path, "data: [DONE]").encode())
    return dict(part.split("=") for part in comments[0].split()[2:])


async def test_what_was_held_back_for_long_enough_is_shown(start):
    world, small, _ = await start(hold_s=0.2)
    async with connected(world.url) as (reader, writer):
        writer.write(request_bytes("/api/chat", body_for("/api/chat", "slow", model="r")))
        async with asyncio.timeout(WITHIN_S):
            told = await reader.readuntil(b'"content":"it "')
            assert b"takes" not in told
            small.gate.set()
            rest = await reader.readuntil(b"0\r\n\r\n")
        assert b'"anything "' in rest
        assert b"logprobs" not in told + rest


# --- what may happen while it is held back ----------------------------------------------------------------------------


async def test_a_client_that_leaves_while_its_answer_is_held_back_frees_the_slot(start):
    world, small, big = await start()
    async with connected(world.url) as (_, writer):
        writer.write(request_bytes("/api/chat", body_for("/api/chat", "slow", model="r")))
        await until_asked(small, 1)
    small.gate.set()
    await world.until_idle()
    assert not big.asked


async def test_an_instance_that_dies_while_its_answer_is_held_back_is_replaced_unseen(start):
    world, _, big = await start(smalls=2)
    first, second = start_smalls(start)
    for each in (first, second):
        each.plans["dies"] = each.plans["dies"]._replace(cut_at=None)
    first.plans["dies"] = first.plans["dies"]._replace(cut_at=2)
    replies = [await ask_route(world, "/api/chat", "dies", stream=True) for _ in range(4)]
    assert {each.text for each in replies} == {"this one does not come to its end "}
    assert first.asked
    assert not big.asked
    await world.until_idle()


def start_smalls(start: Any) -> list[Judged]:
    return list(start.smalls)


async def test_who_follows_an_answer_that_is_doubted_gets_the_one_that_is_made_instead(start):
    world, small, big = await start(cache="all")
    small.plans["unsure"] = small.plans["slow-unsure"]
    asked = [
        asyncio.create_task(ask_route(world, "/api/chat", "unsure", stream=n % 2 == 0, **CERTAIN)) for n in range(4)
    ]
    await until_counted(world, "olm_cache_followers", "", 3)
    small.gate.set()
    replies = await asyncio.gather(*asked)
    assert {each.text for each in replies} == {"big answers"}
    assert (len(small.asked), len(big.asked)) == (1, 1)
    again = await ask_route(world, "/api/chat", "unsure", stream=True, **CERTAIN)
    assert (again.cache, again.text) == ("hit", "big answers")
    await world.until_idle()


async def test_who_follows_from_another_worker_gets_the_answer_that_is_made_instead(start):
    world, small, big = await start(cache="all", workers=2)
    small.plans["unsure"] = small.plans["slow-unsure"]
    first = asyncio.create_task(ask(world.urls[0], "/api/chat", "unsure", model="r", stream=True, **CERTAIN))
    await until_asked(small, 1)
    second = asyncio.create_task(ask(world.urls[1], "/api/chat", "unsure", model="r", stream=True, **CERTAIN))
    await until(lambda: counted(world, "olm_cache_followers", worker=1), holds=lambda seen: seen.get("", 0))
    small.gate.set()
    assert [each.text for each in await asyncio.gather(first, second)] == ["big answers"] * 2
    assert (len(small.asked), len(big.asked)) == (1, 1)
    await world.until_idle()


async def test_an_answer_whose_tokens_nobody_knows_is_taken_as_it_is_and_counted(start):
    world, small, big = await start()
    small.tells = False
    for is_stream in (True, False):
        reply = await ask_route(world, "/api/chat", "unsure", stream=is_stream)
        assert reply.headers["X-Tier"] == "low"
    assert not big.asked
    await until_counted(world, "olm_unjudged_total", '{route="r"}', 2)


async def test_a_doubted_answer_is_better_than_none(start):
    world, small, big = await start()
    await big.stop()
    reply = await ask_route(world, "/api/chat", "unsure", stream=False)
    assert (reply.status, reply.text.strip()) == (200, "none of this is at all certain")
    assert small.asked
