"""A question goes to the tier that its difficulty and the operator's thresholds say, and has one backup at most."""

from __future__ import annotations

import pytest

from orchestrator.core.difficulty import CHAT, TASK, Difficulty
from orchestrator.core.routing import RouteRule, choose_tier, tiers_to_try

RULE = RouteRule(small="small", full="full", chat_full_from=8, task_full_from=5)


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


def test_a_threshold_of_one_sends_everything_to_full_and_of_eleven_nothing():
    for level in range(1, 11):
        assert choose_tier(Difficulty(level, TASK, ()), RouteRule("s", "f", 1, 1)).tier == "f"
        assert choose_tier(Difficulty(level, CHAT, ()), RouteRule("s", "f", 11, 11)).tier == "s"


def test_a_decision_tells_the_difficultys_reasons_and_then_its_own():
    decision = choose_tier(Difficulty(6, TASK, ("asks for code (+3)",)), RULE)
    assert decision.reasons == ("asks for code (+3)", "TASK of difficulty 6, at or above 5: full")


@pytest.mark.parametrize(
    ("tier", "backups", "tried"),
    [
        ("small", {"small": "full", "full": "small"}, ("small", "full")),
        ("small", {"small": "full", "full": "frontier"}, ("small", "full")),
        ("small", {"small": None}, ("small",)),
        ("small", {"small": "small"}, ("small",)),
        ("small", {}, ("small",)),
    ],
)
def test_a_tier_is_tried_then_its_backup_and_no_tier_twice(tier, backups, tried):
    assert tiers_to_try(tier, backups) == tried
