"""Patterns that operators write, tried on what callers write: whatever both wrote, the time is linear in the text.

Python's own `re` goes back and forth: some patterns take hours on a text that is made for it. These are those of Rust's
`regex`, which pydantic brings along; it knows no look-around and no back-references, and is for that reason linear.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from pydantic_core import SchemaError, SchemaValidator, core_schema

# Of a long text both ends are looked at.
WINDOW: Final = 16_384

Pattern = Callable[[str], bool]


@lru_cache(maxsize=1024)
def compile_pattern(pattern: str) -> Pattern:
    """Whether a text has the pattern somewhere in it. Raises ValueError, which says what is wrong with the pattern."""
    try:
        found = SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex")).isinstance_python
    except SchemaError as why:
        told = [line.strip() for line in str(why).splitlines()]
        reason = next((line.removeprefix("error: ") for line in told if line.startswith("error: ")), told[-1])
        raise ValueError(reason) from why

    def is_in(text: str) -> bool:
        return found(text if len(text) <= 2 * WINDOW else f"{text[:WINDOW]}\n{text[-WINDOW:]}")

    return is_in


@lru_cache(maxsize=4096)
def _glob(pattern: str) -> re.Pattern[str]:
    # What fnmatch makes of a glob never goes back over what a `*` has taken.
    return re.compile(fnmatch.translate(pattern.lower()))


def is_like(text: str, glob: str) -> bool:
    """Whether `text` is what a glob (`*`, `?`, `[…]`) describes, capitals or not."""
    return _glob(glob).match(text.lower()) is not None
