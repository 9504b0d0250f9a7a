"""What users ask for: how many they are, how long they think, how long questions and answers are, by which tier.

Reading a recording's file is left to the command; here its rows become the same few numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean, pvariance
from typing import Final

from orchestrator.core.physics import prompt_tokens_kept

TIERS: Final = ("cache", "small", "full")
MIX_SLACK: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares of the calls that each tier answers; together one."""

    cache: float = 0.6
    small: float = 0.3
    full: float = 0.1

    def __post_init__(self) -> None:
        parts = (self.cache, self.small, self.full)
        if min(parts) < 0 or abs(sum(parts) - 1) > MIX_SLACK:
            raise ValueError(f"shares {parts} must be none below zero and together one")

    def with_hit_rate(self, hit_rate: float) -> Mix:
        """The same router behind another hit rate: small and full keep their proportion (all full if there is none)."""
        if not 0 <= hit_rate <= 1:
            raise ValueError(f"hit rate {hit_rate} must be 0 to 1")
        missed = self.small + self.full
        small = (1 - hit_rate) * (self.small / missed if missed else 0.0)
        return Mix(hit_rate, small, 1 - hit_rate - small)


@dataclass(frozen=True, slots=True)
class Goals:
    """Seconds within which 95 of 100 answers of a tier are whole: the upper ends of the owner's documents."""

    cache_s: float = 0.05
    small_s: float = 2.0
    full_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked for. The defaults are assumptions, and short on purpose.

    The documents name no length of answers. With 100 tokens, and the spread below, their times (1-2 s, 3-5 s) can be
    met on their cards at all, so what is said against their numbers of users holds all the more for longer answers.
    `answer_scv` and `arrival_scv`: squared coefficients of variation (variance over mean squared).
    """

    users: int = 500
    think_s: float = 30.0
    mix: Mix = Mix()
    prompt_tokens: float = 300.0
    answer_tokens: float = 100.0
    answer_scv: float = 0.5
    arrival_scv: float = 1.0
    cache_s: float = 0.05
    goals: Goals = Goals()

    def __post_init__(self) -> None:
        if self.users < 1 or self.think_s <= 0 or self.answer_tokens < 1 or self.prompt_tokens < 0:
            raise ValueError("a load has a user or more, time to think, and answers of a token or more")

    def with_users(self, users: int) -> Load:
        return replace(self, users=users)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recording in few numbers. `calls_s`: its mean rate. `cut`: share of prompts too long for the context."""

    rows: int
    calls_s: float
    prompt_tokens: float
    answer_tokens: float
    answer_scv: float
    arrival_scv: float
    cut: float


def summarise(rows: Iterable[Sequence[float]], context: int) -> Recorded:
    """What a recording's rows (second, prompt tokens, answer tokens) come to, where a slot has `context` tokens.

    Prompts too long are cut as the engine cuts them. Raises ValueError for fewer than three rows, or no time between.
    """
    sorted_rows = sorted(rows, key=lambda row: row[0])
    if len(sorted_rows) < 3 or sorted_rows[-1][0] <= sorted_rows[0][0]:
        raise ValueError("a recording needs three calls or more, and time between the first and the last")
    times = [row[0] for row in sorted_rows]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    answers = [max(1.0, row[2]) for row in sorted_rows]
    return Recorded(
        rows=len(sorted_rows),
        calls_s=len(gaps) / (times[-1] - times[0]),
        prompt_tokens=fmean(prompt_tokens_kept(int(row[1]), context) for row in sorted_rows),
        answer_tokens=fmean(answers),
        answer_scv=pvariance(answers) / fmean(answers) ** 2,
        arrival_scv=pvariance(gaps) / fmean(gaps) ** 2,
        cut=sum(row[1] >= context for row in sorted_rows) / len(sorted_rows),
    )


def recorded_load(recorded: Recorded, load: Load) -> Load:
    """`load` with the lengths, the spread and the bursts of a recording."""
    return replace(
        load,
        prompt_tokens=recorded.prompt_tokens,
        answer_tokens=recorded.answer_tokens,
        answer_scv=recorded.answer_scv,
        arrival_scv=recorded.arrival_scv,
    )
