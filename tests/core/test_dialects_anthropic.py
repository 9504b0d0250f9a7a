"""Anthropic's messages: recorded answers are written and read again, calls become Ollama's chat, tokens are counted."""

from __future__ import annotations

from datetime import UTC, datetime

import orjson
import pytest
from dialects_recordings import answers, events, llama_events, recorded, without_passing

from orchestrator.core.answer_form import wanted_form
from orchestrator.core.cachekey import Bypass, answer_key, bypass, is_deterministic
from orchestrator.core.dialects.as_chat import as_chat
from orchestrator.core.dialects.checks import check_for_model
from orchestrator.core.dialects.conversation import (
    Turn,
    is_load_request,
    sampling,
    turns,
    wanted_thinking,
    wants_format,
)
from orchestrator.core.dialects.counting import CountReader, ollama_count_body
from orchestrator.core.dialects.errors import ERROR_STARTS, caller_error_response, error_frame, error_response
from orchestrator.core.dialects.frames import Stats, head_of, stream_headers
from orchestrator.core.dialects.gather import Gatherer
from orchestrator.core.dialects.llama_request import to_count, to_llama_cpp
from orchestrator.core.dialects.outcome import End, read_answer, read_end
from orchestrator.core.dialects.parse import parse_call
from orchestrator.core.dialects.render import render, render_load
from orchestrator.core.dialects.streams import answer_body, open_stream
from orchestrator.core.dialects.translate import Translator, callers_fault
from orchestrator.core.errors import CallerError
from orchestrator.core.faq import question_of
from orchestrator.core.model import Answer, Call, Dialect, Endpoint, Finish, ToolCall

MESSAGES, COUNT = Endpoint.ANTHROPIC_MESSAGES, Endpoint.ANTHROPIC_COUNT
MADE_AT = datetime(2026, 11, 21, 2, 20, 16, tzinfo=UTC)
USER = {"role": "user", "content": "Why?"}
TOOL = {"name": "get_weather", "description": "d", "input_schema": {"type": "object", "properties": {}}}
CHAT_TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "d", "parameters": TOOL["input_schema"]},
}
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "/9j/aGk="}}


def a_call(endpoint: Endpoint = MESSAGES, **more: object) -> Call:
    body = {"model": "m", "max_tokens": 8, "messages": [USER]} | more
    return parse_call(endpoint, orjson.dumps({name: value for name, value in body.items() if value is not None}))


def refused(**more: object) -> str:
    with pytest.raises(CallerError) as caught:
        a_call(**more)
    assert caught.value.status == 400
    return caught.value.message


# --- written as recorded ----------------------------------------------------------------------------------------------


def test_every_recorded_body_is_written_again_byte_for_byte():
    for each in answers(MESSAGES, "body"):
        call, answer = parse_call(MESSAGES, each.request), read_answer(MESSAGES, False, each.body)
        stats = Stats(prompt_tokens=answer.prompt_tokens, completion_tokens=answer.completion_tokens)
        body = answer_body(head_of(call, call.model, MADE_AT), MADE_AT, answer, answer.finish, stats)
        assert without_passing(body) == without_passing(each.body), each.name


def test_every_recorded_stream_is_written_again_byte_for_byte():
    for each in answers(MESSAGES, "stream"):
        call, answer = parse_call(MESSAGES, each.request), read_answer(MESSAGES, True, each.body)
        stream = open_stream(head_of(call, call.model, MADE_AT))
        written = []
        for event in events(each.body):
            delta = event.get("delta", {})
            if event["type"] == "content_block_delta":
                part = {"text": delta.get("text", ""), "thinking": delta.get("thinking", "")}
                written += stream.content(MADE_AT, **part)
        stats = Stats(prompt_tokens=answer.prompt_tokens, completion_tokens=answer.completion_tokens)
        written += stream.end(MADE_AT, answer.finish, stats)
        assert [*map(without_passing, written)] == [*map(without_passing, each.chunks)], each.name


def test_thoughts_words_and_tools_each_have_a_block_of_their_own():
    answer = Answer("Yes.", Finish.TOOL_CALLS, "Hm.", (ToolCall("c1", "f", {"a": 1}), ToolCall("c2", "g", {})), 9, 4)
    told = events(b"".join(render(a_call(stream=True), "m", answer, MADE_AT)[1]))
    blocks = [(each["index"], each["content_block"]["type"]) for each in told if each["type"] == "content_block_start"]
    assert blocks == [(0, "thinking"), (1, "text"), (2, "tool_use"), (3, "tool_use")]
    assert [each["index"] for each in told if each["type"] == "content_block_stop"] == [0, 1, 2, 3]
    assert told[0]["message"]["usage"] == {"input_tokens": 9, "output_tokens": 0}
    assert told[-2]["delta"] == {"stop_reason": "tool_use"}
    kind, (body,) = render(a_call(), "m", answer, MADE_AT)
    assert kind == "application/json"
    assert [block["type"] for block in orjson.loads(body)["content"]] == ["thinking", "text", "tool_use", "tool_use"]


@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize(
    "answer",
    [
        Answer("Yes.", prompt_tokens=3, completion_tokens=2),
        Answer("Cut off", Finish.LENGTH, prompt_tokens=3, completion_tokens=8),
        Answer("", Finish.TOOL_CALLS, "Hm <b>", (ToolCall("c", "f", {"city": "İzmir & Ankara"}),), 3, 2),
        Answer("x" * 200, Finish.STOP, "y" * 200, (), 3, 2),
    ],
)
def test_what_was_rendered_is_read_as_the_same_answer(answer, is_stream):
    _, writes = render(a_call(stream=is_stream), "m", answer, MADE_AT)
    assert read_answer(MESSAGES, is_stream, b"".join(writes)) == answer


def test_ids_of_two_answers_differ():
    ids = {render(a_call(), model, Answer("a"), MADE_AT)[1][0][:40] for model in ("m", "n")}
    assert len(ids) == 2


def test_streams_say_that_they_are_not_to_be_cached():
    for name in ("v1_messages_stream", "v1_responses_stream"):
        assert stream_headers(recorded(name).endpoint) == (("Cache-Control", "no-cache"), ("Connection", "keep-alive"))
    assert stream_headers(Endpoint.OPENAI_CHAT) == ()


# --- errors -----------------------------------------------------------------------------------------------------------


def test_errors_have_anthropics_shape_kind_and_the_requests_id():
    kind, body = error_response(Dialect.ANTHROPIC, 503, "busy", "api_error", request_id="req_7")
    assert kind == "application/json"
    assert body == (
        b'{"type":"error","error":{"type":"overloaded_error","message":"busy"},"request_id":"req_7"}' + b"\n"
    )
    assert b"request_id" not in error_response(Dialect.ANTHROPIC, 404, "no")[1]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "not_found_error"),
        (408, "invalid_request_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
    ],
)
def test_the_kind_of_an_error_follows_its_status(status, kind):
    assert orjson.loads(error_response(Dialect.ANTHROPIC, status, "x")[1])["error"]["type"] == kind


def test_a_broken_stream_ends_in_an_error_event_that_clients_raise_on():
    frame = error_frame(MESSAGES, "gone")
    assert frame == (b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"gone"}}' + b"\n\n")
    assert frame.startswith(ERROR_STARTS)
    assert read_end(MESSAGES, True, frame) == End(False, error="gone")


# --- the end of an answer ---------------------------------------------------------------------------------------------


def test_the_end_and_the_counts_are_read_from_recordings():
    stream, body = recorded("v1_messages_stream"), recorded("v1_messages_nonstream")
    assert read_end(MESSAGES, True, stream.body) == End(True, "length", 15, 4)
    assert read_end(MESSAGES, True, b"".join(stream.chunks[-2:])) == End(True, "length", 15, 4)
    assert read_end(MESSAGES, False, body.body) == End(True, "length", 15, 8)
    assert read_answer(MESSAGES, True, recorded("v1_messages_think_stream").body) == Answer(
        "", Finish.LENGTH, "#1.", (), 17, 4
    )


def test_a_stream_without_message_stop_is_not_whole():
    killed = recorded("kill_runner_v1_messages")
    assert read_end(MESSAGES, True, killed.body) == End(False)
    whole = recorded("v1_messages_stream")
    assert read_answer(MESSAGES, True, b"".join(whole.chunks[:-1])) is None


def test_an_error_within_a_stream_is_its_end():
    told = b"".join(recorded("v1_messages_stream").chunks[:3]) + error_frame(MESSAGES, "gone")
    assert read_end(MESSAGES, True, told) == End(False, error="gone")


# --- calls ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"model": None}, "model is required"),
        ({"model": ""}, "model is required"),
        ({"max_tokens": None}, "max_tokens is required and must be positive"),
        ({"max_tokens": 0}, "max_tokens is required and must be positive"),
        ({"messages": []}, "messages is required"),
        ({"messages": [{"role": "user"}]}, "unexpected end of JSON input"),
        (
            {"max_tokens": "8"},
            "json: cannot unmarshal string into Go struct field MessagesRequest.max_tokens of type int",
        ),
        (
            {"messages": [{"role": 5, "content": "x"}]},
            "json: cannot unmarshal number into Go struct field MessagesRequest.messages.role of type string",
        ),
        (
            {"messages": [{"role": "user", "content": 5}]},
            "json: cannot unmarshal number into Go struct field MessagesRequest.messages of type "
            "[]anthropic.ContentBlock",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
            "json: cannot unmarshal number into Go struct field MessagesRequest.messages.text of type string",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "invalid image source"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "u"}}]}]},
            "invalid image source type: url. Only base64 images are supported.",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "name": "f"}]}]},
            "tool_use block missing required 'id' field",
        ),
        (
            {"tools": [{"name": "f", "input_schema": "x"}]},
            'invalid input_schema for tool "f": json: cannot unmarshal string into Go value of type '
            "api.ToolFunctionParameters",
        ),
        (
            {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
            "web search is not available here: questions do not leave the cluster",
        ),
    ],
)
def test_what_cannot_become_a_call_is_refused_in_ollamas_words(more, message):
    assert refused(**more) == message


def test_a_refusal_before_the_model_is_looked_up_has_a_charset_and_no_newline():
    with pytest.raises(CallerError) as caught:
        a_call(max_tokens=0)
    kind, body = caller_error_response(Dialect.ANTHROPIC, caught.value)
    assert (kind, body[-1:]) == ("application/json; charset=utf-8", b"}")


def test_what_ollama_does_not_read_is_passed_over():
    cached = [{"type": "text", "text": "Why?", "cache_control": {"type": "ephemeral"}}]
    document = {"type": "document", "source": {"type": "text", "data": "d"}}
    call = a_call(
        messages=[{"role": "user", "content": [*cached, document]}],
        metadata={"user_id": "u"},
        system=[
            {"type": "text", "text": "Be ", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "brief."},
        ],
        service_tier="auto",
        context_management={"edits": []},
    )
    assert as_chat(call).body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why?"},
    ]


def test_a_conversation_with_tools_and_pictures_becomes_ollamas_chat():
    said = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "Weather "}, {"type": "text", "text": "there?"}, PICTURE],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Paris.", "signature": "s"},
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"city": "Paris"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "And?"},
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "sunny"}, PICTURE]},
                {"type": "tool_result", "tool_use_id": "t2", "content": "gone", "is_error": True},
            ],
        },
    ]
    assert as_chat(a_call(messages=said, tools=[TOOL], stream=True)) == Call(
        Endpoint.OLLAMA_CHAT,
        "m",
        True,
        {
            "model": "m",
            "stream": True,
            "messages": [
                {"role": "user", "content": "Weather there?", "images": ["/9j/aGk="]},
                {
                    "role": "assistant",
                    "content": "Let me see.",
                    "tool_calls": [{"id": "t1", "function": {"name": "get_weather", "arguments": {"city": "Paris"}}}],
                    "thinking": "Paris.",
                },
                {"role": "tool", "tool_call_id": "t1", "content": "sunny", "images": ["/9j/aGk="]},
                {"role": "tool", "tool_call_id": "t2", "content": "gone"},
                {"role": "user", "content": "And?"},
            ],
            "tools": [CHAT_TOOL],
            "options": {"num_predict": 8},
        },
    )


def test_results_of_a_search_in_an_earlier_turn_are_told_as_the_model_saw_them():
    found = [{"type": "web_search_result", "title": "T", "url": "u"}, {"type": "other"}]
    said = [
        {
            "role": "assistant",
            "content": [
                {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "q"}},
                {"type": "web_search_tool_result", "tool_use_id": "s", "content": found},
                {"type": "text", "text": "So."},
            ],
        },
        USER,
    ]
    assert [each["role"] for each in as_chat(a_call(messages=said)).body["messages"]] == ["assistant", "tool", "user"]
    assert as_chat(a_call(messages=said)).body["messages"][1]["content"] == "- T: u\n"


def test_turns_and_sampling_are_those_of_the_same_chat():
    call = a_call(system="Be brief.", temperature=0, top_p=0.5, top_k=3, stop_sequences=["."], seed=4)
    assert turns(call) == (Turn("system", "Be brief."), Turn("user", "Why?"))
    assert sampling(call) == {"num_predict": 8, "temperature": 0, "top_p": 0.5, "top_k": 3, "stop": ["."]}
    assert turns(a_call(messages=[{"role": "user", "content": [PICTURE]}])) == (Turn("user", "", has_images=True),)


@pytest.mark.parametrize(
    ("more", "think"),
    [
        ({}, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, True),
        ({"thinking": {"type": "disabled"}}, False),
        ({"output_config": {"effort": " XHigh "}}, "high"),
        ({"output_config": {"effort": "max"}}, "max"),
        ({"output_config": {"effort": "odd"}}, None),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, "low"),
        ({"thinking": {"type": "enabled"}, "output_config": {"effort": "low"}}, True),
    ],
)
def test_the_wish_to_think_is_ollamas(more, think):
    assert wanted_thinking(a_call(**more)) == think


def test_a_model_that_cannot_think_is_let_go_without_but_not_without_tools():
    thinking = a_call(thinking={"type": "enabled"})
    check_for_model(thinking, {"completion"})
    assert "chat_template_kwargs" not in orjson.loads(to_llama_cpp(thinking, "up", {"completion"})[1])
    with pytest.raises(CallerError, match="does not support tools"):
        check_for_model(a_call(tools=[TOOL]), {"completion"})
    with pytest.raises(CallerError, match='"m" does not support chat'):
        check_for_model(a_call(), {"embedding"})


def test_a_message_without_content_only_loads_its_model():
    call = a_call(messages=[{"role": "user", "content": []}])
    assert is_load_request(call)
    assert not is_load_request(a_call())
    kind, body = render_load(call, "m", MADE_AT)
    assert kind == "application/json"
    assert orjson.loads(body)["stop_reason"] == "stop_sequence"


# --- the answer cache and curated answers -----------------------------------------------------------------------------


def key(call: Call) -> str:
    return answer_key(tenant="", target="m", call=call, secret=b"s")


def test_streaming_whose_call_it_is_and_blanks_nobody_sees_leave_the_key_alone():
    plain = key(a_call(system="Be brief."))
    assert plain == key(a_call(system="Be brief.\n", stream=True, metadata={"user_id": "u"}))
    others = [a_call(), a_call(system="Be long."), a_call(system="Be brief.", max_tokens=9)]
    assert len({plain, *map(key, others)}) == 4


def test_only_certain_answers_and_no_counts_are_kept():
    assert is_deterministic(a_call(temperature=0))
    assert not is_deterministic(a_call())
    assert bypass("deterministic", a_call(temperature=0)) is None
    assert bypass("all", a_call(COUNT, temperature=0)) is Bypass.KIND
    result = [{"type": "tool_result", "tool_use_id": "t", "content": "sunny"}]
    with_tools = [a_call(tools=[TOOL]), a_call(messages=[{"role": "user", "content": result}])]
    assert bypass("all", a_call()) is None
    assert {bypass("all", call) for call in with_tools} == {Bypass.TOOLS}


def test_a_plain_question_may_be_answered_by_a_curated_answer():
    plain = a_call(stop_sequences=["x"], metadata={"user_id": "u"}, thinking={"type": "enabled"})
    assert question_of(turns(plain), plain.body) == "Why?"
    for call in (a_call(tools=[TOOL]), a_call(system="Answer in verse.")):
        assert question_of(turns(call), call.body) is None


# --- llama.cpp's server -----------------------------------------------------------------------------------------------


def test_a_call_becomes_llama_cpps_chat():
    call = a_call(stream=True, system="Be brief.", top_k=3, stop_sequences=["."], tools=[TOOL])
    path, body = to_llama_cpp(call, "upstream")
    assert path == "/v1/chat/completions"
    assert orjson.loads(body) == {
        "model": "upstream",
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.8,
        "top_k": 3,
        "top_p": 0.9,
        "min_p": 0.0,
        "repeat_penalty": 1.0,
        "stop": ["."],
        "max_tokens": 8,
        "messages": [{"role": "system", "content": "Be brief."}, USER],
        "tools": [CHAT_TOOL],
    }


@pytest.mark.parametrize(
    ("choice", "tools", "wanted"),
    [
        ({"type": "auto"}, ["get_weather", "other"], None),
        ({"type": "any"}, ["get_weather", "other"], "required"),
        ({"type": "none"}, ["get_weather", "other"], "none"),
        ({"type": "tool", "name": "other"}, ["other"], "required"),
        ({"type": "tool", "name": "unknown"}, ["get_weather", "other"], None),
    ],
)
def test_a_choice_of_tools_is_told_to_the_engine_that_heeds_it(choice, tools, wanted):
    call = a_call(tools=[TOOL, TOOL | {"name": "other"}], tool_choice=choice)
    sent = orjson.loads(to_llama_cpp(call, "up")[1])
    assert [each["function"]["name"] for each in sent["tools"]] == tools
    assert sent.get("tool_choice") == wanted


@pytest.mark.parametrize(
    ("told", "schema"),
    [
        ({"type": "json_schema", "schema": {"type": "object"}}, {"type": "object"}),
        ({"type": "json_schema", "schema": "x"}, None),
        ({"type": "text", "schema": {"type": "object"}}, None),
        (["json_schema"], None),
        (None, None),
    ],
)
def test_a_schema_for_the_answer_is_told_to_the_engine_that_heeds_it(told, schema):
    call = a_call(output_config={"format": told, "effort": "low"})
    sent = orjson.loads(to_llama_cpp(call, "up")[1])
    assert sent.get("response_format", {}).get("json_schema", {}).get("schema") == schema
    assert wanted_form(call) == schema
    assert wants_format(call) is (schema is not None)


def test_a_tool_without_a_name_is_refused_not_dropped():
    with pytest.raises(CallerError, match="without a name"):
        to_llama_cpp(a_call(tools=[{"type": "bash_20250124"}]), "up")


PARTS = [
    {"reasoning_content": "Hm."},
    {"content": "Ye"},
    {"content": "s."},
    {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "f", "arguments": '{"a"'}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]},
]
WHOLE = Answer("Yes.", Finish.TOOL_CALLS, "Hm.", (ToolCall("c1", "f", {"a": 1}),), 5, 2)


@pytest.mark.parametrize("cut", [1, 7, 64, 10_000])
def test_llama_cpps_stream_becomes_anthropics_wherever_it_is_cut(cut):
    translator, data = Translator(a_call(stream=True), "m"), llama_events(*PARTS, finish="tool_calls")
    out = b"".join(translator.feed(data[at : at + cut]) for at in range(0, len(data), cut)) + translator.finish()
    assert read_answer(MESSAGES, True, out) == WHOLE
    assert [each["type"] for each in events(out)][:3] == ["message_start", "content_block_start", "content_block_delta"]
    assert out.endswith(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')


def test_llama_cpps_stream_becomes_a_body_for_who_does_not_stream():
    gatherer = Gatherer(a_call(), "m")
    assert gatherer.feed(llama_events(*PARTS, finish="tool_calls")) == b""
    assert read_answer(MESSAGES, False, gatherer.finish()) == WHOLE


def test_a_stream_that_was_cut_ends_in_an_error_event_and_a_body_in_an_error():
    cut = llama_events({"content": "Yes"})[:-20]
    translator, gatherer = Translator(a_call(stream=True), "m"), Gatherer(a_call(), "m")
    out = translator.feed(cut) + translator.finish()
    assert out.count(b"event: error\n") == 1
    assert not read_end(MESSAGES, True, out).is_whole
    gatherer.feed(cut)
    assert orjson.loads(gatherer.finish())["type"] == "error"


def test_a_prompt_too_long_is_told_in_the_words_that_anthropics_clients_look_for():
    error = {"code": 400, "message": "request (610 tokens) exceeds", "type": "exceed_context_size_error"}
    body = orjson.dumps({"error": error | {"n_prompt_tokens": 610, "n_ctx": 256}})
    fault = callers_fault(MESSAGES, 400, body)
    assert (fault.status, fault.message) == (400, "prompt is too long: 610 tokens > 256 maximum")
    assert callers_fault(Endpoint.OPENAI_CHAT, 400, body).message == "request (610 tokens) exceeds"


# --- counting ---------------------------------------------------------------------------------------------------------


def test_a_count_needs_no_limit_and_is_never_streamed():
    assert not a_call(COUNT, max_tokens=None, stream=True).is_stream
    assert refused_count(messages=[]) == "messages is required"
    assert refused_count(messages=[{"role": "user", "content": []}]) == "messages is required"


def refused_count(**more: object) -> str:
    with pytest.raises(CallerError) as caught:
        a_call(COUNT, max_tokens=None, **more)
    return caught.value.message


def test_ollama_is_asked_for_one_token_of_the_same_chat_uncut():
    asked = ollama_count_body(a_call(COUNT, system="Be brief.", tools=[TOOL], temperature=0), "up", ())
    assert asked == {
        "model": "up",
        "stream": False,
        "truncate": False,
        "options": {"num_predict": 1},
        "messages": [{"role": "system", "content": "Be brief."}, USER],
        "tools": [CHAT_TOOL],
    }


@pytest.mark.parametrize(
    ("thinking", "abilities", "think"),
    [
        ({"thinking": {"type": "enabled"}}, {"thinking"}, None),
        ({"thinking": {"type": "disabled"}}, set(), False),
        ({"output_config": {"effort": "low"}}, {"thinking"}, "low"),
        ({"output_config": {"effort": "low"}}, set(), None),
    ],
)
def test_a_model_is_asked_to_count_with_the_thinking_it_would_have(thinking, abilities, think):
    assert ollama_count_body(a_call(COUNT, **thinking), "up", abilities).get("think") == think


def test_llama_cpp_is_asked_about_the_request_it_would_get():
    path, body = to_count(a_call(COUNT, tools=[TOOL]), "up")
    assert path == "/v1/chat/completions/input_tokens"
    assert body == to_llama_cpp(a_call(COUNT, tools=[TOOL]), "up")[1]


@pytest.mark.parametrize(
    "told",
    [b'{"input_tokens":36,"object":"response.input_tokens"}', b'{"model":"m","done":true,"prompt_eval_count":36}'],
)
def test_both_engines_counts_are_told_as_anthropic_does(told):
    reader = CountReader()
    assert reader.feed(told[:9]) + reader.feed(told[9:]) == b""
    body = reader.finish()
    assert body == b'{"input_tokens":36}\n'
    assert read_end(COUNT, False, body) == End(True, "stop", 36)
    assert read_answer(COUNT, False, body) is None


@pytest.mark.parametrize("told", [b"", b"{", b"[]", b'{"done":true}', b'{"input_tokens":"many"}'])
def test_no_count_is_an_error_and_never_a_guess(told):
    reader = CountReader()
    reader.feed(told)
    assert not read_end(COUNT, False, reader.finish()).is_whole


def test_a_prompt_beyond_the_context_is_counted_in_the_refusal():
    assert CountReader().error(400, recorded("chat_prompt_too_long_notruncate").body) == b'{"input_tokens":610}\n'


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (400, b'{"error":"\\"m\\" does not support chat"}', '"m" does not support chat'),
        (400, b'{"error":{"message":"bad picture","type":"invalid_request_error"}}', "bad picture"),
        (404, b'{"error":"model \'m\' not found"}', None),
        (503, b'{"error":"server busy"}', None),
        (400, b"not JSON", None),
    ],
)
def test_an_engines_refusal_to_count_is_the_callers_or_the_engines(status, body, message):
    fault = CountReader().error(status, body)
    assert (fault.message if fault else None) == message
