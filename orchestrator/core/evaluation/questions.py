"""A question of an evaluation set, as one line of JSON, and how its answers are graded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from orchestrator.core.errors import OrchestratorError


class Scorer(StrEnum):
    """How an answer is told right from wrong."""

    EXACT = "exact"  # the words of `answer`, whatever their case and the marks around them
    CHOICE = "choice"  # the letter of `answer`
    NUMERIC = "numeric"  # the number of `answer`, as the last one named
    CONTAINS = "contains"  # every one of `answer` occurs
    REGEX = "regex"  # `answer` is found
    JSON_SCHEMA = "json_schema"  # JSON that fits `schema`
    JUDGE = "judge"  # a model compares it with `answer`


class SetError(OrchestratorError):
    """A set that cannot be read; the text names file and line."""


@dataclass(frozen=True, slots=True)
class Question:
    id: str
    prompt: str
    scorer: Scorer
    answer: tuple[str, ...] = ()
    schema: Mapping[str, Any] = field(default_factory=dict)
    system: str = ""


_FIELDS = {"id", "prompt", "scorer", "answer", "schema", "system"}


def read_set(lines: Iterable[str], name: str) -> tuple[Question, ...]:
    """The questions of JSON lines `{id, prompt, scorer, answer | schema, system?}`. Raises SetError."""
    questions: dict[str, Question] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            question = _read(line)
        except ValueError as why:
            raise SetError(f"{name}:{number}: {why}") from why
        if question.id in questions:
            raise SetError(f"{name}:{number}: the id {question.id!r} is there twice")
        questions[question.id] = question
    if not questions:
        raise SetError(f"{name}: no question in it; one a line: {{id, prompt, scorer, answer}}")
    return tuple(questions.values())


def _read(line: str) -> Question:
    try:
        told = json.loads(line)
    except json.JSONDecodeError as why:
        raise ValueError(f"is not JSON: {why.msg}") from why
    if not isinstance(told, dict):
        raise ValueError("an object is wanted: {id, prompt, scorer, answer}")
    if unknown := sorted(set(told) - _FIELDS):
        raise ValueError(f"unknown field {unknown[0]!r}; there are {', '.join(sorted(_FIELDS))}")
    for name in ("id", "prompt"):
        if not isinstance(told.get(name), str) or not told[name]:
            raise ValueError(f"{name!r} is missing, or no text")
    try:
        scorer = Scorer(told.get("scorer", ""))
    except ValueError:
        raise ValueError(f"'scorer' is one of {', '.join(Scorer)}") from None
    return Question(
        told["id"], told["prompt"], scorer, _answers(told, scorer), _schema(told, scorer), str(told.get("system", ""))
    )


def _answers(told: Mapping[str, Any], scorer: Scorer) -> tuple[str, ...]:
    answer = told.get("answer", ())
    several = tuple(map(str, answer)) if isinstance(answer, list) else () if answer == () else (str(answer),)
    if not several and scorer is not Scorer.JSON_SCHEMA:
        raise ValueError(f"{scorer} compares with 'answer', which is missing")
    for each in several if scorer is Scorer.REGEX else ():
        _check_pattern(each)
    return several


def _check_pattern(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as why:
        raise ValueError(f"{pattern!r} is no regular expression: {why}") from why


def _schema(told: Mapping[str, Any], scorer: Scorer) -> Mapping[str, Any]:
    schema = told.get("schema", {})
    if not isinstance(schema, dict) or (scorer is Scorer.JSON_SCHEMA and not schema):
        raise ValueError("json_schema compares with 'schema', an object, which is missing")
    return schema
