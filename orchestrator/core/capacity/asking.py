"""What simulated users ask: which tier answers it, how long question and answer are, how long they think.

Everything is drawn from the random generator that is handed in: the same seed is the same hour.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log1p, sqrt
from typing import Final, NamedTuple, Protocol, TypeVar

from orchestrator.core.capacity.demand import Load, Mix

CACHE: Final = "cache"


T = TypeVar("T")


class Chance(Protocol):
    """A random generator, as Python's `random.Random` is one."""

    def random(self) -> float: ...
    def expovariate(self, lambd: float, /) -> float: ...
    def lognormvariate(self, mu: float, sigma: float, /) -> float: ...
    def choice(self, seq: Sequence[T], /) -> T: ...


class Asked(NamedTuple):
    """One question: the tier that answers it, and the tokens of both."""

    tier: str
    prompt_tokens: float
    answer_tokens: float


class Asking(Protocol):
    """Draws the next question of anybody."""

    def __call__(self, rng: Chance) -> Asked: ...


def drawn(mean: float, scv: float, rng: Chance) -> float:
    """A length or a time: of one value, exponential, or lognormal, as its squared variation says."""
    if scv <= 0:
        return mean
    if scv == 1:
        return rng.expovariate(1 / mean)
    spread = sqrt(log1p(scv))
    return mean * rng.lognormvariate(-spread * spread / 2, spread)


def tier_of(mix: Mix, rng: Chance) -> str:
    """A tier, as often as the mix says."""
    at = rng.random()
    if at < mix.cache:
        return CACHE
    return "small" if at < mix.cache + mix.small else "full"


@dataclass(frozen=True, slots=True)
class ByMix:
    """Tiers by the mix of a load, lengths by its means and spread."""

    load: Load

    def __call__(self, rng: Chance) -> Asked:
        load = self.load
        answer = max(1.0, drawn(load.answer_tokens, load.answer_scv, rng))
        return Asked(tier_of(load.mix, rng), load.prompt_tokens, answer)


@dataclass(frozen=True, slots=True)
class AsRecorded:
    """Tiers by a mix, lengths of question and answer together as one row of a recording has them."""

    mix: Mix
    rows: Sequence[tuple[float, float]]

    def __call__(self, rng: Chance) -> Asked:
        prompt, answer = rng.choice(self.rows)
        return Asked(tier_of(self.mix, rng), prompt, max(1.0, answer))


def mix_of_questions(questions: Sequence[str], judge: Callable[[str], str]) -> Mix:
    """The mix of questions in the order they were asked: what was asked before is the cache's, the rest `judge` tells.

    `judge` gives the tier of a text, as the router does; what it does not call small is full. Raises ValueError for
    none.
    """
    if not questions:
        raise ValueError("no question to tell a mix from")
    known: set[str] = set()
    counts: Counter[str] = Counter()
    for text in questions:
        counts[CACHE if text in known else "small" if judge(text) == "small" else "full"] += 1
        known.add(text)
    cache, small = (counts[each] / len(questions) for each in (CACHE, "small"))
    return Mix(cache, small, counts["full"] / len(questions))
