"""What the benchmark's users ask: repeated questions, easy ones and hard ones, and how long each answer is.

Repeated ones are of a fixed list that was asked before the measuring begins. Easy and hard ones are asked once: each
has a number. Which tier answers is left to the router; only how often each kind is asked is given. They are worded so
that it is sure of them: how often it is right, benchmarks/routing tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

from orchestrator.core.capacity.asking import drawn
from orchestrator.core.capacity.demand import Load, Mix

KINDS: Final = ("repeated", "easy", "hard")
REPEATED: Final = 60
MOST_TOKENS: Final = 1024  # a simulated engine takes a limit up to this for the answer's length

_EASY: Final = (
    "What is a good name for shop number {n}?",
    "Write a friendly greeting for guest {n}.",
    "Where is shop {n}?",
    "Hello! How is your day number {n}?",
)
_HARD: Final = (
    "Prove that the sum of {n} odd numbers has the parity of {n}, then write a Rust program that checks it, and "
    "analyse its running time.",
    "Derive the closed form of the sum of the first {n} cubes step by step, prove it by induction, and implement it in "
    "Python with tests.",
)


@dataclass(frozen=True, slots=True)
class Question:
    """One question, its kind, and the tokens of its answer: the same for the same question."""

    kind: str
    text: str
    tokens: int


def repeated(load: Load) -> tuple[Question, ...]:
    """The questions that everybody asks."""
    rng = Random(60)
    return tuple(
        Question("repeated", f"What are the opening hours of branch {number}?", _tokens(load, rng))
        for number in range(REPEATED)
    )


def asked_by(user: int, load: Load, seed: int) -> Iterator[Question]:
    """A user's questions, one after another; the same in every run."""
    rng, known = Random(f"{seed} {user}"), repeated(load)
    number = 0
    while True:
        number += 1
        yield _question(load.mix, f"{user}{number:04}", known, load, rng)


def _question(mix: Mix, name: str, known: tuple[Question, ...], load: Load, rng: Random) -> Question:
    at = rng.random()
    if at < mix.cache:
        return rng.choice(known)
    kind, texts = ("easy", _EASY) if at < mix.cache + mix.small else ("hard", _HARD)
    return Question(kind, rng.choice(texts).format(n=name), _tokens(load, rng))


def _tokens(load: Load, rng: Random) -> int:
    return max(1, min(MOST_TOKENS, round(drawn(load.answer_tokens, load.answer_scv, rng))))
