"""How a setting's type is said to people: in errors, in the reference.

Read off the models, so it cannot be out of date. What is wrong with a file is said by `problems`.
"""

from __future__ import annotations

import json
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from orchestrator.settings.model import ClusterSettings
from orchestrator.settings.positions import FieldPath
from orchestrator.settings.section import PATTERN_WORDS, Section

_SCALARS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    SecretStr: "text",
    Path: "a path",
}


def section_of(annotation: Any) -> type[Section] | None:
    """The section that `annotation` is, or holds one of or many of; None where it holds plain values."""
    annotation = _bare(annotation)[0]
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for each in get_args(annotation) if (found := section_of(each))), None)


def is_mapping_of_names(annotation: Any) -> bool:
    return get_origin(annotation) is dict


def is_list(annotation: Any) -> bool:
    return get_origin(annotation) is tuple


def may_be_empty(annotation: Any) -> bool:
    """Whether nothing written stands for all defaults: a section in which every key has one."""
    return _is_section(annotation) and not any(each.is_required() for each in annotation.model_fields.values())


def field_at(path: FieldPath) -> FieldInfo | None:
    """The field that `path` leads to in `cluster.yaml`, an entry of a list or mapping included; None for no setting."""
    field = FieldInfo(annotation=ClusterSettings)
    for step in path:
        annotation: Any = field.annotation
        lists = [each for each in (annotation, *get_args(annotation)) if is_list(each)]  # a union may have one
        if is_mapping_of_names(annotation):
            field = FieldInfo.from_annotation(get_args(annotation)[1])
        elif lists and isinstance(step, int):
            field = FieldInfo.from_annotation(get_args(lists[0])[0])
        elif (section := _one_section(annotation)) is not None and step in section.model_fields:
            field = section.model_fields[str(step)]
        else:
            return None
    return field


def type_words(field: FieldInfo) -> str:
    """What may be written there, such as "a whole number from 1 to 64" or "off, deterministic or all"."""
    return _words(field.annotation, field.metadata)


def name_words(field: FieldInfo) -> str:
    """What the names in this mapping may be."""
    return _words(get_args(field.annotation)[0])


def example_of(field: FieldInfo) -> str | None:
    """A value as it may be written, on one line."""
    if field.examples:
        return as_yaml(field.examples[0])
    default = field.get_default(call_default_factory=False)
    if section_of(field.annotation):
        return _example_of_entry(field.annotation)
    return None if field.is_required() or default is None else as_yaml(default)


def as_yaml(value: Any) -> str:
    """One value as YAML writes it on a line; a secret as it stands, so for examples only."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(as_yaml(each) for each in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {as_yaml(each)}' for key, each in value.items())}}}"
    if isinstance(value, SecretStr):
        return as_yaml(value.get_secret_value())
    if isinstance(value, str | Path):
        return _quoted(str(value))
    return json.dumps(value)


def _quoted(text: str) -> str:
    """In quotes where it would be read as something else."""
    is_plain = text and text[0] not in "[{*&!|>@%`\"'#,?-" and ", " not in text and ": " not in text
    return text if is_plain else json.dumps(text, ensure_ascii=False)


def either(words: Iterable[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def _example_of_entry(annotation: Any) -> str | None:
    """The first key worth writing in a section, for those who wrote something else in its place."""
    if (section := section_of(annotation)) is None:
        return None
    name, field = next(
        ((name, field) for name, field in section.model_fields.items() if field.is_required()),
        next(iter(section.model_fields.items())),
    )
    entry = f"{name}: {example_of(field)}"
    if is_list(annotation):
        return f"[{{{entry}}}]"
    return f"{{NAME: {{{entry}}}}}" if is_mapping_of_names(annotation) else f"{{{entry}}}"


def _words(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    annotation, inner = _bare(annotation)
    metadata = (*metadata, *inner)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return either(str(each).lower() if isinstance(each, bool) else str(each) for each in arguments)
    if origin in (Union, types.UnionType):
        return either(_words(each) for each in arguments if each is not types.NoneType)
    if origin is tuple:
        if section_of(arguments[0]) is not None:
            return "a list of mappings"
        return "a list of paths" if arguments[0] is Path else "a list of such"
    if origin is dict:
        return "a mapping from names to settings"
    if _is_section(annotation):
        return f"a mapping with any of {', '.join(annotation.model_fields)}"
    patterns = [words for each in metadata if (words := PATTERN_WORDS.get(getattr(each, "pattern", None) or ""))]
    return patterns[0] if patterns else _SCALARS[annotation] + _bounds(metadata)


def _bounds(metadata: Iterable[Any]) -> str:
    low = next((each.ge for each in metadata if isinstance(each, Ge)), None)
    above = next((each.gt for each in metadata if isinstance(each, Gt)), None)
    high = next((each.le for each in metadata if isinstance(each, Le)), None)
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if low is not None:
        return f", {low} or more"
    if above is None:
        return ""
    return f" above {above}" if high is None else f" above {above}, at most {high}"


def _bare(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """Take `Annotated` off, and a `Field(…)` within it apart into its constraints."""
    if get_origin(annotation) is not Annotated:
        return annotation, ()
    field = FieldInfo.from_annotation(annotation)
    return field.annotation, tuple(field.metadata)


def _one_section(annotation: Any) -> type[Section] | None:
    """The section that may be written there, and none of many."""
    return next((each for each in (annotation, *get_args(annotation)) if _is_section(each)), None)


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)
