"""The trained weights behind a difficulty, as they ship: `data/difficulty.json`, made by `benchmarks/routing/train.py`.

Knows the file's form. How the weights were found, on which data and under which licence, says its card,
`benchmarks/routing/CARD.md`.
"""

from __future__ import annotations

import json
from base64 import b85decode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from orchestrator.core.difficulty_answer import ANSWER
from orchestrator.core.difficulty_choices import CHOICES
from orchestrator.core.difficulty_form import FORM
from orchestrator.core.difficulty_topic import BITS

SIGNED: Final = 128  # a byte of the table is the weight and this
# What an answer's doubt is made of: its own signs, and those of its question.
SIGNS: Final = {**ANSWER, **{f"question_{name}": why for name, why in FORM.items()}}


@dataclass(frozen=True, slots=True)
class Mix:
    """How form and topic count together where questions of a kind were trained on, in points.

    `base` is the mean question's points, `offset` what makes it so. What an examination's choices tell comes on top.
    """

    base: float
    form: float
    topic: float
    offset: float


@dataclass(frozen=True, slots=True)
class Model:
    """Weights in the order of their features. `mixes`: by the kind of question, `exam` and `sums`."""

    form: tuple[float, ...]
    topic: bytes
    topic_step: float
    choices: tuple[float, ...]
    mixes: Mapping[str, Mix]
    answer: tuple[float, ...]
    answer_base: float

    def topic_of(self, places: Mapping[int, float]) -> float:
        """How much harder than the mean the words are; what that is worth, the kind's `Mix` says."""
        table = self.topic
        return self.topic_step * sum([(table[place] - SIGNED) * strength for place, strength in places.items()])

    def form_parts(self, features: Sequence[float]) -> list[float]:
        """What each feature of `FORM` adds, in points."""
        return [weight * value for weight, value in zip(self.form, features, strict=True)]

    def choices_parts(self, signs: Sequence[float]) -> list[float]:
        """What each sign of `CHOICES` adds, in points."""
        return [weight * value for weight, value in zip(self.choices, signs, strict=True)]

    def doubt_parts(self, signs: Sequence[float]) -> list[float]:
        """What each sign of `SIGNS` adds."""
        return [weight * value for weight, value in zip(self.answer, signs, strict=True)]


@cache
def shipped() -> Model:
    """The model that comes with the package."""
    return read(json.loads((files("orchestrator") / "data" / "difficulty.json").read_text(encoding="utf-8")))


def read(told: Mapping[str, Any]) -> Model:
    """A model from the file's content. Raises ValueError where it was made for other features than this code has."""
    form, topic, choices, answer = told["form"], told["topic"], told["choices"], told["answer"]
    _same(form["weights"], FORM)
    _same(choices["weights"], CHOICES)
    _same(answer["weights"], SIGNS)
    table = b85decode(topic["table"])
    if len(table) != 1 << BITS:
        raise ValueError(f"difficulty.json: a table of {len(table)} weights, and {1 << BITS} are looked up")
    return Model(
        form=tuple(form["weights"].values()),
        topic=table,
        topic_step=topic["step"],
        choices=tuple(choices["weights"].values()),
        mixes={kind: Mix(**mix) for kind, mix in told["mixes"].items()},
        answer=tuple(answer["weights"].values()),
        answer_base=answer["base"],
    )


def _same(found: Iterable[str], wanted: Iterable[str]) -> None:
    if tuple(found) != tuple(wanted):
        raise ValueError(f"difficulty.json: weights for {list(found)}, and the code counts {list(wanted)}: train anew")
