"""What the controller asks of an engine, against a server on a real socket that answers as Ollama does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from aiohttp import web

from orchestrator.core.errors import CapacityError, InstanceError
from orchestrator.core.model import Engine, Instance, InstanceId, NodeName, PoolName
from orchestrator.nodes.engine_api import EngineApi

Answers = Mapping[str, Any]  # path to body, or to a function from the request's body to one


@asynccontextmanager
async def asking(
    answers: Answers, model: str = "llama3.2", engine: Engine = Engine.OLLAMA
) -> AsyncIterator[tuple[EngineApi, Instance, list[tuple[str, Any]]]]:
    asked: list[tuple[str, Any]] = []

    async def answer(request: web.Request) -> web.Response:
        raw = await request.read()
        body = orjson.loads(raw) if raw else None
        asked.append((request.path, body))
        found = answers.get(request.path, (404, {"error": "not found"}))
        found = found(body) if callable(found) else found
        status, told = found if isinstance(found, tuple) else (200, found)
        return web.Response(status=status, body=told if isinstance(told, bytes) else orjson.dumps(told))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    instance = Instance(
        InstanceId("a"), NodeName("n"), PoolName(model), "127.0.0.1", port, engine, model, slots=2, context=4096
    )
    api = EngineApi()
    try:
        yield api, instance, asked
    finally:
        await api.close()
        await runner.cleanup()


@pytest.mark.parametrize(
    ("model", "listed", "is_loaded"),
    [
        ("llama3.2", "llama3.2:latest", True),
        ("llama3.2:latest", "llama3.2:latest", True),
        ("Llama3.2:3B", "llama3.2:3b", True),
        ("registry.ollama.ai/library/llama3.2:3b", "llama3.2:3b", True),
        ("hf.co/a/b:Q4_K_M", "hf.co/a/b:Q4_K_M", True),
        ("llama3.2:3b", "llama3.2:1b", False),
    ],
)
async def test_a_model_is_loaded_whatever_its_name_is_written_like(model: str, listed: str, is_loaded: bool) -> None:
    async with asking({"/api/ps": {"models": [{"model": listed}]}}, model) as (api, instance, _):
        assert await api.is_loaded(instance) is is_loaded


async def test_an_alias_of_the_same_weights_counts_as_loaded() -> None:
    def shown(body: Any) -> Any:
        digest = "bb" if body["model"] == "other:latest" else "aa"
        return {"modelfile": f"# comment\nFROM /models/blobs/sha256-{digest}\nTEMPLATE x"}

    for listed, is_loaded in (("mine:latest", True), ("other:latest", False)):
        answers = {"/api/ps": {"models": [{"model": listed}]}, "/api/show": shown}
        async with asking(answers, "llama3.2:3b") as (api, instance, _):
            assert await api.is_loaded(instance) is is_loaded


async def test_a_load_is_for_good_and_with_the_pools_own_context() -> None:
    async with asking({"/api/generate": {"done": True}, "/api/embed": {"embeddings": []}}) as (api, instance, asked):
        await api.load(instance, is_embedding=False)
        await api.load(instance, is_embedding=True)
    common = {"model": "llama3.2", "keep_alive": -1, "options": {"num_ctx": 4096}}
    assert asked == [
        ("/api/generate", {**common, "stream": False}),
        ("/api/embed", {**common, "input": "warm"}),
    ]


TOKEN = {"done": True, "done_reason": "length", "response": "", "eval_count": 1}


@pytest.mark.parametrize(
    ("engine", "path", "answer", "is_embedding"),
    [
        (Engine.OLLAMA, "/api/generate", TOKEN, False),  # half a letter, or the end of the text
        (Engine.OLLAMA, "/api/embed", {"embeddings": [[0.5, 0]]}, True),
        (Engine.LLAMA_CPP, "/v1/completions", {"choices": [{"text": ""}], "usage": {"completion_tokens": 1}}, False),
        (Engine.LLAMA_CPP, "/v1/embeddings", {"data": [{"embedding": [0.5, 0]}]}, True),
    ],
)
async def test_a_first_question_is_answered_by_a_token_or_a_vector(
    engine: Engine, path: str, answer: Any, is_embedding: bool
) -> None:
    async with asking({path: answer}, engine=engine) as (api, instance, asked):
        await api.check_answer(instance, 20, is_embedding=is_embedding)
    assert [each[0] for each in asked] == [path]


@pytest.mark.parametrize(
    ("path", "answer", "said"),
    [
        ("/api/generate", {**TOKEN, "done": False}, "without a token"),
        ("/api/generate", {"done": True}, "without a token"),
        ("/api/generate", {"error": "unexpected EOF"}, "answered 200: unexpected EOF"),
        ("/api/generate", (500, {"error": "CUDA error"}), "answered 500: CUDA error"),
        ("/api/generate", b"@@@@", "no JSON"),
        ("/api/embed", {"embeddings": []}, "without a vector"),
        ("/api/embed", {"embeddings": [[]]}, "without a vector"),
        ("/api/embed", {"embeddings": [[None, None]]}, "without a vector"),
        ("/api/embed", (500, {"error": "unsupported value: NaN"}), "unsupported value: NaN"),
    ],
)
async def test_a_first_question_that_is_answered_by_anything_else_has_failed(path: str, answer: Any, said: str) -> None:
    async with asking({path: answer}) as (api, instance, _):
        with pytest.raises(InstanceError, match=said):
            await api.check_answer(instance, 20, is_embedding=path == "/api/embed")


async def test_a_full_line_says_nothing_of_the_instance() -> None:
    busy = (503, {"error": "server busy, please try again.  maximum pending requests exceeded"})
    async with asking({"/api/generate": busy}) as (api, instance, _):
        with pytest.raises(CapacityError, match="others call it: server busy"):
            await api.check_answer(instance, 20, is_embedding=False)


async def test_an_ollama_rests_once_its_model_is_gone_as_it_was_told() -> None:
    listed = [{"model": "llama3.2:latest"}]
    answers = {"/api/generate": {"done": True, "done_reason": "unload"}, "/api/ps": lambda _: {"models": listed[:]}}
    async with asking(answers) as (api, instance, asked):
        assert not await api.rests(instance)
        listed.clear()
        assert await api.rests(instance)
    assert ("/api/generate", {"model": "llama3.2", "keep_alive": 0, "stream": False}) in asked


async def test_a_missing_model_is_told_from_a_server_that_fails() -> None:
    async with asking({"/api/show": (404, {"error": "model 'x' not found"})}) as (api, instance, _):
        assert await api.has_model(instance) is False
    async with asking({"/api/show": (500, {"error": "disk on fire"})}) as (api, instance, _):
        with pytest.raises(InstanceError, match="disk on fire"):
            await api.has_model(instance)


@pytest.mark.parametrize("model", ["gpt-oss:120b-cloud", "qwen3:cloud", "GPT-OSS:20b-Cloud"])
async def test_a_model_of_ollamas_cloud_is_refused_before_anything_is_asked(model: str) -> None:
    async with asking({}, model) as (api, instance, asked):
        with pytest.raises(InstanceError, match="prompts would leave the house"):
            await api.has_model(instance)
        with pytest.raises(InstanceError, match="prompts would leave the house"):
            await api.pull(instance, lambda *_: None)
    assert asked == []


@pytest.mark.parametrize("where", ["/api/show", "/api/tags"])
async def test_a_model_with_a_remote_host_is_refused_wherever_that_stands(where: str) -> None:
    remote = {"remote_host": "https://ollama.com:443"}
    tag = {"model": "llama3.2:latest", **(remote if where == "/api/tags" else {})}
    answers = {
        "/api/show": remote if where == "/api/show" else {"modelfile": ""},
        "/api/tags": {"models": [tag]},
        "/api/ps": {"models": []},
    }
    async with asking(answers) as (api, instance, _):
        with pytest.raises(InstanceError, match=r"ollama\.com"):
            await api.describe(instance)


async def test_a_model_is_described_in_the_engines_own_words() -> None:
    tag, running = {"model": "llama3.2:latest", "size": 7}, {"model": "llama3.2:latest", "size_vram": 9}
    answers = {
        "/api/tags": {"models": [{"model": "other"}, tag]},
        "/api/ps": {"models": [running]},
        "/api/show": {"details": {}},
    }
    async with asking(answers) as (api, instance, _):
        assert await api.describe(instance) == {"tags": tag, "ps": running, "show": {"details": {}}}


async def test_a_pull_tells_its_progress() -> None:
    lines = b'{"status":"pulling manifest"}\n{"status":"pulling aa","total":10,"completed":4}\n{"status":"success"}\n'
    seen: list[tuple[str, int, int]] = []
    async with asking({"/api/pull": lines}) as (api, instance, _):
        await api.pull(instance, lambda *each: seen.append(each))
    assert seen == [("pulling manifest", 0, 0), ("pulling aa", 4, 10), ("success", 0, 0)]


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b"", b'{"models": {"a": 1}}', b'{"models": [1]}'])
async def test_an_answer_that_makes_no_sense_is_the_instances_fault(body: bytes) -> None:
    async with asking({"/api/ps": body}) as (api, instance, _):
        with pytest.raises(InstanceError, match="/api/ps answered"):
            await api.is_loaded(instance)


async def test_nobody_there_is_told_from_an_answer_that_is_wrong() -> None:
    async with asking({}) as (api, instance, _):
        pass
    api = EngineApi()
    with pytest.raises(InstanceError) as refused:
        await api.version(instance)
    assert refused.value.is_unreachable
    await api.close()


async def test_the_built_in_engine_is_there_once_its_model_is_loaded() -> None:
    loading = (503, {"error": {"message": "Loading model", "code": 503}})
    async with asking({"/health": loading}, engine=Engine.LLAMA_CPP) as (api, instance, _):
        with pytest.raises(InstanceError, match="Loading model"):
            await api.version(instance)
    async with asking({"/health": {"status": "ok"}}, engine=Engine.LLAMA_CPP) as (api, instance, _):
        assert await api.version(instance) == "llama.cpp"
        assert await api.has_model(instance)
        assert await api.is_loaded(instance)
