"""From a question's difficulty to the tier that answers it, and to the tiers asked when that one cannot.

Thresholds come as values: what they should be is the operator's. How hard a question is, `difficulty` says, and which
route a call takes, `matching`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from orchestrator.core.difficulty import CHAT, TASK, Difficulty, level_of

NEVER: Final = 11  # a level that no question has


class Step(NamedTuple):
    """From this level upwards this tier answers, until the next step."""

    level: int
    tier: str


# In order of their levels; the first has level 1.
Steps = tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class RouteRule:
    """Which tier answers a chat, and which a task, by difficulty. `works`: kinds of task that have steps of their own.

    `unsure_points`: a question so near below a step may be as hard as that.
    """

    chat: Steps
    task: Steps
    works: Mapping[str, Steps] = field(default_factory=dict)
    unsure_points: float = 0.0

    @property
    def tiers(self) -> tuple[str, ...]:
        """Every tier that it may choose, each once."""
        every = (self.chat, self.task, *self.works.values())
        return tuple(dict.fromkeys(step.tier for steps in every for step in steps))

    @property
    def is_fixed(self) -> bool:
        """The same tier answers whatever is asked, so that no question need be judged."""
        return len(self.tiers) == 1

    def steps_for(self, difficulty: Difficulty) -> Steps:
        if difficulty.kind == CHAT:
            return self.chat
        return self.works.get(difficulty.work, self.task)


@dataclass(frozen=True, slots=True)
class Decision:
    """The tier that should answer, and why: the difficulty's reasons, then the comparison that settled it.

    `stays`: the tier of a question that is harder than `tier` tells only perhaps, for a caller who may send no more
    such questions up; empty: there is no doubt.
    """

    tier: str
    reasons: tuple[str, ...]
    stays: str = ""

    @property
    def why(self) -> str:
        """What settled it."""
        return self.reasons[-1]


def by_size(small: str, full: str, chat_full_from: int, task_full_from: int, unsure_points: float = 0.0) -> RouteRule:
    """Two tiers, and the levels from which the dearer one answers."""
    return RouteRule(_steps(small, (chat_full_from, full)), _steps(small, (task_full_from, full)), {}, unsure_points)


def by_role(
    roles: tuple[str, str, str],
    deep_from: Mapping[str, int],
    band: tuple[int, str] | None = None,
    unsure_points: float = 0.0,
) -> RouteRule:
    """Tiers for chats, for tasks and for those that go deep.

    `deep_from`: the level from which a task goes deep, by the kind of its work, by TASK for all others, and by CHAT for
    chats, which otherwise never do. `band`: tasks from this level up to there go to this tier.
    """
    chat, task, deep = roles

    def of_task(level: int) -> Steps:
        return _steps(task, *([band] if band else []), (level, deep))

    works = {work: of_task(level) for work, level in deep_from.items() if work not in (CHAT, TASK)}
    return RouteRule(_steps(chat, (deep_from.get(CHAT, NEVER), deep)), of_task(deep_from[TASK]), works, unsure_points)


def always(tier: str) -> RouteRule:
    """One tier, however hard it is."""
    return RouteRule(_steps(tier), _steps(tier))


def _steps(first: str, *more: tuple[int, str]) -> Steps:
    """Of those that begin at one level the last counts; one that begins after its successor is never reached."""
    steps = [Step(1, first)]
    for level, tier in more:
        steps = [each for each in steps if each.level < level]
        if level < NEVER:
            steps.append(Step(level, tier))
    return tuple(steps)


def choose_tier(difficulty: Difficulty, rule: RouteRule) -> Decision:
    """The tier at the question's level; at the higher one where the level is in doubt (fail expensive)."""
    steps = rule.steps_for(difficulty)
    at, upper = _at(steps, difficulty.level)
    reasons = (*difficulty.reasons, _compared(difficulty, at, upper))
    perhaps = level_of(difficulty.points + rule.unsure_points) if rule.unsure_points else difficulty.level
    if upper is not None and perhaps >= upper.level:
        why = f"{difficulty.points:.2f} points, not surely below {upper.level}: {upper.tier}"
        return Decision(upper.tier, (*reasons, why), stays=at.tier)
    if difficulty.guessed:
        surely = _at(steps, level_of(difficulty.points - difficulty.guessed))[0]
        if surely.tier != at.tier:
            return Decision(at.tier, reasons, stays=surely.tier)
    return Decision(at.tier, reasons)


def choose_unscored(rule: RouteRule, why: str) -> Decision:
    """What is not known to be easy counts as hard."""
    top, bottom = rule.task[-1].tier, rule.task[0].tier
    return Decision(top, (f"{why}, so it goes up: {top}",), stays=bottom if bottom != top else "")


def kept_down(decision: Decision, because: str) -> Decision:
    """A question in doubt that may not go up."""
    return Decision(decision.stays, (*decision.reasons, f"in doubt, and {because}: {decision.stays}"))


def tiers_to_try(tier: str, backups: Mapping[str, str | None]) -> tuple[str, ...]:
    """`tier`, its backup, that one's backup, and so on; where that leads back, it ends."""
    chain: dict[str, None] = {}
    following: str | None = tier
    while following is not None and following not in chain:
        chain[following] = None
        following = backups.get(following)
    return tuple(chain)


def _at(steps: Steps, level: int) -> tuple[Step, Step | None]:
    """The step that a level is on, and the one above it."""
    reached = [each for each in steps if each.level <= level]
    above = steps[len(reached)] if len(reached) < len(steps) else None
    return reached[-1], above


def _compared(difficulty: Difficulty, at: Step, upper: Step | None) -> str:
    of = f"{difficulty.kind} of difficulty {difficulty.level}"
    if upper is not None:
        return f"{of}, below {upper.level}: {at.tier}"
    return f"{of}, at or above {at.level}: {at.tier}" if at.level > 1 else f"{of}, as all {difficulty.kind}: {at.tier}"
