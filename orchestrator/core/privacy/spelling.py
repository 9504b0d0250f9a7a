"""A text as the finders read it: foreign digits, and blanks and dashes of word processors, as ASCII has them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

# Blanks and hyphens that are none to a regular expression for ASCII, letters without a width, marks that stand behind
# their letter, digits of other scripts, the wide letters of East Asian keyboards, and the bold ones of mathematics.
_ODD = re.compile(
    "[\u0300-\u036f\u00a0\u00ad\u061c\u1680\u180e\u2000-\u2015\u2028-\u202f\u205f-\u206f\u20e3\u2212\u3000"
    "\ufe00-\ufe0f\ufeff\uff01-\uff5e\u0660-\u0669\u06f0-\u06f9\u0966-\u096f\U0001d400-\U0001d7ff]"
)


def plainly(text: str) -> tuple[str, Sequence[int] | None]:
    """`text` so spelled, and where each character of it was; None: all where they were."""
    if text.isascii() or not _ODD.search(text):
        return text, None
    letters: list[str] = []
    places: list[int] = []
    for place, letter in enumerate(text):
        if plain := _plain(letter):
            letters.append(plain)
            places.append(place)
    return "".join(letters), places


def _plain(letter: str) -> str:
    if not _ODD.match(letter):
        return letter
    category = unicodedata.category(letter)
    if category in ("Cf", "Mn", "Me"):  # without a width: between two digits it parts nothing
        return ""
    if category in ("Zs", "Zl", "Zp"):
        return " "
    if category == "Pd" or letter == "\u2212":
        return "-"
    if category == "Nd":
        return str(unicodedata.digit(letter))
    return unicodedata.normalize("NFKC", letter)[:1]
