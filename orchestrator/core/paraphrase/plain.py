"""Questions whose generated answer may be given to another one: which are plain enough, and which two mean the same.

The guard is that of curated entries, asked both ways round. It knows what its tables forgive; those were made for
entries whose neighbours their authors know. A generated answer has no such author, so what they forgive is asked
again here: tenses, persons, relations between words, weak words, synonyms, slips of the fingers, marks left off.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from orchestrator.core.letters import compose, lower, without_marks
from orchestrator.core.paraphrase.english import ENGLISH
from orchestrator.core.paraphrase.guard import Compared, compare
from orchestrator.core.paraphrase.index import LIKENESS_MIN
from orchestrator.core.paraphrase.reading import KEY_LETTERS, Reading, Word, read
from orchestrator.core.paraphrase.turkish import TURKISH
from orchestrator.core.paraphrase.turns import Turns, is_about_texts, turns_of
from orchestrator.core.paraphrase.words import ASKS, FRAME, MODAL, NOT, ONE, WEAK

LETTERS_MAX: Final = 200  # a longer text has more in it than a question

# One sentence, of words and numbers. Quotes, brackets, colons and signs are about texts, code or sums.
_SENTENCE: Final = re.compile(r"(?:[^\W_]|[ ,%'’-]|[.](?=\d)|[.?!…](?=[ .?!…]*$))+")
_WORDS: Final = re.compile(r"[^\W\d_]+(?=['’][^\W\d_]+|)")
_TURKISH_LETTERS: Final = frozenset("abcçdefgğhıijklmnoöprsştuüvyzqwxâîû")
_SAYS_LITTLE: Final = (FRAME, ASKS, MODAL, NOT, WEAK)
_ALIKE_BESIDE_SYNONYMS: Final = 2


@dataclass(frozen=True, slots=True)
class Plain:
    """A plain question, read. `turns`: what turns its meaning around beside the words that mean something."""

    language: str
    reading: Reading
    turns: Turns

    @property
    def keys(self) -> tuple[str, ...]:
        """What it is about, in its order, which says who does it to whom. Two that mean the same have the same."""
        return tuple(each.key for each in self.reading.words if not each.is_weak and each.key != ONE)


class Judged(NamedTuple):
    """How alike two plain questions are, and what speaks against one answer for both."""

    likeness: float
    objections: tuple[str, ...]

    @property
    def are_one(self) -> bool:
        return not self.objections


def language_of(text: str) -> str:
    """The language of one sentence, tr or en, in which capitals say nothing; '' where they may, or of another text."""
    if _SENTENCE.fullmatch(text) is None:
        return ""
    language = _language(text)
    if not language or _has_names_like_little_words(text, language):
        return ""
    return "" if is_about_texts(_words(text, is_turkish=language == "tr"), language) else language


def plain(question: str) -> Plain | None:
    """`question` read; None where it is no single short question that asks something in Turkish or English."""
    text = compose(question).strip()
    language = language_of(text) if len(text) <= LETTERS_MAX else ""
    if not language:
        return None
    words = _words(text, is_turkish=language == "tr")
    reading = read(text, language, is_asked=True)
    if not reading.kinds or not reading.keys:
        return None
    return Plain(language, reading, turns_of(words, reading, language))


def judge(one: Plain, other: Plain) -> Judged:
    """Whether an answer to one of two questions is the other's, whichever was asked first."""
    if one.language != other.language:
        return Judged(0.0, ("another language",))
    forth, back = (_compared(*each, one.language) for each in ((one, other), (other, one)))
    reasons = dict.fromkeys((*forth.objections, *back.objections))
    reasons |= dict.fromkeys(
        f"another {what}"
        for what, here, there in zip(Turns._fields, one.turns, other.turns, strict=True)
        if here != there
    )
    if one.keys != other.keys:
        reasons["another order of the words, or others"] = None
    if one.language == "tr" and _has_other_cases(one.reading.words, other.reading.words):
        reasons["endings of several words are others: who does it to whom"] = None
    if _relies_on_synonyms(one.reading.words, other.reading.words):
        reasons["too few words are the same beside those that only mean the same"] = None
    likeness = min(forth.likeness, back.likeness)
    if likeness < LIKENESS_MIN:
        reasons["not alike enough"] = None
    return Judged(likeness, tuple(reasons))


def _compared(asked: Plain, kept: Plain, language: str) -> Compared:
    # As names: no slip of the fingers is forgiven, since "county" may be meant where "country" was.
    words = tuple(replace(each, is_name=True) for each in asked.reading.words)
    return compare(replace(asked.reading, words=words), kept.reading, language)


def _language(text: str) -> str:
    words = _words(text, is_turkish=True)
    turkish = sum(each in TURKISH.exact for each in words)
    english = sum(each in ENGLISH.exact for each in words)
    if turkish > english and _TURKISH_LETTERS.issuperset("".join(_WORDS.findall(lower(text, is_turkish=True)))):
        return "tr"
    # Every other language has some of English's small words.
    return "en" if english > turkish and 3 * english >= len(words) and text.replace("’", "'").isascii() else ""


def _words(text: str, *, is_turkish: bool) -> list[str]:
    """In small letters, without marks and without what stands behind an apostrophe."""
    stems = re.sub(r"['’][^\W\d_]+", "", text) if is_turkish else text.replace("’", "'")
    return _WORDS.findall(without_marks(lower(stems, is_turkish=is_turkish)))


def _has_names_like_little_words(text: str, language: str) -> bool:
    """ "the US", "IT security", "in May": written as names, read as words that say nothing."""
    exact = (TURKISH if language == "tr" else ENGLISH).exact
    for place, word in enumerate(_WORDS.findall(text)):
        is_written_so = word[0].isupper() and (place > 0 or (len(word) > 1 and word.isupper())) and word != "I"
        small = without_marks(lower(word, is_turkish=language == "tr"))
        if is_written_so and exact.get(small, "").startswith(_SAYS_LITTLE):
            return True
    return False


def _has_other_cases(one: Sequence[Word], other: Sequence[Word]) -> bool:
    """ "Kedi köpeği yer" and "kediyi köpek yer": Turkish tells by endings what English tells by order."""
    forms = [{each.plain for each in words[:-1] if not each.is_weak} for words in (one, other)]
    begins = [{each[:KEY_LETTERS] for each in form} for form in (forms[0] - forms[1], forms[1] - forms[0])]
    return len(begins[0] & begins[1]) > 1


def _relies_on_synonyms(one: Sequence[Word], other: Sequence[Word]) -> bool:
    begins = [{each.plain[:KEY_LETTERS] for each in words if not each.is_weak} for words in (one, other)]
    return begins[0] != begins[1] and len(begins[0] & begins[1]) < _ALIKE_BESIDE_SYNONYMS
