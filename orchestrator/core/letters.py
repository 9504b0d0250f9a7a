"""Turkish and English letters: lower case, and what is left when somebody types without Turkish letters.

Knows letters only. Where folding them could change an answer is for `faq` and `cachekey` to judge.
"""

from __future__ import annotations

import unicodedata

_MARKED = {"ı": "i", "ş": "s", "ğ": "g", "ç": "c", "ö": "o", "ü": "u", "â": "a", "î": "i", "û": "u"}
_DOT_ABOVE = "\u0307"  # what lower() makes of İ is an i and this


def lower(text: str, *, is_turkish: bool) -> str:
    """`text` in small letters; a plain I becomes ı in Turkish and i elsewhere, İ becomes i in both."""
    if "İ" in text:
        text = text.replace("İ", "i")
    if is_turkish and "I" in text:
        text = text.replace("I", "ı")
    small = text.lower()
    return small.replace("i" + _DOT_ABOVE, "i") if _DOT_ABOVE in small else small


def without_marks(small: str) -> str:
    """Small letters as an ASCII keyboard has them: ı ş ğ ç ö ü â î û lose their marks, others stay.

    Different words may fall together ("sınır" border and "sinir" nerve), so this finds candidates and decides nothing.
    """
    if small.isascii():
        return small
    for letter, plain in _MARKED.items():
        small = small.replace(letter, plain)
    return small


def leaves_marks_off(typed: str, meant: str) -> bool:
    """`typed` is `meant`, or `meant` with some marks left off; a mark that `meant` does not have is never one added."""
    if len(typed) != len(meant):
        return False
    return all(one == other or one == _MARKED.get(other) for one, other in zip(typed, meant, strict=True))


def compose(text: str) -> str:
    """One code for one letter (NFKC), but raised, lowered and fraction digits stay: 10² is not 102."""
    if unicodedata.is_normalized("NFKC", text):
        return text
    return "".join(_composed(each) for each in unicodedata.normalize("NFC", text))


def _composed(letter: str) -> str:
    kind = unicodedata.decomposition(letter)
    if not kind.startswith("<") or kind.startswith(("<super>", "<sub>", "<fraction>")):
        return letter
    return unicodedata.normalize("NFKC", letter)
