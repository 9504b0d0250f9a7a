"""By which name a conversation's next call finds the instance that has read the conversation so far."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from orchestrator.core.dialects.parse import parse_call
from orchestrator.core.model import Endpoint
from orchestrator.core.prefix import Prefix, prefix_of

CHATS = ("/api/chat", "/v1/chat/completions", "/v1/messages", "/v1/responses")
SYSTEM = "Be brief."


def named(path: str, turns: list[Any], system: str = SYSTEM) -> Prefix:
    body: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": turns}
    if path == "/v1/messages":
        body["system"] = system
    elif path == "/v1/responses":
        body = {"model": "m", "input": turns, "instructions": system}
    else:
        body["messages"] = [{"role": "system", "content": system}, *turns]
    return prefix_of(parse_call(Endpoint(path), json.dumps(body).encode()))


def said(*texts: str) -> list[Any]:
    """Question, answer, question and so on."""
    return [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]


@pytest.mark.parametrize("path", CHATS)
def test_each_call_looks_for_what_the_one_before_it_left(path):
    texts = [f"turn {at} " + "x" * 40 * at for at in range(41)]
    calls = [named(path, said(*texts[:count])) for count in range(1, 42, 2)]
    for before, after in itertools.pairwise(calls):
        assert after.sought == before.left
        assert after.left != before.left
    assert len({each.left for each in calls}) == len(calls)


@pytest.mark.parametrize("path", CHATS)
def test_conversations_that_began_alike_part_with_their_first_different_question(path):
    one, other = named(path, said("q", "a", "why?")), named(path, said("q", "a", "how?"))
    assert one.sought == other.sought
    assert one.left != other.left
    assert named(path, said("q", "a", "why?", "b", "and?")).sought == one.left
    assert named(path, said("q", "a", "how?", "b", "and?")).sought == other.left


@pytest.mark.parametrize("path", CHATS)
def test_a_first_question_looks_for_whoever_was_asked_the_same(path):
    assert named(path, said("q")).sought == named(path, said("q")).left
    assert named(path, said("q")).left != named(path, said("p")).left
    assert named(path, said("q")).left != named(path, said("q"), system="Be long.").left


def test_the_results_of_tools_look_for_the_call_that_asked_for_them():
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    asks = {"role": "assistant", "content": None, "tool_calls": [call]}
    results = [{"role": "tool", "tool_call_id": "c", "content": text} for text in ("1", "2")]
    asked = named("/v1/chat/completions", said("q"))
    assert named("/v1/chat/completions", [*said("q"), asks, *results]).sought == asked.left
    use = {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {}}]}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "1"}]}
    assert named("/v1/messages", [*said("q"), use, result]).sought == named("/v1/messages", said("q")).left
    made = [
        {"type": "reasoning", "id": "r", "summary": []},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    ]
    given = {"type": "function_call_output", "call_id": "c", "output": "1"}
    assert named("/v1/responses", [*said("q"), *made, given]).sought == named("/v1/responses", said("q")).left


def test_a_greeting_that_the_client_put_first_was_never_asked():
    for path in ("/api/chat", "/v1/messages"):
        greeted = named(path, [{"role": "assistant", "content": "Hello!"}, *said("q")])
        assert greeted.sought == greeted.left


def test_long_turns_are_told_apart_by_their_ends_and_their_length():
    long = "x" * 5000
    names = {named("/api/chat", said(text)).left for text in (long, long + "y", "y" + long[1:], long[:-1] + "y")}
    assert len(names) == 4


def test_marks_beside_the_text_make_no_other_conversation():
    marked = [{"type": "text", "text": "q", "cache_control": {"type": "ephemeral"}}]
    assert named("/v1/messages", [{"role": "user", "content": marked}]) == named("/v1/messages", said("q"))


@pytest.mark.parametrize("path", ["/api/generate", "/api/embed", "/v1/completions"])
def test_what_is_no_conversation_has_no_name(path):
    body = json.dumps({"model": "m", "prompt": "q", "input": "q"}).encode()
    assert prefix_of(parse_call(Endpoint(path), body)) == ("", "")


@pytest.mark.parametrize(
    "turn", [{"role": "user", "content": "\ud800"}, {"role": "user"}, {"type": ["x"], "content": "q"}, None]
)
@pytest.mark.parametrize("before", [[], [{"role": "user", "content": "q"}]])
def test_odd_turns_have_names_too(turn, before):
    raw = json.dumps({"model": "m", "messages": [*before, turn]}).encode()
    assert prefix_of(parse_call(Endpoint("/api/chat"), raw)).left
