"""A stream cut anywhere, and its rest told by another: together they are one answer, and nothing that was not said."""

from __future__ import annotations

from datetime import UTC, datetime

import orjson
import pytest

from orchestrator.core.continuing import keeps_open, next_call, why_not
from orchestrator.core.dialects.frames import Stats, head_of
from orchestrator.core.dialects.outcome import read_answer, read_end
from orchestrator.core.dialects.resuming import REPEATS, Rest, SoFar, closing, read_so_far
from orchestrator.core.dialects.streams import open_stream
from orchestrator.core.errors import InstanceError
from orchestrator.core.model import Call, Endpoint, Finish

NOW = datetime(2026, 11, 21, 12, 0, 0, 5, UTC)
WORDS = ("one ", 'tw"o\\ ', "ü😀 ", "three")
TEXT = "".join(WORDS)
ENDPOINTS = (
    Endpoint.OLLAMA_CHAT,
    Endpoint.OLLAMA_GENERATE,
    Endpoint.OPENAI_CHAT,
    Endpoint.OPENAI_COMPLETIONS,
    Endpoint.ANTHROPIC_MESSAGES,
)


def call_of(endpoint: Endpoint, **more: object) -> Call:
    body = {"model": "m", "messages": [{"role": "user", "content": "q"}], "stream": True}
    if not endpoint.is_chat:
        body = {"model": "m", "prompt": "q", "stream": True}
    if "completions" in endpoint.value:
        body |= {"stream_options": {"include_usage": True}}
    return Call(endpoint, "m", True, {**body, **more})


def told_by(call: Call, words: tuple[str, ...], prompt: int = 7, finish: str = "stop") -> bytes:
    stream = open_stream(head_of(call, "m", NOW))
    frames = [frame for word in words for frame in stream.content(NOW, text=word)]
    stats = Stats(total_ns=9, prompt_tokens=prompt, completion_tokens=len(words))
    return b"".join([*frames, *stream.end(NOW, finish, stats)])


def rest_of(call: Call, before: SoFar, asked: Endpoint, *, is_full: bool = False) -> Rest:
    return Rest(call, asked, before, lambda: NOW, is_full=is_full)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_wherever_a_stream_is_cut_the_two_parts_are_one_whole_answer_or_it_is_not_continued(endpoint: Endpoint) -> None:
    call = call_of(endpoint)
    whole = told_by(call, WORDS)
    continued = 0
    for cut in range(len(whole)):
        shown = whole[:cut]
        end = closing(endpoint, shown)
        if end is None:
            continue
        before = read_so_far(endpoint, shown + end)
        assert TEXT.startswith(before.text)
        if before.beside:
            continue
        following = next_call(call, before).call
        rest = rest_of(call, before, following.endpoint)
        second = told_by(following, (TEXT[len(before.text) :],), prompt=7 + before.tokens)
        out = b"".join(rest.feed(second[at : at + 37]) for at in range(0, len(second), 37)) + rest.finish()
        answer = read_answer(endpoint, True, shown + end + out)
        assert answer is not None, (cut, shown + end + out)
        assert (answer.text, answer.prompt_tokens, answer.completion_tokens) == (TEXT, 7, before.tokens + 1)
        continued += 1
    assert continued > len(whole) / 3


@pytest.mark.parametrize("shown", [b'{"response":"a\\', b'{"response":"a\\u00', b'{"response":"\xf0\x9f', b"nonsense"])
def test_half_a_character_is_not_made_another(shown: bytes) -> None:
    assert closing(Endpoint.OLLAMA_GENERATE, shown) is None


def test_half_a_pair_of_surrogates_is_not_made_another() -> None:
    assert closing(Endpoint.OLLAMA_GENERATE, b'{"response":"\\ud83d') is None


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_an_error_within_the_rest_is_raised_and_not_told(endpoint: Endpoint) -> None:
    call = call_of(endpoint)
    before = read_so_far(endpoint, told_by(call, WORDS)[:200])
    rest = rest_of(call, before, Endpoint.OLLAMA_CHAT)
    with pytest.raises(InstanceError, match="unexpected EOF"):
        rest.feed(b'{"error":"unexpected EOF"}\n')


def test_a_rest_that_thinks_or_calls_tools_is_no_rest() -> None:
    call = call_of(Endpoint.OLLAMA_CHAT)
    before = read_so_far(Endpoint.OLLAMA_CHAT, told_by(call, WORDS).split(b"\n")[0] + b"\n")
    rest = rest_of(call, before, Endpoint.OLLAMA_CHAT)
    frame = {"model": "m", "message": {"role": "assistant", "content": "", "thinking": "hm"}, "done": False}
    with pytest.raises(InstanceError, match="otherwise"):
        rest.feed(orjson.dumps(frame) + b"\n")


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_where_all_tokens_were_told_the_end_says_length_and_no_word_more(endpoint: Endpoint) -> None:
    limit = {"options": {"num_predict": 2}} if endpoint.value.startswith("/api") else {"max_tokens": 2}
    call = call_of(endpoint, **limit)
    frames = told_by(call, WORDS[:2], finish="length")
    shown = _until_end(endpoint, frames)
    before = read_so_far(endpoint, shown)
    following = next_call(call, before)
    assert following.is_full
    rest = rest_of(call, before, following.call.endpoint, is_full=True)
    out = rest.feed(told_by(following.call, ("more",), prompt=9, finish="length"))
    answer = read_answer(endpoint, True, shown + out)
    assert answer is not None
    assert (answer.text, answer.finish, answer.prompt_tokens, answer.completion_tokens) == (
        "".join(WORDS[:2]),
        Finish.LENGTH,
        7,
        2,
    )


def _until_end(endpoint: Endpoint, frames: bytes) -> bytes:
    """The frames that say words, and none of the end."""
    end = b"\n" if endpoint.value.startswith("/api") else b"\n\n"
    shown = b""
    for each in frames.split(end)[:-1]:
        if read_so_far(endpoint, shown + each + end).beside or b"[DONE]" in each:
            break
        shown += each + end
    return shown


def test_a_model_that_says_the_same_again_and_again_is_known_by_it() -> None:
    call = call_of(Endpoint.OLLAMA_CHAT)
    assert read_so_far(Endpoint.OLLAMA_CHAT, told_by(call, (" no",) * REPEATS)).repeats
    assert not read_so_far(Endpoint.OLLAMA_CHAT, told_by(call, ("a",) + (" no",) * (REPEATS - 1))).repeats


def test_a_stream_of_which_nothing_was_said_is_asked_for_as_it_was() -> None:
    for endpoint in ENDPOINTS:
        call = call_of(endpoint)
        begun = told_by(call, WORDS)
        shown = (
            begun[: begun.find(b"\n\n", begun.find(b"content_block_start")) + 2] if b"content_block" in begun else b""
        )
        before = read_so_far(endpoint, shown)
        following = next_call(call, before)
        assert (following.call, before.tokens) == (call, 0)
        out = rest_of(call, before, endpoint).feed(begun)
        answer = read_answer(endpoint, True, shown + out)
        assert answer is not None
        assert answer.text == TEXT
        assert (shown + out).count(b"message_start") == begun.count(b"message_start")


def test_the_answer_that_the_caller_began_is_gone_on_in() -> None:
    call = call_of(Endpoint.OLLAMA_CHAT)
    begun = {"role": "assistant", "content": "Well, "}
    call = Call(call.endpoint, "m", True, {**call.body, "messages": [*call.body["messages"], begun]})
    before = read_so_far(Endpoint.OLLAMA_CHAT, told_by(call, ("one ",)).split(b"\n")[0] + b"\n")
    assert next_call(call, before).call.body["messages"][-1]["content"] == "Well, one "
    assert call.body["messages"][-1]["content"] == "Well, "


def test_a_rest_without_an_end_has_none_here_either() -> None:
    call = call_of(Endpoint.OPENAI_CHAT)
    before = read_so_far(call.endpoint, told_by(call, WORDS).split(b"\n\n")[0] + b"\n\n")
    rest = rest_of(call, before, call.endpoint)
    out = rest.feed(told_by(call, WORDS[1:]).replace(b"data: [DONE]\n\n", b"")) + rest.finish()
    assert not read_end(call.endpoint, True, out).is_whole


# --- what may be continued -------------------------------------------------------------------------------------------


QWEN = "{{ range $i, $_ := .Messages }}{{ .Content }}{{ if not $last }}<|im_end|>{{ end }}{{ end }}"
MISTRAL = "{{ range .Messages }}{{ .Content }}{{- if not (eq (len (slice $.Messages $i)) 1) }}</s>{{ end }}{{ end }}"
CHATML = "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("show", "is_open"),
    [
        ({"template": QWEN}, True),
        ({"template": MISTRAL}, True),
        ({"template": "{{ .System }}{{ .Prompt }}<|end|>{{ .Response }}<|end|>"}, True),
        ({"template": "{{ .Prompt }}"}, True),
        ({"template": CHATML}, False),
        ({"template": "{{ .Prompt }}", "modelfile": "FROM x\nRENDERER qwen3-coder\n"}, True),
        ({"template": QWEN, "modelfile": "FROM x\nRENDERER gemma4\n"}, False),
        ({}, False),
    ],
)
def test_a_template_leaves_the_last_message_open_or_it_does_not(show: dict[str, str], is_open: bool) -> None:
    assert keeps_open(show) is is_open


def test_a_prompt_with_what_has_no_place_in_a_conversation_is_not_continued() -> None:
    show = {"template": QWEN}
    assert why_not(call_of(Endpoint.OLLAMA_GENERATE), show, has_template=True) == ""
    for more in ({"suffix": "x"}, {"template": "{{ .Prompt }}"}, {"context": [1, 2]}):
        assert why_not(call_of(Endpoint.OLLAMA_GENERATE, **more), show, has_template=True) == "prompt"
    own = {**show, "modelfile": "FROM x\nMESSAGE user hello\n"}
    assert why_not(call_of(Endpoint.OLLAMA_GENERATE), own, has_template=True) == "prompt"
    assert why_not(call_of(Endpoint.OLLAMA_GENERATE, raw=True), own, has_template=True) == ""
