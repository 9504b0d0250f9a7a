"""A question read: what kind it is, what it is about, and what turns its meaning around.

Reads one question at a time and knows no other; whether two ask the same is `guard`'s to say.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from orchestrator.core.letters import compose, lower, without_marks
from orchestrator.core.paraphrase import endings
from orchestrator.core.paraphrase.english import ENGLISH
from orchestrator.core.paraphrase.turkish import TURKISH
from orchestrator.core.paraphrase.words import AMOUNTS, ASKS, FRAME, MODAL, NOT, NUMBER, ONE, UNITS, WEAK, Lexicon

KEY_LETTERS: Final = endings.ROOT_MIN

_TOKENS: Final = re.compile(
    r"-\d+(?:[.,:]\d+)*|\d+(?:[.,:]\d+)*!?|[^\W\d_]+(?:'[^\W\d_]+)?|'[^\W\d_]+|[^\w\s.,;:?!…\"'()\[\]{}/–—-]|_"
)
_GLUED: Final = re.compile(r"[^\W_]*(?:\d[^\W\d_]|[^\W\d_]\d)[^\W_]*")  # "ipv6", "50km", "h264"
_WITH_UNIT: Final = re.compile(r"(\d+(?:[.,]\d+)?)(km|m|cm|mm|kg|mg|g|gb|mb|kb|tb|tl|st|nd|rd|th)")
_ORDINALS: Final = frozenset({"st", "nd", "rd", "th"})
_AUXILIARIES: Final = "is are was were do does did can could may might must should will would has have am shall"
_YES_NO: Final = frozenset(_AUXILIARIES.split())


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a question. `meaning` as the tables name it, or "" where they do not know it; `key` finds it."""

    text: str
    meaning: str
    key: str
    stem: str = ""  # without a negation's endings
    is_negated: bool = False
    modal: str = ""
    direction: str = ""  # from | to
    is_free: bool = False  # a unit that only says how an amount is to be told: "kaç km"
    plain: str = ""  # without Turkish marks
    is_name: bool = False  # with an apostrophe, a code or a number: no slip of the fingers is forgiven

    @property
    def is_weak(self) -> bool:
        return self.meaning.startswith(WEAK)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a question comes down to. `words` in their order, frames left out; `targets` and `origins`: to, from."""

    words: tuple[Word, ...]
    kinds: frozenset[str]
    modals: frozenset[str]
    negations: int
    targets: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()
    counted: str = ""  # what stands behind "how many"

    @property
    def keys(self) -> frozenset[str]:
        """What an index finds it by."""
        return frozenset(each.key for each in self.words if not each.is_weak and each.key != ONE)


def read(question: str, language: str, *, is_asked: bool = False) -> Reading:
    """`question` read as Turkish (tr) or English (en); `is_asked`: by somebody who may have no Turkish keyboard."""
    is_turkish = language == "tr"
    # A plain I without an İ beside it may be either letter: as i it agrees with both, its mark left off.
    is_plain = is_asked and "I" in question and "İ" not in question
    text = lower(compose(question).replace("’", "'").replace("‘", "'"), is_turkish=is_turkish and not is_plain)
    words = [each for token in _split(text) for each in (_turkish(token) if is_turkish else _english(token))]
    if not is_turkish:
        words = _may_is_a_month(words)
    said = _phrases(words, TURKISH if is_turkish else ENGLISH)
    return _summed(said, words, is_turkish=is_turkish)


def _split(text: str) -> list[str]:
    if _GLUED.search(text) is None:
        return _TOKENS.findall(text)
    pieces = []
    for blank in text.split():
        glued = _GLUED.search(blank)
        if glued is None:
            pieces += _TOKENS.findall(blank)
            continue
        pieces += _TOKENS.findall(blank[: glued.start()])
        unit = _WITH_UNIT.fullmatch(glued[0])
        pieces += [unit[1], *({unit[2]} - _ORDINALS)] if unit else [glued[0]]
        pieces += _TOKENS.findall(blank[glued.end() :])
    return pieces


@lru_cache(maxsize=16_384)
def _turkish(token: str) -> tuple[Word, ...]:
    stem, apostrophe, ending = token.partition("'")
    if apostrophe and not stem:  # behind a number: its ending
        return (Word("", FRAME, "", direction=endings.direction(without_marks(ending))),)
    if odd := _number_or_sign(stem):
        return (odd,)
    plain = without_marks(stem)
    if apostrophe:
        meaning = TURKISH.exact.get(plain) or TURKISH.roots.get(plain, "")
        return (_word(stem, meaning, plain, direction=endings.direction(without_marks(ending)), is_name=True),)
    if meaning := TURKISH.exact.get(plain, ""):
        return (_word(stem, meaning, plain),)
    cut = endings.negation(plain)
    root = endings.root_of(plain if cut is None else plain[:cut], TURKISH.roots)
    if root is None and cut is not None and len(plain[:cut]) < 3:
        cut = None
    if root is not None:
        rest = plain[len(root) :]
        return (
            _word(
                stem,
                TURKISH.roots[root],
                plain,
                is_negated=cut is not None,
                modal=endings.modal(rest),
                direction=endings.direction(rest),
            ),
        )
    bare = stem if cut is None else stem[:cut]
    # Of an unknown word only "from" is sure enough: what ends in -a may end there by itself.
    way = "from" if cut is None and endings.direction(plain[3:]) == "from" else ""
    modal = endings.modal(plain[3:])
    return (_word(bare, "", without_marks(bare), is_negated=cut is not None, modal=modal, direction=way),)


@lru_cache(maxsize=16_384)
def _english(token: str) -> tuple[Word, ...]:
    stem, apostrophe, ending = token.partition("'")
    if apostrophe and not stem:
        return ()
    if odd := _number_or_sign(stem):
        return (odd,)
    if apostrophe and ending == "t":  # isn't, can't, won't
        verb = {"ca": "can", "wo": "will", "sha": "shall"}.get(stem[:-1], stem[:-1])
        return (_plain_english(verb), _plain_english("not"))
    return (_plain_english(stem),)


def _plain_english(word: str) -> Word:
    if meaning := ENGLISH.exact.get(word, "") or ENGLISH.roots.get(word, ""):
        return _word(word, meaning, word)
    root = endings.english_root(word)
    meaning = _ENGLISH_ROOTS.get(root, "")
    return Word(word, meaning, meaning or root, word, plain=word)


def _number_or_sign(token: str) -> Word | None:
    if token[0].isalpha() and token.isalpha():
        return None
    plain = without_marks(token).replace(",", ".").rstrip(".:")
    digits = plain.removeprefix("-").replace(".", "").replace(":", "")
    meaning = NUMBER + plain if digits.isdecimal() else plain
    return Word(token, meaning, meaning, token, is_name=True)


def _word(text: str, meaning: str, plain: str, **more: object) -> Word:
    is_name = bool(more.pop("is_name", False)) or meaning.startswith(NUMBER)
    return Word(text, meaning, meaning or plain[:KEY_LETTERS], text, plain=plain, is_name=is_name, **more)  # type: ignore[arg-type]


def _may_is_a_month(words: list[Word]) -> list[Word]:
    """ "1 May" and "May 1", but not "may children under 12"."""
    made = list(words)
    for place, each in enumerate(words):
        beside = words[max(0, place - 1) : place + 2]
        if each.text == "may" and any(near.is_name for near in beside):
            made[place] = Word("may", "month5", "month5", "may", plain="may", is_name=True)
    return made


def _phrases(words: Sequence[Word], lexicon: Lexicon) -> list[Word]:
    """Words that mean something together are taken together, the longest phrase first."""
    begin = lexicon.phrases
    made: list[Word] = []
    place = 0
    while place < len(words):
        word = words[place]
        rules = begin.get(word.plain) or begin.get(word.meaning) or ()
        for said, meant in rules:
            those = words[place : place + len(said)]
            if len(those) == len(said) and all(map(_is_said, those, said)):
                negated = any(each.is_negated for each in those)
                text = " ".join(each.text for each in those)
                made += [Word(text, each, each, text, is_negated=negated, plain=text) for each in meant]
                made += [Word("", "", "", modal=each.modal) for each in those if each.modal]
                place += len(said)
                break
        else:
            made.append(word)
            place += 1
    return made


def _is_said(word: Word, said: str) -> bool:
    return said in (word.meaning, word.plain)


def _ordered(said: list[Word]) -> list[Word]:
    """What "kaç" and "how many" ask for, brought into one form.

    The unit asked for stands last ("1 inch in cm"), and is free where the question names an amount ("hız limiti kaç
    km"). "Kaç" with nothing behind it asks for a value.
    """
    place = next((place for place, each in enumerate(said) if each.meaning == "?count"), None)
    if place is None:
        return said
    count, behind = said[place], next((each for each in said[place + 1 :] if each.text), None)
    rest = [each for each in said if each is not behind and each is not count]
    if behind is None or behind.meaning.startswith((FRAME, ASKS)):
        return [*said[:place], replace(count, meaning="?value"), *said[place + 1 :]]
    if behind.meaning in AMOUNTS - UNITS:
        return [*said[:place], replace(count, meaning="?value"), *said[place + 1 :]]
    if behind.meaning not in UNITS:
        return said
    if any(each.meaning in AMOUNTS - UNITS or each.key in AMOUNTS - UNITS for each in rest):
        count, behind = replace(count, meaning="?value"), replace(behind, is_free=True)
    return [*rest, count, behind]


def _eased(said: list[Word]) -> list[Word]:
    """ "1 mil" and "mil" are the same length, "29 Ekim" and "29 Ekim günü" the same day."""
    made = list(said)
    for place in range(1, len(said)):
        before, each = said[place - 1], said[place]
        if before.meaning == "#1" and each.meaning in UNITS:
            made[place - 1] = replace(before, meaning=ONE, key=ONE)
        if before.meaning.startswith("month") and each.meaning == "day":
            made[place] = replace(each, is_free=True)
    return made


def _summed(said: list[Word], words: Sequence[Word], *, is_turkish: bool) -> Reading:
    about: list[Word] = []
    kinds: set[str] = set()
    modals: set[str] = set()
    negations = 0
    counted = ""
    ordered = _ordered(_eased(said))
    for place, each in enumerate(ordered):
        if each.meaning == "?count" and place + 1 < len(ordered):
            counted = ordered[place + 1].key
        negations += each.is_negated or each.meaning == NOT
        if each.modal:
            modals.add(each.modal)
        first = each.meaning[:1]
        if first == ASKS:
            kinds.add(each.meaning[1:])
        elif first == MODAL:
            modals.add(each.meaning[1:])
        elif each.text and first not in (FRAME, NOT):
            about.append(each)
    if any(each.meaning == "price" for each in about):  # "how much does it cost": once is enough
        about = [each for each in about if each.meaning != ".price"]
    if not is_turkish and not kinds and any(each.text in _YES_NO for each in said):
        kinds.add("yesno")
    # "Yazdırmam gerekir" is no negation, "yazdırmam" at the end is one.
    negations += bool(is_turkish and words and endings.is_refusal(words[-1].plain))
    if is_turkish:
        targets, origins = (frozenset(each.key for each in words if each.direction == way) for way in ("to", "from"))
    else:
        targets, origins = _behind("to", words), _behind("from", words)
    return Reading(tuple(about), frozenset(kinds), frozenset(modals), negations, targets, origins, counted)


def _behind(preposition: str, words: Sequence[Word]) -> frozenset[str]:
    """The first words that mean something behind a preposition, wherever it stands."""
    found = set()
    for place, each in enumerate(words):
        if each.text == preposition:
            behind = (word for word in words[place + 1 :] if not word.meaning.startswith((FRAME, ONE)))
            found.add(next(behind, each).key)
    return frozenset(found)


_ENGLISH_ROOTS: Final = {
    **{endings.english_root(unit): unit for unit in sorted(UNITS)},
    **{endings.english_root(word): meaning for word, meaning in ENGLISH.roots.items()},
}
