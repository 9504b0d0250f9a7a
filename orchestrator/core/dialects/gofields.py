"""Go's types as far as requests have them, and what Go says of a value that does not fit one.

The two types with rules of their own (Duration, ThinkValue) are from Ollama's api/types.go (0.33). Which request has
which fields is left to `gostructs`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, Final

from orchestrator.core.dialects import gojson
from orchestrator.core.dialects.errors import MalformedCall

FOREVER_S: Final = (2**63 - 1) / 1e9  # Go's longest Duration: what a negative keep_alive means
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_THINK_LEVELS = ("high", "medium", "low", "max")
_TAKEN: Final[Mapping[str, frozenset[type]]] = {
    "string": frozenset({str}),
    "bool": frozenset({bool}),
    "int": frozenset({int}),
    "number": frozenset({int, float}),
    "object": frozenset({dict}),
    "array": frozenset({list}),
    "": frozenset(),
}


@dataclass(frozen=True, slots=True)
class GoType:
    """A Go type: its name in errors, the JSON word it takes, and the types within it.

    `rule` stands in place of all that where the type refuses in words of its own. `is_opaque`: the type has a decoder
    of its own, which hides the names of the structs within it from errors. `is_apart`: such a decoder takes this field
    by itself, so that its name is not in errors either.
    """

    name: str
    takes: str
    items: GoType | None = None
    fields: Mapping[str, GoType] | None = None
    rule: Callable[[Any], object] | None = None
    is_opaque: bool = False
    is_apart: bool = False
    takes_text: bool = False  # besides what it takes
    untyped: frozenset[str] = frozenset()  # fields that take anything
    fitting: frozenset[type] = field(init=False)  # types of which every value fits; of others a look into it tells

    def __post_init__(self) -> None:
        is_whole = self.items is None and self.fields is None
        taken = _TAKEN[self.takes] if is_whole else frozenset[type]()
        object.__setattr__(self, "fitting", taken | {type(None)} if self.rule is None else frozenset())


def keep_alive_s(value: object) -> float:
    """Seconds a model stays loaded: a number of seconds or a Go duration ("5m"); below zero is for ever.

    Raises `MalformedCall` with Ollama's words.
    """
    if isinstance(value, str):
        seconds = _duration_s(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        raise MalformedCall(f"Unsupported type: '{gojson.go_type(value)}'")
    return FOREVER_S if seconds < 0 else min(seconds, FOREVER_S)


def _duration_s(text: str) -> float:
    """Go's time.ParseDuration, in seconds."""
    sign = -1.0 if text.startswith("-") else 1.0
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0.0
    if not rest:
        raise MalformedCall(f"time: invalid duration {gojson.quote(text)}")
    total = 0.0
    while rest:
        number = re.match(r"(?=\.?\d)\d*\.?\d*", rest, re.ASCII)
        if number is None:
            raise MalformedCall(f"time: invalid duration {gojson.quote(text)}")
        unit = re.match(r"[^.\d]*", rest[number.end() :], re.ASCII)
        name = unit.group() if unit else ""
        if not name:
            raise MalformedCall(f"time: missing unit in duration {gojson.quote(text)}")
        if name not in _UNITS_S:
            raise MalformedCall(f"time: unknown unit {gojson.quote(name)} in duration {gojson.quote(text)}")
        total += float(number.group()) * _UNITS_S[name]
        rest = rest[number.end() + len(name) :]
    return sign * total


def check_think(value: object) -> None:
    levels = ", ".join(f'"{level}"' for level in _THINK_LEVELS)
    if isinstance(value, str) and value not in _THINK_LEVELS:
        raise MalformedCall(f"invalid think value: {gojson.quote(value)} (must be {levels}, true, or false)")
    if not isinstance(value, bool | str):
        raise MalformedCall(f"think must be a boolean or string ({levels}, true, or false)")


def folded(name: str) -> str:
    """A field's name as Go compares it: capitals count as small letters, as do the two signs that fold to one."""
    return name.lower().replace("ſ", "s")  # the other is Kelvin's, whose small letter is k


def as_read(wanted: GoType, given: Any) -> Any:
    """`given` with its fields under the names by which Go finds them, however they are spelled; the last of one counts.

    Read otherwise here than there, a message could hold words that nobody but the engine sees.
    """
    if wanted.items is not None and isinstance(given, list):
        return [as_read(wanted.items, each) for each in given]
    if wanted.fields is None or not isinstance(given, dict):
        return given
    read: dict[str, Any] = {}
    for name, value in given.items():
        known = name if name in wanted.fields else folded(name)
        if known in wanted.fields:
            if value is not None or known not in read:
                read[known] = as_read(wanted.fields[known], value)
        elif known in wanted.untyped:
            read[known] = value
        else:
            read[name] = value
    return read


def fits(wanted: GoType, given: object) -> bool:
    """True only where `misfit` finds nothing and `as_read` changes nothing: a first look that costs a tenth, since
    nearly all calls are right."""
    if type(given) in wanted.fitting:
        return True
    items, fields = wanted.items, wanted.fields
    if items is not None and isinstance(given, list):
        return items.fitting.issuperset(map(type, given)) or all(map(fits, repeat(items), given))
    if fields is None or not isinstance(given, dict):
        return False
    untyped = wanted.untyped
    for name, value in given.items():
        within = fields.get(name)
        if within is not None:
            if type(value) not in within.fitting and not fits(within, value):
                return False
        elif name not in untyped and ((known := folded(name)) in fields or known in untyped):
            return False
    return True


def misfit(wanted: GoType, struct: str, path: str, given: object, *, is_opaque: bool = False) -> str | None:
    """Go's sentence about a value that does not fit, or None. `struct` and `path`: what Go calls the place."""
    if wanted.rule is not None:
        wanted.rule(given)
        return None
    if given is None:
        return None
    word = gojson.type_name(given)
    if wanted.takes == "int" and word == "number":
        word = "int" if isinstance(given, int) else f"number {given}"
    if word == "string" and wanted.takes_text:
        return None
    if word != wanted.takes:
        return f"json: cannot unmarshal {word} into Go struct field {struct}.{path} of type {wanted.name}"
    if wanted.items is not None and isinstance(given, list):
        within = ((wanted.items, struct, path, each) for each in given)
    elif wanted.fields is not None and isinstance(given, dict):
        is_opaque = is_opaque or wanted.is_opaque
        inner = struct if is_opaque else short_name(wanted.name)
        known = given.keys() & wanted.fields.keys()
        within = (
            (each := wanted.fields[name], inner, path if each.is_apart else f"{path}.{name}", given[name])
            for name in given
            if name in known
        )
    else:
        return None
    return next((why for each in within if (why := misfit(*each, is_opaque=is_opaque))), None)


def short_name(type_name: str) -> str:
    return type_name.rpartition(".")[2]
