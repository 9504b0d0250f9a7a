"""What is held back, judged and taken out of an answer on its way, wherever its bytes are cut."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.dialects.errors import error_frame
from orchestrator.core.dialects.frames import Stats, head_of
from orchestrator.core.dialects.from_ollama import FromOllama, as_own
from orchestrator.core.dialects.outcome import read_answer, read_end
from orchestrator.core.dialects.streams import answer_body, open_stream
from orchestrator.core.escalation import Conditions, Reason, Watch, threshold_from
from orchestrator.core.model import Answer, Call, Endpoint, Finish, ToolCall
from orchestrator.gateway.doubting import HELD_BYTES_AT_MOST, Watching
from orchestrator.gateway.hidden_logprobs import TOLD_ON, asking_for_logprobs, without_logprobs
from orchestrator.gateway.hidden_usage import asking_for_usage

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NATIVE = sorted(TOLD_ON)
OTHERS = (Endpoint.OPENAI_COMPLETIONS, Endpoint.ANTHROPIC_MESSAGES, Endpoint.OPENAI_RESPONSES)
SURE, UNSURE = -0.02, -6.0
# What a text or a token may hold that looks like the field that is taken out.
TRICKY = ',"logprobs":[{"token":"]"}]}\n\ndata: [DONE]\n\n"done":true}'
COUNTS = Stats(total_ns=9, prompt_tokens=5, completion_tokens=6)
WORDS = st.lists(st.tuples(st.one_of(st.text(min_size=1, max_size=5), st.just(TRICKY)), st.floats(-9, 0)), max_size=6)

Word = tuple[str, float]


def call_of(endpoint: Endpoint, *, is_stream: bool = True, **body: object) -> Call:
    asked = {"model": "m", "messages": [], "prompt": "x", "input": "x", "max_tokens": 9, **body}
    return Call(endpoint, "m", is_stream, asked)


def stream_of(call: Call, words: Sequence[Word], *, with_logprobs: bool, finish: str = "stop") -> list[bytes]:
    stream = open_stream(head_of(call, "m", NOW, 7))
    told: list[bytes] = []
    for text, logprob in words:
        told += stream.content(NOW, text=text, logprobs=_entries([(text, logprob)]) if with_logprobs else [])
    return [*told, *stream.end(NOW, finish, COUNTS)]


def _entries(words: Sequence[Word]) -> list[dict[str, Any]]:
    return [{"token": text, "logprob": logprob, "bytes": list(text.encode())} for text, logprob in words]


def watching(call: Call, *, hold_tokens: int = 3, is_buffered: bool = False, **conditions: Any) -> Watching:
    wanted = Conditions(**(conditions or {"confidence_below": 0.6}))
    made = Watching(Watch("r", wanted, hold_tokens, 3.0, is_buffered), call, prompt_tokens=4)
    made.strips = True
    return made


# --- taken out --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", NATIVE)
@given(words=WORDS, cuts=st.lists(st.integers(0, 3000)))
def test_what_is_shown_is_the_stream_without_log_probabilities_however_it_is_cut(endpoint, words, cuts):
    call = call_of(endpoint)
    told = b"".join(stream_of(call, words, with_logprobs=True))
    watched = watching(call, refusal=True)
    places = [0, *sorted(cut for cut in cuts if cut < len(told)), len(told)]
    shown = [each for start, end in pairwise(places) for each in watched.feed([told[start:end]])]
    assert watched.doubt is None
    assert b"".join(shown) == b"".join(stream_of(call, words, with_logprobs=False))


@pytest.mark.parametrize("endpoint", NATIVE)
def test_each_frame_stays_one_write(endpoint):
    call, words = call_of(endpoint), [("a", SURE), (TRICKY, SURE), ("c", SURE), ("d", SURE)]
    watched = watching(call)
    shown = [watched.feed([frame]) for frame in stream_of(call, words, with_logprobs=True)]
    assert [len(each) for each in shown] == [0, 0, 3, 1, 1]
    assert [frame for each in shown for frame in each] == stream_of(call, words, with_logprobs=False)


@pytest.mark.parametrize("endpoint", NATIVE)
@given(words=WORDS)
def test_a_body_is_shown_without_them(endpoint, words):
    call = call_of(endpoint, is_stream=False)
    text = "".join(word for word, _ in words)
    bodies = [
        answer_body(head_of(call, "m", NOW, 7), NOW, Answer(text), Finish.STOP, COUNTS, logprobs=logprobs)
        for logprobs in (_entries(words), ())
    ]
    watched = watching(call, refusal=True)
    assert watched.body(bodies[0]) == bodies[1]


def test_what_else_may_stand_there_is_taken_out_too():
    assert without_logprobs(b'{"a":1,"logprobs":null,"b":2}\n') == b'{"a":1,"b":2}\n'
    assert without_logprobs(b'{"a":1,"logprobs":{"content":[]}}') == b'{"a":1}'
    called = b'{"arguments":{"n":1,"logprobs":%b},"done":false}\n'
    for argument in (b"true", b"5", b"[1,2]", b'{"top":3}'):
        assert without_logprobs(called % argument) == called % argument
    assert without_logprobs(b'{"a":",\\"logprobs\\":[]"}') == b'{"a":",\\"logprobs\\":[]"}'


def test_nobody_is_asked_who_was_asked_already_or_does_not_tell():
    asked = call_of(Endpoint.OLLAMA_CHAT, logprobs=True)
    assert asking_for_logprobs(asked) is asked
    other = call_of(Endpoint.ANTHROPIC_MESSAGES)
    assert asking_for_logprobs(other) is other
    assert asking_for_logprobs(call_of(Endpoint.OPENAI_CHAT, logprobs=False)).body["logprobs"] is True


def test_a_frame_that_was_told_for_its_log_probabilities_alone_is_not_shown():
    call = call_of(Endpoint.OLLAMA_CHAT)
    stream = open_stream(head_of(call, "m", NOW))
    empty = stream.content(NOW, text="", logprobs=_entries([("\n", SURE)]))
    words = stream_of(call, [("a", SURE), ("b", SURE), ("c", SURE)], with_logprobs=True)
    shown = watching(call).feed([*empty, *words])
    assert shown == stream_of(call, [("a", SURE), ("b", SURE), ("c", SURE)], with_logprobs=False)


# --- held back --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", NATIVE)
@given(words=st.lists(st.floats(-9, 0), min_size=1, max_size=12), cuts=st.lists(st.integers(0, 5000)))
def test_of_a_doubted_answer_not_one_byte_is_shown_before_the_doubt(endpoint, words, cuts):
    call = call_of(endpoint)
    told = b"".join(stream_of(call, [(f"w{n}", each) for n, each in enumerate(words)], with_logprobs=True))
    watched = watching(call, hold_tokens=5, confidence_below=0.5)
    shown: list[bytes] = []
    places = [0, *sorted(cut for cut in cuts if cut < len(told)), len(told)]
    for start, end in pairwise(places):
        shown += watched.feed([told[start:end]])
        if watched.doubt is not None:
            assert shown == []
            return
    plain = b"".join(stream_of(call, [(f"w{n}", each) for n, each in enumerate(words)], with_logprobs=False))
    if watched.late is None:
        assert b"".join(shown) == plain
    else:
        assert b"doubt" in b"".join(shown)


def test_an_unsure_beginning_is_doubted_as_soon_as_it_is_long_enough():
    call = call_of(Endpoint.OLLAMA_CHAT)
    watched = watching(call)
    frames = stream_of(call, [("a", UNSURE)] * 5, with_logprobs=True)
    for frame in frames[:2]:
        assert watched.feed([frame]) == []
        assert watched.doubt is None
    assert watched.feed([frames[2]]) == []
    why = watched.escalated()
    assert (why.reason, why.tokens, why.answer, why.is_over) == ("confidence_below", (4, 3), None, False)
    assert why.confidence is not None


def test_a_short_answer_is_judged_whole_before_it_is_shown_and_handed_on():
    call = call_of(Endpoint.OLLAMA_CHAT)
    watched = watching(call, hold_tokens=24)
    assert watched.feed(stream_of(call, [("a", UNSURE)] * 2, with_logprobs=True)) == []
    why = watched.escalated()
    assert (why.tokens, why.is_over) == ((5, 6), True)
    assert why.answer is not None
    assert why.answer.text == "aa"


def test_calls_of_tools_are_counted_before_any_is_shown():
    call = call_of(Endpoint.OLLAMA_CHAT)
    stream = open_stream(head_of(call, "m", NOW))
    words = [*stream.content(NOW, text="I shall look."), *stream.content(NOW, text=" Wait.")]
    calls = [frame for n in range(2) for frame in stream.content(NOW, tool_calls=[ToolCall(f"c{n}", "f", {})])]
    watched = watching(call, hold_tokens=3, tools_needed=threshold_from("> 1"))
    for frame in (*words, *calls):
        assert watched.feed([frame]) == []
    assert watched.feed(stream.end(NOW, "stop", COUNTS)) == []
    assert watched.doubt is not None
    assert watched.doubt.reason is Reason.TOOLS


def test_a_buffered_answer_that_is_too_long_to_keep_is_shown_as_it_comes():
    call = call_of(Endpoint.OLLAMA_CHAT)
    watched = watching(call, is_buffered=True)
    frames = stream_of(call, [("x" * 2**20, SURE)] * 9, with_logprobs=False)
    shown = [len(watched.feed([frame])) for frame in frames[:-1]]
    assert shown == [0] * (HELD_BYTES_AT_MOST // 2**20 - 1) + [8, 1]


def test_an_error_in_place_of_an_answer_is_no_answer():
    for endpoint in (*NATIVE, *OTHERS):
        call = call_of(endpoint)
        watched = watching(call)
        frame = error_frame(endpoint, "out of memory")
        assert watched.feed([frame]) == []
        assert watched.doubt is None
        assert watched.let_go() == [frame]


# --- doubted late -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", [*NATIVE, *OTHERS])
def test_a_late_doubt_is_told_in_a_frame_that_changes_nothing_of_the_answer(endpoint):
    call = call_of(endpoint)
    words = [("a", SURE)] * 3 + [("b", UNSURE)] * 5
    watched = watching(call)
    if endpoint in OTHERS:
        watched.hears_apart, watched.strips = True, False
    shown: list[bytes] = []
    frames = stream_of(call, words, with_logprobs=endpoint not in OTHERS)
    for frame in frames:
        if watched.hears_apart and (b'"b"' in frame or b'"a"' in frame):
            watched.hear(_entries([("b", UNSURE if b'"b"' in frame else SURE)]))
        shown += watched.feed([frame])
    assert watched.late is not None
    assert watched.doubt is None
    plain, told = b"".join(stream_of(call, words, with_logprobs=False)), b"".join(shown)
    assert told.count(b"doubt") == 1
    for read in (read_end, read_answer):
        assert read(endpoint, True, told) == read(endpoint, True, plain)


# --- asked of Ollama's own paths --------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", OTHERS)
@given(
    words=st.lists(st.tuples(st.text(min_size=1, max_size=5), st.floats(-9, 0)), min_size=1, max_size=5),
    cuts=st.lists(st.integers(0, 3000)),
)
def test_ollamas_own_frames_become_the_stream_that_was_asked_for(endpoint, words, cuts):
    call = asking_for_usage(call_of(endpoint))
    own = as_own(call)
    assert own.body["logprobs"] is True
    told = b"".join(stream_of(own, words, with_logprobs=True))
    made, heard = FromOllama(call, "m", lambda: NOW, lambda status, body: False), list[Any]()
    made.on_logprobs = heard.extend
    places = [0, *sorted(cut for cut in cuts if cut < len(told)), len(told)]
    shown = b"".join(made.feed(told[start:end]) for start, end in pairwise(places)) + made.finish()
    answer = read_answer(endpoint, True, shown)
    assert answer is not None
    assert (answer.text, answer.finish) == ("".join(word for word, _ in words), Finish.STOP)
    assert (answer.prompt_tokens, answer.completion_tokens) == (5, 6)
    assert [each["logprob"] for each in heard] == [logprob for _, logprob in words]


@pytest.mark.parametrize("endpoint", OTHERS)
def test_ollamas_own_body_becomes_the_one_that_was_asked_for(endpoint):
    call = call_of(endpoint, is_stream=False)
    own = as_own(call)
    calls = () if endpoint is Endpoint.OPENAI_COMPLETIONS else (ToolCall("call_7", "look", {"at": 1}),)
    answer = Answer("well", tool_calls=calls)
    body = answer_body(head_of(own, "m", NOW), NOW, answer, Finish.STOP, COUNTS, logprobs=_entries([("well", SURE)]))
    made = FromOllama(call, "m", lambda: NOW, lambda status, body: False)
    assert made.feed(body) == b""
    read = read_answer(endpoint, False, made.finish())
    assert read is not None
    assert (read.text, read.tool_calls) == ("well", calls)


def test_a_stream_of_ollamas_that_breaks_is_one_that_broke():
    call = call_of(Endpoint.ANTHROPIC_MESSAGES)
    for told in (b"", b'{"message":{"content":"a"},"done":false}\n', b'{"error":"no memory"}\n', b"{nonsense\n"):
        made = FromOllama(call, "m", lambda: NOW, lambda status, body: False)
        shown = made.feed(told) + made.finish()
        end = read_end(call.endpoint, True, shown)
        assert not end.is_whole
        assert end.error
