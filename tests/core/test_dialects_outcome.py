"""The end of an answer that went past as bytes is told from its last bytes, and only a whole one is an answer."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import orjson
import pytest
from dialects_recordings import recorded, recordings, skip_without_recordings
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.dialects.frames import Stats, head_of
from orchestrator.core.dialects.outcome import TAIL_BYTES, End, Listener, read_answer, read_end
from orchestrator.core.dialects.streams import open_stream
from orchestrator.core.model import Answer, Call, Endpoint, Finish, ToolCall

VERSIONS = ["", "v0.24.0"]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_recorded_answer_that_ended_well_is_whole(version):
    skip_without_recordings()
    seen = 0
    for each in recordings(version):
        is_broken = each.name.startswith(("kill_runner", "token_repeat", "disconnect", "server_sig"))
        if each.status == 200 and each.end == "complete" and not is_broken:
            end = read_end(each.endpoint, each.is_stream, each.body[-TAIL_BYTES:] if each.is_stream else each.body)
            assert end.is_whole, each.name
            assert end.error is None
            seen += 1
    assert seen > 60


@pytest.mark.parametrize("version", VERSIONS)
def test_every_recorded_error_is_not_whole_and_carries_its_text(version):
    skip_without_recordings()
    for each in recordings(version):
        if each.status >= 400:
            end = read_end(each.endpoint, False, each.body)
            assert not end.is_whole
            assert end.error, each.name


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["kill_runner_generate", "kill_runner_chat"])
def test_a_killed_runner_on_ollamas_paths_is_an_error(name, version):
    each = recorded(name, version)
    end = read_end(each.endpoint, True, each.body)
    assert not end.is_whole
    assert end.error
    assert "an error was encountered while running the model" in end.error
    assert read_answer(each.endpoint, True, each.body) is None


@pytest.mark.parametrize(
    ("name", "version"),
    [("kill_runner_v1_chat", ""), ("kill_runner_v1_chat", "v0.24.0"), ("kill_runner_v1_completions", "")],
)
def test_a_killed_runner_on_openais_paths_just_stops(name, version):
    each = recorded(name, version)
    assert read_end(each.endpoint, True, each.body) == End(is_whole=False)
    assert read_answer(each.endpoint, True, each.body) is None


def test_a_model_that_repeats_itself_is_cut_without_an_error_and_without_an_end():
    each = recorded("token_repeat_cut")
    assert read_end(each.endpoint, True, each.body) == End(is_whole=False)


@pytest.mark.parametrize("name", ["server_sigkill_midstream", "server_sigterm_midstream", "disconnect_midstream"])
def test_a_stream_whose_connection_broke_is_not_whole(name):
    each = recorded(name)
    assert not read_end(each.endpoint, True, each.body).is_whole


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        (
            "generate_stream",
            Answer("The sky blue is a result of the", Finish.LENGTH, prompt_tokens=15, completion_tokens=8),
        ),
        ("chat_nonstream", Answer("The sky blue is a result of the", Finish.LENGTH, "", (), 15, 8)),
        ("v1_chat_stream_usage", Answer("The sky blue is a result of the", Finish.LENGTH, "", (), 15, 8)),
        ("v1_completions_stream", Answer("The sky blue is a result of the", Finish.LENGTH, "", (), 15, 8)),
        ("v1_completions_nonstream", Answer("The sky blue is a result of the", Finish.LENGTH, "", (), 15, 8)),
        ("chat_think_stream", Answer("", Finish.LENGTH, "Paris is a city that never sleep", (), 17, 8)),
        ("v1_chat_think", Answer("", Finish.LENGTH, "Paris is a city that never sleep", (), 17, 8)),
        ("chat_json", Answer("{}", Finish.STOP, "", (), 15, 2)),
    ],
)
def test_recorded_answers_are_read(name, answer):
    each = recorded(name)
    assert read_answer(each.endpoint, each.is_stream, each.body) == answer


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "name", ["chat_tool_call", "chat_tool_call_stream", "v1_chat_tool_call", "v1_chat_tool_call_stream"]
)
def test_tool_calls_are_read_alike_from_both_dialects(name, version):
    each = recorded(name, version)
    answer = read_answer(each.endpoint, each.is_stream, each.body)
    assert answer is not None
    assert answer.finish is Finish.TOOL_CALLS
    ((identity, call),) = [(call.id, call) for call in answer.tool_calls]
    assert call == ToolCall(identity, "get_weather", {"city": "Paris"})
    assert identity.startswith("call_")


@pytest.mark.parametrize(
    "name", ["generate_load", "chat_unload", "embed_single", "v1_embeddings", "embeddings_legacy_load"]
)
def test_what_is_whole_but_no_text_is_not_an_answer(name):
    each = recorded(name)
    assert read_end(each.endpoint, False, each.body).is_whole
    assert read_answer(each.endpoint, False, each.body) is None


def test_the_tokens_of_an_embedding_are_counted():
    ours, theirs = recorded("embed_single"), recorded("v1_embeddings_base64")
    assert read_end(ours.endpoint, False, ours.body).prompt_tokens == 6
    assert read_end(theirs.endpoint, False, theirs.body).prompt_tokens == 6


@pytest.mark.parametrize("name", ["generate_stream", "v1_chat_stream_usage", "v1_completions_stream"])
def test_the_last_few_frames_tell_as_much_as_all(name):
    each = recorded(name)
    assert each.chunks
    tail = b"".join(each.chunks[-2:])[7:]
    assert read_end(each.endpoint, True, tail) == read_end(each.endpoint, True, each.body)


def test_fragments_of_tool_calls_are_joined_by_their_index():
    parts = [
        {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x"'}},
        {"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": ""}},
        {"index": 0, "function": {"arguments": ":1}"}},
    ]
    events = [{"choices": [{"index": 0, "delta": {"tool_calls": [part]}, "finish_reason": None}]} for part in parts]
    events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    body = b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events) + b"data: [DONE]\n\n"
    answer = read_answer(Endpoint.OPENAI_CHAT, True, body)
    assert answer is not None
    assert answer.tool_calls == (ToolCall("a", "f", {"x": 1}), ToolCall("b", "g", {}))


@given(st.binary(max_size=200), st.sampled_from(list(Endpoint)), st.booleans())
def test_no_bytes_whatever_are_taken_for_a_whole_answer(data, endpoint, is_stream):
    assert not read_end(endpoint, is_stream, data).is_whole
    assert read_answer(endpoint, is_stream, data) is None


@given(
    endpoint=st.sampled_from([each for each in Endpoint if each.is_answered_in_words]),
    thoughts=st.lists(st.text(min_size=1), max_size=3),
    words=st.lists(st.text(min_size=1), min_size=1, max_size=5),
    cuts=st.lists(st.integers(0, 4000), max_size=6),
)
def test_who_listens_hears_what_was_said_however_the_bytes_are_cut(endpoint, thoughts, words, cuts):
    now = datetime(2026, 11, 21, tzinfo=UTC)
    call = Call(endpoint, "m", True, {"model": "m"})
    stream = open_stream(head_of(call, "m", now))
    thinking = thoughts if endpoint is not Endpoint.OPENAI_COMPLETIONS else []
    told = [frame for each in thinking for frame in stream.content(now, thinking=each)]
    told += [frame for each in words for frame in stream.content(now, text=each)]
    body = b"".join((*told, *stream.end(now, Finish.STOP, Stats(prompt_tokens=1, completion_tokens=1))))
    listener, ends = Listener(endpoint), sorted({min(each, len(body)) for each in cuts} | {0, len(body)})
    heard = [listener.feed(body[begin:end]) for begin, end in pairwise(ends)]
    answer = read_answer(endpoint, True, body)
    assert answer is not None
    assert ("".join(each for each, _ in heard), "".join(each for _, each in heard)) == (answer.thinking, answer.text)
    assert answer.text == "".join(words)
