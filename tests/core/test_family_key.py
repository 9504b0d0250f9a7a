"""Calls of one family differ in their question and in nothing else: answers go in other words to no others."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from orchestrator.core.cachekey import answer_key, family_key, scope_key
from orchestrator.core.dialects.parse import parse_call
from orchestrator.core.model import Endpoint

SECRET = b"0123456789abcdef"
ONE, OTHER = "what is the limit", "where is the library"


def body(endpoint: Endpoint, text: Any) -> dict[str, Any]:
    if endpoint is Endpoint.OPENAI_RESPONSES:
        return {"model": "m", "input": text}
    if not endpoint.is_chat:
        return {"model": "m", "prompt": text}
    return {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": text}]}


def family(endpoint: Endpoint, asked: dict[str, Any], question: str, tenant: str = "t", target: str = "m") -> str:
    call = parse_call(endpoint, orjson.dumps(asked))
    return family_key(tenant=tenant, target=target, call=call, question=question, secret=SECRET)


WORDS = [each for each in Endpoint if each.is_answered_in_words]


@pytest.mark.parametrize("endpoint", WORDS)
def test_two_questions_are_of_one_family_where_nothing_else_differs(endpoint):
    found = {family(endpoint, body(endpoint, text), text.strip()) for text in (ONE, OTHER, f"{ONE}  \n")}
    assert len(found) == 1
    assert found != {""}


@pytest.mark.parametrize("endpoint", WORDS)
@pytest.mark.parametrize("change", [{"temperature": 0}, {"stop": "."}, {"unheard_of": 1}, {"system": "Be brief."}])
def test_any_other_field_makes_another_family(endpoint, change):
    assert family(endpoint, body(endpoint, ONE), ONE) != family(endpoint, body(endpoint, ONE) | change, ONE)


def test_so_do_the_endpoint_the_tenant_and_the_target():
    chat = body(Endpoint.OLLAMA_CHAT, ONE)
    found = {
        family(Endpoint.OLLAMA_CHAT, chat, ONE),
        family(Endpoint.OPENAI_CHAT, chat, ONE),
        family(Endpoint.OLLAMA_CHAT, chat, ONE, tenant="u"),
        family(Endpoint.OLLAMA_CHAT, chat, ONE, target="n"),
        family(Endpoint.OLLAMA_CHAT, {**chat, "messages": [{"role": "user", "content": ONE, "name": "bob"}]}, ONE),
    }
    assert len(found) == 5


@pytest.mark.parametrize(
    "asked",
    [
        {"messages": [{"role": "user", "content": ONE}], "stop": ONE},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": f"{ONE} 1"}]}]},
    ],
)
def test_a_question_that_stands_in_no_single_place_has_no_family(asked):
    assert family(Endpoint.OPENAI_CHAT, {"model": "m", **asked}, ONE) == ""


def test_a_familys_key_is_no_answers_key_and_a_scopes_name_says_nothing_of_who_it_is():
    call = parse_call(Endpoint.OLLAMA_CHAT, orjson.dumps(body(Endpoint.OLLAMA_CHAT, ONE)))
    assert answer_key(tenant="t", target="m", call=call, secret=SECRET) != family(call.endpoint, dict(call.body), ONE)
    names = {scope_key(tenant=tenant, secret=secret) for tenant in ("", "t") for secret in (SECRET, b"another")}
    assert len(names) == 4
