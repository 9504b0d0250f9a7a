"""Whatever a caller sends, it becomes a call or an error of the caller's; nothing else is ever raised."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.cachekey import Bypass, answer_key, bypass, is_deterministic
from orchestrator.core.dialects import gojson
from orchestrator.core.dialects.parse import is_load_request, is_unload_request, parse_call, sampling, turns
from orchestrator.core.dialects.render import render
from orchestrator.core.dialects.translate import to_llama_cpp
from orchestrator.core.errors import CallerError
from orchestrator.core.model import Answer, Call, Endpoint, ToolCall

FIELDS = re.findall(
    r"\w+",
    "model messages role content prompt input options stop seed num_predict temperature tools tool_calls function name "
    "arguments images think keep_alive format response_format type json_schema schema stream_options reasoning effort "
    "image_url url text raw suffix logprobs top_logprobs max_tokens max_completion_tokens system context stream "
    "source data tool_use tool_result input_schema tool_choice thinking instructions output call_id summary namespace",
)
NOW = datetime(2026, 11, 21, tzinfo=UTC)
ABLE_TO_ALL = frozenset({"completion", "tools", "thinking", "insert"})

fields = st.sampled_from(FIELDS)
numbers = st.integers(-3, 30) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | fields, inner, max_size=3),
    max_leaves=12,
)
bodies = st.dictionaries(fields, values, max_size=6)
blocks = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "image", "tool_use", "tool_result", "thinking", "web_search_tool_result"])}
    ).flatmap(lambda block: st.dictionaries(fields, values, max_size=4).map(lambda more: more | block)),
    max_size=3,
)
items = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["message", "function_call", "function_call_output", "reasoning"])}
    ).flatmap(lambda item: st.dictionaries(fields, values, max_size=4).map(lambda more: more | item)),
    max_size=3,
)
messages = st.lists(st.dictionaries(fields, values, max_size=5) | values, max_size=3)


def call_or_error(endpoint: Endpoint, raw: bytes) -> Call | CallerError:
    try:
        return parse_call(endpoint, raw)
    except CallerError as error:
        return error


@given(st.sampled_from(list(Endpoint)), bodies, messages | st.none(), st.booleans())
def test_any_body_is_a_call_that_can_be_used_or_a_callers_error(endpoint, body, some_messages, has_text):
    body = {"model": "m"} | body | ({"messages": some_messages} if some_messages else {})
    body |= {"prompt": "x", "input": "x", "max_tokens": 5} if has_text else {}
    got = call_or_error(endpoint, gojson.dumps(body))
    if isinstance(got, CallerError):
        assert got.status in (400, 404)
        return
    assert isinstance(turns(got), tuple)
    assert isinstance(sampling(got), dict)
    assert is_deterministic(got) in (True, False)
    assert len(answer_key(tenant="", target="m", call=got, secret=b"s")) == 48
    assert bypass("all", got) in (None, *Bypass)
    if not got.endpoint.is_embedding:
        assert render(got, "m", Answer("a", tool_calls=(ToolCall("c", "f", {}),)), NOW)[1]
    assert is_load_request(got) or not is_unload_request(got)
    if not is_load_request(got):
        assert sent_or_status(got) in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", 400, 500)


def sent_or_status(call: Call) -> str | int:
    try:
        path, data = to_llama_cpp(call, "upstream", ABLE_TO_ALL)
    except CallerError as error:
        return error.status
    assert gojson.loads(data)["model"] == "upstream"
    return path


@given(st.sampled_from(list(Endpoint)), st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_any_bytes_that_are_no_request_are_a_callers_error(endpoint, raw):
    got = call_or_error(endpoint, raw)
    assert isinstance(got, CallerError)
    assert got.status in (400, 404)


@given(values.filter(lambda value: isinstance(value, dict | list)), st.data())
def test_json_that_was_cut_is_an_unexpected_end(value, data):
    raw = gojson.dumps(value)
    cut = data.draw(st.integers(1, len(raw) - 1))
    with pytest.raises(gojson.GoJsonError, match="unexpected EOF"):
        gojson.loads(raw[:cut])


@given(values)
def test_what_was_written_is_read_as_the_same(value):
    assert gojson.loads(gojson.dumps(value)) == value
    assert gojson.loads(gojson.dumps(value) + b" trailing") == value


def test_a_schema_nested_deeper_than_can_be_written_is_refused_with_400():
    schema = b'{"a":' * 300 + b"1" + b"}" * 300
    call = parse_call(Endpoint.OLLAMA_GENERATE, b'{"model":"m","prompt":"x","format":' + schema + b"}")
    with pytest.raises(CallerError, match="max depth"):
        to_llama_cpp(call, "upstream")


@given(blocks, blocks)
def test_any_blocks_of_content_are_a_call_that_can_be_used_or_a_callers_error(said, results):
    message = {"role": "user", "content": [*said, {"type": "tool_result", "tool_use_id": "t", "content": results}]}
    for endpoint in (Endpoint.ANTHROPIC_MESSAGES, Endpoint.ANTHROPIC_COUNT):
        can_be_used(endpoint, {"model": "m", "max_tokens": 5, "messages": [message], "system": said, "stream": True})


@given(items, st.lists(st.dictionaries(fields, values, max_size=4), max_size=2))
def test_any_items_of_input_are_a_call_that_can_be_used_or_a_callers_error(given_items, tools):
    can_be_used(Endpoint.OPENAI_RESPONSES, {"model": "m", "input": given_items, "tools": tools, "stream": True})


def can_be_used(endpoint: Endpoint, body: dict) -> None:
    got = call_or_error(endpoint, gojson.dumps(body))
    if isinstance(got, CallerError):
        assert got.status == 400
        return
    assert isinstance(turns(got), tuple)
    assert render(got, "m", Answer("a", tool_calls=(ToolCall("c", "f", {}),)), NOW)[1]
    if not is_load_request(got):
        assert sent_or_status(got) in ("/v1/chat/completions", 400)
