"""Answers are written as a real Ollama writes them: every recorded frame and body is written again, byte for byte."""

from __future__ import annotations

import base64
import struct
from datetime import UTC, datetime

import orjson
import pytest
from dialects_recordings import Recorded, recorded, recordings, skip_without_recordings, without_passing
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.dialects import gojson
from orchestrator.core.dialects.frames import Head, Stats, content_frame, final_frame, go_time, head_of, whole_body
from orchestrator.core.dialects.outcome import read_answer, read_end
from orchestrator.core.dialects.parse import is_load_request, is_unload_request, parse_call
from orchestrator.core.dialects.render import render, render_body, render_frames, render_load
from orchestrator.core.dialects.vectors import embeddings_body
from orchestrator.core.model import Answer, Call, Dialect, Endpoint, Finish, ToolCall

MADE_AT = datetime(2026, 11, 21, 2, 18, 32, 949029, tzinfo=UTC)
TEXT_ENDPOINTS = (
    Endpoint.OLLAMA_CHAT,
    Endpoint.OLLAMA_GENERATE,
    Endpoint.OPENAI_CHAT,
    Endpoint.OPENAI_COMPLETIONS,
)


def a_call(endpoint: Endpoint, **more: object) -> Call:
    body = {"model": "m", "messages": [{"role": "user", "content": "Why?"}], "prompt": "Why?", "input": "Why?"} | more
    return parse_call(endpoint, orjson.dumps(body))


def whole_answers(kind: str) -> list[Recorded]:
    """Recorded answers with text (not loads, not embeddings) of the older APIs, kept whole."""
    skip_without_recordings()
    found = []
    for each in recordings():
        is_whole = each.status == 200 and each.end == "complete" and not each.is_cut and each.endpoint in TEXT_ENDPOINTS
        if is_whole and each.is_stream == (kind == "stream") and read_answer(each.endpoint, each.is_stream, each.body):
            found.append(each)
    assert len(found) > 10
    return found


def stats_in(endpoint: Endpoint, frame: dict) -> Stats:
    if endpoint.dialect is Dialect.OPENAI:
        usage = frame.get("usage") or {}
        return Stats(prompt_tokens=usage.get("prompt_tokens", 0), completion_tokens=usage.get("completion_tokens", 0))
    return Stats(
        frame.get("total_duration", 0),
        frame.get("load_duration", 0),
        frame.get("prompt_eval_count", 0),
        frame.get("prompt_eval_duration", 0),
        frame.get("eval_count", 0),
        frame.get("eval_duration", 0),
    )


def test_every_recorded_body_is_written_again_byte_for_byte():
    for each in whole_answers("body"):
        call = parse_call(each.endpoint, each.request)
        answer = read_answer(each.endpoint, False, each.body)
        fields = orjson.loads(each.body)
        logprobs = fields.get("logprobs") or ()
        if each.endpoint.dialect is Dialect.OPENAI:
            logprobs = (fields["choices"][0].get("logprobs") or {}).get("content") or ()
        body = whole_body(
            head_of(call, call.model, MADE_AT),
            MADE_AT,
            answer,
            answer.finish,
            stats_in(each.endpoint, fields),
            context=fields.get("context"),
            logprobs=logprobs,
        )
        assert without_passing(body) == without_passing(each.body), each.name


def rewritten(head: Head, chunk: bytes, is_first: bool) -> bytes:
    """One recorded write, taken apart and written by our own builders."""
    events = [
        orjson.loads(line.removeprefix(b"data: ")) for line in chunk.split(b"\n") if line and b"[DONE]" not in line
    ]
    part, choice = events[0], (events[0].get("choices") or [{}])[0]
    if head.endpoint.dialect is Dialect.OPENAI:
        if choice["finish_reason"]:
            return final_frame(head, MADE_AT, choice["finish_reason"], stats_in(head.endpoint, events[-1]))
        part = choice.get("delta", choice)
        calls = [
            ToolCall(each["id"], each["function"]["name"], orjson.loads(each["function"]["arguments"]))
            for each in part.get("tool_calls", ())
        ]
        return content_frame(
            head,
            MADE_AT,
            text=part.get("content", part.get("text", "")),
            thinking=part.get("reasoning", ""),
            tool_calls=calls,
            is_first=is_first,
        )
    if part["done"]:
        stats = stats_in(head.endpoint, part)
        return final_frame(head, MADE_AT, part["done_reason"], stats, context=part.get("context"))
    message = part.get("message", part)
    calls = [
        ToolCall(each["id"], each["function"]["name"], each["function"]["arguments"])
        for each in message.get("tool_calls", ())
    ]
    return content_frame(
        head,
        MADE_AT,
        text=message.get("content", message.get("response", "")),
        thinking=message.get("thinking", ""),
        tool_calls=calls,
        logprobs=part.get("logprobs", ()),
        is_first=is_first,
    )


def test_every_recorded_frame_is_written_again_byte_for_byte():
    for each in whole_answers("stream"):
        call = parse_call(each.endpoint, each.request)
        head = head_of(call, call.model, MADE_AT)
        for number, chunk in enumerate(each.chunks or ()):
            got = rewritten(head, chunk, is_first=number == 0)
            assert without_passing(got) == without_passing(chunk), (each.name, number)


@pytest.mark.parametrize(
    "name",
    ["generate_load", "generate_unload", "chat_load", "chat_unload", "embed_empty_input", "embeddings_legacy_load"],
)
def test_loads_and_unloads_are_answered_as_recorded(name):
    each = recorded(name)
    call = parse_call(each.endpoint, each.request)
    assert is_load_request(call)
    content_type, body = render_load(call, call.model, MADE_AT, is_unload=is_unload_request(call))
    assert content_type == each.content_type
    assert without_passing(body) == without_passing(each.body)


@pytest.mark.parametrize(
    "name",
    ["embed_single", "embed_batch", "embed_dimensions", "embeddings_legacy", "v1_embeddings", "v1_embeddings_base64"],
)
def test_embeddings_are_written_again_byte_for_byte(name):
    each = recorded(name)
    call = parse_call(each.endpoint, each.request)
    fields = orjson.loads(each.body)
    vectors = fields.get("embeddings") or [fields.get("embedding")]
    if each.endpoint is Endpoint.OPENAI_EMBEDDINGS:
        vectors = [unpacked(entry["embedding"]) for entry in fields["data"]]
    stats = stats_in(each.endpoint, fields)
    assert embeddings_body(call, call.model, vectors, stats) == (each.content_type, each.body)


def unpacked(vector: list[float] | str) -> list[float]:
    if isinstance(vector, list):
        return vector
    packed = base64.b64decode(vector)
    return list(struct.unpack(f"<{len(packed) // 4}f", packed))


def test_the_last_write_of_a_chat_names_the_usage_only_if_asked():
    answer = Answer("Hi", prompt_tokens=3, completion_tokens=1)
    plain = render_frames(a_call(Endpoint.OPENAI_CHAT, stream=True), "m", answer, MADE_AT)
    asked = render_frames(
        a_call(Endpoint.OPENAI_CHAT, stream=True, stream_options={"include_usage": True}), "m", answer, MADE_AT
    )
    assert b'"usage"' not in b"".join(plain)
    assert b'"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}' in asked[-1]
    assert asked[-1].endswith(b"data: [DONE]\n\n")


def test_an_empty_answer_still_opens_with_a_role_in_openais_chat():
    (only,) = render_frames(a_call(Endpoint.OPENAI_CHAT, stream=True), "m", Answer(""), MADE_AT)
    assert b'"delta":{"role":"assistant","content":""},"finish_reason":null' in only


def test_thinking_and_text_in_one_frame_are_two_events_of_which_one_has_the_role():
    head = head_of(a_call(Endpoint.OPENAI_CHAT, stream=True), "m", MADE_AT)
    frame = content_frame(head, MADE_AT, text="a", thinking="b", is_first=True)
    first, second, _ = frame.split(b"\n\n")
    assert b'"delta":{"role":"assistant","reasoning":"b"}' in first
    assert b'"delta":{"content":"a"}' in second


def test_what_is_zero_is_not_said_on_ollamas_paths():
    call = a_call(Endpoint.OLLAMA_CHAT, stream=False)
    content_type, body = render_body(call, "m", Answer("Hi"), MADE_AT, Stats(total_ns=5))
    assert content_type == "application/json; charset=utf-8"
    assert body == (
        b'{"model":"m","created_at":"2026-11-21T02:18:32.949029Z","message":{"role":"assistant","content":"Hi"},'
        b'"done":true,"done_reason":"stop","total_duration":5}'
    )


def test_times_have_no_trailing_zeros():
    assert go_time(MADE_AT.replace(microsecond=120000)) == "2026-11-21T02:18:32.12Z"
    assert go_time(MADE_AT.replace(microsecond=0)) == "2026-11-21T02:18:32Z"


def test_tool_arguments_are_an_object_for_ollama_and_text_for_openai():
    answer = Answer("", Finish.TOOL_CALLS, tool_calls=(ToolCall("call_1", "f", {"a": "<"}),))
    ollama = render_body(a_call(Endpoint.OLLAMA_CHAT, stream=False), "m", answer, MADE_AT)[1]
    openai = render_body(a_call(Endpoint.OPENAI_CHAT), "m", answer, MADE_AT)[1]
    assert rb'"arguments":{"a":"\u003c"}' in ollama
    assert b'"done_reason":"stop"' in ollama
    assert rb'"arguments":"{\"a\":\"\\u003c\"}"' in openai
    assert b'"finish_reason":"tool_calls"' in openai


# --- properties ------------------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=200)
names = st.text("abcdefgh_", min_size=1, max_size=8)
arguments = st.dictionaries(names, st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts, max_size=3)
tool_calls = st.lists(st.builds(ToolCall, names, names, arguments), max_size=3).map(tuple)


@st.composite
def answers(draw: st.DrawFn, endpoint: Endpoint) -> Answer:
    """Answers that the endpoint has words for: tools need a chat, and no thinking shows in /v1/completions."""
    calls = draw(tool_calls) if endpoint.is_chat else ()
    endings = [Finish.LENGTH, Finish.TOOL_CALLS] if calls else [Finish.LENGTH, Finish.STOP]
    return Answer(
        draw(texts),
        draw(st.sampled_from(endings)),
        "" if endpoint is Endpoint.OPENAI_COMPLETIONS else draw(texts),
        calls,
        draw(st.integers(0, 10_000)),
        draw(st.integers(0, 10_000)),
    )


@pytest.mark.parametrize("endpoint", TEXT_ENDPOINTS)
@given(data=st.data())
def test_what_was_rendered_is_read_as_the_same_answer(endpoint, data):
    answer = data.draw(answers(endpoint))
    for is_stream in (True, False):
        call = a_call(endpoint, stream=is_stream, stream_options={"include_usage": True})
        _, writes = render(call, "m", answer, MADE_AT)
        assert read_answer(endpoint, is_stream, b"".join(writes)) == answer


@pytest.mark.parametrize("endpoint", TEXT_ENDPOINTS)
@given(data=st.data())
def test_a_stream_that_lacks_its_last_write_is_not_whole(endpoint, data):
    answer = data.draw(answers(endpoint))
    writes = render_frames(a_call(endpoint, stream=True), "m", answer, MADE_AT)
    assert not read_end(endpoint, True, b"".join(writes[:-1])).is_whole
    assert read_answer(endpoint, True, b"".join(writes)[:-1].rstrip()[:-2]) is None


def test_escapes_survive_the_way_there_and_back():
    answer = Answer("<a> & \u2028 \u0000 \U0001f600")
    body = render_body(a_call(Endpoint.OLLAMA_GENERATE, stream=False), "m", answer, MADE_AT)[1]
    assert rb"\u003ca\u003e \u0026 \u2028 \u0000" in body
    assert read_answer(Endpoint.OLLAMA_GENERATE, False, body) == answer
    assert gojson.loads(body)["response"] == answer.text
