"""A simulated Ollama answers the recorded requests of a real one as the real one did, byte for byte where it can."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from tests.nodes.simulators import free_port, running
from tests.wire_replay import REGISTRY_MODEL, Case, compare, load_cases, replay_config, send

CASES = load_cases()

NOT_SERVED = {
    "/v1/messages": "Anthropic's API is not part of the cluster's",
    "/v1/responses": "OpenAI's Responses API is not part of the cluster's",
    "/api/create": "models are not made on the cluster's instances",
    "/api/copy": "models are not renamed on the cluster's instances",
    "/api/delete": "models are not deleted on the cluster's instances",
    "/api/blobs/": "models are not made on the cluster's instances",
}
NOT_PLAYED = {
    "generate_nonstream_load_failure": "the recorded server could not load any model",
    "generate_stream_load_failure_kv": "the recorded server had a KV cache type that does not exist",
    "v1_chat_stream_load_failure": "the recorded server could not load any model",
    "pull_refused": "the recorded registry refuses connections; a simulator asks none",
    "pull_refused_nonstream": "the recorded registry refuses connections; a simulator asks none",
    "pull_stream": "its number of lines is a matter of time; tested by itself",
    "tags_empty": "needs a server without models; tested by itself",
}

Prepare = Callable[[str], Awaitable[None]]


def reason_not_played(case: Case) -> str | None:
    by_path = next((why for path, why in NOT_SERVED.items() if case.path.startswith(path)), None)
    return by_path or NOT_PLAYED.get(case.name)


PLAYED = [name for name, case in CASES.items() if reason_not_played(case) is None]


@pytest.fixture(scope="module")
def replaying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not CASES:
        pytest.skip("the recordings in ../shared are not present")
    config = replay_config(free_port(), CASES)
    with running(config, tmp_path_factory.mktemp("replay")):
        yield f"http://127.0.0.1:{config.port}"


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def unload_all(http: aiohttp.ClientSession, base: str) -> None:
    async with http.get(f"{base}/api/ps") as reply:
        loaded = [each["name"] for each in (await reply.json())["models"]]
    for name in loaded:
        await (await http.post(f"{base}/api/generate", json={"model": name, "keep_alive": 0})).read()


async def load(http: aiohttp.ClientSession, base: str, keep_alive: str | int = "5m") -> None:
    body = {"model": "smollm2:135m", "keep_alive": keep_alive, "stream": False}
    await (await http.post(f"{base}/api/generate", json=body)).read()


async def prepare(case: str, http: aiohttp.ClientSession, base: str) -> None:
    """Bring the models in memory to what they were before the recording."""
    if case.startswith("ps_"):
        await unload_all(http, base)
    if case in ("ps_loaded", "ps_two_loaded"):
        await load(http, base)
    if case == "ps_two_loaded":
        await (await http.post(f"{base}/api/embed", json={"model": "tiny-embed:latest", "input": "x"})).read()
    if case == "ps_keep_alive_forever":
        await load(http, base, -1)
    if case == "pull_nonstream_present":
        body = {"model": REGISTRY_MODEL}
        await (await http.post(f"{base}/api/pull", json=body)).read()


@pytest.mark.parametrize("name", [name for name in PLAYED if name != "pull_nonstream_present"])
async def test_a_recorded_request_is_answered_as_recorded(name, replaying, http):
    await prepare(name, http, replaying)
    assert compare(CASES[name], await send(CASES[name], replaying)) == []


async def test_a_pull_of_what_is_there_says_success_at_once(replaying, http):
    await prepare("pull_nonstream_present", http, replaying)
    case = CASES["pull_nonstream_present"]
    assert compare(case, await send(case, replaying)) == []


def test_every_recording_is_played_or_has_a_reason_not_to_be():
    assert set(NOT_PLAYED) <= set(CASES) or not CASES
    for name, case in CASES.items():
        assert (name in PLAYED) == (reason_not_played(case) is None)


async def test_a_model_kept_for_ever_expires_in_the_year_2319_or_before(replaying, http):
    await prepare("ps_keep_alive_forever", http, replaying)
    exchange = await send(CASES["ps_keep_alive_forever"], replaying)
    assert json.loads(exchange.body)["models"][0]["expires_at"][:2] == "23"


async def test_an_instance_with_nothing_pulled_lists_nothing_and_pulls_with_progress(tmp_path, http):
    config = replay_config(free_port(), CASES) if CASES else pytest.skip("the recordings in ../shared are not present")
    models = tuple(replace(model, is_pulled=False) for model in config.models)
    with running(replace(config, instance="empty", models=models, speed=2.0), tmp_path):
        base = f"http://127.0.0.1:{config.port}"
        assert compare(CASES["tags_empty"], await send(CASES["tags_empty"], base)) == []
        exchange = await send(CASES["pull_stream"], base)
        assert exchange.status == 200
        assert exchange.header("Content-Type") == CASES["pull_stream"].content_type
        lines = [json.loads(chunk) for chunk in exchange.chunks]
        recorded = [json.loads(chunk) for chunk in CASES["pull_stream"].chunks]
        shapes = [list(dict.fromkeys(tuple(line) for line in each)) for each in (lines, recorded)]
        assert [shape for shape in shapes[0] if len(shape) != 3] == shapes[1]
        done = [line["completed"] for line in lines if "completed" in line]
        assert done == sorted(done)
        assert done[-1] == lines[1]["total"]
        assert lines[-1] == {"status": "success"}


def test_nothing_recorded_is_needed_to_import_this(tmp_path: Path):
    assert load_cases(tmp_path) == {}
