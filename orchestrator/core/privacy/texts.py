"""All texts of a call, wherever in its body they stand, and whether there is more in it that cannot be read here.

Nothing of a body is taken to be harmless because of its field: prompts, answers of before, results of tools, their
definitions and whatever else a client sends along are texts that would go out.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import unquote_plus

# Parts of a message that are words; whatever else a client may send is taken for a thing that nobody here can read.
_PARTS_IN_WORDS: Final = frozenset({
    "text", "input_text", "output_text", "summary_text", "reasoning_text", "refusal", "thinking", "reasoning",
    "message", "tool_use", "tool_result", "search_result", "function", "function_call", "function_call_output",
    "custom_tool_call", "custom_tool_call_output",
})  # fmt: skip
# Where parts stand: the type of anything else (a tool's schema) says nothing of what can be read.
_LISTS_OF_PARTS: Final = frozenset({"content", "input", "output", "parts"})
# Tokens of a conversation, as numbers.
_LISTS_OF_TOKENS: Final = frozenset({"context", "prompt", "input"})
_SEALED: Final = frozenset({"images", "encrypted_content"})
# What a value under these names is called says nothing of it: they are the dialects' own.
_STRUCTURE: Final = frozenset({"role", "content", "text", "type", "id", "model", "prompt", "input", "description"})
_LEAST_DIGITS: Final = 7
_DATA_URL_LETTERS: Final = 128
# What a provider has sealed itself, and is given back.
_SIGNATURES: Final = frozenset({"signature", "thought_signature"})
# A file in base64 is longer and has none of these, which texts have: one is told by that, whatever its field is called.
_SHORTEST_FILE: Final = 256
_MARKS_OF_TEXTS: Final = (" ", "@", ".", ":")
# Letters as JSON, HTML and URLs spell them.
_JSON_CODE: Final = re.compile(r"\\+u([0-9A-Fa-f]{4})")
_CODE: Final = re.compile(r"\\u[0-9A-Fa-f]{4}|%[0-9A-Fa-f]{2}|&(?:#\d|#[xX][0-9A-Fa-f]|[A-Za-z]{2})")


class Texts(NamedTuple):
    """`joined`: every text of a call, a line or more each. `has_more`: images, files, tokens, sealed thoughts."""

    joined: str
    has_more: bool


def texts_of(body: Mapping[str, Any]) -> Texts:
    """What stands in a call's body. Depth and order do not matter, so a deep one needs no deep stack."""
    told: list[str] = []
    has_more = False
    waiting: list[tuple[str, Any]] = [("", body)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, str):
            if name in _SEALED or _is_data_url(value):
                has_more |= bool(value)
                told += _not_sealed(value)
            else:
                has_more |= name not in _SIGNATURES and _is_file(value)
                told.append(value if name in _STRUCTURE or not name else f"{name}: {value}")
                told += _spelled_out(value)
                waiting += _inner(value)
        elif isinstance(value, Mapping):
            told += (each for each, inner in value.items() if each not in _STRUCTURE and not isinstance(inner, str))
            waiting += ((str(each), inner) for each, inner in value.items())
        elif isinstance(value, list | tuple):
            has_more |= _has_more(name, value)
            waiting += ((name, each) for each in value)
        elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) >= 10**_LEAST_DIGITS:
            told.append(f"{name}: {value}" if isinstance(value, int) else f"{name}: {value:.0f}")
    return Texts("\n".join(told), has_more)


def _has_more(name: str, values: list[Any] | tuple[Any, ...]) -> bool:
    if name in _SEALED and values:
        return True
    if name in _LISTS_OF_TOKENS and any(isinstance(each, int | list) for each in values):
        return True
    return name in _LISTS_OF_PARTS and any(
        isinstance(each, Mapping) and str(each.get("type", "text")) not in _PARTS_IN_WORDS for each in values
    )


def _inner(text: str) -> list[tuple[str, Any]]:
    """Arguments of tools are JSON within a text, where letters may be spelled as codes."""
    if text[:64].lstrip()[:1] not in ("{", "[") or ("\\" not in text and '":' not in text):
        return []
    try:
        return [("", json.loads(text))]
    except (ValueError, RecursionError):
        return []


def _spelled_out(text: str) -> Iterator[str]:
    """The lines of a text in which letters are spelled as codes, without those."""
    if "\\u" not in text and "%" not in text and "&" not in text:
        return
    for line in text.splitlines():
        if _CODE.search(line):
            yield html.unescape(unquote_plus(_JSON_CODE.sub(lambda code: chr(int(code[1], 16)), line)))


def _not_sealed(text: str) -> Iterator[str]:
    """What can be read of what is said to be a file: what stands before it, and all of it if it is a text."""
    head, _, rest = text.partition(",") if text.startswith("data:") else ("", "", text)
    if head:
        yield head
    if not _is_file(rest):
        yield rest


def _is_file(text: str) -> bool:
    return len(text) >= _SHORTEST_FILE and text.isascii() and not any(mark in text for mark in _MARKS_OF_TEXTS)


def _is_data_url(text: str) -> bool:
    return text.startswith("data:") and ";base64," in text[:_DATA_URL_LETTERS]
