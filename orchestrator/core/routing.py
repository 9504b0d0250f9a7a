"""From a question's difficulty to the tier that answers it, and to the tiers asked when that one cannot.

Thresholds come as values: what they should be is the operator's. How hard a question is, `difficulty` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.core.difficulty import CHAT, Difficulty


@dataclass(frozen=True, slots=True)
class RouteRule:
    """Two tiers and the level from which the dearer one answers, for chat and for tasks. Level 11 is never reached."""

    small: str
    full: str
    chat_full_from: int
    task_full_from: int


@dataclass(frozen=True, slots=True)
class Decision:
    """The tier that should answer, and why: the difficulty's reasons, then the comparison that settled it."""

    tier: str
    reasons: tuple[str, ...]


def choose_tier(difficulty: Difficulty, rule: RouteRule) -> Decision:
    """`rule.full` from the threshold of the question's kind upwards, otherwise `rule.small`."""
    full_from = rule.chat_full_from if difficulty.kind == CHAT else rule.task_full_from
    is_full = difficulty.level >= full_from
    tier = rule.full if is_full else rule.small
    comparison = "at or above" if is_full else "below"
    why = f"{difficulty.kind} of difficulty {difficulty.level}, {comparison} {full_from}: {tier}"
    return Decision(tier, (*difficulty.reasons, why))


def tiers_to_try(tier: str, backups: Mapping[str, str | None]) -> tuple[str, ...]:
    """`tier`, then its backup. A backup's own backup is not asked, so no configuration makes a circle."""
    backup = backups.get(tier)
    return (tier,) if backup is None or backup == tier else (tier, backup)
