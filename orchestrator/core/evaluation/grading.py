"""Whether an answer is right, wherever that can be told without asking a model."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator

import fastjsonschema

from orchestrator.core.evaluation.questions import Question, Scorer
from orchestrator.core.letters import lower

_SAID = r"(?:answer|option|choice|cevap|yanıt|yanit|seçenek|sonuç|sonuc|result)(?:\s+(?:is|=|şıkkı))?[\s:*(\"'=]{0,6}"
_CHOICE_SAID = re.compile(rf"{_SAID}([A-J])(?![\w'’])", re.IGNORECASE)
_CHOICE_FIRST = re.compile(r"^[\s*(\"']{0,4}([A-J])(?=[\s).:,*\"']|$)")
_CHOICE_ALONE = re.compile(r"(?<![\w'’])([A-J])(?=[).:,*]|\s*$)")
_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*")
_FENCED = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL)
_CLOSE = 1e-6


def grade(question: Question, text: str) -> bool:
    """Whether `text` answers `question` rightly. Raises ValueError where only a judge can tell, or a schema is none."""
    match question.scorer:
        case Scorer.EXACT:
            return any(_plain(text) == _plain(each) for each in question.answer)
        case Scorer.CHOICE:
            return _choice(text) in {each.strip().upper() for each in question.answer}
        case Scorer.NUMERIC:
            wanted = [value for each in question.answer for value in _values(each)]
            return any(_is_close(told, each) for told in _last_number(text) for each in wanted)
        case Scorer.CONTAINS:
            return all(_plain(each) in _plain(text) for each in question.answer)
        case Scorer.REGEX:
            return any(re.search(each, text) is not None for each in question.answer)
        case Scorer.JSON_SCHEMA:
            return _fits(text, question)
        case Scorer.JUDGE:
            raise ValueError(f"{question.id}: only a judge can tell")


def _plain(text: str) -> str:
    """Small letters, single blanks, no marks around: `  "Ankara." ` is `ankara`."""
    small = lower(unicodedata.normalize("NFC", text), is_turkish=False)
    return " ".join(small.split()).strip(" .!?\"'`*“”’‘")


def _choice(text: str) -> str:
    """The letter chosen: as it is said last, as the text begins, or the last one that stands alone; or none."""
    if said := _CHOICE_SAID.findall(text):
        return str(said[-1]).upper()
    if first := _CHOICE_FIRST.match(text):
        return first[1]
    alone = _CHOICE_ALONE.findall(text)
    return str(alone[-1]) if alone else ""


def _last_number(text: str) -> list[float]:
    numbers = _NUMBER.findall(text.rpartition("####")[2] if "####" in text else text)
    return list(_values(numbers[-1])) if numbers else []


def _values(written: str) -> Iterator[float]:
    """What a number may mean: `1.234` is a thousand to a Turk and one to an American."""
    digits = written.strip().strip("%$€₺ ")
    for thousands, decimal in ((",", "."), (".", ",")):
        plain = digits.replace(thousands, "").replace(decimal, ".")
        try:
            yield float(plain)
        except ValueError:
            continue


def _is_close(told: float, wanted: float) -> bool:
    return abs(told - wanted) <= _CLOSE * max(1.0, abs(wanted))


def _fits(text: str, question: Question) -> bool:
    fenced = _FENCED.search(text)
    try:
        told = json.loads(fenced[1] if fenced else text)
        fastjsonschema.validate(dict(question.schema), told)
    except (json.JSONDecodeError, fastjsonschema.JsonSchemaValueException):
        return False
    except fastjsonschema.JsonSchemaDefinitionException as why:
        raise ValueError(f"{question.id}: 'schema' is none: {why}") from why
    return True
