"""A question goes to the tier that its difficulty and the operator's thresholds say, and up where that is in doubt."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.dialects.parse import Turn
from orchestrator.core.difficulty import CHAT, TASK, Difficulty, score
from orchestrator.core.routing import (
    NEVER,
    always,
    by_role,
    by_size,
    choose_tier,
    choose_unscored,
    kept_down,
    tiers_to_try,
)

RULE = by_size("small", "full", chat_full_from=8, task_full_from=5)
ROLES = by_role(("tongue", "worker", "deep"), {TASK: 8, "code": 5})
BAND = by_role(("tongue", "worker", "deep"), {TASK: 8, "code": 5, CHAT: 9}, band=(5, "middle"))


@pytest.mark.parametrize(
    ("level", "kind", "tier"),
    [
        (1, CHAT, "small"),
        (7, CHAT, "small"),
        (8, CHAT, "full"),
        (4, TASK, "small"),
        (5, TASK, "full"),
        (10, TASK, "full"),
    ],
)
def test_the_threshold_of_its_kind_decides_the_tier(level, kind, tier):
    assert choose_tier(Difficulty(level, kind, ()), RULE).tier == tier


@pytest.mark.parametrize(
    ("level", "kind", "work", "by_roles", "with_band"),
    [
        (1, CHAT, "question", "tongue", "tongue"),
        (8, CHAT, "creative", "tongue", "tongue"),
        (10, CHAT, "creative", "tongue", "deep"),
        (4, TASK, "summary", "worker", "worker"),
        (5, TASK, "summary", "worker", "middle"),
        (7, TASK, "summary", "worker", "middle"),
        (8, TASK, "summary", "deep", "deep"),
        (4, TASK, "code", "worker", "worker"),
        (5, TASK, "code", "deep", "deep"),
    ],
)
def test_chats_go_to_the_tongue_tasks_to_the_worker_and_hard_ones_deep(level, kind, work, by_roles, with_band):
    asked = Difficulty(level, kind, (), float(level), work)
    assert choose_tier(asked, ROLES).tier == by_roles
    assert choose_tier(asked, BAND).tier == with_band


def test_a_threshold_of_one_sends_everything_to_full_and_of_eleven_nothing():
    for level in range(1, 11):
        assert choose_tier(Difficulty(level, TASK, ()), by_size("s", "f", 1, 1)).tier == "f"
        assert choose_tier(Difficulty(level, CHAT, ()), by_size("s", "f", 11, 11)).tier == "s"


def test_a_route_of_one_tier_needs_no_judgement():
    assert always("slm").is_fixed
    assert not RULE.is_fixed
    assert choose_tier(Difficulty(9, TASK, ()), always("slm")).tier == "slm"


def test_every_tier_that_a_rule_may_choose_is_named_once():
    assert RULE.tiers == ("small", "full")
    assert BAND.tiers == ("tongue", "deep", "worker", "middle")
    assert by_size("small", "full", NEVER, NEVER).tiers == ("small",)


def test_a_decision_tells_the_difficultys_reasons_and_then_its_own():
    decision = choose_tier(Difficulty(6, TASK, ("asks for code (+3)",)), RULE)
    assert decision.reasons == ("asks for code (+3)", "TASK of difficulty 6, at or above 5: full")
    assert not decision.stays


def test_a_question_just_below_a_threshold_goes_up_where_the_score_is_that_unsure():
    near, far = Difficulty(4, TASK, (), points=3.8), Difficulty(4, TASK, (), points=3.2)
    unsure = replace(RULE, unsure_points=0.5)
    assert choose_tier(near, RULE).tier == "small"
    decision = choose_tier(near, unsure)
    assert (decision.tier, decision.stays) == ("full", "small")
    assert decision.why == "3.80 points, not surely below 5: full"
    assert choose_tier(far, unsure).tier == "small"


def test_a_question_of_which_nothing_is_known_goes_up_and_stays_down_where_its_key_has_no_more_of_that():
    asked = score((Turn("user", "Zwyrp qlox the frindle grobbing, vextan moriq plof"),))
    assert asked.guessed == 3.0
    decision = choose_tier(asked, RULE)
    assert (decision.tier, decision.stays) == ("full", "small")
    down = kept_down(decision, "the 60 a minute of support are used up")
    assert (down.tier, down.stays) == ("small", "")
    assert down.why == "in doubt, and the 60 a minute of support are used up: small"


def test_a_question_that_cannot_be_judged_goes_all_the_way_up():
    decision = choose_unscored(BAND, "its difficulty could not be judged")
    assert (decision.tier, decision.stays) == ("deep", "worker")
    assert decision.why == "its difficulty could not be judged, so it goes up: deep"


LEVELS = st.integers(1, 11)
QUESTIONS = st.builds(
    lambda points, kind, work: Difficulty(max(1, min(10, int(points) + 1)), kind, (), points, work),
    st.floats(0.01, 9.99),
    st.sampled_from([CHAT, TASK]),
    st.sampled_from(["code", "summary", "question"]),
)


@given(QUESTIONS, LEVELS, LEVELS, LEVELS, st.integers(1, 10), st.floats(0, 9))
def test_a_harder_question_never_goes_to_a_smaller_tier_and_doubt_never_sends_one_down(
    asked, deep_from, code_from, band_from, more, unsure
):
    order = {"tongue": 0, "worker": 0, "middle": 1, "deep": 2}
    rule = by_role(("tongue", "worker", "deep"), {TASK: deep_from, "code": code_from}, (band_from, "middle"))
    harder = replace(asked, level=min(10, asked.level + more), points=min(10.0, asked.points + more))
    tier = choose_tier(asked, rule).tier
    assert order[tier] <= order[choose_tier(harder, rule).tier]
    decision = choose_tier(asked, replace(rule, unsure_points=unsure))
    assert order[decision.tier] >= order[tier]
    assert not decision.stays or order[decision.stays] <= order[decision.tier]


@pytest.mark.parametrize(
    ("tier", "backups", "tried"),
    [
        ("small", {"small": "full", "full": "small"}, ("small", "full")),
        ("small", {"small": "full", "full": "frontier"}, ("small", "full", "frontier")),
        ("a", {"a": "b", "b": "c", "c": "b"}, ("a", "b", "c")),
        ("small", {"small": None}, ("small",)),
        ("small", {"small": "small"}, ("small",)),
        ("small", {}, ("small",)),
    ],
)
def test_a_tier_is_tried_then_its_backup_and_that_ones_and_no_tier_twice(tier, backups, tried):
    assert tiers_to_try(tier, backups) == tried
