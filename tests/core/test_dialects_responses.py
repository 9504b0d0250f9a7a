"""OpenAI's responses: recorded answers are written and read again, calls become Ollama's chat, nothing is kept."""

from __future__ import annotations

from datetime import UTC, datetime

import orjson
import pytest
from dialects_recordings import answers, events, llama_events, recorded, without_passing

from orchestrator.core.cachekey import Bypass, answer_key, bypass, is_deterministic
from orchestrator.core.dialects.as_chat import as_chat
from orchestrator.core.dialects.checks import check_for_model
from orchestrator.core.dialects.conversation import (
    Turn,
    has_images,
    is_load_request,
    sampling,
    turns,
    wanted_thinking,
    wants_format,
)
from orchestrator.core.dialects.errors import ERROR_STARTS, error_frame
from orchestrator.core.dialects.frames import Stats, head_of
from orchestrator.core.dialects.gather import Gatherer
from orchestrator.core.dialects.llama_request import to_llama_cpp
from orchestrator.core.dialects.outcome import End, read_answer, read_end
from orchestrator.core.dialects.parse import parse_call
from orchestrator.core.dialects.render import render, render_load
from orchestrator.core.dialects.streams import answer_body, open_stream
from orchestrator.core.dialects.translate import Translator
from orchestrator.core.errors import CallerError
from orchestrator.core.faq import question_of
from orchestrator.core.model import Answer, Call, Endpoint, Finish, ToolCall

RESPONSES = Endpoint.OPENAI_RESPONSES
MADE_AT = datetime(2026, 11, 21, 2, 20, 15, tzinfo=UTC)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"type": "function", "name": "get_weather", "description": "d", "parameters": SCHEMA, "strict": True}
CHAT_TOOL = {"type": "function", "function": {"name": "get_weather", "description": "d", "parameters": SCHEMA}}
JSON_FORMAT = {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}}


def a_call(**more: object) -> Call:
    body = {"model": "m", "input": "Why?"} | more
    return parse_call(RESPONSES, orjson.dumps({name: value for name, value in body.items() if value is not None}))


def refused(**more: object) -> str:
    with pytest.raises(CallerError) as caught:
        a_call(**more)
    assert caught.value.status == 400
    return caught.value.message


# --- written as recorded ----------------------------------------------------------------------------------------------


def test_every_recorded_body_is_written_again_byte_for_byte():
    for each in answers(RESPONSES, "body"):
        call, answer = parse_call(RESPONSES, each.request), read_answer(RESPONSES, False, each.body)
        stats = Stats(prompt_tokens=answer.prompt_tokens, completion_tokens=answer.completion_tokens)
        body = answer_body(head_of(call, call.model, MADE_AT), MADE_AT, answer, answer.finish, stats)
        assert without_passing(body) == without_passing(each.body), each.name


def test_every_recorded_stream_is_written_again_byte_for_byte():
    for each in answers(RESPONSES, "stream"):
        call, answer = parse_call(RESPONSES, each.request), read_answer(RESPONSES, True, each.body)
        stream = open_stream(head_of(call, call.model, MADE_AT))
        written = []
        for event in events(each.body):
            if event["type"] == "response.output_text.delta":
                written += stream.content(MADE_AT, text=event["delta"])
            elif event["type"] == "response.reasoning_summary_text.delta":
                written += stream.content(MADE_AT, thinking=event["delta"])
            elif event["type"] == "response.function_call_arguments.delta":
                written += stream.content(MADE_AT, tool_calls=answer.tool_calls)
        stats = Stats(prompt_tokens=answer.prompt_tokens, completion_tokens=answer.completion_tokens)
        written += stream.end(MADE_AT, answer.finish, stats)
        assert [*map(without_passing, written)] == [*map(without_passing, each.chunks)], each.name


def test_thoughts_words_and_calls_each_have_a_place_of_their_own_and_numbers_without_a_gap():
    answer = Answer("Yes.", Finish.TOOL_CALLS, "Hm.", (ToolCall("c1", "f", {"a": 1}), ToolCall("c2", "g", {})), 9, 4)
    told = events(b"".join(render(a_call(stream=True), "m", answer, MADE_AT)[1]))
    assert [each["sequence_number"] for each in told] == list(range(len(told)))
    added = [each for each in told if each["type"] == "response.output_item.added"]
    done = [each for each in told if each["type"] == "response.output_item.done"]
    assert [(each["output_index"], each["item"]["type"]) for each in added] == [
        (0, "reasoning"),
        (1, "message"),
        (2, "function_call"),
        (3, "function_call"),
    ]
    assert [each["item"]["id"] for each in added] == [each["item"]["id"] for each in done]
    assert len({each["item"]["id"] for each in done}) == 4
    assert told[-1]["response"]["output"] == [each["item"] for each in done]


@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize(
    "answer",
    [
        Answer("Yes.", prompt_tokens=3, completion_tokens=2),
        Answer("Cut off", Finish.LENGTH, prompt_tokens=3, completion_tokens=8),
        Answer("", Finish.TOOL_CALLS, "Hm <b>", (ToolCall("c", "f", {"city": "İzmir & Ankara"}),), 3, 2),
        Answer("Words too", Finish.TOOL_CALLS, "", (ToolCall("c", "f", {}), ToolCall("d", "f", {})), 3, 2),
        Answer("x" * 200, Finish.STOP, "y" * 200, (), 3, 2),
    ],
)
def test_what_was_rendered_is_read_as_the_same_answer(answer, is_stream):
    _, writes = render(a_call(stream=is_stream, max_output_tokens=8), "m", answer, MADE_AT)
    assert read_answer(RESPONSES, is_stream, b"".join(writes)) == answer


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, {"temperature": 1, "top_p": 1, "instructions": None, "truncation": "disabled", "reasoning": None}),
        ({"temperature": 0.5, "top_p": 1.0}, {"temperature": 0.5, "top_p": 1}),
        ({"instructions": "Be brief.", "truncation": "auto"}, {"instructions": "Be brief.", "truncation": "auto"}),
        ({"reasoning": {"summary": "auto"}}, {"reasoning": {"summary": "auto"}}),
        ({"max_output_tokens": 9}, {"max_output_tokens": 9}),
        ({"store": True, "metadata": {"run": "7"}, "user": "u"}, {"store": False, "metadata": {}}),
        ({"tools": [TOOL]}, {"tools": [TOOL]}),
        ({"text": {"format": {"type": "text"}}}, {"text": {"format": {"type": "text"}}}),
    ],
)
def test_a_response_tells_the_calls_wishes_again_and_that_nothing_is_stored(asked, told):
    response = orjson.loads(render(a_call(**asked), "m", Answer("a"), MADE_AT)[1][0])
    assert told.items() <= response.items()


# --- the end of an answer ---------------------------------------------------------------------------------------------


def test_the_end_and_the_counts_are_read_from_recordings():
    stream, body = recorded("v1_responses_stream"), recorded("v1_responses_nonstream")
    assert read_end(RESPONSES, True, stream.body) == End(True, "length", 15, 4)
    assert read_end(RESPONSES, True, b"".join(stream.chunks[-2:])) == End(True, "length", 15, 4)
    assert read_end(RESPONSES, False, body.body) == End(True, "length", 15, 8)
    called = read_answer(RESPONSES, True, recorded("v1_responses_tool_call_stream").body)
    assert called == Answer(
        "", Finish.TOOL_CALLS, "", (ToolCall("call_v68y3uaz", "get_weather", {"city": "Paris"}),), 92, 28
    )


def test_a_stream_without_response_completed_is_not_whole():
    killed = recorded("kill_runner_v1_responses")
    assert read_end(RESPONSES, True, killed.body) == End(False)
    assert read_answer(RESPONSES, True, b"".join(recorded("v1_responses_stream").chunks[:-1])) is None


def test_an_error_of_a_response_is_its_end():
    failed = {"type": "response.failed", "response": {"object": "response", "error": {"message": "gone"}}}
    assert read_end(RESPONSES, True, b"data: " + orjson.dumps(failed) + b"\n\n") == End(False, error="gone")


def test_a_broken_stream_ends_in_an_error_event_that_clients_raise_on():
    frame = error_frame(RESPONSES, "gone")
    told = events(frame)[0]
    assert frame.startswith(ERROR_STARTS)
    assert (told["type"], told["message"], told["error"]["message"]) == ("error", "gone", "gone")
    assert read_end(RESPONSES, True, frame) == End(False, error="gone")


# --- calls ------------------------------------------------------------------------------------------------------------

RAW = "of type []json.RawMessage"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"model": None}, "model is required"),
        ({"input": 5}, f"input must be a string or array: json: cannot unmarshal number into Go value {RAW}"),
        ({"input": [{}]}, "input[0]: input item missing required 'type' field"),
        ({"input": [{"type": "odd"}]}, 'input[0]: unknown input item type: "odd"'),
        (
            {"input": [{"role": "user", "content": 5}]},
            f"input[0]: content must be a string or array: json: cannot unmarshal number into Go value {RAW}",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "odd"}]}]},
            "input[0]: content[0]: unknown content type: odd",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text", "text": 5}]}]},
            "input[0]: content[0]: json: cannot unmarshal number into Go struct field ResponsesTextContent.text of "
            "type string",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
            "file inputs are not currently supported",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "https://x/y.png"}]}]},
            "image URLs are not currently supported, please use base64 encoded data instead",
        ),
        (
            {"input": [{"type": "function_call", "name": "f", "arguments": "{"}]},
            "failed to parse function call arguments: they are not a JSON object",
        ),
        (
            {"reasoning": {"effort": "odd"}},
            'invalid reasoning value: "odd" (must be "minimal", "low", "medium", "high", "xhigh", "ultra", "max", '
            'or "none")',
        ),
        (
            {"max_output_tokens": "8"},
            "json: cannot unmarshal string into Go struct field ResponsesRequest.max_output_tokens of type int",
        ),
    ],
)
def test_what_cannot_become_a_call_is_refused_in_ollamas_words(more, message):
    assert refused(**more) == message


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"previous_response_id": "resp_1"}, "nothing is kept between calls"),
        ({"conversation": {"id": "c"}}, "nothing is kept between calls"),
        ({"prompt": {"id": "p"}}, "no kept prompts"),
        ({"background": True}, "background is not supported"),
        ({"tools": [{"type": "web_search"}]}, "do not leave the cluster"),
        ({"tools": [{"type": "web_search_preview"}]}, "do not leave the cluster"),
    ],
)
def test_what_needs_something_kept_or_somebody_else_is_refused_clearly(more, word):
    assert word in refused(**more)


def test_the_wish_to_store_is_no_error_and_is_not_granted():
    body = render(a_call(store=True, previous_response_id=None), "m", Answer("a"), MADE_AT)[1][0]
    assert orjson.loads(body)["store"] is False


def test_a_conversation_with_tools_and_pictures_becomes_ollamas_chat():
    given = [
        {"role": "developer", "content": "In prose."},
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Weather "},
                {"type": "input_text", "text": "there?"},
                {"type": "input_image", "detail": "auto", "image_url": "data:image/jpeg;base64,/9j/aGk="},
            ],
        },
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "Paris."},
        {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": '{"city":"Paris"}'},
        {"type": "function_call", "call_id": "c2", "name": "get_weather", "arguments": ""},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Let me see."}]},
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "rain"}]},
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        {"role": "user", "content": "And?"},
    ]
    call = a_call(input=given, instructions="Be brief.", tools=[TOOL], text=JSON_FORMAT, max_output_tokens=8)
    assert as_chat(call) == Call(
        Endpoint.OLLAMA_CHAT,
        "m",
        False,
        {
            "model": "m",
            "stream": False,
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "system", "content": "In prose."},
                {"role": "user", "content": "Weather there?", "images": ["/9j/aGk="]},
                {
                    "role": "assistant",
                    "content": "Let me see.",
                    "tool_calls": [
                        {"id": "c1", "function": {"name": "get_weather", "arguments": {"city": "Paris"}}},
                        {"id": "c2", "function": {"name": "get_weather", "arguments": {}}},
                    ],
                    "thinking": "Paris.",
                },
                {"role": "tool", "content": "sunny", "tool_call_id": "c1"},
                {"role": "tool", "content": "rain", "tool_call_id": "c2"},
                {"role": "user", "content": "And?"},
            ],
            "tools": [CHAT_TOOL],
            "format": SCHEMA,
            "options": {"temperature": 1.0, "num_predict": 8},
        },
    )


def test_words_of_two_turns_of_the_assistant_stay_two_messages():
    said = [{"role": "assistant", "content": "One."}, {"role": "assistant", "content": "Two."}]
    assert [each.text for each in turns(a_call(input=said))] == ["One.", "Two."]


def test_thoughts_nothing_follows_are_not_lost():
    thought = {"type": "reasoning", "encrypted_content": "Hm."}
    messages = as_chat(a_call(input=[{"role": "user", "content": "Why?"}, thought])).body["messages"]
    assert messages[-1] == {"role": "assistant", "content": "", "thinking": "Hm."}


def test_tools_of_a_namespace_bear_its_name():
    space = {"type": "namespace", "name": "shop", "tools": [TOOL | {"name": "buy"}, TOOL | {"name": "shop.sell"}]}
    assert [each["function"]["name"] for each in as_chat(a_call(tools=[space])).body["tools"]] == [
        "shop.buy",
        "shop.sell",
    ]


def test_turns_and_sampling_are_those_of_the_same_chat():
    call = a_call(instructions="Be brief.", temperature=0, top_p=0.5, max_output_tokens=8, top_k=3)
    assert turns(call) == (Turn("system", "Be brief."), Turn("user", "Why?"))
    assert sampling(call) == {"num_predict": 8, "temperature": 0, "top_p": 0.5}
    assert sampling(a_call()) == {}


@pytest.mark.parametrize(
    ("effort", "think"), [(None, None), ("none", False), ("minimal", "low"), ("high", "high"), ("xhigh", "max")]
)
def test_the_wish_to_think_is_ollamas(effort, think):
    assert wanted_thinking(a_call(reasoning={"effort": effort})) == think


def test_a_model_that_cannot_think_refuses_to():
    with pytest.raises(CallerError, match='"m" does not support thinking'):
        check_for_model(a_call(reasoning={"effort": "high"}), {"completion"})


def test_a_schema_is_a_wanted_format():
    assert wants_format(a_call(text=JSON_FORMAT))
    assert not wants_format(a_call(text={"format": {"type": "text"}}))
    assert not wants_format(a_call())


@pytest.mark.parametrize("given", ["", None, []])
def test_a_call_without_input_only_loads_its_model(given):
    call = a_call(input=given)
    assert is_load_request(call)
    assert orjson.loads(render_load(call, "m", MADE_AT)[1])["status"] == "completed"


# --- the answer cache and curated answers -----------------------------------------------------------------------------


def key(call: Call) -> str:
    return answer_key(tenant="", target="m", call=call, secret=b"s")


def test_streaming_keeping_and_blanks_nobody_sees_leave_the_key_alone():
    plain = key(a_call())
    assert plain == key(a_call(input="Why?\n", stream=True, store=False, prompt_cache_key="k"))
    assert len({plain, key(a_call(instructions="x")), key(a_call(input="why?")), key(a_call(text=JSON_FORMAT))}) == 4


def test_only_certain_answers_are_kept_unless_all_are_and_there_are_no_tools():
    assert is_deterministic(a_call(temperature=0))
    assert not is_deterministic(a_call())
    result = [{"type": "function_call_output", "call_id": "c", "output": "sunny"}]
    assert bypass("all", a_call()) is None
    assert bypass("all", a_call(tools=[TOOL])) is Bypass.TOOLS
    assert bypass("all", a_call(input=result)) is Bypass.TOOLS


def test_a_plain_question_may_be_answered_by_a_curated_answer():
    plain = a_call(store=False, max_output_tokens=9, reasoning={"effort": "low"})
    assert question_of(turns(plain), plain.body) == "Why?"
    for call in (a_call(tools=[TOOL]), a_call(text=JSON_FORMAT), a_call(instructions="In verse.")):
        assert question_of(turns(call), call.body) is None


def test_pictures_that_a_tool_gave_are_pictures_of_the_call():
    picture = {"type": "input_image", "image_url": "data:image/png;base64,iVBO"}
    result = {"type": "function_call_output", "call_id": "c1", "output": [picture]}
    assert has_images(a_call(input=[result]))
    assert not has_images(a_call(input=[result | {"output": [{"type": "input_text", "text": "none"}]}]))


# --- llama.cpp's server -----------------------------------------------------------------------------------------------


def test_a_call_becomes_llama_cpps_chat():
    call = a_call(stream=True, instructions="Be brief.", text=JSON_FORMAT, max_output_tokens=8, tools=[TOOL])
    path, body = to_llama_cpp(call, "upstream")
    assert path == "/v1/chat/completions"
    assert orjson.loads(body) == {
        "model": "upstream",
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 1.0,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.0,
        "repeat_penalty": 1.0,
        "max_tokens": 8,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}},
        "tools": [CHAT_TOOL],
    }


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ("auto", None),
        ("none", "none"),
        ("required", "required"),
        ({"type": "function", "name": "get_weather"}, "required"),
    ],
)
def test_a_choice_of_tools_is_told_to_the_engine_that_heeds_it(choice, wanted):
    assert orjson.loads(to_llama_cpp(a_call(tools=[TOOL], tool_choice=choice), "up")[1]).get("tool_choice") == wanted


def test_a_tool_without_a_name_is_refused_not_dropped():
    with pytest.raises(CallerError, match="without a name"):
        to_llama_cpp(a_call(tools=[{"type": "file_search", "vector_store_ids": ["v"]}]), "up")


PARTS = [
    {"reasoning_content": "Hm."},
    {"content": "Ye"},
    {"content": "s."},
    {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "f", "arguments": '{"a"'}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]},
]
WHOLE = Answer("Yes.", Finish.TOOL_CALLS, "Hm.", (ToolCall("c1", "f", {"a": 1}),), 5, 2)


@pytest.mark.parametrize("cut", [1, 7, 64, 10_000])
def test_llama_cpps_stream_becomes_openais_events_wherever_it_is_cut(cut):
    translator, data = Translator(a_call(stream=True), "m"), llama_events(*PARTS, finish="tool_calls")
    out = b"".join(translator.feed(data[at : at + cut]) for at in range(0, len(data), cut)) + translator.finish()
    assert read_answer(RESPONSES, True, out) == WHOLE
    assert [each["sequence_number"] for each in events(out)] == list(range(out.count(b"event: ")))


def test_llama_cpps_stream_becomes_a_body_for_who_does_not_stream():
    gatherer = Gatherer(a_call(), "m")
    assert gatherer.feed(llama_events(*PARTS, finish="tool_calls")) == b""
    assert read_answer(RESPONSES, False, gatherer.finish()) == WHOLE


def test_a_stream_that_was_cut_ends_in_an_error_event_and_a_body_in_an_error():
    cut = llama_events({"content": "Yes"})[:-20]
    translator, gatherer = Translator(a_call(stream=True), "m"), Gatherer(a_call(), "m")
    out = translator.feed(cut) + translator.finish()
    assert out.count(b"event: error\n") == 1
    assert not read_end(RESPONSES, True, out).is_whole
    gatherer.feed(cut)
    assert orjson.loads(gatherer.finish())["error"]["type"] == "api_error"
