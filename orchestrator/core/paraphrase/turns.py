"""What turns a question's meaning around that the guard of curated entries passes over: tenses, persons, relations.

Those who write a curated entry know what else is asked near it: "the salary" is whose it may be, "in" and "at" are one.
Of a generated answer nobody knows, so what is left out there as mere frame has to be the same here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from orchestrator.core.paraphrase.english import ENGLISH
from orchestrator.core.paraphrase.reading import Reading
from orchestrator.core.paraphrase.turkish import TURKISH
from orchestrator.core.paraphrase.words import ASKS, FRAME, lexicon

_MAY_DIFFER: Final = frozenset({".get", ".price"})  # of the weak words, those that a kind of question says anyway

# Their answer hangs on every letter, not on what is meant.
_ABOUT_TEXTS: Final = {
    "en": """say said spell translate translation rhyme rhymes word words letter letters sentence sentences synonym
        synonyms pronounce anagram grammar phrase poem story joke write""",
    "tr": """soyle soylenir denir diyebilirim cevir cevirisi kelime kelimesi kelimeler harf harfi cumle cumlesi telaffuz
        kafiye siir siiri hikaye fikra yaz yazar yazilir yazilisi anlamli""",
}
_TEXTS: Final = {language: frozenset(words.split()) for language, words in _ABOUT_TEXTS.items()}

_ENGLISH: Final = lexicon(
    exact="""
by with for from into onto about during as if then per each every any so some in on at whose whom here there or it
together: together
mean: mean
1st: i my we our
2nd: you your
us: me us mine ours
yours: yours
he: he him his himself
she: she her hers herself
they: they them their theirs themselves
this: this these
that: that those
past: was were did had took got bought lost forgot saw went drove found made wrote chose sent paid
done: been taken gotten forgotten seen gone driven written chosen kept
future: will shall
perhaps: would could might
""",
    roots="",
    phrases="",
).exact
_TURKISH: Final = lexicon(
    exact="""
icin ile ve veya ya hem gore hakkinda dair tarafindan olarak kimi kime kimin neyi neyin nesi nereden nerden var
1st: ben beni benim bana bende benden biz bizi bizim bize bizde bizden
2nd: sen seni senin sana sende senden siz sizi sizin size sizde sizden
that: o onu onun ona onda ondan onlar onlari onlarin onlara
this: bu
""",
    roots="",
    phrases="",
).exact
_SPEAKERS: Final = frozenset({"1st", "2nd"})
_PERSONS: Final = _SPEAKERS | {"us", "yours", "he", "she", "they", "this", "that"}
_BE: Final = frozenset({"is", "are", "was", "were"})
_MODALS_ARE_NOTHING: Final = frozenset({"how", "where"})
_TENSES: Final = frozenset({"past", "done", "future", "perhaps"})

# Of Turkish words, letters without marks.
_PAST: Final = re.compile("(?:[dt][iu]|m[iu]s)(?:m|n|k|[nm][iu]z|l[ae]r|[dt][iu]r)?")
_FUTURE: Final = re.compile("[ae]c[ae][kg]")
_PASSIVE: Final = re.compile(
    "(?<=..)(?:(?<!ab)(?<!eb)[iu]l|[iu]n|(?<=[ae])n)(?=[iu]r|[ae]r|[ae]b|[iu]yor|s[ae]|m[ae]|d[iu]|m[iu]s|[ae]c[ae])"
)
_NOT_I: Final = re.compile("m[ae]m$")
# "How is coffee made" is not "how does coffee become", and "learnt" is not "taught".
_DOING: Final = re.compile("yap|et|ed|ol|bulun|gerceklestir|soyle|ogren|anlat|merak")


class Turns(NamedTuple):
    """Two questions with another one of these are two."""

    person: tuple[str, ...]
    relation: tuple[str, ...]
    limit: tuple[str, ...]
    tense: tuple[str, ...]
    modal: tuple[str, ...]


def is_about_texts(words: Sequence[str], language: str) -> bool:
    """Whether a question asks for words rather than with them: of such ones no two are alike."""
    return not _TEXTS[language].isdisjoint(words)


def turns_of(words: Sequence[str], reading: Reading, language: str) -> Turns:
    """Of a question's words, in small letters and without marks, and of what was read in them."""
    table = _ENGLISH if language == "en" else _TURKISH
    said = [meaning for place, each in enumerate(words) if (meaning := table.get(each)) and not _is_empty(words, place)]
    persons = [each for each in said if each in _PERSONS]
    # Who asks, and "you" for anybody, are one; not where both are in it: "should I pay you".
    told = persons if {*persons} >= _SPEAKERS else [each for each in persons if each not in _SPEAKERS]
    relations = sorted(each for each in said if each not in _PERSONS | _TENSES)
    weak = sorted(each.meaning for each in reading.words if each.is_weak and each.meaning not in _MAY_DIFFER)
    tenses = {each for each in said if each in _TENSES} | (
        _english(words) if language == "en" else _turkish(words, reading)
    )
    # "How do I" and "how can I", "where do I" and "where can I" are one; "when do I" and "when can I" are not.
    modals = () if reading.kinds <= _MODALS_ARE_NOTHING else tuple(sorted(reading.modals))
    return Turns(tuple(told), tuple(relations), tuple(weak), tuple(sorted(tenses)), modals)


def _is_empty(words: Sequence[str], place: int) -> bool:
    """ "Is there", and "what does it mean": neither a place nor an average."""
    word, before = words[place], words[place - 1] if place else ""
    return (word == "there" and before in _BE) or (word == "mean" and place + 1 == len(words))


def _english(words: Sequence[str]) -> set[str]:
    return {"past" for each in words if each.endswith("ed") and len(each) > 4 and each not in ENGLISH.exact}


def _turkish(words: Sequence[str], reading: Reading) -> set[str]:
    """The verb stands last, but for what asks."""
    # "Nasıl alırım" and "nasıl alınır" are one; "köpek ısırırsa" and "köpek ısırılırsa" are not, nor "yer" and "yenir".
    voices = words[:-1] if "how" in reading.kinds else words
    told = {found[0] for each in words if (found := _DOING.match(each))}
    told |= {"passive" for each in voices if _PASSIVE.search(each)}
    for verb in [each for each in words if not TURKISH.exact.get(each, "").startswith((ASKS, FRAME))][-1:]:
        if _NOT_I.search(verb, 2):
            told.add("not")
        if _FUTURE.search(verb, 2):
            told.add("future")
        if any(_PAST.fullmatch(verb, place) for place in range(2, len(verb))):
            told.add("past")
    return told
