"""A cluster with the built-in engine, asked the ways its users ask: curl, the clients of Ollama and OpenAI, the CLI."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import ollama
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from running import TIMEOUT_S, Up, environment, needs_built_in_engine, ollamactl, running, until

SMALL, FULL = "smollm2:135m", "smollm2-8k:135m"
QUESTION = [{"role": "user", "content": "Tell me about the sea."}]
# The same draw each time: one in many answers to this question has three words.
OPTIONS = {"num_predict": 16, "seed": 1}
LIMITS: dict[str, Any] = {"max_tokens": 16, "seed": 1}
FAQ_QUESTION, FAQ_ANSWER = "şehir içi hız limiti", "50 km/h"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    needs_built_in_engine()
    with running(tmp_path_factory.mktemp("up") / "state") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def ollama_client(up: Up) -> ollama.Client:
    return ollama.Client(host=up.endpoint, timeout=TIMEOUT_S)


@pytest.fixture(scope="module")
def openai_client(up: Up) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{up.endpoint}/v1", api_key="none", max_retries=0, timeout=TIMEOUT_S) as client:
        yield client


def is_text(text: str) -> bool:
    """A language model's text: words, with blanks between them."""
    return len(re.findall(r"[A-Za-z]{2,}", text)) >= 4


def curl(up: Up, path: str, body: dict[str, Any], *options: str) -> str:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed; tests/system_packages.sh has it")
    argv = ["curl", "-sS", "--fail-with-body", *options, up.endpoint + path, "-d", json.dumps(body)]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=TIMEOUT_S).stdout


def events(text: str) -> list[dict[str, Any]]:
    """What a stream of server-sent events holds; it must end as OpenAI ends one."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


# --- what it says when it is ready ------------------------------------------------------------------------------------


def test_the_ready_file_says_where_it_answers_and_what_each_tier_answered(up: Up) -> None:
    assert up.ready["endpoint"] == up.endpoint
    assert up.ready["state"] == str(up.state)
    assert up.ready["pid"] == up.process.pid
    assert up.ready["engine"] == "llama.cpp on CPU"
    assert up.ready["is_simulated"] is False
    assert up.ready["cache"] == "ON"
    cached, small, full = up.ready["replies"]
    assert (cached["tier"], cached["text"], cached["cache"], cached["instance"]) == ("cache", FAQ_ANSWER, "faq", "")
    assert (small["tier"], small["model"]) == ("small", SMALL)
    assert (full["tier"], full["model"]) == ("full", FULL)
    assert small["instance"] != full["instance"]
    for reply in (small, full):
        assert reply["text"].strip(), "drawn anew at each start: it may be a word"
        assert reply["completion_tokens"] > 0
        assert reply["prompt_tokens"] > 0


def test_the_screen_shows_the_answers_what_they_cost_and_where_to_go_next(up: Up) -> None:
    for reply in up.ready["replies"]:
        assert f"   {reply['question']}\n" in up.screen
        assert f"→ {' '.join(reply['text'].split())}\n" in up.screen
    assert f"{up.ready['replies'][1]['completion_tokens']} tokens" in up.screen
    assert f"{up.endpoint}/status" in up.screen
    assert "a small brain" in up.screen
    assert "answer cache ON" in up.screen
    assert "Traceback" not in up.screen
    assert "\x1b" not in up.screen, "no colours where there is no terminal"


def test_every_command_on_the_screen_works_as_it_stands_there(up: Up) -> None:
    lines = up.screen.partition("  try\n")[2].partition("\n\n")[0].splitlines()
    assert len(lines) == 4
    for line in lines:
        ran = subprocess.run(
            ["bash", "-c", line], cwd=up.state.parent, env=environment(), capture_output=True, check=False
        )
        assert ran.returncode == 0, (line, ran.stderr)
        assert ran.stdout, line


# --- curl -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["auto", SMALL, FULL])
def test_curl_gets_a_whole_answer_from_ollamas_api(up: Up, model: str) -> None:
    told = json.loads(
        curl(up, "/api/chat", {"model": model, "messages": QUESTION, "stream": False, "options": OPTIONS})
    )
    assert told["done"] is True
    assert is_text(told["message"]["content"])
    assert 0 < told["eval_count"] <= 16


def test_curl_gets_a_stream_from_ollamas_api(up: Up) -> None:
    body = {"model": "auto", "messages": QUESTION, "options": OPTIONS}
    frames = curl(up, "/api/chat", body, "-N", "-H", "Cache-Control: no-store").splitlines()
    *parts, last = [json.loads(frame) for frame in frames]
    assert len(parts) > 4
    assert not any(part["done"] for part in parts)
    assert is_text("".join(part["message"]["content"] for part in parts))
    assert last["done"] is True
    assert last["eval_count"] > 4


def test_curl_gets_a_whole_answer_from_openais_api(up: Up) -> None:
    told = json.loads(curl(up, "/v1/chat/completions", {"model": "auto", "messages": QUESTION, **LIMITS}))
    assert is_text(told["choices"][0]["message"]["content"])
    assert told["usage"]["completion_tokens"] > 4


def test_curl_gets_a_stream_from_openais_api(up: Up) -> None:
    body = {"model": "auto", "messages": QUESTION, **LIMITS, "stream": True}
    parts = events(curl(up, "/v1/chat/completions", body, "-N", "-H", "Cache-Control: no-store"))
    assert len(parts) > 4
    assert is_text("".join(part["choices"][0]["delta"].get("content") or "" for part in parts))
    assert parts[-1]["choices"][0]["finish_reason"] in ("length", "stop")


def test_every_answer_says_what_gave_it(up: Up) -> None:
    told = up.chat("Tell me about rivers.", model=SMALL, **{"X-Request-Id": "mine-1"})
    assert told.headers["X-Request-Id"] == "mine-1"
    assert told.headers["X-Tier"] == "small"
    assert told.headers["X-Cache"] == "miss"
    assert told.headers["X-Instance"] in {each["id"] for each in up.instances()}
    assert re.fullmatch(r"queue;dur=[\d.]+, route;dur=[\d.]+, overhead;dur=[\d.]+", told.headers["Server-Timing"])
    assert "X-Simulated" not in told.headers


def test_a_question_asked_again_is_answered_from_the_cache(up: Up) -> None:
    first = up.chat("Tell me about lakes.")
    until(up.is_idle, "its slot is given back and its answer kept, which is one step behind the answer")
    again = up.chat("Tell me about lakes.")
    assert (first.headers["X-Cache"], again.headers["X-Cache"].partition(";")[0]) == ("miss", "hit")
    assert again.headers["X-Tier"] == "cache"
    assert again.json()["message"] == first.json()["message"]


# --- Ollama's client --------------------------------------------------------------------------------------------------


def test_ollamas_client_chats(ollama_client: ollama.Client) -> None:
    whole = ollama_client.chat("auto", QUESTION, options=OPTIONS)
    assert whole.done
    assert is_text(whole.message.content or "")
    *parts, last = ollama_client.chat(FULL, QUESTION, options=OPTIONS, stream=True)
    assert is_text("".join(part.message.content or "" for part in parts))
    assert last.done
    assert last.eval_count == 16


def test_ollamas_client_generates(ollama_client: ollama.Client) -> None:
    whole = ollama_client.generate(SMALL, "The sea is", options=OPTIONS)
    assert is_text(whole.response)
    *parts, last = ollama_client.generate(SMALL, "The sea is", options=OPTIONS, stream=True)
    assert is_text("".join(part.response for part in parts))
    assert last.done


def test_ollamas_client_sees_the_cluster_as_one_ollama(ollama_client: ollama.Client) -> None:
    assert {SMALL, FULL} <= {each.model for each in ollama_client.list().models}
    assert {each.model for each in ollama_client.ps().models} == {SMALL, FULL}
    shown = ollama_client.show(SMALL)
    assert shown.details is not None
    assert shown.details.family == "llama"
    assert shown.modelinfo


def test_ollamas_client_is_told_that_a_model_is_unknown(ollama_client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="model 'nobody:1b' not found") as told:
        ollama_client.chat("nobody:1b", QUESTION)
    assert told.value.status_code == 404


# --- OpenAI's client --------------------------------------------------------------------------------------------------


def test_openais_client_chats(openai_client: openai.OpenAI) -> None:
    whole = openai_client.chat.completions.create(model="auto", messages=QUESTION, **LIMITS)
    assert is_text(whole.choices[0].message.content or "")
    assert whole.usage is not None
    assert whole.usage.completion_tokens > 4
    parts = list(openai_client.chat.completions.create(model=FULL, messages=QUESTION, **LIMITS, stream=True))
    assert is_text("".join(part.choices[0].delta.content or "" for part in parts if part.choices))


def test_openais_client_completes(openai_client: openai.OpenAI) -> None:
    whole = openai_client.completions.create(model=SMALL, prompt="The sea is", max_tokens=16, temperature=0)
    assert is_text(whole.choices[0].text)
    parts = list(
        openai_client.completions.create(model=SMALL, prompt="The sea is", max_tokens=16, temperature=0, stream=True)
    )
    assert is_text("".join(part.choices[0].text for part in parts if part.choices))


def test_openais_client_lists_the_models(openai_client: openai.OpenAI) -> None:
    assert {SMALL, FULL} <= {each.id for each in openai_client.models.list()}


def test_openais_client_is_told_that_a_model_is_unknown(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="nobody:1b"):
        openai_client.chat.completions.create(model="nobody:1b", messages=QUESTION)


# --- the operator's ---------------------------------------------------------------------------------------------------


def test_status_shows_what_runs_in_words_and_in_json(up: Up) -> None:
    told = ollamactl("status", "--state", up.state, cwd=up.state.parent)
    assert told.returncode == 0
    assert "answer cache ON" in told.stdout
    for each in up.instances():
        assert each["id"] in told.stdout
    for name in (SMALL, FULL):
        assert name in told.stdout
    as_json = ollamactl("status", "--json", "--endpoint", up.listen, cwd=up.state.parent)
    assert {pool["name"] for pool in json.loads(as_json.stdout)["pools"]} == {SMALL, FULL}


def test_ask_answers_and_says_what_did(up: Up) -> None:
    told = ollamactl("ask", FAQ_QUESTION, "--state", up.state, cwd=up.state.parent)
    assert told.returncode == 0
    assert told.stdout.startswith(f"{FAQ_ANSWER}\ncache · answer cache (faq)")
    argv = ("ask", "Hello", "--tokens", "12", "--model", FULL, "--json", "--state", up.state)
    as_json = json.loads(ollamactl(*argv, cwd=up.state.parent).stdout)
    assert (as_json["model"], as_json["completion_tokens"] <= 12) == (FULL, True)


def test_ask_fails_in_the_endpoints_own_words(up: Up) -> None:
    told = ollamactl("ask", "Hello", "--model", "nobody:1b", "--state", up.state, cwd=up.state.parent)
    assert told.returncode == 1
    assert "404: model 'nobody:1b' not found" in told.stderr


def test_the_status_page_is_served(up: Up) -> None:
    page = httpx.get(f"{up.endpoint}/status", timeout=TIMEOUT_S)
    assert page.headers["Content-Type"].startswith("text/html")
    assert "page.js" in page.text
    assert httpx.get(f"{up.endpoint}/healthz", timeout=TIMEOUT_S).text == "ok\n"
    assert httpx.get(f"{up.endpoint}/readyz", timeout=TIMEOUT_S).text == "ready\n"


def test_metrics_of_both_workers_count_every_call_whichever_worker_is_asked(up: Up) -> None:
    asked: dict[str, Any] = {"model": FULL, "messages": QUESTION, "stream": False, "options": {"num_predict": 1}}
    before, calls = past_the_cache(up), 40
    for _ in range(calls):  # a connection each: the kernel spreads them over the workers
        told = up.post("/api/chat", asked, **{"Cache-Control": "no-store"})
        assert told.headers["X-Cache"].startswith("bypass"), told.text
    until(lambda: past_the_cache(up) - before >= calls, "each worker has handed its tallies on")
    assert past_the_cache(up) - before == calls
    assert sum(value for _, value in samples(up, "olm_cache_enabled")) == 1
    assert sum(value for _, value in samples(up, "olm_store_up")) == 1


def past_the_cache(up: Up) -> float:
    """Calls counted of a kind that no other test here asks for, so that none of them is told of late."""
    wanted = {"tier": "full", "cache": "bypass", "outcome": "ok"}
    return sum(value for labels, value in samples(up, "olm_calls_total") if labels == wanted)


def samples(up: Up, name: str) -> list[tuple[dict[str, str], float]]:
    """A metric's labels and values."""
    reply = httpx.get(f"{up.endpoint}/metrics", timeout=TIMEOUT_S)
    assert reply.status_code == 200
    families = text_string_to_metric_families(reply.text)
    return [(each.labels, each.value) for family in families for each in family.samples if each.name == name]
