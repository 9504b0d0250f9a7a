"""Whether two words are one word with other endings, in Turkish and English; negations in endings are never lost.

Nothing is cut to a fixed length: of two Turkish words what they have in common is the root, if what is left of each is
nothing but endings that keep the meaning. -sız and the negations of verbs are no such endings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from orchestrator.core.letters import leaves_marks_off, without_marks

ROOT_MIN: Final = 4  # letters; below it, chance alone makes roots: those stand in the tables

# Letters without marks: ı is i, ü is u. Plural, possession, case, copula, voice, tense, person; "-ki", "-dır".
_ENDINGS: Final = re.compile(
    """(?:l[ae]r|[iu]?m[iu]z|[iu]n[iu]z|[iu]m|[iu]n|[sn][iu]n?|y?[iu]|[yn]?[ae]|n?[dt][ae]n?|n?[iu]n|y?l[ae]|[dt][iu]r
    |ki|[iu]?yor|[iuae]?r|[yn]?[ae]c[ae][kg]|m[ae]k?|[iu]l|[iu]n|n|l|y?[ae]bil|y?[ae]n|[dt][iu][kg]?|m[ae]l[iu]|s[ae]
    |y?[iu]p|m[iu]s|y?ken|inc[ae]|unc[ae]|[iu]s|s[iu]n[iu]z|m)*""".replace("\n    ", "")
)
_NEGATED: Final = re.compile(
    "(?<=..)(?:m[iu]yor|m[ae]z(?!l)|m[ae]d[iu]|m[ae]d[ae]n|m[ae]y[ae]c|m[ae]y[ae]n|m[ae]y[iu][pn]|m[ae]m[ae]|m[ae]m[iu]s"
    "|m[ae]s[ae]|(?<=[ae])m[ae]m$)"
)
_WITHOUT: Final = re.compile("(?<=..)s[iu]z(?=$|c[ae]|l[iu]k|l[ae]|[iu]|[ae]|d)")
_REFUSAL: Final = re.compile("(?<=..)[^aeiou]m[ae]m$")
_NEED: Final = re.compile("m[ae]l[iu]")
_MAY: Final = re.compile("[ae]bil")
_FROM: Final = re.compile("n?[dt][ae]n$")
_TO: Final = re.compile("[yn]?[ae]$")
_SOFT: Final = {("k", "g"), ("p", "b"), ("t", "d"), ("g", "k"), ("b", "p"), ("d", "t")}

_HARD: Final = {"g": "k", "b": "p", "d": "t"}
_VOWELS: Final = frozenset("aeiou")
_ROOT_MAX: Final = 14


def shared(one: str, other: str) -> int:
    """How many letters two words begin with alike."""
    length = min(len(one), len(other))
    return next((place for place in range(length) if one[place] != other[place]), length)


def root_of(plain: str, roots: Mapping[str, str]) -> str | None:
    """The longest of `roots` that `plain` is, with nothing but endings behind it."""
    place = plain.find("yor", 3)
    if place > 0 and plain[place - 1] in "iu":  # açıkla, açıklıyor
        wide = next((each for vowel in "ae" if (each := plain[: place - 1] + vowel) in roots), None)
        if wide is not None:
            return wide
    for length in range(min(len(plain), _ROOT_MAX), 1, -1):
        root = plain[:length]
        if root not in roots:
            hard = _HARD.get(root[-1])  # kimlik, kimliği
            if hard is None or plain[length : length + 1] not in _VOWELS or root[:-1] + hard not in roots:
                continue
            root = root[:-1] + hard
        if are_endings(plain[length:]):
            return root
    return None


def are_endings(rest: str) -> bool:
    """Whether these letters, without marks, are endings that keep a Turkish word's meaning."""
    return not rest or _ENDINGS.fullmatch(rest) is not None


def negation(plain: str) -> int | None:
    """Where in a Turkish word the ending begins that turns its meaning around, or None."""
    found = _NEGATED.search(plain) or _WITHOUT.search(plain)
    return found.start() if found else None


def is_refusal(plain: str) -> bool:
    """Whether a Turkish word that ends a question says "I do not": "yazdırmam"."""
    return _REFUSAL.search(plain) is not None


def modal(endings: str) -> str:
    """What a Turkish verb's endings say of may and must."""
    if _NEED.search(endings):
        return "need"
    return "may" if _MAY.search(endings) else ""


def direction(endings: str) -> str:
    """Whether a Turkish word's endings say from or to somewhere; "" for neither."""
    if _FROM.search(endings):
        return "from"
    return "to" if endings and _TO.fullmatch(endings) else ""


@lru_cache(maxsize=4096)
def is_same_turkish(asked: str, meant: str) -> bool:
    """Whether two words, in small letters with their marks, have one root of four letters at least."""
    a, b = without_marks(asked), without_marks(meant)
    length = shared(a, b)
    if not has_its_marks(asked, meant, length):
        return False
    if a == b:
        return True
    if length < ROOT_MIN:
        return False
    rest, more = a[length:], b[length:]
    if rest and more and (rest[0], more[0]) in _SOFT:
        rest, more = rest[1:], more[1:]
    return are_endings(rest) and are_endings(more)


def has_its_marks(asked: str, meant: str, length: int) -> bool:
    """Whether the first letters agree: marks may be left off in what is asked, but none is another or added."""
    return asked[:length] == meant[:length] or leaves_marks_off(asked[:length], meant[:length])


@lru_cache(maxsize=4096)
def english_root(word: str) -> str:
    """A word without plural, -ed and -ing, spelled as no dictionary may have it: for comparison alone."""
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and not word.endswith(("ss", "us", "is")):
            root = word[: -len(ending)]
            if len(root) >= 3 and not _VOWELS.isdisjoint(root):
                return _bare(root)
    return _bare(word)


def _bare(root: str) -> str:
    if len(root) > 3 and root[-1] == root[-2] and root[-1] not in "aeioulsz":
        return root[:-1]
    if len(root) > 3 and root.endswith("e"):
        return root[:-1]
    return root[:-1] + "y" if len(root) > 3 and root.endswith("i") else root


def is_slip(typed: str, meant: str) -> bool:
    """Whether `typed` is `meant` with one letter left out, doubled or swapped with its neighbour, inside a long word.

    No other letter: "kağıt" for "kayıt" is another word; nor an m in between: it negates Turkish verbs.
    """
    if len(meant) < 7 or len(typed) < 6 or abs(len(typed) - len(meant)) > 1 or typed[:2] != meant[:2]:
        return False
    start = shared(typed, meant)
    if len(typed) == len(meant):
        swapped = typed[:start] + typed[start : start + 2][::-1] + typed[start + 2 :]
        return swapped == meant and start + 2 < len(meant)
    longer, shorter = (typed, meant) if len(typed) > len(meant) else (meant, typed)
    if longer[:start] + longer[start + 1 :] != shorter or start + 1 >= len(longer):
        return False
    # A letter too many is a slip only where it repeats its neighbour; one too few anywhere but at the end.
    return longer[start] != "m" and (longer is meant or longer[start] == longer[start - 1])
