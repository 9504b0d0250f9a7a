"""A route takes the calls that have all that its match says, and of several routes the first."""

from __future__ import annotations

import pytest

from orchestrator.core.matching import Looked, Match, conditions, failing, first_match
from orchestrator.core.model import Call, Endpoint
from orchestrator.core.patterns import WINDOW, compile_pattern, is_like


def looked(text="What is the capital of France?", *, model="auto", is_for_route=True, headers=None, **body):
    told = {"model": model, "messages": [{"role": "user", "content": text}], **body}
    call = Call(Endpoint.OPENAI_CHAT, model, False, told)
    sent = {name.lower().encode(): value.encode() for name, value in (headers or {}).items()}
    return Looked(call, "/v1/chat/completions", "support-1", sent, is_for_route=is_for_route)


TOOL = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
PICTURE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}]


@pytest.mark.parametrize(
    ("match", "call", "holds"),
    [
        (Match(), looked(), True),
        (Match(), looked(is_for_route=False), False),
        (Match(models=("gpt-4*",)), looked(model="GPT-4o", is_for_route=False), True),
        (Match(models=("gpt-4*",)), looked(model="qwen3:8b", is_for_route=False), False),
        (Match(models=("x", "q*")), looked(model="qwen3:8b", is_for_route=False), True),
        (Match(headers=(("X-Team", "support*"),)), looked(headers={"x-team": "Support-EU"}), True),
        (Match(headers=(("X-Team", "support*"),)), looked(headers={"x-team": "sales"}), False),
        (Match(headers=(("X-Team", "*"),)), looked(), False),
        (Match(keys=("support-*",)), looked(), True),
        (Match(keys=("sales",)), looked(), False),
        (Match(paths=("/v1/*",)), looked(), True),
        (Match(paths=("/api/*",)), looked(), False),
        (Match(text=compile_pattern("(?i)FRANCE|fransa")), looked(), True),
        (Match(text=compile_pattern("(?i)FRANCE|fransa")), looked("Capital of Peru?"), False),
        (Match(tokens_from=100), looked("word " * 100), True),
        (Match(tokens_from=100), looked(), False),
        (Match(tokens_to=100), looked(), True),
        (Match(tokens_to=100), looked("word " * 100), False),
        (Match(has_tools=True), looked(tools=TOOL), True),
        (Match(has_tools=True), looked(), False),
        (Match(has_tools=False), looked(), True),
        (Match(has_schema=True), looked(response_format={"type": "json_object"}), True),
        (Match(has_schema=False), looked(response_format={"type": "json_object"}), False),
        (Match(has_images=True), looked(messages=PICTURE), True),
        (Match(has_images=True), looked(), False),
        (Match(languages=("tr",)), looked("İstanbul'un nüfusu nedir?"), True),
        (Match(languages=("tr",)), looked(), False),
        (Match(languages=("other",)), looked("Wie hoch ist der Kölner Dom?"), True),
        (Match(keys=("support-*",), has_tools=True), looked(), False),
        (Match(keys=("support-*",), has_tools=True), looked(tools=TOOL), True),
    ],
)
def test_a_match_holds_where_the_call_has_all_that_it_says(match, call, holds):
    assert (failing(match, call) == "") is holds


def test_what_fails_is_named_as_the_settings_name_it():
    assert failing(Match(keys=("sales",), languages=("tr",)), looked()) == "key"
    assert failing(Match(languages=("tr",)), looked()) == "language"
    assert [*conditions(Match(keys=("a",), tokens_to=5, has_tools=False))] == ["key", "tools", "tokens"]


def test_the_first_route_whose_match_holds_takes_the_call():
    matches = [("b", Match(languages=("tr",))), ("a", Match()), ("c", Match(keys=("*",)))]
    assert first_match(matches, looked()) == "a"
    assert first_match(matches[:1], looked()) is None


def test_only_the_last_text_of_the_user_is_read():
    turns = [
        {"role": "user", "content": "an invoice"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "thanks"},
    ]
    match = Match(text=compile_pattern("invoice"))
    assert failing(match, looked(messages=turns)) == "text"
    assert failing(match, looked(messages=turns[:2])) == ""


@pytest.mark.parametrize("pattern", ["(?=x)", r"(a)\1", "(a", "x{1000}{1000}{100}", "*"])
def test_a_pattern_that_may_take_for_ever_or_is_none_is_refused_with_a_reason(pattern):
    with pytest.raises(ValueError, match=r"\w"):
        compile_pattern(pattern)


def test_a_pattern_made_to_take_for_ever_takes_no_time_on_a_text_made_for_it():
    assert not compile_pattern("^(a+)+$")("a" * (2 * WINDOW - 1) + "b")


def test_of_a_long_text_both_ends_are_read():
    has = compile_pattern("needle")
    assert has("needle" + "x" * 10 * WINDOW)
    assert has("x" * 10 * WINDOW + "needle")
    assert not has("x" * 5 * WINDOW + "needle" + "x" * 5 * WINDOW)


@pytest.mark.parametrize(
    ("text", "glob", "is_so"),
    [
        ("GPT-4o", "gpt-4*", True),
        ("gpt-4o", "gpt-4", False),
        ("llama3.1:8b", "llama?.[12]:*", True),
        ("a\nb", "a*b", True),
        ("a" * 5000, "*a*a*a*a*a*a*a*b", False),
    ],
)
def test_globs_know_no_capitals_and_go_over_a_text_once(text, glob, is_so):
    assert is_like(text, glob) is is_so
