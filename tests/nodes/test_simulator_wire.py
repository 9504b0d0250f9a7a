"""A simulated Ollama answers the recorded requests of a real one as the real one did, byte for byte where it can."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from tests.nodes.simulators import free_port, running
from tests.wire_replay import OLDER, REGISTRY_MODEL, Case, compare, load_cases, replay_config, send
from tests.wire_scenarios import as_today, load, unload_all
from tests.wire_script import scripted_answers

CASES = load_cases()
OLDER_CASES = load_cases(OLDER)

NOT_PLAYED = {
    "create_from_nonstream": "the model that is made would stay, and be listed in other cases",
    "create_from_stream": "a simulated model is one file, the recorded one was four",
    "copy_ok": "the copy would stay, and be listed in other cases",
    "delete_ok": "the recorded model was made by the case before it",
    "create_cleanup": "the recorded model was made by the case before it",
    "pull_refused": "the recorded registry refuses connections; a simulator asks none",
    "pull_refused_nonstream": "the recorded registry refuses connections; a simulator asks none",
}
PLAYED_APART = frozenset({"pull_nonstream_present", "pull_stream", "tags_empty"})
LOADS_NOTHING = [name for name in CASES if "load_failure" in name]

# A simulator speaks as 0.33 whatever version it claims. Where 0.24 spoke otherwise:
_NO_LLAMA_SERVER = "0.24 had a runner of its own, with words of its own"
_EACH_ROLE = "0.24 named the role in every frame, 0.33 in the first"
_OTHER_FILES = "the models' files were others, and of their sizes and digests today's are told"
OLDER_DIFFERS = {
    "chat_prompt_too_long_notruncate": _NO_LLAMA_SERVER,
    "generate_prompt_too_long_notruncate": _NO_LLAMA_SERVER,
    "generate_prompt_too_long_noshift": "0.24 cut the prompt silently",
    "generate_image": "0.24 took a picture for a model that sees none, and passed over it",
    "embed_on_chat_model": "0.24 gave vectors of any model",
    "embeddings_legacy_on_chat_model": "0.24 gave vectors of any model",
    "ps_keep_alive_forever": _OTHER_FILES,
    "ps_loaded": _OTHER_FILES,
    "ps_two_loaded": _OTHER_FILES,
    "show_ok": _OTHER_FILES,
    "tags": "0.24 told no capabilities and no lengths of a model",
    "show_missing": "0.24 named a model that is missing without its tag",
    "v1_model_missing": "0.24 named a model that is missing without its tag",
    "v1_chat_stream": _EACH_ROLE,
    "v1_chat_stream_usage": _EACH_ROLE,
    "v1_chat_think_stream": _EACH_ROLE,
    "v1_chat_tool_call_stream": _EACH_ROLE,
}


def reason_not_played(case: Case) -> str | None:
    return NOT_PLAYED.get(case.name)


PLAYED = [
    name
    for name, case in CASES.items()
    if reason_not_played(case) is None and name not in PLAYED_APART and name not in LOADS_NOTHING
]
OLDER_PLAYED = [
    name for name, case in OLDER_CASES.items() if reason_not_played(case) is None and name not in OLDER_DIFFERS
]


@pytest.fixture(scope="module")
def replaying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not CASES:
        pytest.skip("the recordings in ../shared are not present")
    config = replay_config(free_port(), CASES)
    with running(config, tmp_path_factory.mktemp("replay")):
        yield f"http://127.0.0.1:{config.port}"


@pytest.fixture(scope="module")
def replaying_older(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not CASES:
        pytest.skip("the recordings in ../shared are not present")
    script = tuple(scripted_answers(OLDER_CASES.values()))
    config = replay_config(free_port(), CASES, script=script, version=OLDER.name.removeprefix("v"))
    with running(config, tmp_path_factory.mktemp("older")):
        yield f"http://127.0.0.1:{config.port}"


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def prepare(case: str, http: aiohttp.ClientSession, base: str) -> None:
    """Bring the models in memory to what they were before the recording."""
    if case.startswith("ps_"):
        await unload_all(http, base)
    if case in ("ps_loaded", "ps_two_loaded"):
        await load(http, base)
    if case == "ps_two_loaded":
        await (await http.post(f"{base}/api/embed", json={"model": "tiny-embed:latest", "input": "x"})).read()
    if case == "ps_keep_alive_forever":
        await load(http, base, keep_alive=-1)
    if case == "pull_nonstream_present":
        body = {"model": REGISTRY_MODEL}
        await (await http.post(f"{base}/api/pull", json=body)).read()


@pytest.mark.parametrize("name", PLAYED)
async def test_a_recorded_request_is_answered_as_recorded(name, replaying, http):
    await prepare(name, http, replaying)
    assert compare(CASES[name], await send(CASES[name], replaying)) == []


@pytest.mark.parametrize("name", OLDER_PLAYED)
async def test_a_request_recorded_of_the_older_version_is_answered_as_recorded(name, replaying_older, http):
    await prepare(name, http, replaying_older)
    assert compare(as_today(OLDER_CASES[name]), await send(OLDER_CASES[name], replaying_older)) == []


@pytest.mark.parametrize("name", [name for name in OLDER_DIFFERS if name in OLDER_CASES])
async def test_what_the_older_version_said_otherwise_still_differs(name, replaying_older, http):
    await prepare(name, http, replaying_older)
    assert compare(as_today(OLDER_CASES[name]), await send(OLDER_CASES[name], replaying_older)) != []


@pytest.mark.parametrize("name", LOADS_NOTHING)
async def test_a_model_that_cannot_be_loaded_is_a_500_that_says_why(name, tmp_path):
    case = CASES[name]
    error = json.loads(b"".join(case.chunks))["error"]
    config = replay_config(free_port(), CASES, load_error=error if isinstance(error, str) else error["message"])
    with running(config, tmp_path):
        assert compare(case, await send(case, f"http://127.0.0.1:{config.port}")) == []


async def test_a_pull_of_what_is_there_says_success_at_once(replaying, http):
    await prepare("pull_nonstream_present", http, replaying)
    case = CASES["pull_nonstream_present"]
    assert compare(case, await send(case, replaying)) == []


def test_every_recording_is_played_or_has_a_reason_not_to_be():
    known = set(PLAYED) | PLAYED_APART | set(LOADS_NOTHING)
    excepted = {name for name, case in CASES.items() if reason_not_played(case) is not None}
    assert not CASES or (known | excepted) == set(CASES)
    assert known.isdisjoint(excepted)
    assert not CASES or set(NOT_PLAYED) <= set(CASES)
    older_excepted = {name for name, case in OLDER_CASES.items() if reason_not_played(case) is not None}
    assert not CASES or set(OLDER_PLAYED) | set(OLDER_DIFFERS) | older_excepted == set(OLDER_CASES)


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
