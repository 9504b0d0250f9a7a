"""What an instance is asked: the call as it was understood, and an engine's refusals in Ollama's words."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.core.dialects.parse import parse_call
from orchestrator.core.errors import CallerError
from orchestrator.core.model import Endpoint, Engine
from orchestrator.gateway.live import Limits
from orchestrator.gateway.orders import order_for
from orchestrator.gateway.relay import Order, is_callers_mistake
from tests.gateway.asking import body_for
from tests.gateway.played import pool_of

LIMITS = Limits(1, 1.0, 1.0, 1.0, 0.0, 2**20)
OLLAMA = pool_of("m", [1])
LLAMA = pool_of("m", [1], engine=Engine.LLAMA_CPP)
LLAMA_EMBEDS = pool_of("m", [1], engine=Engine.LLAMA_CPP, is_embedding=True)


def ordered(pool: Any, path: str, text: str = "hi", **more: Any) -> tuple[bytes, Order]:
    raw = json.dumps(body_for(path, text, **more)).encode()
    return raw, order_for(parse_call(Endpoint(path), raw), pool, pool.instances[0], LIMITS, 0)


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/embed", "/v1/embeddings"])
def test_a_call_that_needs_no_change_goes_as_it_came(path):
    raw, order = ordered(OLLAMA, path)
    assert json.loads(order.body) == json.loads(raw)
    assert order.translation is None


@pytest.mark.parametrize("name", ["M", "m:latest", "library/m"])
def test_the_callers_spelling_of_the_models_name_stays(name):
    _, order = ordered(OLLAMA, "/api/chat", model=name)
    assert json.loads(order.body)["model"] == name


def test_a_routes_name_becomes_the_models():
    _, order = ordered(OLLAMA, "/api/chat", model="auto")
    assert json.loads(order.body)["model"] == "m"


def test_what_is_nested_too_deeply_for_the_quick_writer_goes_all_the_same():
    tree: Any = {}
    for _ in range(300):
        tree = {"a": tree}
    _, order = ordered(OLLAMA, "/api/chat", keep_alive="5m", format=tree)
    assert "keep_alive" not in json.loads(order.body)


def test_an_embedding_pool_of_llama_cpp_refuses_to_chat_in_ollamas_words():
    for path, word in (("/api/chat", "chat"), ("/api/generate", "generate")):
        with pytest.raises(CallerError, match=f'"m" does not support {word}') as caught:
            ordered(LLAMA_EMBEDS, path)
        assert caught.value.status == 400


def test_llama_cpps_refusals_are_told_in_ollamas_words():
    body = b'{"error":{"code":501,"message":"This server does not support embeddings.","type":"not_supported_error"}}'
    for path, status in (("/api/embed", 501), ("/api/embeddings", 500)):
        _, order = ordered(LLAMA, path)
        fault = order.translation.error(501, body)
        assert fault is not None
        assert fault.status == status


def test_llama_cpp_is_sent_what_its_model_can_do_and_refused_what_it_would_drop():
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    for abilities, wish, word in (
        (["completion"], {"tools": tools}, "tools"),
        (["tools"], {"think": True}, "thinking"),
    ):
        unable = replace(LLAMA, details={"show": {"capabilities": ["completion", *abilities]}})
        with pytest.raises(CallerError, match=f"does not support {word}"):
            ordered(unable, "/api/chat", **wish)
        able = replace(LLAMA, details={"show": {"capabilities": ["completion", word]}})
        assert ordered(able, "/api/chat", **wish)
    assert ordered(LLAMA, "/api/chat", tools=tools), "where nobody knows it is tried"


@pytest.mark.parametrize(
    ("status", "body", "is_theirs"),
    [
        (400, b"", True),
        (404, b"model not found", False),
        (408, b"", False),
        (413, b"", True),
        (429, b"", False),
        (499, b"", False),
        (500, b'{"error":"option \\"stop\\" must be of an array of strings"}', True),
        (500, b'{"error":"option \\"num_ctx\\" must be of type integer"}', True),
        (500, b'{"error":"invalid format: \\"xml\\""}', True),
        (500, b'{"error":"This server does not support embeddings"}', True),
        (500, b'{"error":"llama-server process has terminated"}', False),
        (501, b"", True),
        (502, b"", False),
        (503, b"server busy", False),
    ],
)
def test_who_is_at_fault_is_told_by_status_and_words(status, body, is_theirs):
    assert is_callers_mistake(status, body) is is_theirs


def test_where_nobody_knows_the_context_the_callers_is_left_out_and_the_instances_own_holds():
    pool = pool_of("m", [1], context=0)
    _, order = ordered(pool, "/api/chat", options={"num_ctx": 777, "seed": 1})
    assert json.loads(order.body)["options"] == {"seed": 1}
