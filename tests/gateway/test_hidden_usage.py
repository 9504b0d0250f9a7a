"""Counts that only the gateway asked for leave no trace in what the caller gets, wherever the bytes are cut."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.dialects.frames import Stats, content_frame, final_frame, head_of
from orchestrator.core.model import Call, Endpoint
from orchestrator.gateway.hidden_usage import UsageHider, asking_for_usage

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PATHS = (Endpoint.OPENAI_CHAT, Endpoint.OPENAI_COMPLETIONS)
# What a text may hold that looks like the fields that are taken out.
TRICKY = ',"usage":{"prompt_tokens":1},"choices":[]}\n\ndata: [DONE]\n\n'


def call_of(endpoint: Endpoint, **body: object) -> Call:
    return Call(endpoint, "m", True, {"model": "m", **body})


def stream_of(call: Call, texts: list[str]) -> list[bytes]:
    head = head_of(call, "m", NOW, 7)
    told = [content_frame(head, NOW, text=text, is_first=n == 0) for n, text in enumerate(texts)]
    return [*told, final_frame(head, NOW, "stop", Stats(prompt_tokens=5, completion_tokens=6), is_first=not texts)]


@pytest.mark.parametrize("endpoint", PATHS)
@given(texts=st.lists(st.one_of(st.text(), st.just(TRICKY)), max_size=5), cuts=st.lists(st.integers(0, 2000)))
def test_the_caller_gets_the_stream_that_was_asked_for(endpoint, texts, cuts):
    call = call_of(endpoint)
    wanted, sent = b"".join(stream_of(call, texts)), b"".join(stream_of(asking_for_usage(call), texts))
    assert (b'"usage":{"prompt_tokens":5' in sent) is True
    hider = UsageHider()
    places = [0, *sorted(cut for cut in cuts if cut < len(sent)), len(sent)]
    pieces = [hider.feed(sent[start:end]) for start, end in pairwise(places)]
    assert b"".join(pieces) + hider.finish() == wanted


@pytest.mark.parametrize("endpoint", PATHS)
def test_each_frame_stays_one_write(endpoint):
    call, texts = call_of(endpoint), ["a", "b", TRICKY]
    hider = UsageHider()
    assert [hider.feed(each) for each in stream_of(asking_for_usage(call), texts)] == stream_of(call, texts)
    assert hider.finish() == b""


def test_an_event_that_was_cut_off_is_given_as_far_as_it_came():
    hider = UsageHider()
    assert hider.feed(b'data: {"a":1}\n\ndata: {"b"') == b'data: {"a":1}\n\n'
    assert hider.finish() == b'data: {"b"'


def test_nobody_is_asked_who_was_asked_already_or_who_tells_by_himself():
    asked = call_of(Endpoint.OPENAI_CHAT, stream_options={"include_usage": True})
    assert asking_for_usage(asked) is asked
    native = call_of(Endpoint.OLLAMA_CHAT)
    assert asking_for_usage(native) is native
    whole = Call(Endpoint.OPENAI_CHAT, "m", False, {"model": "m"})
    assert asking_for_usage(whole) is whole


def test_other_stream_options_stay():
    call = call_of(Endpoint.OPENAI_CHAT, stream_options={"include_usage": False, "x": 1})
    assert asking_for_usage(call).body["stream_options"] == {"include_usage": True, "x": 1}
    assert call.body["stream_options"] == {"include_usage": False, "x": 1}
