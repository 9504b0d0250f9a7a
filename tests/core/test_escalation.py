"""When an answer is not good enough: each condition, at an answer's beginning and at its end."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.answer_form import ANY_JSON, has_form, wanted_form
from orchestrator.core.confidence import Calibration, Point
from orchestrator.core.escalation import (
    Conditions,
    Reason,
    Said,
    Watch,
    judge_beginning,
    judge_whole,
    threshold_from,
)
from orchestrator.core.model import Call, Endpoint

# As likely as exp(statistic) says, to keep the sums in one's head.
CURVE = (Point(-4.0, 0.2), Point(0.0, 1.0))
CALIBRATION = Calibration("mean", CURVE, CURVE, 3)
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def watch(**conditions: Any) -> Watch:
    return Watch("r", Conditions(**conditions), hold_tokens=3, calibration=CALIBRATION)


def reason(said: Said, form: Any = None, **conditions: Any) -> Reason | None:
    doubt = judge_whole(watch(**conditions), said, form).doubt
    return None if doubt is None else doubt.reason


def test_the_conditions_of_a_whole_answer():
    sure, unsure = (-0.1, -0.1), (-3.9, -3.9)
    tools = threshold_from("> 1")
    cases: list[tuple[Said, Any, dict[str, Any], Reason | None]] = [
        (Said("yes", sure, finish="stop"), None, {"confidence_below": 0.85}, None),
        (Said("yes", unsure, finish="stop"), None, {"confidence_below": 0.85}, Reason.CONFIDENCE),
        (Said("yes", (), finish="stop"), None, {"confidence_below": 0.85}, None),
        (Said("yes", unsure, finish="stop"), None, {"refusal": True}, None),
        (Said("I can't help with that.", sure, finish="stop"), None, {"refusal": True}, Reason.REFUSAL),
        (Said("yes", finish="length"), None, {"length_cut": True}, Reason.LENGTH),
        (Said("yes", finish="stop"), None, {"length_cut": True}, None),
        (Said("yes", finish="stop"), SCHEMA, {"schema_invalid": True}, Reason.SCHEMA),
        (Said('{"n": "1"}', finish="stop"), SCHEMA, {"schema_invalid": True}, Reason.SCHEMA),
        (Said(' {"n": 1}\n', finish="stop"), SCHEMA, {"schema_invalid": True}, None),
        (Said("yes", finish="stop"), None, {"schema_invalid": True}, None),
        (Said("", tool_calls=1, finish="tool_calls"), SCHEMA, {"schema_invalid": True}, None),
        (Said("", tool_calls=1, finish="tool_calls"), None, {"tools_needed": tools}, None),
        (Said("", tool_calls=2, finish="tool_calls"), None, {"tools_needed": tools}, Reason.TOOLS),
        (Said("", tool_calls=2, finish="tool_calls"), None, {}, None),
    ]
    for said, form, conditions, wanted in cases:
        assert reason(said, form, **conditions) is wanted, (said, conditions)


def test_a_beginning_is_judged_by_what_can_be_known_by_then():
    every = watch(confidence_below=0.85, refusal=True, schema_invalid=True, length_cut=True)
    assert judge_beginning(every, Said("Well", (-0.1, -0.1, -0.1, -4.0))).doubt is None
    unsure = judge_beginning(every, Said("Well", (-4.0, -3.0, -4.0))).doubt
    assert unsure is not None
    assert (unsure.reason, unsure.why) == (Reason.CONFIDENCE, "confidence 0.27, below 0.85")
    refused = judge_beginning(every, Said("As an AI language model, I", (-0.1,) * 3)).doubt
    assert refused is not None
    assert refused.reason is Reason.REFUSAL


def test_a_doubt_says_how_sure_the_answer_was_whatever_it_is_doubted_for():
    judged = judge_whole(watch(confidence_below=0.1, length_cut=True), Said("x", (-2.0,), finish="length"), None)
    assert judged.doubt is not None
    assert (judged.doubt.reason, judged.doubt.confidence) == (Reason.LENGTH, pytest.approx(0.6))


@given(st.lists(st.floats(-8, 0), min_size=1, max_size=30), st.floats(0.01, 1))
def test_who_asks_for_more_confidence_doubts_no_less(logprobs, below):
    said = Said("x", logprobs, finish="stop")
    if reason(said, confidence_below=below) is not None:
        assert reason(said, confidence_below=min(1.0, below + 0.1)) is not None


@given(st.lists(st.floats(-8, 0), min_size=1, max_size=30), st.data())
def test_an_answer_that_is_surer_of_each_token_is_doubted_no_more(logprobs, data):
    surer = [data.draw(st.floats(each, 0)) for each in logprobs]
    if reason(Said("x", logprobs, finish="stop"), confidence_below=0.6) is None:
        assert reason(Said("x", surer, finish="stop"), confidence_below=0.6) is None


def test_comparisons_are_read_as_they_are_written():
    table = {">1": "> 1", " >= 2 ": ">= 2", "3": "== 3", "!= 0": "!= 0", "=1": "= 1", "<  4": "< 4", "<= 4": "<= 4"}
    for written, told in table.items():
        assert str(threshold_from(written)) == told
    for count, holds in ((0, False), (1, False), (2, True)):
        assert threshold_from("> 1").holds(count) is holds
    for wrong in ("", ">", "many", "> 1.5", "> -1", "1 <", "=> 1"):
        with pytest.raises(ValueError, match="comparison"):
            threshold_from(wrong)


def test_a_watch_that_only_waits_judges_no_answer():
    assert not Conditions(timeout_s=3).judges_answers
    assert replace(Conditions(), refusal=True).judges_answers


# --- the form of an answer --------------------------------------------------------------------------------------------


def test_the_form_is_read_from_every_dialect():
    named = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
    text = {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}}
    asked: list[tuple[Endpoint, dict[str, Any], Any]] = [
        (Endpoint.OLLAMA_CHAT, {"format": SCHEMA}, SCHEMA),
        (Endpoint.OLLAMA_CHAT, {"format": "json"}, ANY_JSON),
        (Endpoint.OLLAMA_GENERATE, {"format": ""}, None),
        (Endpoint.OPENAI_CHAT, {"response_format": named}, SCHEMA),
        (Endpoint.OPENAI_CHAT, {"response_format": {"type": "json_object"}}, ANY_JSON),
        (Endpoint.OPENAI_CHAT, {"response_format": {"type": "text"}}, None),
        (Endpoint.OPENAI_CHAT, {}, None),
        (Endpoint.OPENAI_RESPONSES, {"input": "x", "text": text}, SCHEMA),
    ]
    for endpoint, body, wanted in asked:
        body = {"model": "m", "messages": [], **body}
        assert wanted_form(Call(endpoint, "m", False, body)) == wanted, (endpoint, body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abn"), inner, max_size=3),
    max_leaves=6,
)
PLAIN_SCHEMAS = st.recursive(
    st.sampled_from([{}, {"type": "integer"}, {"type": "string", "maxLength": 2}, {"enum": [1, "a"]}, {"const": None}]),
    lambda inner: st.one_of(
        st.builds(lambda of: {"type": "array", "items": of, "maxItems": 2}, inner),
        st.builds(lambda of: {"type": "object", "properties": {"a": of}, "required": ["a"]}, inner),
        st.builds(lambda *of: {"anyOf": list(of)}, inner, inner),
    ),
    max_leaves=4,
)


@given(PLAIN_SCHEMAS, JSON)
def test_a_value_fits_as_the_standards_own_validator_says(schema, value):
    wanted = jsonschema.Draft202012Validator(schema).is_valid(value)
    assert has_form(json.dumps(value), schema) is wanted


def test_a_schema_can_make_no_check_slow_and_ask_nobody():
    assert has_form('"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"', {"type": "string", "pattern": "^(a+)+$"})
    assert has_form('{"a": 1}', {"patternProperties": {"^(a+)+$": {"type": "string"}}})
    assert has_form("1", {"$ref": "http://127.0.0.1:9/schema.json"})
    assert has_form("1", {"type": "no such type"})
    assert not has_form("[" * 100_000, ANY_JSON)
    itself = {"$ref": "#"}
    assert not has_form("1", itself)
