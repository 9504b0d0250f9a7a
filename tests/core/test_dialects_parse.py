"""Requests are refused with the status, the words and the bytes that a real Ollama answers."""

from __future__ import annotations

import pytest
from dialects_recordings import recordings, skip_without_recordings
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.dialects import gojson
from orchestrator.core.dialects.errors import MalformedCall, caller_error_response, error_frame, error_response
from orchestrator.core.dialects.parse import (
    Turn,
    canonical_model_name,
    embedding_inputs,
    is_load_request,
    is_unload_request,
    keep_alive_s,
    parse_call,
    sampling,
    turns,
    unknown_model,
)
from orchestrator.core.errors import CallerError
from orchestrator.core.model import Dialect, Endpoint

CHAT, GENERATE = Endpoint.OLLAMA_CHAT, Endpoint.OLLAMA_GENERATE
EMBED, EMBEDDINGS = Endpoint.OLLAMA_EMBED, Endpoint.OLLAMA_EMBEDDINGS
V1_CHAT, V1_COMPLETIONS, V1_EMBEDDINGS = (
    Endpoint.OPENAI_CHAT,
    Endpoint.OPENAI_COMPLETIONS,
    Endpoint.OPENAI_EMBEDDINGS,
)
# Errors that need the model, or come from it: they are not the parser's.
OF_THE_MODEL = (
    "does not support",
    "exceed",
    "must be of type",
    "invalid format",
    "Multimodal",
    "longer than the context",
)
OF_THE_ENGINE = ("terminated", "server busy", "was encountered")


def refusal(endpoint: Endpoint, raw: bytes) -> CallerError:
    with pytest.raises(CallerError) as caught:
        parse_call(endpoint, raw)
    return caught.value


@pytest.mark.parametrize("version", ["", "v0.24.0"])
def test_every_recorded_request_gets_the_status_type_and_bytes_that_ollama_gave(version):
    skip_without_recordings()
    seen = 0
    for each in recordings(version):
        text = each.body.decode()
        if each.status >= 400 and any(words in text for words in OF_THE_MODEL + OF_THE_ENGINE):
            parse_call(each.endpoint, each.request)
            continue
        try:
            call = parse_call(each.endpoint, each.request)
            if call.model.startswith("no-such-model"):
                raise unknown_model(each.endpoint, call.model)
        except CallerError as error:
            request_id = gojson.loads(each.body).get("request_id", "")
            got = (error.status, *caller_error_response(each.endpoint.dialect, error, request_id))
            assert got == (each.status, each.content_type, each.body), each.name
            seen += 1
        else:
            assert each.status == 200, each.name
            assert call.is_stream == each.is_stream, each.name
    assert seen > 20


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "missing request body"),
        (b" \n", "missing request body"),
        (b'{"model": "x", ', "unexpected EOF"),
        (b'{"model": "x"', "unexpected EOF"),
        (b'{"model": "x', "unexpected EOF"),
        (b'{"model": tru', "unexpected EOF"),
        (b'{"model": -', "unexpected EOF"),
        (b"hello", "invalid character 'h' looking for beginning of value"),
        (b"'x'", r"invalid character '\'' looking for beginning of value"),
        (b"{bad}", "invalid character 'b' looking for beginning of object key string"),
        (b'{"a":1,}', "invalid character '}' looking for beginning of object key string"),
        (b'{"a" 1}', "invalid character '1' after object key"),
        (b'{"a":1 "b":2}', "invalid character '\"' after object key:value pair"),
        (b'{"a":[1 2]}', "invalid character '2' after array element"),
        (b'{"a":[1,]}', "invalid character ']' looking for beginning of value"),
        (b'{"a":[{"b":1]}', "invalid character ']' after object key:value pair"),
        (b'{"a":trux}', "invalid character 'x' in literal true (expecting 'e')"),
        (b'{"a":nul}', "invalid character '}' in literal null (expecting 'l')"),
        (b'{"a":-x}', "invalid character 'x' in numeric literal"),
        (b'{"a":1.}', "invalid character '}' after decimal point in numeric literal"),
        (b'{"a":1e}', "invalid character '}' in exponent of numeric literal"),
        (b'{"a":01}', "invalid character '1' after object key:value pair"),
        (b'{"a":"x\ny"}', r"invalid character '\n' in string literal"),
        (b'{"a":"\\x"}', "invalid character 'x' in string escape code"),
        (b'{"a":"\\u12g4"}', r"invalid character 'g' in \u hexadecimal character escape"),
        (b'{"a":NaN}', "invalid character 'N' looking for beginning of value"),
        ("{é}".encode(), "invalid character 'Ã' looking for beginning of object key string"),
        (b"[" * 20_000, "exceeded max depth"),
    ],
)
def test_a_body_that_is_not_json_is_refused_in_gos_words(raw, message):
    error = refusal(CHAT, raw)
    assert (error.status, error.message) == (400, message)
    assert isinstance(error, MalformedCall)


def test_an_empty_body_is_eof_to_the_openai_paths():
    assert refusal(V1_CHAT, b"").message == "EOF"


@pytest.mark.parametrize(
    ("endpoint", "raw", "message"),
    [
        (GENERATE, b"[]", "json: cannot unmarshal array into Go value of type api.GenerateRequest"),
        (EMBEDDINGS, b'"x"', "json: cannot unmarshal string into Go value of type api.EmbeddingRequest"),
        (
            CHAT,
            b'{"options":[1]}',
            "json: cannot unmarshal array into Go struct field ChatRequest.options of type map[string]interface {}",
        ),
        (
            CHAT,
            b'{"top_logprobs":1.5}',
            "json: cannot unmarshal number 1.5 into Go struct field ChatRequest.top_logprobs of type int",
        ),
        (
            CHAT,
            b'{"messages":[{"role":"user","content":5}]}',
            "json: cannot unmarshal number into Go struct field ChatRequest.messages.content of type string",
        ),
        (
            CHAT,
            b'{"messages":["hi"]}',
            "json: cannot unmarshal string into Go struct field ChatRequest.messages of type api.Alias",
        ),
        (
            V1_CHAT,
            b'{"messages":[{"role":true}]}',
            "json: cannot unmarshal bool into Go struct field Message.messages.role of type string",
        ),
        (
            CHAT,
            b'{"messages":[{"role":"assistant","tool_calls":[{"function":{"name":5}}]}]}',
            "json: cannot unmarshal number into Go struct field ChatRequest.messages.tool_calls.function.name of type "
            "string",
        ),
        (
            V1_CHAT,
            b'{"messages":[],"response_format":{"type":5}}',
            "json: cannot unmarshal number into Go struct field ResponseFormat.response_format.type of type string",
        ),
        (
            CHAT,
            b'{"think":"hard"}',
            'invalid think value: "hard" (must be "high", "medium", "low", "max", true, or false)',
        ),
        (CHAT, b'{"keep_alive":true}', "Unsupported type: 'bool'"),
        # A type with rules of its own stops the reading; another wrong type is only remembered.
        (CHAT, b'{"stream":1,"keep_alive":"soon"}', 'time: invalid duration "soon"'),
        (
            CHAT,
            b'{"stream":1,"model":5}',
            "json: cannot unmarshal number into Go struct field ChatRequest.stream of type bool",
        ),
    ],
)
def test_a_wrong_type_is_refused_with_the_go_field_and_type(endpoint, raw, message):
    assert refusal(endpoint, raw).message == message


@pytest.mark.parametrize(
    ("endpoint", "body", "message"),
    [
        (V1_CHAT, {"messages": [{"role": "user"}]}, "invalid message content type: <nil>"),
        (V1_CHAT, {"messages": [{"role": "user", "content": 5}]}, "invalid message content type: float64"),
        (V1_CHAT, {"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "invalid message format"),
        (
            V1_CHAT,
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}
                ]
            },
            "image URLs are not currently supported, please use base64 encoded data instead",
        ),
        (
            V1_CHAT,
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
            "invalid tool call arguments",
        ),
        (V1_COMPLETIONS, {"prompt": "x", "stop": ["a", 1]}, "invalid type for 'stop' field: float64"),
        (V1_EMBEDDINGS, {"input": []}, "invalid input"),
        (
            V1_EMBEDDINGS,
            {"input": "x", "encoding_format": "hex"},
            "Invalid value for 'encoding_format' = hex. Supported values: ['float', 'base64'].",
        ),
    ],
)
def test_the_openai_paths_refuse_what_cannot_become_an_ollama_request(endpoint, body, message):
    error = refusal(endpoint, gojson.dumps({"model": "m"} | body))
    assert (error.status, error.message) == (400, message)
    assert isinstance(error, MalformedCall)


def test_numbers_too_large_for_a_double_and_endless_digits_are_the_callers_error():
    assert "1e400" in refusal(GENERATE, b'{"model":"m","options":{"seed":1e400}}').message
    assert refusal(GENERATE, b'{"model":"m","options":{"seed":' + b"9" * 5000 + b"}} x").status == 400


def test_an_unknown_reasoning_effort_is_refused():
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "reasoning_effort": "wild"}
    assert refusal(V1_CHAT, gojson.dumps(body)).message.startswith(
        'invalid reasoning value: "wild" (must be "minimal",'
    )


@pytest.mark.parametrize("endpoint", [CHAT, GENERATE])
def test_top_logprobs_beyond_twenty_are_refused(endpoint):
    error = refusal(endpoint, b'{"model":"m","top_logprobs":21}')
    assert error.message == "top_logprobs must be between 0 and 20"


@pytest.mark.parametrize("name", ["bad name", "a//b", "x:", "-x", "x:y:z", "ä", "a/b/c/d", "x" * 81])
def test_a_name_no_model_can_have_is_invalid(name):
    error = refusal(GENERATE, gojson.dumps({"model": name, "prompt": "x"}))
    assert (error.status, error.message) == (400, "invalid model name")


@pytest.mark.parametrize(
    "name", ["x", "x:latest", "user/x:7b", "hf.co/user/x-GGUF:Q4_K_M", "localhost:5000/library/x:1", "x:local", " x "]
)
def test_names_of_every_length_are_accepted(name):
    assert parse_call(GENERATE, gojson.dumps({"model": name, "prompt": "x"})).model == name


def test_what_follows_the_first_json_value_is_not_looked_at():
    assert parse_call(GENERATE, b'{"model":"m","prompt":"x"} trailing').body == {"model": "m", "prompt": "x"}


def test_bytes_that_are_not_utf8_and_lone_surrogates_are_replaced_not_refused():
    assert parse_call(GENERATE, b'{"model":"m","prompt":"a\xffb"}').body["prompt"] == "a\ufffdb"
    assert parse_call(GENERATE, b'{"model":"m","prompt":"a\\ud800b"}').body["prompt"] == "a?b"


def test_field_names_are_read_without_case_and_null_is_absent():
    call = parse_call(CHAT, b'{"Model":"m","STREAM":false,"messages":[{"role":"user","content":"x"}],"think":null}')
    assert call.model == "m"
    assert not call.is_stream
    assert "think" not in call.body


def test_unknown_fields_pass():
    assert parse_call(GENERATE, b'{"model":"m","prompt":"x","no_such":1}').body["no_such"] == 1


def test_ollamas_text_paths_stream_unless_told_otherwise_and_openais_do_not():
    messages = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    assert parse_call(CHAT, gojson.dumps(messages)).is_stream
    assert parse_call(GENERATE, b'{"model":"m","prompt":"x"}').is_stream
    assert not parse_call(V1_CHAT, gojson.dumps(messages)).is_stream
    assert parse_call(V1_CHAT, gojson.dumps(messages | {"stream": True})).is_stream


@pytest.mark.parametrize("endpoint", [EMBED, EMBEDDINGS, V1_EMBEDDINGS])
def test_embeddings_never_stream(endpoint):
    assert not parse_call(endpoint, b'{"model":"m","input":"x","prompt":"x","stream":true}').is_stream


@pytest.mark.parametrize(
    ("endpoint", "body", "is_load", "is_unload"),
    [
        (CHAT, {}, True, False),
        (CHAT, {"messages": []}, True, False),
        (CHAT, {"messages": [], "keep_alive": 0}, True, True),
        (CHAT, {"messages": [{"role": "user", "content": ""}], "keep_alive": 0}, False, False),
        (GENERATE, {}, True, False),
        (GENERATE, {"keep_alive": "0s"}, True, True),
        (GENERATE, {"keep_alive": "5m"}, True, False),
        (GENERATE, {"prompt": "x", "keep_alive": 0}, False, False),
        (EMBED, {"input": ""}, True, False),
        (EMBED, {"input": ["x"]}, False, False),
        (EMBEDDINGS, {"keep_alive": 0}, True, False),
    ],
)
def test_a_call_with_nothing_to_answer_loads_or_unloads(endpoint, body, is_load, is_unload):
    call = parse_call(endpoint, gojson.dumps({"model": "m"} | body))
    assert (is_load_request(call), is_unload_request(call)) == (is_load, is_unload)
    assert not (is_load and call.is_stream)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(0, 0), (5, 5), (1.5, 1.5), ("5m", 300), ("1h30m", 5400), ("-1s", keep_alive_s(-1)), ("250ms", 0.25), ("0", 0)],
)
def test_keep_alive_is_seconds_or_a_go_duration(given, seconds):
    assert keep_alive_s(given) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("soon", 'time: invalid duration "soon"'),
        ("", 'time: invalid duration ""'),
        ("5", 'time: missing unit in duration "5"'),
        ("5x", 'time: unknown unit "x" in duration "5x"'),
        ([], "Unsupported type: '[]interface {}'"),
    ],
)
def test_a_keep_alive_that_is_none_is_refused_in_gos_words(given, message):
    with pytest.raises(MalformedCall, match=r".") as caught:
        keep_alive_s(given)
    assert caught.value.message == message


def test_the_endpoints_quote_an_unknown_model_in_two_ways():
    assert unknown_model(CHAT, "x").message == "model 'x' not found"
    assert unknown_model(EMBED, "x").message == 'model "x" not found, try pulling it first'
    assert unknown_model(V1_CHAT, "x").kind == "not_found_error"


@pytest.mark.parametrize(
    "name", ["X", "x:latest", "x:LATEST", " x ", "library/x", "registry.ollama.ai/library/x:latest", "x:local"]
)
def test_all_names_of_a_model_have_one_spelling(name):
    assert canonical_model_name(name) == "x"


def test_names_of_other_tags_users_and_hosts_stay_apart():
    names = ["x:7b", "user/x", "hf.co/user/x", "registry.ollama.ai/user/x:7b"]
    assert [canonical_model_name(name) for name in names] == ["x:7b", "user/x", "hf.co/user/x", "user/x:7b"]


@given(st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}(:[a-z0-9]{1,8})?", fullmatch=True))
def test_a_canonical_name_is_its_own_canonical_name(name):
    once = canonical_model_name(name)
    assert canonical_model_name(once) == once


def test_turns_are_the_conversation_in_no_dialect():
    chat = parse_call(
        V1_CHAT,
        gojson.dumps(
            {
                "model": "m",
                "messages": [
                    {"role": "System", "content": "Be brief."},
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "What is"},
                            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
                            {"type": "text", "text": "this?"},
                        ],
                    },
                ],
            }
        ),
    )
    assert turns(chat) == (Turn("system", "Be brief."), Turn("user", "What is\nthis?", has_images=True))
    generate = parse_call(GENERATE, b'{"model":"m","system":"Be brief.","prompt":"x","images":["aGk="]}')
    assert turns(generate) == (Turn("system", "Be brief."), Turn("user", "x", has_images=True))


def test_the_same_question_has_the_same_turns_in_both_dialects():
    body = gojson.dumps({"model": "m", "messages": [{"role": "user", "content": "Why?"}]})
    assert turns(parse_call(CHAT, body)) == turns(parse_call(V1_CHAT, body))


def test_a_content_of_another_type_beside_calls_of_tools_says_nothing():
    body = b'{"model":"m","messages":[{"role":"user","content":1.5,"tool_calls":[]}]}'
    assert turns(parse_call(V1_CHAT, body)) == (Turn("user", ""),)


def test_the_texts_to_embed_are_the_turns_of_an_embedding_call():
    assert embedding_inputs(parse_call(EMBED, b'{"model":"m","input":["a","b"]}')) == ("a", "b")
    assert embedding_inputs(parse_call(EMBEDDINGS, b'{"model":"m","prompt":"a"}')) == ("a",)
    assert turns(parse_call(V1_EMBEDDINGS, b'{"model":"m","input":"a"}')) == (Turn("user", "a"),)


def test_sampling_has_one_vocabulary_for_both_dialects():
    ollama = {"model": "m", "prompt": "x", "options": {"temperature": 0, "seed": 1, "num_predict": 5, "num_ctx": 9}}
    openai = {"model": "m", "prompt": "x", "temperature": 0, "seed": 1, "max_tokens": 5}
    wanted = {"temperature": 0, "seed": 1, "num_predict": 5}
    assert sampling(parse_call(GENERATE, gojson.dumps(ollama))) == wanted
    assert sampling(parse_call(V1_COMPLETIONS, gojson.dumps(openai))) == wanted
    assert sampling(parse_call(V1_COMPLETIONS, gojson.dumps({"model": "m", "prompt": "x", "stop": "a"}))) == {
        "stop": ["a"]
    }


def test_go_escapes_what_could_be_html_and_ends_of_lines():
    assert gojson.dumps({"a": "<b> & \u2028"}) == rb'{"a":"\u003cb\u003e \u0026 \u2028"}'


def test_an_error_in_a_stream_is_a_frame_of_that_stream():
    assert error_frame(CHAT, "gone") == b'{"error":"gone"}\n'
    assert error_frame(V1_CHAT, "gone") == (
        b'data: {"error":{"message":"gone","type":"api_error","param":null,"code":null}}\n\n'
    )


def test_the_two_stages_of_openai_errors_differ_in_charset_and_newline():
    early = error_response(Dialect.OPENAI, 400, "x", is_malformed=True)
    late = error_response(Dialect.OPENAI, 400, "x")
    assert early == ("application/json; charset=utf-8", late[1].removesuffix(b"\n"))
    assert late[0] == "application/json"
