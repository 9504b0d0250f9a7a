"""JSON as Go's encoding/json reads and writes it, because callers see its texts and its escapes.

Knows Go's error messages, its leniency (what follows the first value is not looked at) and its escapes.
Which fields a request has is left to `parse`.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

import orjson

_LESS, _MORE, _AND = b"<>&"  # as numbers: one is found in bytes in a quarter of the time that a text of one byte takes
_SEPARATORS = (("\u2028".encode(), rb"\u2028"), ("\u2029".encode(), rb"\u2029"))
_ESCAPES = ((b"<", rb"\u003c"), (b">", rb"\u003e"), (b"&", rb"\u0026"), *_SEPARATORS)
_NAMED_ESCAPES = {7: r"\a", 8: r"\b", 9: r"\t", 10: r"\n", 11: r"\v", 12: r"\f", 13: r"\r", 92: r"\\", 39: r"\'"}
_LITERALS = ("true", "false", "null")
_SPACE = " \t\r\n"
# A Python bool is an int too, so it comes first.
_WORDS: tuple[tuple[type | tuple[type, ...], str, str], ...] = (
    (bool, "bool", "bool"),
    ((int, float), "number", "float64"),
    (str, "string", "string"),
    (list, "array", "[]interface {}"),
    (dict, "object", "map[string]interface {}"),
)


class GoJsonError(ValueError):
    """The text is not JSON to Go; the message is Go's. An empty text is told by `is_empty`: Go calls it EOF."""

    def __init__(self, message: str, *, is_empty: bool = False) -> None:
        super().__init__(message)
        self.is_empty = is_empty


def dumps(value: object) -> bytes:
    """`value` as Go marshals it: compact, in the order given, with `<`, `>` and `&` escaped."""
    try:
        data = orjson.dumps(value)
    except TypeError:  # deeper than its 254 levels
        data = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    if _LESS in data or _MORE in data or _AND in data or not data.isascii():
        for plain, escaped in _ESCAPES:
            data = data.replace(plain, escaped)
    return data


def loads(raw: bytes) -> Any:
    """The first JSON value in `raw`; raises `GoJsonError`."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return _loads_leniently(raw.decode("utf-8", "replace"))


def may_be_deeper(raw: bytes, levels: int) -> bool:
    """Whether a text has the brackets for more levels than that: of many texts it tells at a glance that they have not.

    Brackets are taken out rather than counted, and no more of them than tell: that takes a tenth of the time.
    """
    if len(raw) <= 2 * levels:
        return False
    bare = raw.replace(b"[", b"", levels + 1)
    return 2 * len(raw) - len(bare) - len(raw.replace(b"{", b"", levels + 1)) > levels


def is_deeper(value: object, levels: int) -> bool:
    """Whether lists and objects lie within each other on more levels than that."""
    within = [value]
    for _ in range(levels + 1):
        within = [
            inner
            for each in within
            if isinstance(each, list | dict)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not within:
            return False
    return True


def quote(text: str) -> str:
    """`text` as Go's %q prints it; Python's and Go's JSON-like quoting agree on what occurs in names."""
    return json.dumps(text, ensure_ascii=False)


def type_name(value: object) -> str:
    """The word for a JSON value in Go's type errors."""
    return _words(value)[0]


def go_type(value: object) -> str:
    """The Go type (%T) that a JSON value becomes in an `any`."""
    return _words(value)[1]


def _words(value: object) -> tuple[str, str]:
    for kinds, word, go_name in _WORDS:
        if isinstance(value, kinds):
            return word, go_name
    return "null", "<nil>"


def _loads_leniently(text: str) -> Any:
    start = len(text) - len(text.lstrip(_SPACE))
    if start == len(text):
        raise GoJsonError("EOF", is_empty=True)
    try:
        value, _ = _LENIENT.raw_decode(text, start)
    except RecursionError as error:
        raise GoJsonError("exceeded max depth") from error
    except json.JSONDecodeError as error:
        raise GoJsonError(_go_message(text, error)) from error
    # A lone surrogate is legal in JSON text and in no encoding of it: Go replaces it, so must we.
    return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


def _refuse_constant(name: str) -> NoReturn:
    """NaN and Infinity are JSON to Python and not to Go."""
    if name.startswith("-"):
        raise GoJsonError("invalid character 'I' in numeric literal")
    raise GoJsonError(f"invalid character '{name[0]}' looking for beginning of value")


def _int(digits: str) -> int | float:
    return int(digits) if len(digits) < 19 else _float(digits)


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise GoJsonError(f"json: cannot unmarshal number {digits} into Go value of type float64")
    return number


_LENIENT = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_int, parse_float=_float)


def _go_message(text: str, error: json.JSONDecodeError) -> str:
    """What Go says where Python's decoder said `error`; the two stop at the same character or near it."""
    if error.msg.startswith("Invalid control character"):
        return _invalid(text, error.pos, "in string literal")
    if error.msg.startswith("Invalid \\escape"):
        return _invalid(text, error.pos + 1, "in string escape code")
    if error.msg.startswith("Invalid \\uXXXX"):
        digits = re.compile(r"u?[0-9a-fA-F]*").match(text, error.pos)
        return _invalid(text, digits.end() if digits else error.pos, r"in \u hexadecimal character escape")
    if error.msg.startswith("Unterminated string"):
        return "unexpected EOF"
    at = _skip_space(text, error.pos + (1 if error.msg.startswith("Illegal trailing comma") else 0))
    if "property name" in error.msg or error.msg.endswith("end of object"):
        return _invalid(text, at, "looking for beginning of object key string")
    if error.msg.startswith("Expecting ':'"):
        return _invalid(text, at, "after object key")
    if error.msg.startswith("Expecting ','"):
        return _in_number(text, at) or _invalid(text, at, _after_what(text, at))
    return _in_literal(text, at)


def _invalid(text: str, at: int, where: str) -> str:
    return f"invalid character {_quote_char(text[at])} {where}" if at < len(text) else "unexpected EOF"


def _quote_char(char: str) -> str:
    """Go looks at bytes: of a character beyond ASCII it names the first byte, read as Latin-1."""
    byte = char.encode("utf-8", "replace")[0]
    if byte in _NAMED_ESCAPES:
        return f"'{_NAMED_ESCAPES[byte]}'"
    if byte < 0x20 or byte == 0x7F:
        return f"'\\x{byte:02x}'"
    if 0x80 <= byte <= 0xA0 or byte == 0xAD:
        return f"'\\u{byte:04x}'"
    return f"'{chr(byte)}'"


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _after_what(text: str, at: int) -> str:
    """Whether the value before `at` stands in an array or in an object: only an array can be closed by a bracket."""
    try:
        json.JSONDecoder().raw_decode(text[:at] + "]", _skip_space(text, 0))
    except json.JSONDecodeError as error:
        if error.pos <= at:
            return "after object key:value pair"
    return "after array element"


def _in_number(text: str, at: int) -> str | None:
    """Go reads on in `1.` and `1e`, where Python ends the number before the point or the letter."""
    if at >= len(text) or at == 0 or not text[at - 1].isdigit() or text[at] not in ".eE":
        return None
    if text[at] == ".":
        return _invalid(text, at + 1, "after decimal point in numeric literal")
    has_sign = text[at + 1 : at + 2] in ("+", "-")
    return _invalid(text, at + (2 if has_sign else 1), "in exponent of numeric literal")


def _in_literal(text: str, at: int) -> str:
    """No value begins at `at`; Go names the place where `true`, `false`, `null` or a minus sign went wrong."""
    if at < len(text) and text[at] == "-":
        return _invalid(text, at + 1, "in numeric literal")
    for literal in _LITERALS:
        if at < len(text) and text[at] == literal[0]:
            same = next(n for n in range(1, len(literal) + 1) if text[at + n : at + n + 1] != literal[n : n + 1])
            return _invalid(text, at + same, f"in literal {literal} (expecting {_quote_char(literal[same])})")
    return _invalid(text, at, "looking for beginning of value")
