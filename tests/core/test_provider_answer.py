"""What a provider answers, told to a caller of any dialect; and whose trouble its errors are.

The streams are written as the providers' API references show theirs: each has its own place for thoughts and counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from dialects_recordings import answers

from orchestrator.core.dialects.outcome import read_answer, read_end
from orchestrator.core.dialects.parse import parse_call
from orchestrator.core.dialects.provider_answer import Blame, PassedOn, ProviderTranslator, Used, fault_of
from orchestrator.core.model import Call, Endpoint, Finish

NOW = datetime(2026, 1, 2, tzinfo=UTC)
HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "big"}
USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 9,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 16},
    "completion_tokens_details": {"reasoning_tokens": 4},
}
WORDED = (
    Endpoint.OLLAMA_CHAT,
    Endpoint.OLLAMA_GENERATE,
    Endpoint.OPENAI_CHAT,
    Endpoint.OPENAI_COMPLETIONS,
    Endpoint.OPENAI_RESPONSES,
    Endpoint.ANTHROPIC_MESSAGES,
)


def call_to(endpoint: Endpoint, *, stream: bool, **more: Any) -> Call:
    said = [{"role": "user", "content": "Why?"}]
    body: dict[str, Any] = {"model": "auto", "input": "Why?", "max_tokens": 50, "stream": stream}
    if endpoint is not Endpoint.OPENAI_RESPONSES:
        body |= {"messages": said, "prompt": "Why?"}
    return parse_call(endpoint, orjson.dumps(body | more))


def reader(call: Call) -> PassedOn | ProviderTranslator:
    is_openai = call.endpoint is Endpoint.OPENAI_CHAT
    return PassedOn(call) if is_openai else ProviderTranslator(call, "big", lambda: NOW)


def events(*frames: dict[str, Any], done: bool = True) -> bytes:
    told = b"".join(b"data: " + orjson.dumps(HEAD | frame) + b"\n\n" for frame in frames)
    return told + (b"data: [DONE]\n\n" if done else b"")


def delta(finish: str | None = None, **part: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": part, "finish_reason": finish}]}


def told(call: Call, data: bytes) -> tuple[bytes, PassedOn | ProviderTranslator]:
    """What the caller gets of the provider's bytes, which come cut at every place."""
    made = reader(call)
    out = b"".join(made.feed(data[at : at + 1]) for at in range(len(data)))
    return out + made.finish(), made


STREAM = events(
    delta(role="assistant", reasoning_content="hm"),
    delta(content="Be"),
    delta(content="cause"),
    delta("stop"),
    {"choices": [], "usage": USAGE},
)
BODY = orjson.dumps(
    HEAD
    | {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Because"}, "finish_reason": "stop"}],
        "usage": USAGE,
    }
)


@pytest.mark.parametrize("endpoint", WORDED)
@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_is_whole_and_the_same_in_every_dialect_and_its_counts_are_the_providers(endpoint, stream):
    call = call_to(endpoint, stream=stream)
    out, made = told(call, STREAM if stream else BODY)
    answer = read_answer(endpoint, stream, out)
    assert answer is not None
    assert answer.text == "Because"
    assert answer.finish is Finish.STOP
    assert made.meter.used == Used(prompt=20, completion=9, reasoning=4, cached=16)


@pytest.mark.parametrize("endpoint", WORDED)
def test_a_stream_that_is_cut_never_passes_for_a_whole_one(endpoint):
    for at in range(0, len(STREAM) - len(b"data: [DONE]\n\n") - 300, 7):
        out, _ = told(call_to(endpoint, stream=True), STREAM[:at])
        assert not read_end(endpoint, True, out).is_whole, at


def test_thoughts_come_as_thinking_wherever_the_provider_puts_them():
    mistrals = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "yes"}]
    for part in ({"reasoning": "hm", "content": "yes"}, {"reasoning_content": "hm", "content": "yes"},
                 {"content": mistrals}):  # fmt: skip
        out, _ = told(call_to(Endpoint.OLLAMA_CHAT, stream=True), events(delta("stop", **part)))
        answer = read_answer(Endpoint.OLLAMA_CHAT, True, out)
        assert answer is not None
        assert (answer.thinking, answer.text) == ("hm", "yes"), part


@pytest.mark.parametrize("endpoint", [Endpoint.OLLAMA_CHAT, Endpoint.ANTHROPIC_MESSAGES, Endpoint.OPENAI_RESPONSES])
def test_tool_calls_in_pieces_are_told_whole(endpoint):
    def piece(index: int, **function: str) -> dict[str, Any]:
        named = {"id": f"call_{index}", "type": "function"} if "name" in function else {}
        return {"tool_calls": [{"index": index, "function": function} | named]}

    frames = [
        delta(**piece(0, name="weather", arguments="")),
        delta(**piece(0, arguments='{"city": "An')),
        delta(**piece(0, arguments='kara"}')),
        delta(**piece(1, name="time", arguments="{}")),
        delta("tool_calls"),
    ]
    out, _ = told(call_to(endpoint, stream=True), events(*frames))
    answer = read_answer(endpoint, True, out)
    assert answer is not None
    assert [(each.name, dict(each.arguments)) for each in answer.tool_calls] == [
        ("weather", {"city": "Ankara"}),
        ("time", {}),
    ]


def test_counts_are_found_in_a_last_choice_and_where_groq_has_them():
    for frame in (delta("stop") | {"usage": USAGE}, delta("stop") | {"x_groq": {"usage": USAGE}}):
        for endpoint in (Endpoint.OLLAMA_CHAT, Endpoint.OPENAI_CHAT):
            out, made = told(call_to(endpoint, stream=True), events(delta(content="yes"), frame))
            assert made.meter.used == Used(20, 9, 4, 16)
            assert read_end(endpoint, True, out).is_whole


def test_a_caller_of_openais_sees_counts_only_if_they_asked_for_them():
    plain, _ = told(call_to(Endpoint.OPENAI_CHAT, stream=True), STREAM)
    asked, _ = told(call_to(Endpoint.OPENAI_CHAT, stream=True, stream_options={"include_usage": True}), STREAM)
    assert b"usage" not in plain
    assert b'"prompt_tokens":20' in asked
    last, _ = told(call_to(Endpoint.OPENAI_CHAT, stream=True), events(delta("stop") | {"usage": USAGE}))
    assert b"usage" not in last
    assert b'"finish_reason":"stop"' in last


def test_a_caller_of_openais_gets_all_that_the_provider_said_besides():
    frame = delta(content="yes", annotations=[1]) | {"system_fingerprint": "fp", "service_tier": "x"}
    out, _ = told(call_to(Endpoint.OPENAI_CHAT, stream=True), events(frame, delta("stop")))
    first = orjson.loads(out.split(b"\n\n")[0].removeprefix(b"data: "))
    assert first == HEAD | frame


def test_comments_that_keep_a_connection_open_are_not_passed_on():
    data = b": OPENROUTER PROCESSING\n\n" + STREAM
    for endpoint in (Endpoint.OPENAI_CHAT, Endpoint.OLLAMA_CHAT):
        out, _ = told(call_to(endpoint, stream=True), data)
        assert b"OPENROUTER" not in out
        assert read_end(endpoint, True, out).is_whole


@pytest.mark.parametrize("endpoint", WORDED)
def test_an_error_within_a_stream_is_an_error_in_the_callers_dialect(endpoint):
    for broken in ({"error": {"message": "overloaded", "code": 502}}, delta("error") | {"error": "overloaded"}):
        out, _ = told(call_to(endpoint, stream=True), events(delta(content="yes"), broken))
        end = read_end(endpoint, True, out)
        assert not end.is_whole
        assert end.error is not None
        assert "overloaded" in end.error


def test_a_stream_that_told_its_end_and_then_lacks_done_is_whole():
    for endpoint in (Endpoint.OPENAI_CHAT, Endpoint.OLLAMA_CHAT, Endpoint.ANTHROPIC_MESSAGES):
        out, _ = told(call_to(endpoint, stream=True), events(delta(content="yes"), delta("stop"), done=False))
        assert read_end(endpoint, True, out).is_whole


def test_of_a_stream_that_is_cut_before_its_counts_the_letters_are_counted():
    for endpoint in (Endpoint.OPENAI_CHAT, Endpoint.OLLAMA_CHAT):
        _, made = told(call_to(endpoint, stream=True), events(delta(content="x" * 40), done=False))
        assert made.meter.used is None
        assert made.meter.heard_tokens == 10


# --- errors ----------------------------------------------------------------------------------------------------------


def words(message: Any, **more: Any) -> bytes:
    return orjson.dumps({"error": {"message": message, **more}})


@pytest.mark.parametrize(
    ("status", "body", "blame"),
    [
        (401, words("Incorrect API key provided: sk-1"), Blame.KEY),
        (402, words("Insufficient credits"), Blame.KEY),
        (403, words("no access"), Blame.KEY),
        (400, b'[{"error": {"code": 400, "message": "API key not valid. Please pass one."}}]', Blame.KEY),
        (429, words("slow down"), Blame.BUSY),
        (429, words("You exceeded your current quota", code="insufficient_quota"), Blame.KEY),
        (404, words("The model `x` does not exist", code="model_not_found"), Blame.MODEL),
        (400, words("x is not a valid model ID"), Blame.MODEL),
        (400, orjson.dumps({"object": "error", "message": "Invalid model: x", "code": "1500"}), Blame.MODEL),
        (500, b"oops", Blame.PROVIDER),
        (503, b"", Blame.PROVIDER),
        (408, b"", Blame.PROVIDER),
        (302, b"", Blame.PROVIDER),
        (400, words("'temperature' must be below 2"), Blame.CALLER),
        (413, words("too large"), Blame.CALLER),
        (422, orjson.dumps({"detail": [{"loc": ["body"], "msg": "Extra inputs are not permitted"}]}), Blame.CALLER),
    ],
)
def test_an_error_is_of_who_can_act_on_it(status, body, blame):
    fault = fault_of(Endpoint.OLLAMA_CHAT, status, body)
    assert fault.blame is blame
    assert (fault.mistake is not None) is (blame is Blame.CALLER)


def test_the_callers_mistake_is_told_in_the_providers_words():
    detail = orjson.dumps({"detail": [{"msg": "Extra inputs are not permitted"}, {"msg": "Field required"}]})
    mistake = fault_of(Endpoint.OLLAMA_CHAT, 422, detail).mistake
    assert mistake is not None
    assert (mistake.status, mistake.message) == (422, "Extra inputs are not permitted; Field required")


def test_anthropics_clients_are_told_of_a_long_prompt_in_the_words_they_know():
    mistake = fault_of(Endpoint.ANTHROPIC_MESSAGES, 400, words("maximum context length is 8192 tokens")).mistake
    assert mistake is not None
    assert mistake.message.startswith("prompt is too long")


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"[[]]", b'{"error": 3}', b'{"error": null}', b"\xff<html>"])
def test_whatever_an_error_says_it_is_read(body):
    for status in (400, 401, 404, 429, 500):
        assert fault_of(Endpoint.OPENAI_CHAT, status, body).blame in Blame


def _each(lines: Iterable[bytes]) -> list[Any]:
    return [orjson.loads(line) for line in lines if line]


def test_an_ollama_caller_gets_ollamas_frames_and_the_counts_in_the_last():
    out, _ = told(call_to(Endpoint.OLLAMA_CHAT, stream=True), STREAM)
    *parts, last = _each(out.split(b"\n"))
    assert [each["message"].get("thinking") or each["message"]["content"] for each in parts] == ["hm", "Be", "cause"]
    assert last["done"] is True
    assert (last["prompt_eval_count"], last["eval_count"], last["model"]) == (20, 9, "big")


# --- as a real server of OpenAI's chat has written it ----------------------------------------------------------------


@pytest.mark.parametrize("endpoint", WORDED)
def test_what_a_real_server_of_this_api_has_answered_is_told_as_it_was_meant(endpoint):
    """Recorded from Ollama's own OpenAI paths: an Ollama may be a provider, too."""
    compared = 0
    for each in (*answers(Endpoint.OPENAI_CHAT, "stream"), *answers(Endpoint.OPENAI_CHAT, "body")):
        meant = read_answer(each.endpoint, each.is_stream, each.body)
        if meant is None:
            continue
        out, made = told(call_to(endpoint, stream=each.is_stream), each.body)
        answer = read_answer(endpoint, each.is_stream, out)
        assert answer is not None, each.name
        assert answer.text == meant.text, each.name
        if endpoint is not Endpoint.OPENAI_COMPLETIONS:  # which has no place for thoughts and calls
            assert (answer.thinking, answer.tool_calls) == (meant.thinking, meant.tool_calls), each.name
            if endpoint is not Endpoint.OPENAI_RESPONSES:  # Ollama's say nothing of an answer's length
                assert answer.finish == meant.finish, each.name
        if meant.prompt_tokens:
            assert made.meter.used is not None
            assert made.meter.used[:2] == (meant.prompt_tokens, meant.completion_tokens), each.name
        compared += 1
    assert compared >= 8
