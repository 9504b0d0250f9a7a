"""What a simulated model says: words with no meaning, always the same for the same question, marked as simulated.

The marker is the answer's first token, and where the answer is JSON it stands at the head of its first free text.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

_TEXT: Final = (
    "the a of and to in is it that for on with as are this be by from or an at which one all more can "
    "has part some other time way first place case point work water light number reason result system "
    "model answer question example process order small large early common simple clear known given often "
    "usually mostly partly today between because while after before under over through during each both "
    "many most another such same different means makes shows takes gives keeps moves follows depends "
    "begins changes remains appears happens useful important possible likely general special second "
    "third several almost always rarely again still then there here also however"
)
_WORDS: Final = tuple(_TEXT.split())
# Chat answers of some 120 tokens with a long tail; public traces of chat services have such lengths.
_MEDIAN_TOKENS: Final = 100
_SPREAD: Final = 0.6
_FEWEST: Final = 8
_MOST: Final = 1500
_MAX_DEPTH: Final = 8


def random_for(question: str) -> random.Random:
    """The generator that decides all about the answer to `question`."""
    return random.Random(hashlib.sha256(question.encode()).digest())  # noqa: S311  no secret depends on it


def answer_length(rng: random.Random) -> int:
    """Tokens of an answer nobody limits: lognormal, 120 in the mean."""
    return int(min(_MOST, max(_FEWEST, rng.lognormvariate(math.log(_MEDIAN_TOKENS), _SPREAD))))


def sentence_tokens(rng: random.Random, count: int) -> Iterator[str]:
    """`count` tokens of sentences, the first without a space before it."""
    left_in_sentence = rng.randint(6, 16)
    is_start = True
    for n in range(count):
        if n == count - 1 or left_in_sentence == 0:
            yield "."
            left_in_sentence, is_start = rng.randint(6, 16), True
            continue
        word = rng.choice(_WORDS)
        yield ("" if n == 0 else " ") + (word.capitalize() if is_start else word)
        left_in_sentence, is_start = left_in_sentence - 1, False


def sentence(rng: random.Random, count: int) -> str:
    return "".join(sentence_tokens(rng, count))


class JsonWriter:
    """A JSON value of a schema's shape. The marker goes into the first text that the schema leaves free."""

    def __init__(self, schema: Mapping[str, Any], rng: random.Random, marker: str) -> None:
        self._root, self._rng, self._marker = schema, rng, marker

    def value(self) -> Any:
        return self._value(self._root, 0)

    def _value(self, schema: object, depth: int) -> Any:
        if not isinstance(schema, Mapping):
            return self._text({}) if schema is not False else None
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][0]
        for name in ("anyOf", "oneOf"):
            if schema.get(name):
                return self._value(schema[name][0], depth + 1) if depth < _MAX_DEPTH else None
        return self._of_type(_type_of(schema), schema, depth)

    def _of_type(self, kind: str, schema: Mapping[str, Any], depth: int) -> Any:
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            count = min(max(int(schema.get("minItems", 1)), 0), 16) if depth < _MAX_DEPTH else 0
            return [self._value(schema.get("items", {}), depth + 1) for _ in range(count)]
        if kind in ("integer", "number"):
            return self._number(kind, schema)
        if kind == "boolean":
            return True
        return None if kind == "null" else self._text(schema)

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties") or {}
        required: Sequence[str] = schema.get("required") or ()
        # Where a schema contains itself, only what it insists on is filled in.
        names = [name for name in properties if depth < _MAX_DEPTH // 2 or name in required]
        if depth >= _MAX_DEPTH:
            return {}
        return {name: self._value(properties[name], depth + 1) for name in names}

    def _number(self, kind: str, schema: Mapping[str, Any]) -> int | float:
        low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
        high = schema.get("maximum", schema.get("exclusiveMaximum", low + 9))
        if kind == "number" and (low, high) != (int(low), int(high)):
            return float(low + high) / 2
        first = math.ceil(low) + (1 if "exclusiveMinimum" in schema else 0)
        last = max(first, math.floor(high) - (1 if "exclusiveMaximum" in schema else 0))
        return self._rng.randint(first, last)

    def _text(self, schema: Mapping[str, Any]) -> str:
        marker, self._marker = self._marker, ""
        text = marker + sentence(self._rng, 6)
        most = schema.get("maxLength")
        return text[:most] if isinstance(most, int) else text

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        for _ in range(_MAX_DEPTH):
            reference = schema.get("$ref")
            if not isinstance(reference, str) or not reference.startswith("#/"):
                break
            found: Any = self._root
            for step in reference[2:].split("/"):
                found = found.get(step, {}) if isinstance(found, Mapping) else {}
            schema = found if isinstance(found, Mapping) else {}
        return {**schema, **schema["allOf"][0]} if schema.get("allOf") else schema


def _type_of(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    if kind is None:
        kind = "object" if "properties" in schema else "array" if "items" in schema else "string"
    return str(kind)
