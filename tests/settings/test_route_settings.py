"""Routes as they are written: one way to choose a tier, and every mistake with its line, field and way out."""

from __future__ import annotations

import pytest

from orchestrator.app.rules import rules_from
from orchestrator.core.difficulty import CHAT, TASK, Difficulty
from orchestrator.core.errors import SettingsError
from orchestrator.core.routing import choose_tier
from orchestrator.settings import parse

TIERS = "models: {a: {}, b: {}}\ntiers:\n  small: {model: a, backup: full}\n  full: {model: b}\nroutes:\n"


def tier_of(text: str, level: int, kind: str = TASK, work: str = "summary") -> str:
    rules = rules_from(parse(TIERS + text, "cluster.yaml"))
    return choose_tier(Difficulty(level, kind, (), float(level), work), rules.routes["auto"].rule).tier


def test_a_route_without_a_word_has_two_tiers_by_size():
    assert [tier_of("  auto:\n", level) for level in (4, 5)] == ["small", "full"]
    assert [tier_of("  auto:\n", level, CHAT) for level in (7, 8)] == ["small", "full"]


def test_a_primary_answers_whatever_the_difficulty_is():
    assert {tier_of("  auto: {primary: small}\n", level) for level in range(1, 11)} == {"small"}


def test_roles_have_thresholds_by_kind_of_work():
    roles = "  auto: {task: small, deep: full, deep_from: {code: 5}}\n"
    assert [tier_of(roles, 7), tier_of(roles, 8)] == ["small", "full"]
    assert [tier_of(roles, 4, work="code"), tier_of(roles, 5, work="code")] == ["small", "full"]
    assert tier_of(roles, 10, CHAT) == "small"
    assert tier_of(roles.replace("{code: 5}", "{chat: 9}"), 9, CHAT) == "full"


def test_what_lies_between_worker_and_deep_is_the_bands():
    band = "  auto: {task: small, deep: full, band: full, chat: small}\n"
    assert [tier_of(band, level) for level in (4, 5, 7, 8)] == ["small", "full", "full", "full"]


def test_what_was_resolved_once_is_read_again_as_the_same():
    text = (
        TIERS + "  auto: {task: small, deep: full, deep_from: {code: 5}}\n  mine: {primary: full, match: {model: x*}}\n"
    )
    settings = parse(text, "cluster.yaml")
    assert type(settings).model_validate(settings.model_dump(mode="python", exclude_none=True)) == settings


def test_matches_are_tried_in_the_order_of_the_routes():
    text = "  auto:\n  y: {match: {language: tr}}\n  x: {match: {key: [x, y]}}\n"
    rules = rules_from(parse(TIERS + text, "cluster.yaml"))
    assert [(name, match.languages, match.keys) for name, match in rules.matches] == [
        ("y", ("tr",), ()),
        ("x", (), ("x", "y")),
    ]


WRONG = [
    ("auto: {primary: smal}", "6:19: routes.auto.primary: no such tier 'smal'; did you mean 'small'?"),
    ("auto: {primary: small, full: full}", "6:32: routes.auto.full: is of no use beside `primary`"),
    ("auto: {primary: small, deep_from: {code: 5}}", "6:26: routes.auto.deep_from: is of no use beside `primary`"),
    ("auto: {task: small, chat_full_from: 3}", "6:39: routes.auto.chat_full_from: is of no use beside `task`"),
    ("auto: {chat: small}", "6:16: routes.auto.chat: is of use with `task` alone; name the tier that answers TASK"),
    ("auto: {task: small, deep_from: {code: 5}}", "6:23: routes.auto.deep_from: says when `deep` answers; name that"),
    ("auto: {task: small, band_from: 5}", "6:34: routes.auto.band_from: says when `band` answers; name that tier"),
    (
        "auto: {task: small, deep: full, band: full, band_from: 8}",
        "6:58: routes.auto.band_from: tasks from 8 up are `deep`'s already (`deep_from.default`): it is never reached",
    ),
    ("auto: {task: small, deep: full, deep_from: {cod: 5}}", "6:47: routes.auto.deep_from.cod: no such setting; did"),
    ("auto: {match: {text: '(?=a)'}}", "6:24: routes.auto.match.text: look-around, including look-ahead"),
    ("auto: {match: {text: '(a'}}", "6:24: routes.auto.match.text: unclosed group"),
    ("auto: {match: {model: 3}}", "6:25: routes.auto.match.model: expected text or a list of such, such as model: ["),
    ("auto: {match: {language: de}}", "6:28: routes.auto.match.language: expected tr, en or other or a list of such"),
    ("auto: {match: {header: {X Y: z}}}", "6:27: routes.auto.match.header.\"X Y\": 'X Y' cannot be a name here"),
    ("auto: {match: {tokens_from: 9, tokens_to: 3}}", "6:45: routes.auto.match.tokens_to: is below `tokens_from`, 9"),
    ("auto: {match: {tool: true}}", "6:18: routes.auto.match.tool: no such setting; did you mean 'tools'?"),
    ("auto: {unsure_rpm: -1}", "6:22: routes.auto.unsure_rpm: expected a whole number from 0"),
]


@pytest.mark.parametrize(("text", "expected"), WRONG, ids=[expected[6:50] for _, expected in WRONG])
def test_each_mistake_of_a_route_is_told_with_its_place_and_way_out_and_breeds_no_other(text, expected):
    with pytest.raises(SettingsError) as told:
        parse(f"{TIERS}  {text}\n  other: {{}}\n", "cluster.yaml")
    (line,) = str(told.value).splitlines()
    assert line.startswith(f"cluster.yaml:{expected}"), line
