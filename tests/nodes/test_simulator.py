"""A simulated instance behaves as a real Ollama was measured to: slots, queue, loads, keep-alive, disconnects, end."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from orchestrator.core.cards import find_card
from orchestrator.core.dialects.parse import parse_call
from orchestrator.core.model import Endpoint, Footprint, ModelShape
from orchestrator.nodes.simulator.config import (
    ConfigError,
    ScriptedAnswer,
    SimulatedModel,
    SimulatorConfig,
    config_for,
    load_config,
    write_config,
)
from orchestrator.nodes.simulator.script import question
from orchestrator.nodes.simulator.seats import CardSeats
from tests.nodes.simulators import ROOT, free_port, running, started
from tests.waiting import WITHIN_S, until
from tests.wire_replay import Case, send
from tests.wire_scenarios import waited_s

SHAPE = ModelShape("llama", 8_030_261_248, 32, 32, 8, 128, 4096, 128_256, 131_072, 4_912_898_304, "Q4_K_M")
EMBED_SHAPE = replace(  # an encoder, which has no cache
    SHAPE, arch="nomic-bert", parameters=137_000_000, embedding_length=32, weights_bytes=274_000_000,
    is_embedding=True,
)  # fmt: skip
FOOTPRINT = Footprint(4_912_898_304, 536_870_912, 300_000_000, 513_024, 500_000_000)
MARKER = "[simulated RTX 4090] "
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 3}, "why": {"type": "string"}, "is": {"enum": ["a", "b"]}},
    "required": ["n", "why", "is"],
}

CHAT = SimulatedModel("big:8b", SHAPE, FOOTPRINT, 4096, slots=2, capabilities=("completion", "tools"))
OTHER = replace(CHAT, name="other:8b")
THINKER = replace(CHAT, name="thinker:8b", capabilities=("completion", "thinking"))
EMBEDDER = SimulatedModel("embedder", EMBED_SHAPE, FOOTPRINT, 2048, capabilities=("embedding",))

ENDLESS_CALL = parse_call(Endpoint.OLLAMA_GENERATE, b'{"model": "big:8b", "prompt": "endless"}')
ENDLESS = (ScriptedAnswer(question(ENDLESS_CALL), ({"text": "on"},), prompt_tokens=15, completion_tokens=1_000_000),)

Start = Callable[..., str]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def go(**changes: Any) -> str:
            given = {"speed": 1000.0, "models": (CHAT, OTHER, THINKER, EMBEDDER), **changes}
            config = SimulatorConfig(instance="sim", host="127.0.0.1", port=free_port(), card="RTX 4090", **given)
            stack.enter_context(running(config, tmp_path))
            return f"http://127.0.0.1:{config.port}"

        yield go


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def ask(http: aiohttp.ClientSession, url: str, **body: Any) -> Any:
    async with http.post(url, json=body) as reply:
        return await reply.json(content_type=None)


async def loaded(http: aiohttp.ClientSession, base: str) -> dict[str, dict[str, Any]]:
    async with http.get(f"{base}/api/ps") as reply:
        return {each["name"]: each for each in (await reply.json())["models"]}


async def generate(http: aiohttp.ClientSession, base: str, prompt: str = "hi", **body: Any) -> Any:
    return await ask(http, f"{base}/api/generate", **{"model": "big:8b", "prompt": prompt, "stream": False, **body})


# --- what it says ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 5, None])
@pytest.mark.parametrize("path", ["/api/generate", "/api/chat", "/v1/chat/completions", "/v1/completions"])
async def test_every_answer_says_first_that_it_is_simulated(start, http, path, limit):
    body: dict[str, Any] = {"model": "big:8b", "prompt": "hi", "messages": [{"role": "user", "content": "hi"}]}
    if limit:
        body |= {"options": {"num_predict": limit}, "max_tokens": limit}
    reply = await ask(http, start() + path, **body, stream=False)
    choice = reply.get("choices", [reply])[0]
    text = choice.get("response") or choice.get("text") or choice["message"]["content"]
    assert text.startswith(MARKER)
    assert (text == MARKER) == (limit == 1)
    count = reply.get("eval_count") or reply["usage"]["completion_tokens"]
    assert count == (limit or count) > 0


async def test_a_share_of_its_answers_is_doubtful_and_says_the_same_to_who_does_not_ask(start, http):
    base = start(doubtful_share=0.5)
    least: dict[float, int] = {}
    for n in range(30):
        told = await generate(http, base, f"question {n}", logprobs=True)
        plain = await generate(http, base, f"question {n}")
        assert told["response"] == plain["response"]
        (logprob,) = {each["logprob"] for each in told["logprobs"]}
        least[logprob] = least.get(logprob, 0) + 1
    assert sorted(least) == [-2.5, -0.25]
    assert 7 <= least[-2.5] <= 23


async def test_thoughts_say_that_they_are_simulated_too(start, http):
    base = start()
    body = {"model": "thinker:8b", "messages": [{"role": "user", "content": "hi"}], "stream": False}
    thought = (await ask(http, f"{base}/api/chat", **body))["message"]
    assert thought["thinking"].startswith(MARKER)
    assert thought["content"].startswith(MARKER)
    assert "thinking" not in (await ask(http, f"{base}/api/chat", **body, think=False))["message"]


async def test_the_same_question_has_the_same_answer_and_another_seed_another(start, http):
    base = start()
    first, again = await generate(http, base), await generate(http, base)
    assert first["response"] == again["response"]
    assert first["context"] == again["context"]
    assert (await generate(http, base, options={"seed": 7}))["response"] != first["response"]


@pytest.mark.parametrize("wanted", ["json", SCHEMA])
async def test_json_is_valid_of_the_schemas_shape_and_marked_in_its_first_text(start, http, wanted):
    value = json.loads((await generate(http, start(), format=wanted))["response"])
    assert next(each for each in value.values() if isinstance(each, str)).startswith(MARKER)
    if isinstance(wanted, dict):
        assert list(value) == ["n", "why", "is"]
        assert value["n"] >= 3
        assert value["is"] == "a"


async def test_a_schema_that_leaves_only_a_tools_call_gives_a_tool_call(start, http):
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
    parameters = {"type": "object", "properties": {"city": {"const": "Paris"}}, "required": ["city"]}
    forced = {"type": "object", "properties": {"name": {"const": "look_up"}, "parameters": parameters}}
    reply = await ask(
        http,
        f"{start()}/api/chat",
        model="big:8b",
        messages=[{"role": "user", "content": "Weather in Paris?"}],
        tools=[tool],
        format=forced,
        stream=False,
    )
    (call,) = reply["message"]["tool_calls"]
    assert call["function"] == {"index": 0, "name": "look_up", "arguments": {"city": "Paris"}}
    assert reply["done_reason"] == "stop"


async def test_stop_texts_end_an_answer_before_them(start, http):
    base = start()
    whole = (await generate(http, base))["response"]
    word = whole.removeprefix(MARKER).split()[3]
    stopped = await generate(http, base, options={"stop": [word]})
    assert word not in stopped["response"].removeprefix(MARKER)
    assert stopped["done_reason"] == "stop"


async def test_embeddings_are_unit_vectors_that_depend_on_the_text_alone(start, http):
    base = start()
    reply = await ask(http, f"{base}/api/embed", model="embedder", input=["a", "b", "a"])
    a, b, again = reply["embeddings"]
    assert a == again != b
    assert len(a) == 32
    assert sum(x * x for x in a) == pytest.approx(1, abs=1e-5)
    short = await ask(http, f"{base}/api/embed", model="embedder", input="a", dimensions=4)
    assert len(short["embeddings"][0]) == 4


# --- how it streams --------------------------------------------------------------------------------------------------


async def test_headers_come_together_with_the_first_token(start):
    base = start(speed=20.0)
    reader, writer = await raw_request(base, {"model": "big:8b", "prompt": "hi"})
    first = await reader.read(65536)
    assert first.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nDate: ")
    assert b'"done":false}\n\r\n' in first
    rest = await reader.readuntil(b"0\r\n\r\n")
    assert b'"done":true' in rest
    writer.close()


async def test_a_slow_answer_has_one_chunk_a_token_and_its_last_line_alone(start):
    body = orjson.dumps({"model": "big:8b", "prompt": "hi"})
    case = Case("slow", "POST", "/api/generate", (), body, 200, (), "chunked", ())
    exchange = await send(case, start(speed=5.0))
    lines = [orjson.loads(chunk) for chunk in exchange.chunks]
    assert all(chunk.count(b"\n") == 1 for chunk in exchange.chunks)
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert lines[-1]["eval_count"] == len(lines)  # the end-of-text token is counted and not shown


async def raw_request(base: str, body: dict[str, Any]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    port = int(base.rpartition(":")[2])
    data = orjson.dumps(body)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data))
    return reader, writer


# --- slots, queue, loads ---------------------------------------------------------------------------------------------


async def test_a_third_request_waits_until_one_of_two_slots_is_free(start, http, tmp_path):
    file = tmp_path / "card.seats"
    base = start(speed=20.0, script=ENDLESS, seats_file=str(file))
    endless = {"model": "big:8b", "prompt": "endless"}
    (first, leaves), (second, stays) = [await raw_request(base, endless) for _ in range(2)]
    await first.read(1)
    await second.read(1)
    third, waits = await raw_request(base, endless)
    for _ in range(5):  # a round trip later it has arrived, and a step takes less than one
        await loaded(http, base)
    assert int.from_bytes(file.read_bytes()[4:8], "little") == 2
    leaves.close()
    assert await third.read(1)
    for each in (stays, waits):
        each.close()


async def test_the_queue_of_a_loaded_model_has_no_end(start, http):
    base = start(max_queue=1)
    await generate(http, base)
    replies = await asyncio.gather(*(generate(http, base, str(n)) for n in range(12)))
    assert all(reply["done"] for reply in replies)


async def test_requests_that_wait_for_a_load_are_refused_beyond_the_queue(start, http):
    base = start(max_queue=1, max_loaded_models=1, speed=20.0, script=ENDLESS)
    reader, writer = await raw_request(base, {"model": "big:8b", "prompt": "endless"})
    await reader.read(1)  # as long as this one is answered, the loader waits for room

    async def status(n: int) -> int:
        body = {"model": "other:8b", "prompt": str(n), "stream": False, "options": {"num_predict": 1}}
        async with http.post(f"{base}/api/generate", json=body) as reply:
            if reply.status == 503:
                message = "server busy, please try again.  maximum pending requests exceeded"
                assert await reply.json() == {"error": message}
            return reply.status

    asked = [asyncio.create_task(status(n)) for n in range(12)]
    await until(lambda: sum(each.done() for each in asked) >= 10, "those beyond the queue are told so")
    writer.close()
    assert sorted(await asyncio.gather(*asked)) == [200] * 2 + [503] * 10


async def test_a_client_that_leaves_while_its_answer_is_written_frees_the_slot(start, http):
    base = start(speed=20.0, models=(replace(CHAT, slots=1),), script=ENDLESS)
    reader, writer = await raw_request(base, {"model": "big:8b", "prompt": "endless"})
    await reader.read(1)
    waiting = asyncio.create_task(generate(http, base, options={"num_predict": 1}))
    writer.close()
    assert (await asyncio.wait_for(waiting, WITHIN_S))["eval_count"] == 1


async def test_a_client_that_leaves_while_its_prompt_is_read_frees_the_slot_at_the_next_batch(start, http, tmp_path):
    file = tmp_path / "card.seats"
    base = start(speed=1.0, models=(replace(CHAT, slots=1, context=SHAPE.context_length),), seats_file=str(file))
    _, writer = await raw_request(base, {"model": "big:8b", "prompt": "word " * 500_000})
    await until(lambda: file.exists() and any(file.read_bytes()[4:8]))  # slots at work on the first seat
    waiting = asyncio.create_task(generate(http, base, options={"num_predict": 1}))
    writer.close()
    answer = await waiting
    assert answer["prompt_eval_count"] == 10
    # A step of 512 tokens takes 0.07 s, and the 65,538 that are left of this prompt 9 s; of the card's own time.
    assert waited_s(answer) < 1
    assert any(file.read_bytes()[4:8]) is False


async def test_a_load_is_given_up_when_its_client_leaves(start, http):
    small = replace(OTHER, shape=replace(SHAPE, weights_bytes=1_000_000))
    base = start(speed=1.0, models=(CHAT, small), load_bandwidth_bytes_s=1e8)  # 49 s for the first, 0.5 s for the other
    _, writer = await raw_request(base, {"model": "big:8b"})
    assert await loaded(http, base) == {}
    writer.close()
    await asyncio.wait_for(ask(http, f"{base}/api/generate", model="other:8b"), 15)
    assert list(await loaded(http, base)) == ["other:8b"]


async def test_another_context_loads_the_model_again_and_changes_its_size(start, http):
    base = start()
    first = await generate(http, base)
    small = (await loaded(http, base))["big:8b"]
    again = await generate(http, base, options={"num_ctx": 8192})
    large = (await loaded(http, base))["big:8b"]
    assert first["load_duration"] > 1e9
    assert again["load_duration"] > 1e9
    assert (small["context_length"], large["context_length"]) == (4096, 8192)
    kv, mask = 4096 * 128 * 1024 * CHAT.slots, 4096 * 2 * 1024  # a step of 1024 tokens with so long a context
    assert large["size"] - small["size"] == kv + mask
    assert small["size_vram"] == small["size"] == FOOTPRINT.total - FOOTPRINT.runtime
    assert (await generate(http, base, options={"num_ctx": 8192}))["load_duration"] < 1e7


async def test_a_model_goes_when_its_keep_alive_is_over(start, http):
    base = start()
    await generate(http, base, keep_alive="10m")
    assert list(await loaded(http, base)) == ["big:8b"]
    await generate(http, base, keep_alive="150ms")
    await until(lambda: loaded(http, base), holds=lambda models: not models)
    await generate(http, base, keep_alive=0)
    assert await loaded(http, base) == {}


async def test_an_unload_lets_the_stream_under_way_finish(start, http):
    base = start(speed=20.0)
    async with http.post(f"{base}/api/generate", json={"model": "big:8b", "prompt": "hi"}) as reply:
        told = await ask(http, f"{base}/api/generate", model="big:8b", keep_alive=0)
        assert told["done_reason"] == "unload"
        assert (await reply.read()).splitlines()[-1].count(b'"done":true') == 1
    assert await loaded(http, base) == {}


async def test_the_idle_model_goes_where_only_so_many_may_be_loaded(start, http):
    base = start(max_loaded_models=1)
    await generate(http, base)
    await generate(http, base, model="other:8b")
    assert list(await loaded(http, base)) == ["other:8b"]


async def test_a_prompt_read_before_costs_little_again(start, http):
    base, prompt = start(), "one two three four " * 200
    cold = await generate(http, base, prompt, options={"num_predict": 1})
    warm = await generate(http, base, prompt, options={"num_predict": 1})
    assert warm["prompt_eval_count"] == cold["prompt_eval_count"] > 800
    assert warm["prompt_eval_duration"] < cold["prompt_eval_duration"] / 5


async def test_one_stream_of_an_8b_model_says_it_wrote_120_to_135_tokens_a_second(start, http):
    reply = await generate(http, start(), "Tell me a long story", options={"num_predict": 64})
    assert 120 < (reply["eval_count"] - 1) / reply["eval_duration"] * 1e9 < 135


# --- the process -----------------------------------------------------------------------------------------------------


async def test_sigterm_cuts_streams_without_a_terminator_and_exits_with_0(tmp_path):
    config = SimulatorConfig("sim", "127.0.0.1", free_port(), (CHAT,), card="RTX 4090", speed=20.0, script=ENDLESS)
    with running(config, tmp_path) as process:
        reader, writer = await raw_request(f"http://127.0.0.1:{config.port}", {"model": "big:8b", "prompt": "endless"})
        await reader.readuntil(b'"done":false}\n\r\n')
        process.send_signal(signal.SIGTERM)
        rest = await reader.read()
        assert not rest.endswith(b"0\r\n\r\n")
        assert b'"done":true' not in rest
        assert await asyncio.to_thread(process.wait, WITHIN_S) == 0
        writer.close()


def test_the_process_imports_no_more_than_it_needs():
    code = "import sys, orchestrator.nodes.simulator as _; print(' '.join(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert not {"pydantic", "redis", "rich", "prometheus_client", "asyncssh"} & set(told.split())


def test_a_broken_configuration_is_refused_with_its_place(tmp_path):
    path = tmp_path / "sim.json"
    path.write_text('{"instance": "x"}')
    with started(path) as process:
        assert process.wait(WITHIN_S) == 1
        assert process.stderr is not None
        assert b"sim.json: config.host: missing" in process.stderr.read()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"speed": 0}, "speed: 0; it must be above 0"),
        ({"speed": "fast"}, "config.speed: must be float"),
        ({"card": "RTX 9999"}, "card: unknown card 'RTX 9999'"),
        ({"colour": 1}, "config.colour: unknown"),
        ({"models": []}, "models: none"),
        ({"models": [{"name": "x"}]}, r"models\[0\].shape: missing"),
        ({"seat": 64}, "seat: 64"),
    ],
)
def test_a_wrong_field_is_named(tmp_path, change, told):
    path = tmp_path / "sim.json"
    write_config(path, SimulatorConfig("sim", "127.0.0.1", 1, (CHAT,)))
    path.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()) | change))
    with pytest.raises(ConfigError, match=f"sim.json: {told}"):
        load_config(path)


def test_what_the_fleet_writes_is_what_the_instance_reads(tmp_path):
    path = config_for(
        instance="n1-big-0",
        host="127.0.0.1",
        port=1234,
        card=find_card("RTX 4090"),
        card_id="SIM-n1-0",
        model="big:8b",
        shape=SHAPE,
        footprint=FOOTPRINT,
        slots=3,
        context=4096,
        sim_dir=tmp_path / "sim",
        seat=2,
    )
    config = load_config(path)
    assert config.hardware == find_card("RTX 4090")
    assert config.marker == MARKER
    assert config.seats_file == str(tmp_path / "sim" / "SIM-n1-0.seats")
    (model,) = config.models
    assert (model.shape, model.footprint, model.slots, model.parameter_size) == (SHAPE, FOOTPRINT, 3, "8.0B")


# --- sharing a card --------------------------------------------------------------------------------------------------


def test_instances_on_one_card_share_it_by_their_slots_at_work(tmp_path):
    file = tmp_path / "card.seats"
    one, other = CardSeats(file, 0, lambda: 0.0), CardSeats(file, 1, lambda: 0.0)
    one.change_active(1)
    assert one.share() == 1.0
    other.change_active(3)
    assert (one.share(), other.share()) == (0.25, 0.75)
    other.change_active(-3)
    assert one.share() == 1.0
    other.change_active(3)
    other.close()
    assert one.share() == 1.0
    one.close()


def test_a_killed_instance_takes_no_share(tmp_path):
    file = tmp_path / "card.seats"
    code = (
        "import sys, os, signal, pathlib; from orchestrator.nodes.simulator.seats import CardSeats;"
        "CardSeats(pathlib.Path(sys.argv[1]), 1, lambda: 0.0).change_active(5); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(file)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    seats = CardSeats(file, 0, lambda: 0.0)
    seats.change_active(1)
    assert seats.share() == 1.0
    seats.close()


async def test_a_busy_neighbour_on_the_card_slows_the_answer(start, http, tmp_path):
    file = tmp_path / "card.seats"
    base = start(seats_file=str(file))
    alone = await generate(http, base, options={"num_predict": 33})
    neighbour = CardSeats(file, 1, lambda: 0.0)
    neighbour.change_active(3)
    beside = await generate(http, base, options={"num_predict": 33})
    neighbour.close()
    assert beside["eval_duration"] > 3 * alone["eval_duration"]
    assert file.stat().st_size == 64 * 8


async def test_a_hang_takes_calls_and_answers_none_and_its_health_is_told_as_ever(tmp_path, http):
    config = SimulatorConfig(instance="sim", host="127.0.0.1", port=free_port(), models=(CHAT,), speed=1000.0)
    base = f"http://127.0.0.1:{config.port}"
    with running(config, tmp_path) as process:
        await generate(http, base)
        process.send_signal(signal.SIGUSR2)
        assert list(await loaded(http, base)) == ["big:8b"]  # a round trip later it has heeded it
        asked = asyncio.create_task(generate(http, base))
        assert list(await loaded(http, base)) == ["big:8b"]
        assert not (await asyncio.wait((asked,), timeout=0.3))[0]
        process.send_signal(signal.SIGUSR2)
        assert (await asked)["done"]
