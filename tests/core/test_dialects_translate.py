"""llama.cpp's server behind either dialect: requests as it takes them, answers as a real Ollama would have sent them.

`llama_cpp_wire.json` is what the server in xllamacpp 2026.10 answered (its embeddings cut to eight numbers).
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import orjson
import pytest
from dialects_recordings import recorded, without_passing
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.core.dialects.checks import check_for_model, full_model_name
from orchestrator.core.dialects.outcome import read_answer, read_end
from orchestrator.core.dialects.parse import parse_call
from orchestrator.core.dialects.translate import Translator, callers_fault, to_llama_cpp
from orchestrator.core.errors import CallerError
from orchestrator.core.model import Answer, Call, Endpoint, Finish, ToolCall

WIRE = json.loads((Path(__file__).parent / "llama_cpp_wire.json").read_text())
THINKER = frozenset({"completion", "tools", "thinking"})
USER = {"role": "user", "content": "Why?"}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}
CHAT, GENERATE = Endpoint.OLLAMA_CHAT, Endpoint.OLLAMA_GENERATE
V1_CHAT, V1_COMPLETIONS = Endpoint.OPENAI_CHAT, Endpoint.OPENAI_COMPLETIONS


def a_call(endpoint: Endpoint, **more: object) -> Call:
    body = {"model": "m", "messages": [USER], "prompt": "Why?", "input": "Why?"} | more
    return parse_call(endpoint, orjson.dumps({name: value for name, value in body.items() if value is not None}))


def sent(call: Call, **more: object) -> dict:
    return orjson.loads(to_llama_cpp(call, "upstream", **more)[1])


def wire(name: str) -> bytes:
    return WIRE[name]["body"].encode()


def translated(call: Call, data: bytes) -> bytes:
    translator = Translator(call, call.model)
    return translator.feed(data) + translator.finish()


def events(*deltas: dict, finish: str = "stop", **more: object) -> bytes:
    """A stream as llama.cpp writes it."""
    head = {"created": 1795237134, "id": "chatcmpl-x", "model": "model.gguf", "object": "chat.completion.chunk"}
    frames = [{"choices": [{"finish_reason": None, "index": 0, "delta": delta}]} | head for delta in deltas]
    frames.append({"choices": [{"finish_reason": finish, "index": 0, "delta": {}}]} | head)
    frames.append({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}} | head | more)
    return b"".join(b"data: " + orjson.dumps(frame) + b"\n\n" for frame in frames) + b"data: [DONE]\n\n"


# --- requests ---------------------------------------------------------------------------------------------------------


def test_ollamas_options_become_llama_cpps_fields():
    options = {
        "num_predict": 5,
        "temperature": 0,
        "seed": 7,
        "top_p": 0.5,
        "top_k": 3,
        "min_p": 0.1,
        "stop": ["."],
        "repeat_penalty": 1.2,
        "presence_penalty": 0.3,
        "frequency_penalty": 0.4,
        "repeat_last_n": 9,
        "num_ctx": 8192,
        "num_thread": 2,
    }
    got = sent(a_call(CHAT, options=options))
    wanted = {name: value for name, value in options.items() if name not in ("num_predict", "num_ctx", "num_thread")}
    assert got == {
        "model": "upstream",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [USER],
        "max_tokens": 5,
        **wanted,
    }


def test_what_the_caller_leaves_open_is_ollamas_default_of_that_path():
    ollama, openai = sent(a_call(GENERATE)), sent(a_call(V1_CHAT))
    assert (ollama["temperature"], ollama["top_p"], ollama["min_p"]) == (0.8, 0.9, 0.0)
    assert (openai["temperature"], openai["top_p"]) == (1.0, 1.0)
    assert "seed" not in ollama


@pytest.mark.parametrize("limit", [0, -1, -2, None])
def test_no_limit_of_tokens_is_sent_for_zero_and_less(limit):
    assert "max_tokens" not in sent(a_call(GENERATE, options={"num_predict": limit}))


def test_a_generate_call_becomes_a_chat_and_a_raw_one_a_completion():
    call = a_call(GENERATE, system="Be brief.", images=["/9j/aGk="])
    path, body = to_llama_cpp(call, "upstream")
    assert path == "/v1/chat/completions"
    assert orjson.loads(body)["messages"] == [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Why?"},
                {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9j/aGk="}},
            ],
        },
    ]
    path, body = to_llama_cpp(a_call(GENERATE, raw=True, format="json"), "upstream")
    assert path == "/v1/completions"
    assert orjson.loads(body)["prompt"] == "Why?"
    assert orjson.loads(body)["json_schema"] == {"type": "object"}


def test_openais_completions_are_templated_as_ollama_does():
    path, body = to_llama_cpp(a_call(V1_COMPLETIONS, stream=True), "upstream")
    assert path == "/v1/chat/completions"
    assert orjson.loads(body)["messages"] == [USER]


@pytest.mark.parametrize(
    ("endpoint", "asked", "wanted"),
    [
        (CHAT, {"format": "json"}, {"type": "json_object"}),
        (CHAT, {"format": {"type": "object"}}, {"type": "object"}),
        (V1_CHAT, {"response_format": {"type": "json_object"}}, {"type": "json_object"}),
        (
            V1_CHAT,
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}},
            {"type": "object"},
        ),
        (V1_CHAT, {"response_format": {"type": "text"}}, None),
        (CHAT, {"format": ""}, None),
    ],
)
def test_a_format_becomes_a_response_format(endpoint, asked, wanted):
    got = sent(a_call(endpoint, **asked)).get("response_format")
    if wanted == {"type": "object"}:
        assert got == {"type": "json_schema", "json_schema": {"name": "answer", "schema": wanted}}
    else:
        assert got == wanted


def test_tool_calls_and_their_results_get_openais_ids():
    messages = [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
        {"role": "tool", "tool_name": "f", "content": "11 degrees"},
    ]
    got = sent(a_call(CHAT, messages=messages, tools=[TOOL]))
    (tool_call,) = got["messages"][1]["tool_calls"]
    assert tool_call["function"] == {"name": "f", "arguments": '{"a":1}'}
    assert got["messages"][2] == {"role": "tool", "content": "11 degrees", "tool_call_id": tool_call["id"]}
    assert got["tools"] == [TOOL]


@pytest.mark.parametrize(
    ("endpoint", "body", "wanted"),
    [
        (CHAT, {"think": True}, {"enable_thinking": True}),
        (CHAT, {"think": False}, {"enable_thinking": False}),
        (CHAT, {"think": "high"}, {"enable_thinking": True, "reasoning_effort": "high"}),
        (V1_CHAT, {"reasoning_effort": "none"}, {"enable_thinking": False}),
        (V1_CHAT, {"reasoning": {"effort": "minimal"}}, {"enable_thinking": True, "reasoning_effort": "low"}),
    ],
)
def test_thinking_is_switched_by_the_template(endpoint, body, wanted):
    assert sent(a_call(endpoint, **body), abilities=THINKER)["chat_template_kwargs"] == wanted


def test_logprobs_are_asked_for_with_at_least_one_alternative():
    assert sent(a_call(CHAT, logprobs=True))["top_logprobs"] == 1
    assert sent(a_call(GENERATE, logprobs=True, raw=True, top_logprobs=3))["logprobs"] == 3
    assert "logprobs" not in sent(a_call(V1_COMPLETIONS, logprobs=2))


def test_embedding_calls_go_to_one_path():
    for endpoint in (Endpoint.OLLAMA_EMBED, Endpoint.OLLAMA_EMBEDDINGS, Endpoint.OPENAI_EMBEDDINGS):
        path, body = to_llama_cpp(a_call(endpoint), "upstream")
        assert (path, orjson.loads(body)) == ("/v1/embeddings", {"model": "upstream", "input": ["Why?"]})


@pytest.mark.parametrize("body", [{"template": "{{ .Prompt }}"}, {"context": [1, 2]}])
def test_what_llama_cpp_cannot_do_is_refused_not_dropped(body):
    with pytest.raises(CallerError, match="not supported by this engine"):
        to_llama_cpp(a_call(GENERATE, **body), "upstream")


# --- what the model cannot do -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "abilities"),
    [
        ("chat_think", {"completion", "tools"}),
        ("generate_think", {"completion", "tools"}),
        ("chat_tools_unsupported", {"completion"}),
        ("generate_suffix", {"completion"}),
        ("chat_on_embed_model", {"embedding"}),
        ("generate_on_embed_model", {"embedding"}),
        ("err_option_wrong_type", {"completion"}),
        ("generate_bad_format", {"completion"}),
    ],
)
def test_what_a_model_cannot_do_is_refused_as_recorded(name, abilities):
    each = recorded(name)
    with pytest.raises(CallerError) as caught:
        check_for_model(parse_call(each.endpoint, each.request), abilities)
    assert caught.value.status == each.status
    assert caught.value.message == orjson.loads(each.body)["error"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": "hot"}, 'option "temperature" must be of type float32'),
        ({"stop": "x"}, 'option "stop" must be of type array'),
        ({"stop": [1]}, 'option "stop" must be of an array of strings'),
        ({"use_mmap": 1}, 'option "use_mmap" must be of type boolean'),
    ],
)
def test_an_option_of_a_wrong_type_is_refused_with_500(options, message):
    with pytest.raises(CallerError) as caught:
        check_for_model(a_call(GENERATE, options=options))
    assert (caught.value.status, caught.value.message) == (500, message)


def test_options_of_no_meaning_and_fractions_pass():
    check_for_model(a_call(GENERATE, options={"no_such": "x", "num_predict": 8.5, "use_mmap": True, "seed": None}))


def test_some_errors_name_the_model_in_full():
    assert full_model_name("m") == "registry.ollama.ai/library/m:latest"
    assert full_model_name("user/m:1") == "registry.ollama.ai/user/m:1"
    assert full_model_name("hf.co/user/m:1") == "hf.co/user/m:1"


# --- answers ----------------------------------------------------------------------------------------------------------


def frame_shapes(data: bytes) -> list[object]:
    """The frames with every value but those that are shape (booleans, null, finish, role) made equal."""

    def shape(value: object) -> object:
        if isinstance(value, dict):
            return {name: shape(each) for name, each in value.items()}
        if isinstance(value, list):
            return [shape(each) for each in value[:1]]
        return type(value).__name__ if isinstance(value, str | int | float) and not isinstance(value, bool) else value

    parsed = [
        list(shape(orjson.loads(line.removeprefix(b"data: "))).items()) if b"{" in line else line
        for line in data.split(b"\n")
        if line
    ]
    return [frame for at, frame in enumerate(parsed) if at == 0 or frame != parsed[at - 1]]


@pytest.mark.parametrize(
    ("ollama", "llama"),
    [
        ("v1_chat_stream", "chat_stream"),
        ("v1_chat_stream_usage", "chat_stream"),
        ("v1_completions_stream", "chat_stream"),
        ("v1_chat_nonstream", "chat_body"),
        ("v1_completions_nonstream", "chat_body"),
        ("v1_chat_logprobs", "chat_logprobs_body"),
        ("chat_logprobs", "chat_logprobs_body"),
    ],
)
def test_an_answer_has_the_very_shape_of_ollamas(ollama, llama):
    each = recorded(ollama)
    call = parse_call(each.endpoint, each.request)
    assert frame_shapes(translated(call, wire(llama))) == [
        [(name, shape) for name, shape in frame if name != "load_duration"] if isinstance(frame, list) else frame
        for frame in frame_shapes(each.body)
    ]


@pytest.mark.parametrize("name", ["chat_stream", "generate_stream", "generate_logprobs_stream", "chat_nonstream"])
def test_ollamas_own_paths_lack_only_the_load_and_the_context(name):
    each = recorded(name)
    call = parse_call(each.endpoint, each.request)
    llama = "chat_logprobs_stream" if "logprobs" in name else "chat_stream" if each.is_stream else "chat_body"
    unknown = ("load_duration", "context")
    assert frame_shapes(translated(call, wire(llama))) == [
        [(key, shape) for key, shape in frame if key not in unknown] if isinstance(frame, list) else frame
        for frame in frame_shapes(each.body)
    ]


@pytest.mark.parametrize("endpoint", [CHAT, GENERATE, V1_CHAT, V1_COMPLETIONS])
@pytest.mark.parametrize("is_stream", [True, False])
def test_text_end_and_counts_arrive_in_every_dialect(endpoint, is_stream):
    call = a_call(endpoint, stream=is_stream, stream_options={"include_usage": True})
    out = translated(call, wire("chat_stream" if is_stream else "chat_body"))
    assert read_answer(endpoint, is_stream, out) == Answer("The answer to this", Finish.LENGTH, "", (), 36, 4)


def test_a_raw_generation_comes_from_the_completions_path():
    for name, is_stream in (("completions_stream", True), ("completions_body", False)):
        out = translated(a_call(GENERATE, raw=True, stream=is_stream), wire(name))
        assert read_answer(GENERATE, is_stream, out) == Answer(" was a canvas", Finish.LENGTH, "", (), 2, 3)


def test_tool_calls_are_gathered_and_sent_whole():
    parts = (
        {"role": "assistant", "content": None},
        {"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": '{"ci'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": 'ty":"Paris"}'}}]},
    )
    for endpoint in (CHAT, V1_CHAT):
        out = translated(a_call(endpoint, stream=True), events(*parts, finish="tool_calls"))
        answer = read_answer(endpoint, True, out)
        assert answer is not None
        assert answer.tool_calls == (ToolCall("a", "f", {"city": "Paris"}),)
        assert answer.finish is Finish.TOOL_CALLS
        assert out.count(b'"tool_calls":[') == 1


def test_reasoning_becomes_thinking_or_reasoning():
    parts = ({"role": "assistant", "content": None}, {"reasoning_content": "Hm"}, {"content": "Yes"})
    ollama = translated(a_call(CHAT), events(*parts))
    openai = translated(a_call(V1_CHAT, stream=True), events(*parts))
    assert b'"message":{"role":"assistant","content":"","thinking":"Hm"}' in ollama
    assert b'"delta":{"role":"assistant","content":"","reasoning":"Hm"}' in openai


def test_nothing_of_llama_cpps_own_reaches_the_caller():
    out = translated(a_call(V1_CHAT, stream=True), wire("chat_stream"))
    for word in (b"timings", b"model.gguf", b"cached_tokens", b"b0-unknown", b"usage"):
        assert word not in out


def test_durations_are_llama_cpps_own_unless_there_is_a_clock():
    last = orjson.loads(translated(a_call(CHAT), wire("chat_stream")).splitlines()[-1])
    assert last["total_duration"] == last["prompt_eval_duration"] + last["eval_duration"]
    moments = iter(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=n) for n in range(100))
    translator = Translator(a_call(CHAT), "m", clock=lambda: next(moments))
    out = translator.feed(wire("chat_stream")) + translator.finish()
    last = orjson.loads(out.splitlines()[-1])
    assert last["total_duration"] == 5_000_000_000
    assert last["created_at"] == "2026-01-01T00:00:05Z"


def test_an_error_in_the_stream_reaches_the_caller_once():
    broken = wire("chat_stream").partition(b"data: [DONE]")[0] + b'data: {"error":{"code":500,"message":"gone"}}\n\n'
    for endpoint in (CHAT, V1_CHAT):
        out = translated(a_call(endpoint, stream=True), broken)
        assert read_end(endpoint, True, out).error == "gone"
        assert out.count(b'"error"') == 1


@pytest.mark.parametrize("endpoint", [CHAT, GENERATE, V1_CHAT, V1_COMPLETIONS])
@pytest.mark.parametrize("is_stream", [True, False])
@given(data=st.data())
def test_an_answer_that_was_cut_is_never_whole(endpoint, is_stream, data):
    given_bytes = wire("chat_stream" if is_stream else "chat_body").rstrip()
    cut = data.draw(st.integers(0, len(given_bytes) - 1))
    end = read_end(endpoint, is_stream, translated(a_call(endpoint, stream=is_stream), given_bytes[:cut]))
    assert not end.is_whole
    assert end.error


STREAMS = {
    "chat": wire("chat_stream"),
    "logprobs": wire("chat_logprobs_stream"),
    "completions": wire("completions_stream"),
    "letters": events({"content": "şehir içi \U0001f600"}, {"content": " hız limiti"}),
}


@pytest.mark.parametrize("endpoint", [CHAT, GENERATE, V1_CHAT, V1_COMPLETIONS])
@pytest.mark.parametrize("stream", list(STREAMS))
@given(cuts=st.lists(st.integers(0, 5000), max_size=12))
@example(cuts=list(range(5000)))
def test_where_the_engines_bytes_are_cut_makes_no_difference(endpoint, stream, cuts):
    data, call = STREAMS[stream], a_call(endpoint, stream=True, logprobs=None if "v1/comp" in endpoint else True)
    marks = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    translator = Translator(call, "m")
    pieces = [translator.feed(data[start:end]) for start, end in pairwise(marks)]
    assert b"".join(pieces) + translator.finish() == translated(call, data)


def test_a_token_goes_out_as_soon_as_its_event_is_whole():
    translator = Translator(a_call(CHAT), "m")
    first, second, *_ = wire("chat_stream").split(b"\n\n")
    assert translator.feed(first + b"\n\n") == b""
    assert b'"content":"The"' in translator.feed(second + b"\n")


@pytest.mark.parametrize("endpoint", [Endpoint.OLLAMA_EMBED, Endpoint.OPENAI_EMBEDDINGS])
def test_embeddings_arrive_in_the_order_asked_and_are_counted(endpoint):
    out = translated(a_call(endpoint, input=["x", "yy"]), wire("embeddings"))
    given_vectors = [each["embedding"] for each in orjson.loads(wire("embeddings"))["data"]]
    fields = orjson.loads(out)
    got = fields["embeddings"] if "embeddings" in fields else [each["embedding"] for each in fields["data"]]
    assert got == given_vectors
    assert read_end(endpoint, False, out).prompt_tokens == 2


def test_fewer_dimensions_are_cut_and_scaled_to_length_one():
    out = translated(a_call(Endpoint.OLLAMA_EMBED, input=["x", "yy"], dimensions=3), wire("embeddings"))
    for vector in orjson.loads(out)["embeddings"]:
        assert len(vector) == 3
        assert sum(each * each for each in vector) == pytest.approx(1)


def test_an_embedding_answer_with_too_few_vectors_is_no_answer():
    call = a_call(Endpoint.OLLAMA_EMBED, input=["x", "yy", "z"])
    assert not read_end(call.endpoint, False, translated(call, wire("embeddings"))).is_whole


@pytest.mark.parametrize(
    ("name", "endpoint", "status", "message"),
    [
        ("chat_too_long", CHAT, 400, "exceeds the available context size"),
        ("chat_image", V1_CHAT, 400, "image input is not supported"),
        ("embeddings_too_long", Endpoint.OLLAMA_EMBED, 400, "the input length exceeds the context length"),
        ("embeddings_unsupported", Endpoint.OLLAMA_EMBED, 501, "This server does not support embeddings"),
        ("embeddings_unsupported", Endpoint.OLLAMA_EMBEDDINGS, 500, "This server does not support embeddings"),
    ],
)
def test_a_mistake_of_the_caller_is_told_from_trouble_of_the_engine(name, endpoint, status, message):
    error = Translator(a_call(endpoint), "m").error(WIRE[name]["status"], wire(name))
    assert error is not None
    assert error.status == status
    assert message in error.message


@pytest.mark.parametrize(
    "body", [b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}', b"gone", b"[]", b""]
)
def test_trouble_of_the_engine_is_not_the_callers(body):
    assert callers_fault(CHAT, 503, body) is None


def test_ids_and_creation_time_stay_the_same_through_a_stream():
    out = translated(a_call(V1_CHAT, stream=True), wire("chat_stream"))
    frames = [orjson.loads(line[6:]) for line in out.split(b"\n") if b"{" in line]
    assert len({(frame["id"], frame["created"]) for frame in frames}) == 1
    assert without_passing(out) != out


@pytest.mark.parametrize("endpoint", [V1_CHAT, V1_COMPLETIONS])
def test_ollamas_field_names_mean_nothing_on_openais_paths(endpoint):
    strangers = {"options": [1], "raw": True, "format": "xml", "system": "s", "template": "t", "images": [5]}
    assert sent(a_call(endpoint, **strangers)) == sent(a_call(endpoint))


def test_a_suffix_is_refused_whatever_the_model_can_do():
    with pytest.raises(CallerError, match="does not support insert"):
        to_llama_cpp(a_call(GENERATE, suffix="return x"), "upstream", frozenset({"completion", "insert"}))
