"""Streams whose instance is lost midway, and what their clients see: one answer, in one piece, or an error."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from orchestrator.core.continuing import MOST
from orchestrator.core.dialects.outcome import read_answer, read_end
from orchestrator.core.model import Endpoint, Engine, Footprint, ModelShape
from orchestrator.nodes.simulator.config import SimulatedModel, SimulatorConfig, write_config
from orchestrator.settings import ClusterSettings
from tests.gateway.asking import Reply, ask, body_for, connected, get, request_bytes
from tests.gateway.played import Played, played, pool_of
from tests.gateway.stand_in import WORDS, StandIn, standing_in
from tests.nodes.simulators import free_port, started
from tests.waiting import until

TEXT = "".join(WORDS)
PATHS = ("/api/chat", "/api/generate", "/v1/chat/completions", "/v1/completions", "/v1/messages")
OPEN = "{{ range .Messages }}{{ .Content }}{{ if not $last }}<|im_end|>{{ end }}{{ end }}"
CLOSED = "{{ range .Messages }}{{ .Content }}<|im_end|>{{ end }}<|im_start|>assistant"
Start = Callable[..., Awaitable[tuple[Played, list[StandIn]]]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a gateway before stand-ins that serve one pool, m; the first one does as it is told."""
    async with AsyncExitStack() as stack:

        async def begin(
            count: int = 2,
            *,
            show: dict[str, Any] | None = None,
            slots: int = 2,
            engine: Engine = Engine.OLLAMA,
            **limits: Any,
        ) -> tuple[Played, list[StandIn]]:
            instances = await stack.enter_async_context(standing_in(count))
            details = {"show": {"template": OPEN, "capabilities": ["completion"], **(show or {})}}
            pool = pool_of("m", [each.port for each in instances], slots=slots, details=details, engine=engine)
            settings = ClusterSettings.model_validate({"models": {"m": {}}, "limits": limits})
            world = await stack.enter_async_context(played(tmp_path, settings, [pool]))
            return world, instances

        yield begin


def told(path: str, reply: Reply) -> str:
    """What a whole stream says; one that is not whole fails the test."""
    answer = read_answer(Endpoint(path), True, reply.body)
    assert reply.is_whole, reply.body
    assert answer is not None, reply.body
    return answer.text


async def continued(world: Played, outcome: str = "continued") -> float:
    """Streams that broke and came to this, as the metric has it."""
    lines = (await get(world.url, "/metrics")).body.decode().splitlines()
    label = f'outcome="{outcome}"'
    return sum(float(line.split()[-1]) for line in lines if line.startswith("olm_continued_total{") and label in line)


# --- one seamless stream ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "silence_s"),
    [(("cut", "cut-within", "cut-between-lines", "end", "die-midway"), 20), (("hang-midway",), 0.5)],
    ids=["lost", "silent"],
)
async def test_a_stream_whose_instance_is_lost_goes_on_at_another_as_one(start, losses, silence_s):
    world, instances = await start(between_bytes_s=silence_s)
    for loss in losses:
        for path in PATHS:
            instances[0].does = instances[1].does = f"once {loss}"
            before = sum(len(each.asked) for each in instances)
            reply = await ask(world.url, path, "hi", stream=True)
            assert told(path, reply) == TEXT, (loss, reply.body)
            assert sum(len(each.asked) for each in instances) == before + 2
    assert await continued(world) == len(losses) * len(PATHS)
    await world.until_idle()
    assert [each.most for each in instances] == [1, 1]


async def test_the_rest_is_told_with_the_names_and_the_counts_of_one_answer(start):
    world, instances = await start()
    for path in PATHS:
        instances[0].does = instances[1].does = "once cut"
        more = {"stream_options": {"include_usage": True}} if "completions" in path else {}
        reply = await ask(world.url, path, "hi", stream=True, **more)
        end = read_end(Endpoint(path), True, reply.body)
        assert (end.prompt_tokens, end.completion_tokens) == (7, 3), (path, reply.body)
        frames = _frames(reply.body)
        assert len({each.get("id") for each in frames if "choices" in each}) <= 1
        assert len({each.get("created") for each in frames if "choices" in each}) <= 1
        roles = [each["choices"][0]["delta"].get("role") for each in frames if _has_delta(each)]
        assert roles[1:] == [None] * len(roles[1:])
        assert [each["type"] for each in frames].count("message_start") == 1 if path == "/v1/messages" else True


def _frames(body: bytes) -> list[Any]:
    lines = (line.removeprefix(b"data: ") for line in body.split(b"\n"))
    return [json.loads(line) for line in lines if line.startswith(b"{")]


def _has_delta(frame: dict[str, Any]) -> bool:
    return bool(frame.get("choices")) and "delta" in frame["choices"][0]


async def test_an_engine_that_speaks_another_dialect_goes_on_in_the_callers(start):
    world, instances = await start(engine=Engine.LLAMA_CPP, show={"template": None})
    for path in PATHS:
        instances[0].does = instances[1].does = "once cut"
        assert told(path, await ask(world.url, path, "hi", stream=True)) == TEXT
    assert await continued(world) == len(PATHS)


async def test_the_other_instance_is_asked_for_no_more_than_is_left(start):
    world, instances = await start()
    limited: dict[str, dict[str, Any]] = {
        "/api/chat": {"options": {"num_predict": 10, "temperature": 0}},
        "/api/generate": {"options": {"num_predict": 10}, "system": "be brief"},
        "/v1/chat/completions": {"max_tokens": 10},
        "/v1/completions": {"max_tokens": 10},
        "/v1/messages": {"max_tokens": 10},
    }
    for path, more in limited.items():
        instances[0].does = instances[1].does = "once cut"
        reply = await ask(world.url, path, "hi", stream=True, **more)
        assert told(path, reply) == TEXT
        asked = next(each for instance in instances for each in instance.bodies[-1:] if _is_begun(each))
        limit = (asked.get("options") or asked).get("num_predict", asked.get("max_tokens"))
        assert limit == 10 - 2, (path, asked)
        for instance in instances:
            instance.bodies.clear()


def _is_begun(body: dict[str, Any]) -> bool:
    return bool(body.get("messages")) and body["messages"][-1]["role"] == "assistant"


async def test_a_raw_prompt_is_continued_as_a_raw_prompt(start):
    world, instances = await start(show={"template": CLOSED})
    instances[0].does = instances[1].does = "once cut"
    reply = await ask(world.url, "/api/generate", "Q: hi A: ", stream=True, raw=True)
    assert told("/api/generate", reply) == TEXT
    assert [each.asked[-1] for each in instances if each.asked[-1] != "Q: hi A: "] == ["Q: hi A: one two "]


async def test_a_stream_that_loses_its_instances_again_and_again_ends_with_an_error(start):
    world, instances = await start(MOST + 2)
    for each in instances:
        each.does = "cut-behind-one"
    reply = await ask(world.url, "/api/chat", "hi", stream=True)
    assert (reply.is_whole, "error" in reply.frames()[-1]) == (False, True)
    assert sum(len(each.asked) for each in instances) == MOST + 1
    assert await continued(world, "often") == 1
    await world.until_idle()


async def test_the_only_instance_of_a_pool_is_waited_for_while_it_is_started_anew(start):
    world, (instance,) = await start(1)
    async with connected(world.url) as (reader, writer):
        writer.write(request_bytes("/api/chat", body_for("/api/chat", "hang-midway", stream=True)))
        await reader.readuntil(b"two")
        await instance.stop()
        await asyncio.sleep(0)
        await instance.start()
        rest = await reader.readuntil(b"0\r\n\r\n")
    assert b'"three"' in rest
    assert b'"done":true' in rest
    await world.until_idle()


async def test_a_client_that_leaves_while_its_stream_waits_to_go_on_leaves_nothing_behind(start):
    world, instances = await start(2, slots=1)
    other = asyncio.create_task(ask(world.url, "/api/chat", "wait for me", stream=False))
    await until(lambda: any(each.active for each in instances))
    async with connected(world.url) as (reader, writer):
        writer.write(request_bytes("/api/chat", body_for("/api/chat", "cut", stream=True)))
        await reader.readuntil(b"two")
        await until(lambda: world.connection.command("ZCARD", "olm:pool:{m}:queue"), holds=lambda seen: seen == 1)
    await until(lambda: world.connection.command("ZCARD", "olm:pool:{m}:queue"), holds=lambda seen: seen == 0)
    for each in instances:
        each.gate.set()
    assert (await other).status == 200
    await world.until_idle()


# --- and what is not continued ---------------------------------------------------------------------------------------


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
PLAIN: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/api/chat", {"tools": [TOOL]}),
    ("/api/chat", {"format": "json"}),
    ("/v1/chat/completions", {"response_format": {"type": "json_object"}}),
    ("/api/chat", {"logprobs": True}),
    ("/api/generate", {"suffix": "end"}),
    ("/v1/responses", {}),
)
THINKING = {"capabilities": ["completion", "thinking"]}


@pytest.mark.parametrize(
    ("asked", "show"),
    [
        (PLAIN, {}),
        ((("/api/chat", {}), ("/v1/messages", {})), THINKING),
        ((("/api/chat", {}), ("/api/generate", {})), {"template": CLOSED}),
    ],
    ids=["asked for more than words", "a model that thinks", "a template that closes"],
)
async def test_what_an_engine_cannot_be_given_the_beginning_of_ends_with_an_error_where_it_broke(start, asked, show):
    world, instances = await start(show=show)
    for path, more in asked:
        reply = await ask(world.url, path, "cut", stream=True, **more)
        assert (reply.status, reply.is_whole) == (200, False)
        assert b"cut off" in reply.body.split(b"\n", 2)[-1], reply.body
    assert sum(len(each.asked) for each in instances) == len(asked)
    assert await continued(world) == 0
    await world.until_idle()


async def test_where_it_is_switched_off_a_broken_stream_ends_with_an_error(start):
    world, instances = await start(continue_streams=False)
    reply = await ask(world.url, "/api/chat", "cut", stream=True)
    assert (reply.is_whole, "cut off" in reply.frames()[-1]["error"]) == (False, True)
    assert sum(len(each.asked) for each in instances) == 1


async def test_a_model_that_repeats_itself_is_not_asked_to_go_on(start):
    world, instances = await start()
    reply = await ask(world.url, "/api/chat", "repeat", stream=True)
    assert (reply.is_whole, "error" in reply.frames()[-1]) == (False, True)
    assert sum(len(each.asked) for each in instances) == 1
    assert await continued(world, "repeats") == 1


async def test_an_engines_own_word_of_its_end_is_told_only_where_the_stream_does_not_go_on(start):
    world, instances = await start()
    instances[0].does = instances[1].does = "once runner-dies"
    assert told("/api/chat", await ask(world.url, "/api/chat", "hi", stream=True)) == TEXT
    broken = await ask(world.url, "/api/chat", "runner-dies", stream=True, format="json")
    assert broken.frames()[-1] == {"error": "an error was encountered while running the model: unexpected EOF"}


async def test_an_answer_of_two_instances_is_not_kept_for_others(start):
    world, instances = await start()
    asked = {"options": {"temperature": 0, "seed": 1}}
    instances[0].does = instances[1].does = "once cut"
    assert told("/api/chat", await ask(world.url, "/api/chat", "hi", stream=True, **asked)) == TEXT
    instances[0].does = instances[1].does = ""
    again = await ask(world.url, "/api/chat", "hi", stream=True, **asked)
    assert (again.cache, told("/api/chat", again)) == ("miss", TEXT)
    assert (await ask(world.url, "/api/chat", "hi", stream=True, **asked)).cache == "hit"


# --- with a model's own words ----------------------------------------------------------------------------------------

# Of about 30 tokens a second on eight cores: an answer of a second or two, which can be lost in its middle.
SHAPE = ModelShape("llama", 8_030_261_248, 32, 32, 8, 128, 4096, 128_256, 131_072, 4_912_898_304, "Q4_K_M")
FOOTPRINT = Footprint(4_912_898_304, 536_870_912, 300_000_000, 513_024, 500_000_000)
LIMITED: dict[str, dict[str, Any]] = {
    "/api/chat": {"options": {"num_predict": 60}},
    "/api/generate": {"options": {"num_predict": 60}, "system": "be brief"},
    "/v1/chat/completions": {"max_tokens": 60, "stream_options": {"include_usage": True}},
    "/v1/completions": {"max_tokens": 60},
    "/v1/messages": {"max_tokens": 60},
}


class Simulated:
    """Two real processes that play a slow model; one that was killed is started anew."""

    def __init__(self, folder: Path) -> None:
        self.ports = [free_port(), free_port()]
        self._paths = [folder / f"sim{n}.json" for n in range(2)]
        model = SimulatedModel("m", SHAPE, FOOTPRINT, 4096, slots=2, capabilities=("completion",))
        for n, (port, path) in enumerate(zip(self.ports, self._paths, strict=True)):
            write_config(path, SimulatorConfig(f"sim{n}", "127.0.0.1", port, (model,), speed=2.0))
        self._processes = [self._started(n) for n in range(2)]

    def _started(self, at: int) -> subprocess.Popen[bytes]:
        process = started(self._paths[at])
        assert process.stdout is not None
        assert b"simulated" in process.stdout.readline()
        return process

    def kill(self, at: int) -> None:
        self._processes[at].kill()
        self._processes[at].communicate()

    def start_anew(self, at: int) -> None:
        self._processes[at] = self._started(at)

    def end(self) -> None:
        for each in self._processes:
            each.kill()
            each.communicate()


async def _streamed(url: str, path: str, asked: dict[str, Any], on_frames: Sequence[Callable[[str], None]]) -> Reply:
    """Ask, and call one of `on_frames` with the instance's name each time some frames more have come."""
    acts = list(on_frames)
    async with aiohttp.ClientSession() as http, http.post(url + path, json=asked) as reply:
        pieces: list[bytes] = []
        frames = 0
        async for piece, _ in reply.content.iter_chunks():
            pieces.append(piece)
            frames += 1
            if frames >= 12 and acts:
                acts.pop(0)(reply.headers["X-Instance"])
        return Reply(reply.status, reply.headers, b"".join(pieces))


async def test_after_kill_9_each_dialects_stream_says_word_for_word_what_it_would_have_said(tmp_path):
    simulated = Simulated(tmp_path)
    show = {"template": "{{ .Prompt }}", "capabilities": ["completion"]}
    settings = ClusterSettings.model_validate({"models": {"m": {}}, "cache": {"enabled": False}})
    try:
        pool = pool_of("m", simulated.ports, details={"show": show})
        async with played(tmp_path, settings, [pool]) as world:
            for path, more in LIMITED.items():
                asked = body_for(path, "What is a queue?", stream=True, **more)
                whole = await _streamed(world.url, path, asked, ())
                killed: list[int] = []

                def kill(instance: str, killed: list[int] = killed) -> None:
                    killed.append(int(instance[-1]))
                    simulated.kill(killed[-1])

                seamless = await _streamed(world.url, path, asked, (kill,))
                assert killed, "the answer was over too soon"
                assert told(path, seamless) == told(path, whole)
                assert _unnamed(seamless.body) == _unnamed(whole.body)
                simulated.start_anew(killed[0])
            assert await continued(world) == len(LIMITED)
            await world.until_idle()
    finally:
        simulated.end()


def _unnamed(body: bytes) -> list[Any]:
    """The frames without what is another at each answer: names and times."""
    passing = {"id", "created", "created_at", "context"}
    passing |= {f"{each}_duration" for each in ("total", "load", "eval", "prompt_eval")}
    frames = [{name: value for name, value in each.items() if name not in passing} for each in _frames(body)]
    for each in frames:
        each.get("message", {}).pop("id", None)
    return frames
