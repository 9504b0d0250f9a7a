"""Numbers beyond all use: an engine never sees them, and the call is answered as far as it has a use."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.app.rules import rules_from
from orchestrator.core.dialects.bounds import STOPS_AT_MOST, with_answer_limit
from orchestrator.core.dialects.parse import parse_call
from orchestrator.core.errors import CallerError
from orchestrator.core.model import Endpoint, Engine
from orchestrator.gateway.orders import order_for
from orchestrator.settings import ClusterSettings
from tests.gateway.asking import body_for
from tests.gateway.played import pool_of
from tests.security.doors import limits

CONTEXT = 4096
OLLAMA = pool_of("m", [1], context=CONTEXT)
LLAMA = pool_of("m", [1], context=CONTEXT, engine=Engine.LLAMA_CPP)
FOREVER = ("-1", '"-1s"', '"876000h"', "1e300")
HUGE = (10**9, 1e9, 1e300, 2**63, 4096.5)


def told(path: str, pool: Any = OLLAMA, raw: str = "", **more: Any) -> Any:
    body = json.dumps(body_for(path, "hi", **more))[:-1] + raw + "}"
    return json.loads(order_for(parse_call(Endpoint(path), body.encode()), pool, pool.instances[0], limits(), 0).body)


@pytest.mark.parametrize("name", ["num_ctx", "num_predict", "num_keep", "repeat_last_n"])
@pytest.mark.parametrize("value", HUGE)
def test_nothing_is_counted_in_more_tokens_than_the_context_has(name, value):
    for path in ("/api/chat", "/api/generate"):
        assert told(path, options={name: value})["options"][name] == CONTEXT
        assert told(path, options={name: 100}).get("options") in ({name: 100}, {name: CONTEXT})


@pytest.mark.parametrize("name", ["num_batch", "num_gpu", "main_gpu", "use_mmap", "use_mlock", "num_thread"])
@pytest.mark.parametrize("value", [10**9, -1, 0, True])
def test_what_an_instance_is_started_with_is_nobodys_to_ask_for(name, value):
    if value is not True or name.startswith("use"):
        assert told("/api/chat", options={name: value, "seed": 1})["options"] == {"seed": 1}


@pytest.mark.parametrize(("name", "value", "sent"), [("top_k", 10**9, 10**6), ("top_k", -5, -1), ("num_keep", -9, -1),
    ("repeat_last_n", -(2**63), -1), ("num_predict", -1, -1), ("num_predict", -2, -2), ("seed", -1, -1)])  # fmt: skip
def test_below_zero_is_a_word_and_not_a_number(name, value, sent):
    assert told("/api/chat", options={name: value})["options"][name] == sent


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/chat/completions", "max_tokens"),
        ("/v1/chat/completions", "max_completion_tokens"),
        ("/v1/completions", "max_tokens"),
        ("/v1/responses", "max_output_tokens"),
        ("/v1/messages", "max_tokens"),
    ],
)
def test_an_answer_is_as_long_as_the_context_at_most_in_every_dialect(path, name):
    assert told(path, **{name: 10**9})[name] == CONTEXT
    assert told(path, **{name: 100})[name] == 100
    if path != "/v1/completions":
        assert told(path, LLAMA, **{name: 10**9})["max_tokens"] == CONTEXT


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/embed", "/api/embeddings"])
@pytest.mark.parametrize("value", FOREVER)
def test_nobody_keeps_a_model_in_memory_for_good(path, value):
    assert "keep_alive" not in told(path, raw=f', "keep_alive": {value}')
    assert "keep_alive" not in told(path, raw=', "Keep_Alive": -1')


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_what_is_no_number_of_jsons_is_refused(value):
    for raw in (f', "options": {{"temperature": {value}}}', f', "temperature": {value}'):
        with pytest.raises(CallerError) as caught:
            told("/api/chat", raw=raw)
        assert caught.value.status == 400


def test_so_many_texts_to_stop_at_and_no_more():
    stops = [str(each) for each in range(STOPS_AT_MOST)]
    assert told("/api/chat", options={"stop": stops})["options"]["stop"] == stops
    for path, more in (
        ("/api/chat", {"options": {"stop": [*stops, "x"]}}),
        ("/v1/chat/completions", {"stop": [*stops, "x"]}),
    ):
        with pytest.raises(CallerError, match="stop at"):
            told(path, **more)


@pytest.mark.parametrize("asked", [{}, {"num_predict": -1}, {"num_predict": 0}, {"num_predict": 10**9}])
def test_where_the_settings_bound_answers_none_is_longer_whatever_a_call_leaves_out(asked):
    tokens = rules_from(ClusterSettings.model_validate({"limits": {"answer_tokens": 100}})).limits.answer_tokens
    assert tokens == 100
    for path in ("/api/chat", "/api/generate"):
        call = parse_call(Endpoint(path), json.dumps(body_for(path, "hi", options=asked)).encode())
        assert with_answer_limit(call, tokens).body["options"]["num_predict"] == 100


BEYOND = ({}, {"max_tokens": 10**9}, {"max_output_tokens": 10**9})


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"])
@pytest.mark.parametrize("asked", BEYOND)
def test_where_the_settings_bound_answers_they_do_in_every_dialect(path, asked):
    call = parse_call(Endpoint(path), json.dumps(body_for(path, "hi", **asked)).encode())
    body = with_answer_limit(call, 20).body
    assert 20 in (body.get("max_tokens"), body.get("max_output_tokens"))


def test_a_vector_has_no_length_in_tokens():
    call = parse_call(Endpoint.OLLAMA_EMBED, b'{"model": "m", "input": "x"}')
    assert with_answer_limit(call, 100) is call
