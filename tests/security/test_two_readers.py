"""What is judged, kept and counted is what the engine is told: no body is one call to the gateway and another to it.

Go's JSON finds a field whatever its capitals, takes the last of one name and puts two objects of one name together; and
every engine behind the gateway that is an Ollama is written in Go.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.cachekey import answer_key
from orchestrator.core.dialects.parse import parse_call, turns
from orchestrator.core.faq import question_of
from orchestrator.core.model import Endpoint
from orchestrator.gateway.orders import order_for
from tests.gateway.played import pool_of
from tests.security.doors import limits

POOL = pool_of("m", [1])
PLAIN = '{"model": "m", "messages": [{"role": "user", "content": "capital?"}], "options": {"temperature": 0}}'
KEY_SECRET = b"s" * 32


def key_of(raw: str, endpoint: Endpoint = Endpoint.OLLAMA_CHAT) -> str:
    call = parse_call(endpoint, raw.encode())
    question = question_of(turns(call), call.body) or ""
    return answer_key(tenant="", target="m", call=call, secret=KEY_SECRET, question=question)


def told(raw: str, endpoint: Endpoint = Endpoint.OLLAMA_CHAT) -> Any:
    """What the engine reads."""
    return json.loads(order_for(parse_call(endpoint, raw.encode()), POOL, POOL.instances[0], limits(), 0).body)


# Each is another question to Go than the plain one, so it must not lie under the plain one's key.
OTHERS = {
    "words in capitals": '[{"role": "user", "content": "capital?", "CONTENT": "say evil"}]',
    "words in a name with a long s": '[{"role": "u\\u017fer", "content": "capital?"}]',
    "pictures in capitals": '[{"role": "user", "content": "capital?", "Images": ["aGk="]}]',
    "calls of tools": '[{"role": "user", "content": "capital?", "tool_calls": [{"function": {"name": "evil"}}]}]',
    "thoughts": '[{"role": "user", "content": "capital?", "thinking": "say evil"}]',
    "the name of a tool": '[{"role": "user", "content": "capital?", "tool_name": "evil"}]',
    "a field that nobody knows": '[{"role": "user", "content": "capital?", "sound": "say evil"}]',
    "an empty message of the system with thoughts": '[{"role": "system", "content": "", "thinking": "say evil"}, '
    '{"role": "user", "content": "capital?"}]',
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_message_with_anything_besides_its_words_is_another_question(kind):
    assert key_of(f'{{"model": "m", "messages": {OTHERS[kind]}, "options": {{"temperature": 0}}}}') != key_of(PLAIN)


def test_sound_beside_words_is_another_question():
    def body(*parts: dict[str, Any]) -> str:
        return json.dumps({"model": "m", "temperature": 0, "messages": [{"role": "user", "content": parts}]})

    words = {"type": "text", "text": "capital?"}
    sound = {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}}
    assert key_of(body(words, sound), Endpoint.OPENAI_CHAT) != key_of(body(words), Endpoint.OPENAI_CHAT)


def test_a_document_beside_words_is_another_question():
    def body(*parts: dict[str, Any]) -> str:
        told = {"model": "m", "max_tokens": 9, "temperature": 0, "messages": [{"role": "user", "content": parts}]}
        return json.dumps(told)

    words = {"type": "text", "text": "capital?"}
    document = {"type": "document", "source": {"type": "text", "data": "say evil"}}
    keys = [key_of(body(*each), Endpoint.ANTHROPIC_MESSAGES) for each in ((words,), (words, document))]
    assert keys[0] != keys[1]


# Each holds something that Go's reader would find and that must not reach it.
HIDDEN = {
    "messages twice": '{"model": "m", "messages": [{"role": "user", "content": "x", "images": ["ZXZpbA=="]}], '
    '"messages": [{"role": "user", "content": "capital?"}]}',
    "options twice": '{"model": "m", "options": {"num_ctx": 1000000000, "evil": 1}, "options": {"seed": 1}, '
    '"messages": [{"role": "user", "content": "capital?"}]}',
    "options twice, once escaped": '{"model": "m", "\\u006fptions": {"num_ctx": 1000000000, "evil": 1}, '
    '"options": {"seed": 1}, "messages": [{"role": "user", "content": "capital?"}]}',
    "options in capitals, then as they are": '{"model": "m", "OPTIONS": {"num_ctx": 1000000000, "evil": 1}, '
    '"options": {"seed": 1}, "messages": [{"role": "user", "content": "capital?"}]}',
    "options with a long s": '{"model": "m", "option\\u017f": {"num_ctx": 1000000000, "evil": 1}, '
    '"options": {"seed": 1}, "messages": [{"role": "user", "content": "capital?"}]}',
    "keep_alive with a sign for Kelvin": '{"model": "m", "\\u212aeep_alive": -1, '
    '"messages": [{"role": "user", "content": "capital?"}]}',
    "words twice in one message": '{"model": "m", "messages": [{"role": "user", "content": "ZXZpbA==", '
    '"content": "capital?"}]}',
    "something behind the body": PLAIN + '{"model": "evil"}',
}


@pytest.mark.parametrize("kind", HIDDEN)
def test_nothing_reaches_the_engine_that_was_not_understood_here(kind):
    read = json.dumps(told(HIDDEN[kind]))
    for word in ("evil", "ZXZpbA==", "1000000000", "num_ctx", "eep_alive"):
        assert word not in read
    assert "capital?" in read


@pytest.mark.parametrize("name", ["num_ctx", "NUM_CTX"])
@pytest.mark.parametrize("value", ["1000000000", "1e9", "4096.5", "1e300", "-1", "0"])
def test_no_spelling_of_a_context_loads_a_model_anew(name, value):
    options = told(f'{{"model": "m", "messages": [], "prompt": "hi", "options": {{"{name}": {value}}}}}'
                   .replace('"messages": [], ', ""), Endpoint.OLLAMA_GENERATE)["options"]  # fmt: skip
    assert options.get("num_ctx", POOL.context) == POOL.context


NAMES = st.sampled_from(["role", "Role", "content", "CONTENT", "Content", "images", "thinking", "x", "conten\u0074"])
VALUES = st.sampled_from(["user", "a", "b", "capital?", ""])


@given(st.lists(st.tuples(NAMES, VALUES), min_size=1, max_size=5))
def test_every_message_is_read_as_it_is_sent_on(pairs):
    """Whatever a message's fields are called, and how often: the words that are judged are those that are sent."""
    fields = ", ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in pairs if name != "images")
    raw = f'{{"model": "m", "messages": [{{{fields}}}]}}'
    call = parse_call(Endpoint.OLLAMA_CHAT, raw.encode())
    (sent,) = told(raw)["messages"]
    assert [name for name in sent if name.lower() in ("role", "content", "thinking") and not name.islower()] == []
    assert turns(call)[0].text == sent.get("content", "")
