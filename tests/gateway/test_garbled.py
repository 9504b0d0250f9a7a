"""Instances that garble a frame of a stream, or a body: no client sees it, another instance answers or goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from orchestrator.core.dialects.outcome import read_answer
from orchestrator.core.model import Endpoint, Engine
from orchestrator.settings import ClusterSettings
from tests.gateway.asking import Reply, ask, body_for, get
from tests.gateway.played import Played, played, pool_of
from tests.gateway.stand_in import WORDS, StandIn, standing_in

TEXT = "".join(WORDS)
PATHS = ("/api/chat", "/api/generate", "/v1/chat/completions", "/v1/completions", "/v1/messages")
OPEN = "{{ range .Messages }}{{ .Content }}{{ if not $last }}<|im_end|>{{ end }}{{ end }}"
# What an instance does wrong behind its second word, and what is said of it.
MIDWAY = {
    "garble": "no JSON object",
    "garble-in-pieces": "no JSON object",
    "garble-behind-one": "no JSON object",
    "garble-no-frame": "no ",
    "garble-quotes": "no JSON object",
    "garble-letters": "no UTF-8",
    "garble-zeros": "no ",
    "end-within": "ended within a frame",
}
Start = Callable[..., Awaitable[tuple[Played, list[StandIn]]]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a gateway before two stand-ins that serve one pool, m."""
    async with AsyncExitStack() as stack:

        async def begin(count: int = 2, engine: Engine = Engine.OLLAMA) -> tuple[Played, list[StandIn]]:
            instances = await stack.enter_async_context(standing_in(count))
            template = None if engine is Engine.LLAMA_CPP else OPEN
            details = {"show": {"template": template, "capabilities": ["completion", "embedding"]}}
            pool = pool_of("m", [each.port for each in instances], details=details, engine=engine)
            settings = ClusterSettings.model_validate({"models": {"m": {}}})
            world = await stack.enter_async_context(played(tmp_path, settings, [pool]))
            return world, instances

        yield begin


def frames_of(path: str, body: bytes) -> list[Any]:
    """Every frame, as the strictest of clients reads them: whatever else there is fails the test."""
    found = []
    for line in body.decode().splitlines():
        if path.startswith("/api/"):
            found.append(json.loads(line))
        elif line.startswith("data: ") and line != "data: [DONE]":
            found.append(json.loads(line.removeprefix("data: ")))
        else:
            assert line in ("", "data: [DONE]") or line.startswith("event: "), line
    assert all(isinstance(each, dict) for each in found)
    return found


def told(path: str, reply: Reply) -> str:
    """What a whole stream says."""
    assert (reply.status, reply.is_whole) == (200, True), reply.body
    assert frames_of(path, reply.body)
    answer = read_answer(Endpoint(path), True, reply.body)
    assert answer is not None, reply.body
    return answer.text


async def stream(world: Played, instances: list[StandIn], path: str, **more: Any) -> Reply:
    """Ask, and let the instances go on once the client has heard the first word."""
    for each in instances:
        each.gate.clear()
    asked = body_for(path, "hi", stream=True, **more)
    body = b""
    async with aiohttp.ClientSession() as http, http.post(world.url + path, json=asked) as reply:
        try:
            async for piece in reply.content.iter_any():
                body += piece
                if b"one" in body:
                    for each in instances:
                        each.gate.set()
        except aiohttp.ClientPayloadError:
            return Reply(reply.status, reply.headers, body, is_whole=False)
    return Reply(reply.status, reply.headers, body)


async def metric(world: Played, name: str, label: str) -> float:
    lines = (await get(world.url, "/metrics")).body.decode().splitlines()
    return sum(float(each.split()[-1]) for each in lines if each.startswith(name + "{") and label in each)


@pytest.mark.parametrize("engine", [Engine.OLLAMA, Engine.LLAMA_CPP])
async def test_a_stream_with_a_garbled_frame_goes_on_at_another_instance_as_one(start, engine):
    world, instances = await start(engine=engine)
    for does, why in MIDWAY.items():
        for path in PATHS:
            logged = len(world.logs())
            instances[0].does = instances[1].does = f"once {does}"
            before = sum(len(each.asked) for each in instances)
            reply = await stream(world, instances, path)
            assert told(path, reply) == TEXT, (does, path, reply.body)
            assert sum(len(each.asked) for each in instances) == before + 2
            assert why in world.logs()[logged:], (does, path)
    assert await metric(world, "olm_continued_total", 'outcome="continued"') == len(MIDWAY) * len(PATHS)
    await world.until_idle()


@pytest.mark.parametrize("engine", [Engine.OLLAMA, Engine.LLAMA_CPP])
async def test_a_stream_whose_first_frame_is_garbled_is_answered_by_another_instance(start, engine):
    world, (bad, good) = await start(engine=engine)
    bad.does = "garble-first"
    for path in (*PATHS, "/v1/responses"):
        assert told(path, await ask(world.url, path, "hi", stream=True)) == TEXT
    assert bad.asked
    assert len(good.asked) == len(PATHS) + 1
    assert await metric(world, "olm_continued_total", "pool") == 0
    await world.until_idle()


@pytest.mark.parametrize("engine", [Engine.OLLAMA, Engine.LLAMA_CPP])
async def test_what_cannot_be_continued_ends_with_an_error_in_the_place_of_the_garbled_frame(start, engine):
    world, instances = await start(engine=engine)
    wants_json = {"/api/chat": {"format": "json"}, "/v1/chat/completions": {"response_format": {"type": "json_object"}}}
    for does in MIDWAY:
        for path, more in wants_json.items():
            instances[0].does = instances[1].does = does
            reply = await stream(world, instances, path, **more)
            *said, last = frames_of(path, reply.body)
            assert (reply.status, reply.is_whole) == (200, False), (does, reply.body)
            assert "error" in last, (does, reply.body)
            assert not any("error" in each for each in said)
            assert "".join(map(_content, said)) == "".join(WORDS[:2])
    assert sum(len(each.asked) for each in instances) == len(MIDWAY) * len(wants_json)
    await world.until_idle()


def _content(frame: dict[str, Any]) -> str:
    part = frame["choices"][0]["delta"] if frame.get("choices") else frame.get("message", {})
    return str(part.get("content") or "")


@pytest.mark.parametrize("engine", [Engine.OLLAMA, Engine.LLAMA_CPP])
@pytest.mark.parametrize("does", ["body-page", "body-cut", "body-list"])
async def test_a_body_that_is_no_json_object_is_answered_by_another_instance(start, engine, does):
    world, (bad, good) = await start(engine=engine)
    bad.does = does
    paths = (*PATHS, "/v1/responses", *(("/api/embed", "/v1/embeddings") if engine is Engine.OLLAMA else ()))
    for path in paths:
        reply = await ask(world.url, path, "hi", stream=False)
        assert (reply.status, reply.is_whole) == (200, True)
        assert "embed" in path or read_answer(Endpoint(path), False, reply.body).text == TEXT
    assert bad.asked
    assert len(good.asked) == len(paths)


async def test_a_body_that_llama_cpp_streams_is_looked_at_frame_by_frame(start):
    world, (bad, good) = await start(engine=Engine.LLAMA_CPP)
    bad.does = "garble-no-frame"  # the words behind it would make an answer without its third one
    bad.gate.set()
    for path in PATHS:
        reply = await ask(world.url, path, "hi", stream=False)
        assert read_answer(Endpoint(path), False, reply.body).text == TEXT
    assert bad.asked
    assert len(good.asked) == len(PATHS)
    assert "its stream has a line that" in world.logs()


async def test_an_instance_that_garbles_is_counted_against_and_left_alone(start):
    world, (bad, good) = await start()
    bad.does = "garble"
    replies = [await stream(world, [bad, good], "/api/chat") for _ in range(20)]
    assert {told("/api/chat", each) for each in replies} == {TEXT}
    assert 1 <= len(bad.asked) < len(good.asked) / 2
    assert await metric(world, "olm_calls_total", 'outcome="failed"') >= len(bad.asked)
    assert "its stream has a line that is no JSON object" in world.logs()


@pytest.mark.parametrize("path", PATHS)
async def test_where_every_instance_garbles_the_client_is_told_and_sees_none_of_it(start, path):
    world, instances = await start()
    for each in instances:
        each.does = "garble-first"
    reply = await ask(world.url, path, "hi", stream=True)
    assert reply.status == 502, reply.body
    assert "no JSON object" in reply.json()["error"] or "no JSON object" in reply.json()["error"]["message"]


ODD = ("finish-list", "finish-object", "finish-number")
ODD += ("tokens-text", "tokens-list", "tokens-yes", "tokens-half", "tokens-below-zero", "tokens-beyond")


@pytest.mark.parametrize("is_stream", [False, True], ids=["body", "stream"])
async def test_an_end_told_in_an_odd_way_costs_no_slot_and_no_other_call(start, is_stream):
    world, (instance,) = await start(1)
    for odd in ODD:
        instance.does = f"once odd-{odd}"
        first, other = await asyncio.gather(
            ask(world.url, "/v1/chat/completions", f"{odd} hi", stream=is_stream, temperature=0),
            ask(world.url, "/v1/chat/completions", f"{odd} ho", stream=is_stream, temperature=0),
        )
        assert [(each.status, each.is_whole) for each in (first, other)] == [(200, True)] * 2, (odd, first.body)
        await world.until_idle()
        assert (await ask(world.url, "/v1/chat/completions", f"behind {odd}", stream=False)).status == 200
    assert "a mistake of ours" not in world.logs()
    assert "calls ended, and Redis was not told" not in world.logs()
