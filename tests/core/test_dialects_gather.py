"""llama.cpp's stream as a whole body: the same answer as streamed, and nothing that passes for one when it was cut."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.dialects.gather import Gatherer
from orchestrator.core.dialects.outcome import read_answer, read_end
from orchestrator.core.dialects.parse import parse_call
from orchestrator.core.dialects.translate import Translator
from orchestrator.core.model import Endpoint

WIRE = json.loads((Path(__file__).parent / "llama_cpp_wire.json").read_text())
STREAM = WIRE["chat_stream"]["body"].encode()
LOGPROBS = WIRE["chat_logprobs_stream"]["body"].encode()
ENDPOINTS = (Endpoint.OLLAMA_CHAT, Endpoint.OLLAMA_GENERATE, Endpoint.OPENAI_CHAT, Endpoint.OPENAI_COMPLETIONS)


def call_to(endpoint: Endpoint, *, stream: bool, **more: object):
    body = {"model": "m", "messages": [{"role": "user", "content": "Why?"}], "prompt": "Why?", "stream": stream, **more}
    return parse_call(endpoint, orjson.dumps(body))


def gathered(endpoint: Endpoint, data: bytes, **more: object) -> bytes:
    gatherer = Gatherer(call_to(endpoint, stream=False, **more), "m")
    assert gatherer.feed(data) == b""
    return gatherer.finish()


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_the_body_says_what_the_stream_would_have_said(endpoint: Endpoint):
    translator = Translator(call_to(endpoint, stream=True, stream_options={"include_usage": True}), "m")
    streamed = translator.feed(STREAM) + translator.finish()
    body = gathered(endpoint, STREAM)
    assert read_end(endpoint, False, body).is_whole
    assert read_answer(endpoint, False, body) == read_answer(endpoint, True, streamed)


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=6))
def test_where_the_stream_is_cut_into_pieces_makes_no_difference(cuts: list[int]):
    gatherer = Gatherer(call_to(Endpoint.OLLAMA_CHAT, stream=False), "m")
    at = [0, *sorted(cuts), len(STREAM)]
    for start, end in pairwise(at):
        gatherer.feed(STREAM[start:end])
    assert gatherer.finish() == gathered(Endpoint.OLLAMA_CHAT, STREAM)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_stream_that_ended_early_is_no_answer(endpoint: Endpoint, share: float):
    body = gathered(endpoint, STREAM[: int(len(STREAM) * share)])
    assert not read_end(endpoint, False, body).is_whole
    assert read_answer(endpoint, False, body) is None


def test_log_probabilities_stand_in_the_body():
    body = orjson.loads(gathered(Endpoint.OLLAMA_CHAT, LOGPROBS, logprobs=True, top_logprobs=2))
    assert body["logprobs"]
    assert all("logprob" in each for each in body["logprobs"])


def test_tool_calls_stand_in_the_body():
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "get", "arguments": '{"a": 1}'}}
    head = {"created": 1, "id": "x", "object": "chat.completion.chunk"}
    frames = [
        {"choices": [{"finish_reason": None, "index": 0, "delta": {"tool_calls": [call]}}], **head},
        {"choices": [{"finish_reason": "tool_calls", "index": 0, "delta": {}}], **head},
    ]
    data = b"".join(b"data: " + orjson.dumps(each) + b"\n\n" for each in frames) + b"data: [DONE]\n\n"
    answer = read_answer(Endpoint.OLLAMA_CHAT, False, gathered(Endpoint.OLLAMA_CHAT, data))
    assert answer is not None
    assert [(each.name, each.arguments) for each in answer.tool_calls] == [("get", {"a": 1})]
