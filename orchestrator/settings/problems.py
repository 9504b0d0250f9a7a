"""What is wrong with settings, one problem at a time, each with its way out. Knows wording, not files.

No sentence repeats a value from a field that may hold a secret: errors are logged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from orchestrator.settings.model import ClusterSettings
from orchestrator.settings.positions import FieldPath
from orchestrator.settings.words import either, example_of, field_at, is_list, name_words, section_of, type_words

_SECRET_FIELDS = ("keys", "redis", "redis_password", "providers", "issuers")
_SECRET_PLACES = (
    *(("cache", each) for each in ("secret", "encryption_key", "old_encryption_keys")),
    *(("traces", each) for each in ("endpoint", "headers")),
    ("deploy", "ollama"),
)
_PLAIN_STEP = re.compile(r"[\w-]+")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to put right. `at_key`: the key is wrong and not its value."""

    path: FieldPath
    message: str
    at_key: bool = False


def dotted(path: FieldPath) -> str:
    """`tiers.small.model`, `keys[0].name`; names with dots or colons in quotes, on one line whatever is in them."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            plain = step if _PLAIN_STEP.fullmatch(step) else json.dumps(step, ensure_ascii=False)
            text += f".{plain}" if text else plain
    return text


def unknown_name(path: FieldPath, what: str, name: str, names: Iterable[str]) -> Problem:
    """A reference to nothing: what exists, and what was probably meant."""
    there = list(names)
    if not there:
        return Problem(path, f"no such {what} {name!r}; there are no {what}s yet")
    close = get_close_matches(name, there, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return Problem(path, f"no such {what} {name!r}; {meant}{what}s are: {', '.join(there)}")


def problems_of(error: ValidationError, tree: Any) -> Iterator[Problem]:
    """One problem a place, in the order of the models, however many things pydantic found wrong there."""
    seen: set[FieldPath] = set()
    found = [(detail, _path_of(detail, tree)) for detail in error.errors(include_url=False)]
    for detail, path in found:
        if detail["type"] == "too_short" and detail["input"]:
            continue  # pydantic counts valid items alone; each that is not has its own error
        if any(other[: len(path)] == path and other != path for _, other in found):
            continue  # a list where one name would do as well: what is wrong is an item of it
        if path not in seen:
            seen.add(path)
            yield _problem(detail, path)


def _path_of(detail: ErrorDetails, tree: Any) -> FieldPath:
    """Pydantic's location without what names a union's member or a key; as far as it is in the file."""
    path: list[str | int] = []
    here = tree
    for step in detail["loc"]:
        if isinstance(here, dict) and step in here:
            here = here[str(step)]
        elif isinstance(here, list) and isinstance(step, int) and step < len(here):
            here = here[step]
        elif detail["type"] != "missing":
            continue
        path.append(step)
    return tuple(path)


def _problem(detail: ErrorDetails, path: FieldPath) -> Problem:
    kind = detail["type"]
    if kind == "extra_forbidden":
        return Problem(path, _unknown_key(path), at_key=True)
    if detail["loc"][-1:] == ("[key]",):
        above = field_at(path[:-1])
        words = name_words(above) if above else "a name"
        return Problem(path, f"{path[-1]!r} cannot be a name here; expected {words}", at_key=True)
    if kind == "value_error":
        return Problem(path, str(detail["ctx"]["error"]))
    field = field_at(path)
    if field is None:
        return Problem(path, detail["msg"])
    such_as = _such_as(path, example_of(field))
    if kind == "missing":
        return Problem(path, f"is missing; write {type_words(field)}{such_as}", at_key=True)
    if kind == "too_short":
        return Problem(path, f"needs one entry at least{such_as}")
    quotes = ", which in quotes is text" if kind == "string_type" and isinstance(detail["input"], int | float) else ""
    return Problem(path, f"expected {type_words(field)}{such_as}; got {_shown(detail['input'], path)}{quotes}")


def _such_as(path: FieldPath, example: str | None) -> str:
    if example is None or not path:
        return ""
    return f", such as {example}" if isinstance(path[-1], int) else f", such as {path[-1]}: {example}"


def _unknown_key(path: FieldPath) -> str:
    parent = field_at(path[:-1])
    section = section_of(parent.annotation) if parent else None
    here = list(section.model_fields) if section else []
    name = str(path[-1])
    close = get_close_matches(name, here, n=1)
    if close:
        return f"no such setting; did you mean {close[0]!r}?"
    if elsewhere := _sections_with(name):
        return f"no such setting here; {name!r} belongs under {either(elsewhere)}"
    return f"no such setting; settings here are: {', '.join(here)}"


def _sections_with(name: str) -> list[str]:
    places = ["the top level"] if name in ClusterSettings.model_fields else []
    for above, field in ClusterSettings.model_fields.items():
        section = section_of(field.annotation)
        if section and name in section.model_fields:
            places.append(f"{above}[]" if is_list(field.annotation) else above)
    return places


def _shown(value: Any, path: FieldPath) -> str:
    """What was written, in as many words as are safe and short."""
    if value is None:
        return "nothing"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "a mapping"
    if path and (path[0] in _SECRET_FIELDS or path[:2] in _SECRET_PLACES):
        return {bool: "true or false", str: "another text"}.get(type(value), "a number")
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:56]}…{text[0]}"
