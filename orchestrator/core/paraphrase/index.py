"""Finding the curated question that an asked one is a paraphrase of, among tens of thousands.

Built once when entries are loaded. A look-up reads the question, takes the entries that share its rarest words, and
has `guard` look at a few of them: well under a millisecond, however common the words are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import log
from typing import Final

from orchestrator.core.paraphrase.guard import Compared, compare
from orchestrator.core.paraphrase.reading import Reading, Word, read

# Chosen on one half of benchmarks/cache/pairs.txt: `python -m benchmarks.cache.paraphrase`.
LIKENESS_MIN: Final = 0.8

_LOOKED_AT: Final = 8  # curated questions that the guard compares
_SEEN: Final = 300  # places of an index that one look-up reads; common words are left to the rare ones beside them
_WORDS_MAX: Final = 30  # a longer text is a story, and its answer is not a fixed one


@dataclass(frozen=True, slots=True)
class Near:
    """A curated question near to what was asked: which entry's, its text, and what the guard says."""

    entry: int
    question: str
    compared: Compared


@dataclass(frozen=True, slots=True)
class _Phrase:
    entry: int
    question: str
    reading: Reading


@dataclass(frozen=True, slots=True)
class Paraphrases:
    """The curated questions of one language, by their words."""

    language: str
    _phrases: Sequence[_Phrase] = ()
    _places: dict[str, list[int]] = field(default_factory=dict, repr=False)
    _by_keys: dict[frozenset[str], list[int]] = field(default_factory=dict, repr=False)
    _of_entry: dict[int, list[int]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, questions: Iterable[tuple[int, str]], language: str) -> Paraphrases:
        """Of (entry's number, question) pairs, all in one language."""
        made = cls(language, [_Phrase(entry, each, read(each, language)) for entry, each in questions])
        for place, phrase in enumerate(made._phrases):
            keys = phrase.reading.keys
            made._by_keys.setdefault(keys, []).append(place)
            made._of_entry.setdefault(phrase.entry, []).append(place)
            for key in keys:
                made._places.setdefault(key, []).append(place)
        return made

    def near(self, question: str, is_eligible: Callable[[int], bool], *, most: int = _LOOKED_AT) -> list[Near]:
        """The nearest curated questions of the entries that are eligible, those without an objection first."""
        asked = read(question, self.language, is_asked=True)
        if not asked.words or len(asked.words) > _WORDS_MAX:
            return []
        found = [self._phrases[place] for place in self._candidates(asked, most)]
        compared = [
            Near(each.entry, each.question, compare(asked, each.reading, self.language, self._also(each)))
            for each in found
            if is_eligible(each.entry)
        ]
        return sorted(compared, key=lambda near: (bool(near.compared.objections), -near.compared.likeness))

    def _candidates(self, asked: Reading, most: int) -> list[int]:
        """Places of the curated questions that share most with `asked`, rare words counting more."""
        keys = asked.keys
        same = self._by_keys.get(keys, [])[:most]
        known = sorted((len(places), key) for key in keys if (places := self._places.get(key)))
        shared: Counter[int] = Counter()
        seen = 0
        for count, key in known:
            if seen and seen + count > _SEEN:
                break
            weight = log(1 + len(self._phrases) / count)
            for place in self._places[key][:_SEEN]:
                shared[place] += weight  # type: ignore[assignment]
            seen += count
        ranked = sorted(shared, key=lambda place: (-shared[place], len(self._phrases[place].reading.words)))
        return [*same, *(place for place in ranked[: most + len(same)] if place not in same)][:most]

    def _also(self, phrase: _Phrase) -> Iterable[Word]:
        places = self._of_entry[phrase.entry]
        return [word for place in places for word in self._phrases[place].reading.words] if len(places) > 1 else ()
