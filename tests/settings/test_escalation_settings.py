"""What an answer is doubted for, as it is written: in the owner's words, and every mistake with its line and field."""

from __future__ import annotations

import pytest

from orchestrator.app.rules import rules_from
from orchestrator.core.errors import SettingsError
from orchestrator.core.escalation import Conditions, Threshold
from orchestrator.settings import parse

TIERS = "models: {a: {}, b: {}}\ntiers:\n  small: {model: a, backup: full}\n  full: {model: b}\nroutes:\n"
OWNERS = """
  support-triage:
    primary: small
    escalate_to: full
    escalate_if:
      - confidence_below: 0.85
      - schema_invalid: true
      - tools_needed: "> 1"
"""


def test_the_owners_route_is_read_as_it_is_written():
    route = rules_from(parse(TIERS + OWNERS, "cluster.yaml")).routes["support-triage"]
    assert route.escalate_to == "full"
    assert route.watch is not None
    wanted = Conditions(confidence_below=0.85, schema_invalid=True, tools_needed=Threshold(">", 1))
    assert route.watch.conditions == wanted
    assert (route.watch.route, route.watch.hold_tokens, route.watch.hold_s, route.watch.is_buffered) == (
        *("support-triage", 24, 3.0),
        False,
    )


def test_the_other_conditions_and_how_long_answers_are_held_back():
    text = (
        OWNERS
        + "      - refusal: true\n      - length_cut: true\n      - timeout: 5\n    hold_tokens: 9\n    hold_s: 1.5\n"
    )
    watch = rules_from(parse(TIERS + text, "cluster.yaml")).routes["support-triage"].watch
    assert watch is not None
    assert (watch.conditions.refusal, watch.conditions.length_cut, watch.conditions.timeout_s) == (True, True, 5)
    assert (watch.hold_tokens, watch.hold_s) == (9, 1.5)


def test_a_route_without_conditions_watches_nothing():
    assert rules_from(parse(TIERS + "  auto: {}\n", "cluster.yaml")).routes["auto"].watch is None


def test_what_was_resolved_once_is_read_again_as_the_same():
    settings = parse(TIERS + OWNERS, "cluster.yaml")
    assert type(settings).model_validate(settings.model_dump(mode="python", exclude_none=True)) == settings


REFUSED = "escalate_if: [{refusal: true}]"


@pytest.mark.parametrize(
    ("route", "field", "told"),
    [
        ("primary: small, escalate_to: ful, " + REFUSED, "escalate_to", "did you mean 'full'?"),
        ("primary: full, escalate_to: full, " + REFUSED, "escalate_to", "has answered already"),
        ("primary: small, escalate_to: full", "escalate_to", "nothing is ever escalated"),
        ("primary: small, " + REFUSED, "escalate_if", "name a tier as `escalate_to`"),
        ("primary: small, hold_s: 3", "hold_s", "is of use with `escalate_if` alone"),
        ("primary: small, buffered: true", "buffered", "is of use with `escalate_if` alone"),
        ("escalate_to: full, buffered: true, hold_tokens: 3, " + REFUSED, "hold_tokens", "of no use beside `buffered`"),
        ("escalate_to: full, escalate_if: [{refusal: true}, {refusal: true}]", "escalate_if[1].refusal", "already"),
        ("escalate_to: full, escalate_if: [{tools_needed: many}]", "escalate_if[0].tools_needed", '"> 1" is wanted'),
        ("escalate_to: full, escalate_if: [{refusal: false}]", "escalate_if[0].refusal", "true"),
        ("escalate_to: full, escalate_if: [{confidence_below: 85}]", "escalate_if[0].confidence_below", "0"),
        ("escalate_to: full, escalate_if: [{}]", "escalate_if[0]", "one condition an entry is wanted"),
        ("escalate_to: full, escalate_if: [{refusal: true, timeout: 3}]", "escalate_if[0]", "refusal and timeout"),
        ("escalate_to: full, escalate_if: [{confidence: 0.85}]", "escalate_if[0].confidence", "confidence_below"),
        ("escalate_to: full, hold_tokens: 0, " + REFUSED, "hold_tokens", "1"),
    ],
)
def test_each_mistake_is_told_with_its_line_and_field(route, field, told):
    with pytest.raises(SettingsError) as caught:
        parse(TIERS + f"  auto: {{{route}}}\n", "cluster.yaml")
    lines = [line for line in str(caught.value).splitlines() if f"routes.auto.{field}" in line]
    assert lines, str(caught.value)
    assert lines[0].startswith("cluster.yaml:6:")
    assert told in lines[0]
