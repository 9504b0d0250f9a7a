"""Questions as an FAQ's users may ask them: a few topics over and over, in many wordings, beside others.

Made of benchmarks/cache/pairs.txt: its curated questions become an FAQ, its paraphrases and look-alikes are asked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from benchmarks.cache.paraphrase import halves
from benchmarks.cache.rig import TENANTS

# Of 100 questions: so many are an FAQ's, word for word and in other words; so many only look like one of them; so many
# have nothing to do with it and were asked by somebody before; the rest are asked once. Harder ones are among the last.
WORDS, PARAPHRASES, LOOK_ALIKES, REPEATED = 25, 25, 10, 20
HARD: Final = "Prove step by step that {n} plus an odd number is odd where {n} is even, then write a program for it."
EASY: Final = "What is a good name for shop number {n}?"


@dataclass(frozen=True, slots=True)
class Topic:
    question: str
    language: str
    same: tuple[str, ...]
    alike: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """One question of the replay. `rightly`: the topics whose curated answer would be right."""

    text: str
    tenant: str
    rightly: frozenset[int]


def topics() -> list[Topic]:
    """Every curated question of the pairs, with what asks the same and what only looks so."""
    found: dict[str, tuple[str, list[str], list[str]]] = {}
    for pair in (*halves()[0], *halves()[1]):
        _, same, alike = found.setdefault(pair.curated, (pair.language, [], []))
        (same if pair.is_same else alike).append(pair.asked)
    return [Topic(question, each[0], tuple(each[1]), tuple(each[2])) for question, each in found.items()]


def write_faq(path: Path, known: Sequence[Topic]) -> None:
    """One entry a topic; its answer is the topic's number."""
    lines = (
        {"questions": [each.question], "answer": f"topic {number}", "language": each.language}
        for number, each in enumerate(known)
    )
    path.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in lines), encoding="utf-8")


def replay(known: Sequence[Topic], calls: int, seed: int) -> list[Asked]:
    """So many questions; topics are drawn by Zipf's law, in an order of their own."""
    rng = Random(seed)
    order = rng.sample(range(len(known)), len(known))
    weights = [1 / rank for rank in range(1, len(known) + 1)]
    right = _right_for(known)
    made = []
    for number in range(calls):
        topic = rng.choices(order, weights)[0]
        text = _question(known[topic], topic, number, rng)
        made.append(Asked(text, rng.choice(TENANTS), frozenset(right.get(text, ()))))
    return made


def _right_for(known: Sequence[Topic]) -> dict[str, set[int]]:
    """A question that only looks like one topic's may well be another's."""
    right: dict[str, set[int]] = {}
    for number, each in enumerate(known):
        for text in (each.question, *each.same):
            right.setdefault(text, set()).add(number)
    return right


def _question(topic: Topic, rank: int, number: int, rng: Random) -> str:
    drawn = rng.uniform(0, 100)
    if drawn < WORDS + PARAPHRASES:
        return topic.question if drawn < WORDS or not topic.same else rng.choice(topic.same)
    if drawn < WORDS + PARAPHRASES + LOOK_ALIKES and topic.alike:
        return rng.choice(topic.alike)
    if drawn < WORDS + PARAPHRASES + LOOK_ALIKES + REPEATED:
        return EASY.format(n=-rank - 1)
    return (HARD if rng.random() < 1 / 2 else EASY).format(n=number)
