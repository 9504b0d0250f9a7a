"""curl, as people and shell scripts use it."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.clients.worlds import (
    BOOK_SCHEMA,
    CITY,
    DIMENSIONS,
    EMBEDDER,
    LONG,
    MARKER,
    MODEL,
    QUESTION,
    REQUEST_ID,
    SAID,
    SHORT,
    UNKNOWN,
    WEATHER,
    WEATHER_QUESTION,
    WEATHER_TOOL,
    a_caller_leaves,
)
from tests.cluster.running import TIMEOUT_S, Up

FAILED, TIMED_OUT = 22, 28  # curl's exit codes: a status of 400 or more with --fail, and --max-time
ASKED = [{"role": "user", "content": QUESTION}]
OLLAMA: dict[str, Any] = {"model": MODEL, "messages": ASKED, "options": {"num_predict": SHORT}}
OPENAI: dict[str, Any] = {"model": MODEL, "messages": ASKED, "max_tokens": SHORT}
STREAMS: dict[str, dict[str, Any]] = {
    "/api/chat": OLLAMA,
    "/api/generate": {"model": MODEL, "prompt": QUESTION, "options": {"num_predict": SHORT}},
    "/v1/chat/completions": OPENAI,
    "/v1/completions": {"model": MODEL, "prompt": QUESTION, "max_tokens": SHORT},
    "/v1/responses": {"model": MODEL, "input": QUESTION, "max_output_tokens": SHORT},
    "/v1/messages": OPENAI,
}


@pytest.fixture(autouse=True)
def _needs_curl() -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed; tests/system_packages.sh has it")


def curl(url: str, *options: str | Path, given: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    argv = ["curl", "-sS", "--fail-with-body", *map(str, options), url]
    return subprocess.run(argv, input=given, capture_output=True, check=False, timeout=TIMEOUT_S)


def asked(url: str, body: dict[str, Any], *options: str | Path) -> bytes:
    ran = curl(url, "-d", json.dumps(body), *options)
    assert ran.returncode == 0, (ran.stderr, ran.stdout)
    return ran.stdout


def test_a_chat_is_answered(cluster: Up) -> None:
    told = json.loads(asked(f"{cluster.endpoint}/api/chat", {**OLLAMA, "stream": False}))
    assert told["message"]["content"].startswith(MARKER)
    assert (told["done"], told["eval_count"]) == (True, SHORT)


@pytest.mark.parametrize("path", STREAMS)
def test_a_stream_is_shown_as_it_comes(cluster: Up, path: str) -> None:
    body = {**STREAMS[path], "stream": True}
    lines = asked(f"{cluster.endpoint}{path}", body, "-N").decode().splitlines()
    frames = [json.loads(line.removeprefix("data: ")) for line in lines if line.removeprefix("data: ").startswith("{")]
    assert len(frames) > SHORT
    ends = {"/api/": '"done":true', "/v1/chat": "data: [DONE]", "/v1/completions": "data: [DONE]"}
    end = next((each for start, each in ends.items() if path.startswith(start)), None)
    assert end is None or end in "".join(lines[-2:])


def test_a_tool_is_called_and_its_result_is_answered(tool_caller: str) -> None:
    turns: list[Any] = [{"role": "user", "content": WEATHER_QUESTION}]
    body = {"model": MODEL, "messages": turns, "tools": [WEATHER_TOOL], "stream": False}
    message = json.loads(asked(f"{tool_caller}/api/chat", body))["message"]
    assert message["tool_calls"][0]["function"]["arguments"] == {"city": CITY}
    turns += [message, {"role": "tool", "content": WEATHER}]
    assert json.loads(asked(f"{tool_caller}/api/chat", body))["message"]["content"] == SAID


def test_an_answer_has_the_shape_of_its_schema(cluster: Up) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "book", "schema": BOOK_SCHEMA}}
    body = {"model": MODEL, "messages": ASKED, "response_format": form}
    told = json.loads(asked(f"{cluster.endpoint}/v1/chat/completions", body))
    assert set(json.loads(told["choices"][0]["message"]["content"])) == {"title", "pages"}


def test_texts_are_embedded(cluster: Up) -> None:
    body = {"model": EMBEDDER, "input": ["sea", "mountain"]}
    told = json.loads(asked(f"{cluster.endpoint}/api/embed", body))
    assert [len(each) for each in told["embeddings"]] == [DIMENSIONS, DIMENSIONS]
    told = json.loads(asked(f"{cluster.endpoint}/v1/embeddings", body))
    assert [len(each["embedding"]) for each in told["data"]] == [DIMENSIONS, DIMENSIONS]


@pytest.mark.parametrize("path", STREAMS)
def test_an_unknown_model_fails_with_json_and_the_request_id(cluster: Up, path: str, tmp_path: Path) -> None:
    body = json.dumps({**STREAMS[path], "model": UNKNOWN})
    ran = curl(f"{cluster.endpoint}{path}", "-d", body, "-D", tmp_path / "head")
    assert ran.returncode == FAILED
    assert UNKNOWN in json.dumps(json.loads(ran.stdout)["error"])
    head = dict(line.split(": ", 1) for line in (tmp_path / "head").read_text().splitlines() if ": " in line)
    assert REQUEST_ID.fullmatch(head["X-Request-Id"])


@pytest.mark.parametrize("path", STREAMS)
def test_a_curl_that_gives_up_midway_frees_its_slot(cluster: Up, path: str) -> None:
    limits: dict[str, Any] = {"options": {"num_predict": LONG}, "max_tokens": LONG, "max_output_tokens": LONG}
    body = {name: limits.get(name, given) for name, given in STREAMS[path].items()}
    with a_caller_leaves(cluster):
        ran = curl(f"{cluster.endpoint}{path}", "-N", "--max-time", "1", "-d", json.dumps({**body, "stream": True}))
        assert ran.returncode == TIMED_OUT
        assert ran.stdout


def test_a_large_body_is_sent_after_100_continue(cluster: Up, tmp_path: Path) -> None:
    (tmp_path / "body").write_text(json.dumps({**OLLAMA, "messages": [{"role": "user", "content": "sea " * 2000}]}))
    ran = curl(f"{cluster.endpoint}/api/chat", "-v", "-H", "Expect: 100-continue", "-d", f"@{tmp_path / 'body'}")
    assert ran.returncode == 0
    assert b"HTTP/1.1 100 Continue" in ran.stderr


def test_http_1_0_is_answered(cluster: Up) -> None:
    told = asked(f"{cluster.endpoint}/api/chat", {**OLLAMA, "stream": False}, "--http1.0")
    assert json.loads(told)["done"] is True
    *_, last = asked(f"{cluster.endpoint}/api/chat", OLLAMA, "--http1.0").splitlines()
    assert json.loads(last)["done"] is True


def test_a_compressed_body_is_read(cluster: Up) -> None:
    body = gzip.compress(json.dumps({**OPENAI, "stream": False}).encode())
    headers = ("-H", "Content-Encoding: gzip", "-H", "Content-Type: application/json")
    ran = curl(f"{cluster.endpoint}/v1/chat/completions", *headers, "--data-binary", "@-", given=body)
    assert ran.returncode == 0, ran.stdout
    assert json.loads(ran.stdout)["choices"][0]["message"]["content"].startswith(MARKER)


def test_a_head_request_tells_that_it_lives(cluster: Up) -> None:
    ran = curl(cluster.endpoint, "-I")
    assert ran.returncode == 0
    assert ran.stdout.startswith(b"HTTP/1.1 200")
    assert curl(f"{cluster.endpoint}/").stdout.startswith(b"Ollama is running")
