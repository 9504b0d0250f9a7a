"""Whether two questions ask the same: how alike they are, and what forbids to take one for the other.

Likeness alone is never enough: "safe" and "not safe" are as alike as two questions can be. So numbers, units, dates,
negations, directions, the kind of question and every word that means something must agree; what is forgiven are
endings, order, mere frame, words of one meaning, and a slip of the fingers in a long word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.core.paraphrase import endings
from orchestrator.core.paraphrase.reading import Reading, Word
from orchestrator.core.paraphrase.words import (
    ACTORS,
    AMOUNTS,
    DATES,
    NAMING,
    NUMBER,
    ONE,
    OPPOSITES,
    TIMES,
    UNITS,
    WEAK,
)

# Parts of likeness. A weak word counts little; a synonym, another ending and a slip are a little less than the same.
_WEIGHT, _WEAK_WEIGHT = 1.0, 0.3
_SAME_WORD, _SAME_MEANING, _SAME_ROOT, _SLIP = 1.0, 0.95, 0.97, 0.8
# Said where the question has them and the entry has not, these change nothing; the other way round they do: "the
# longest river" is not "the longest river in Turkey".
_MAY_BE_ADDED: Final = frozenset({".turkey"})
_FREE: Final = frozenset({".max", ".price", ".now", ".exactly", ".law", ".place", ".right", ".get", ONE})
# "When does the holiday start" is "when is the holiday", "how much fine is paid" is "how much is the fine".
_FREE_WITH: Final = {"when": frozenset({"start"}), "much": frozenset({"odeme", "kes"})}


@dataclass(frozen=True, slots=True)
class Compared:
    """How alike two questions are, 0 to 1, and each reason why they are not one; none: they ask the same."""

    likeness: float
    objections: tuple[str, ...]


def compare(asked: Reading, curated: Reading, language: str, also: Iterable[Word] = ()) -> Compared:
    """`asked` held against a curated question. `also`: words of the entry's other questions, which may be added."""
    pairs, extra, missing = _align(asked.words, curated.words, language)
    whole = sum(map(_weight, asked.words)) + sum(map(_weight, curated.words))
    matched = sum((_weight(one) + _weight(other)) * how for one, other, how in pairs)
    likeness = matched / whole if whole else 0.0
    free = _FREE | _FREE_WITH.get("".join(asked.kinds & curated.kinds), frozenset())
    extra = [each for each in extra if each.meaning not in _MAY_BE_ADDED | free and not _knows(also, each, language)]
    missing = [each for each in missing if each.meaning not in free]
    reasons = [*_about_words(extra, missing), *_about_kinds(asked, curated), *_about_sense(asked, curated)]
    if not reasons:
        reasons += _about_order(asked, curated, pairs)
    if not pairs:
        reasons.append("no word in common")
    return Compared(round(likeness, 4), tuple(reasons))


# --- words ---------------------------------------------------------------------------------------------------------


def _weight(word: Word) -> float:
    return _WEAK_WEIGHT if word.is_weak or word.meaning == ONE else _WEIGHT


def _align(
    asked: Sequence[Word], curated: Sequence[Word], language: str
) -> tuple[list[tuple[Word, Word, float]], list[Word], list[Word]]:
    """Each word with the one that it stands for, and how well; what is left of either side."""
    pairs: list[tuple[Word, Word, float]] = []
    missing, extra = list(curated), []
    for one in asked:
        best = max(((_how_same(one, other, language), -place) for place, other in enumerate(missing)), default=(0.0, 0))
        if best[0] > 0:
            pairs.append((one, missing.pop(-best[1]), best[0]))
        else:
            extra.append(one)
    return pairs, extra, missing


def _how_same(one: Word, other: Word, language: str) -> float:
    if one.text == other.text:
        return _SAME_WORD
    if one.meaning or other.meaning:
        is_same = one.meaning.lstrip(WEAK) == other.meaning.lstrip(WEAK) or {one.meaning, other.meaning} == {ONE, "#1"}
        if not is_same:
            return 0.0
        length = endings.shared(one.plain, other.plain)  # of "sınır" and "sinir" the table sees one word
        return _SAME_MEANING if length < 3 or endings.has_its_marks(one.text, other.text, length) else 0.0
    if language == "tr":
        is_same = one.key == other.key and endings.is_same_turkish(one.stem, other.stem)
    else:
        is_same = one.key == other.key
    if is_same:
        return _SAME_ROOT
    if not (one.is_name or other.is_name) and endings.is_slip(one.stem, other.stem):
        return _SLIP
    return 0.0


def _knows(words: Iterable[Word], word: Word, language: str) -> bool:
    return any(_how_same(word, each, language) > 0 for each in words)


def _about_words(extra: Sequence[Word], missing: Sequence[Word]) -> list[str]:
    reasons = []
    left = list(missing)
    for one in extra:
        across = next((each for each in left if _kind_of(one) == _kind_of(each) != "word"), None)
        across = across or next((each for each in left if {one.meaning, each.meaning} in OPPOSITES), None)
        if across is None:
            if one.is_free:
                continue
            reasons.append(f"{_kind_of(one)} only in what is asked: {one.text!r}")
            continue
        left.remove(across)
        kind = "opposites" if _kind_of(one) == "word" else f"another {_kind_of(one)}"
        reasons.append(f"{kind}: {one.text!r} is asked, the entry has {across.text!r}")
    reasons += [f"{_kind_of(each)} only in the entry: {each.text!r}" for each in left if not each.is_free]
    return reasons


def _kind_of(word: Word) -> str:
    if word.meaning.startswith(NUMBER):
        return "number"
    if word.meaning in DATES:
        return "date"
    if word.meaning in UNITS:
        return "unit"
    return "name" if word.is_name else "word"


# --- the whole question --------------------------------------------------------------------------------------------


def _about_kinds(asked: Reading, curated: Reading) -> list[str]:
    one, other = asked.kinds or frozenset({""}), curated.kinds or frozenset({""})
    if one == other:
        return []
    both = one | other
    if both <= NAMING and (not both & {"much", "value"} or (_has(curated, AMOUNTS) and _has(asked, AMOUNTS))):
        return []
    if both <= NAMING | {"when", "long"} and _has(curated, TIMES) and _has(asked, TIMES):
        return []
    if both <= NAMING | {"count"} and all(sum(w.meaning in UNITS for w in each.words) > 1 for each in (asked, curated)):
        return []
    return [f"another kind of question: {_named(one)} is asked, the entry answers {_named(other)}"]


def _has(reading: Reading, meanings: frozenset[str]) -> bool:
    return any(each.meaning.lstrip(WEAK) in meanings or each.key in meanings for each in reading.words)


def _named(kinds: frozenset[str]) -> str:
    return " and ".join(each or "a name alone" for each in sorted(kinds))


def _about_sense(asked: Reading, curated: Reading) -> list[str]:
    reasons = []
    if asked.counted and curated.counted and asked.counted != curated.counted:
        reasons.append(f"another thing is counted: {asked.counted!r} is asked, the entry has {curated.counted!r}")
    if asked.negations != curated.negations:
        reasons.append(f"a negation: {asked.negations} in what is asked, {curated.negations} in the entry")
    if "yesno" in asked.kinds | curated.kinds:
        if asked.modals != curated.modals:
            reasons.append(f"may and must: {_all(asked.modals)} is asked, the entry has {_all(curated.modals)}")
    elif asked.modals and curated.modals and asked.modals.isdisjoint(curated.modals) and "how" not in asked.kinds:
        reasons.append(f"may and must: {_all(asked.modals)} is asked, the entry has {_all(curated.modals)}")
    turned = (asked.targets & curated.origins) | (asked.origins & curated.targets)
    crossed = asked.targets - curated.targets and curated.targets - asked.targets
    if turned:
        reasons.append(f"from and to change places: {_all(turned)}")
    elif crossed and asked.targets & {each.key for each in curated.words}:
        reasons.append(f"another end: to {_all(asked.targets)} is asked, the entry has to {_all(curated.targets)}")
    return reasons


def _about_order(asked: Reading, curated: Reading, pairs: Sequence[tuple[Word, Word, float]]) -> list[str]:
    """Units, numbers, and those who do and are done to keep their order: an inch in cm is not a cm in inches."""
    for one, other, _ in pairs:
        if (one.direction == "from") != (other.direction == "from"):  # "okuldan kayıt" is not "okul kaydı"
            return [f"where from: {one.text!r} is asked, the entry has {other.text!r}"]
    places = {id(each): place for place, each in enumerate(curated.words)}
    named = [(one, other) for one, other, _ in pairs if one.meaning != ONE]
    order = [places[id(other)] for _, other in named]
    for place, (one, other) in enumerate(named):
        # "A lion is stronger than a tiger": both sides of a word have changed to the other one.
        if one.text == other.text and max(order[:place], default=-1) > order[place] > min(
            order[place + 1 :], default=99
        ):
            return [f"what stands before and after {one.text!r} has changed places"]
    for group, name in ((UNITS, "units"), (ACTORS, "who and whom")):
        order = [places[id(other)] for one, other, _ in pairs if one.meaning in group or one.key in group]
        if order != sorted(order):
            return [f"{name} in another order"]
    return []


def _all(values: Iterable[str]) -> str:
    return ", ".join(sorted(values)) or "neither"
