"""Curated answers: written by people, found by their questions, given before anything is computed.

Word for word first: whatever the case, blanks and closing punctuation, and also with Turkish marks left off, as long
as only one answer can be meant. Then, where it is wanted, as a paraphrase: what that is `paraphrase` decides, and of
two entries that may both be meant neither answers. How entries are written in files is `faq_files`'.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote

from orchestrator.core.dialects.parse import Turn
from orchestrator.core.letters import compose, leaves_marks_off, lower, without_marks
from orchestrator.core.paraphrase.guard import Compared
from orchestrator.core.paraphrase.index import LIKENESS_MIN, Paraphrases

LANGUAGES: Final = ("tr", "en")
QUESTION_LETTERS_MAX: Final = 500  # a longer text is no question that somebody wrote down beforehand
_NEAR: Final = 0.3  # less like than this, an entry is told to nobody as near

_UNSEEN: Final = re.compile("[\u00ad\u200b-\u200d\u2060\ufeff]")  # soft hyphens and the like, from copied text
_CLOSING: Final = " ?.…,;:"
_APOSTROPHES: Final = re.compile("[’‘ʼ]")

# What a call may carry besides its question and still be served a fixed text. Tools, a format, pictures, a context, a
# template, and whatever nobody here has heard of, ask for something that such a text is not.
_PLAIN: Final = """
    model messages prompt stream stream_options keep_alive user metadata options n truncate shift think reasoning_effort
    temperature seed top_p top_k min_p presence_penalty frequency_penalty repeat_penalty stop max_tokens
    max_completion_tokens input system instructions max_output_tokens stop_sequences thinking reasoning include store
    truncation service_tier safety_identifier prompt_cache_key parallel_tool_calls"""
_PLAIN_FIELDS: Final = frozenset(_PLAIN.split())
_OF_MESSAGES: Final = frozenset({"role", "content", "type"})
_OF_PARTS: Final = frozenset({"type", "text", "cache_control"})


class FaqError(ValueError):
    """A FAQ is not as it should be; the text names file, line and field, and says what to do."""


@dataclass(frozen=True, slots=True)
class FaqEntry:
    """One answer and the ways to ask for it. Days are included in its time; `origin` is its place: FILE:LINE."""

    questions: tuple[str, ...]
    answer: str
    language: str
    source: str = ""
    tags: tuple[str, ...] = ()
    valid_from: date | None = None
    valid_until: date | None = None
    origin: str = ""
    author: str = ""
    paraphrases: bool = True  # False: word for word alone

    def is_valid(self, today: date) -> bool:
        return (self.valid_from is None or self.valid_from <= today) and (
            self.valid_until is None or today <= self.valid_until
        )

    def overlaps(self, other: FaqEntry) -> bool:
        """Whether there is a day on which both are valid."""
        begin = max(self.valid_from or date.min, other.valid_from or date.min)
        return begin <= min(self.valid_until or date.max, other.valid_until or date.max)


@dataclass(frozen=True, slots=True)
class Found:
    """The entry that answers a question, and how it was found: `likeness` is None where word for word."""

    entry: FaqEntry
    question: str = ""  # of the entry's, the one that is the same in other words
    likeness: float | None = None

    @property
    def how(self) -> str:
        return "words" if self.likeness is None else "paraphrase"

    @property
    def told(self) -> str:
        """The entry's place and how it was found, as an HTTP header may have it: no folder, no letter beyond ASCII."""
        name, _, line = self.entry.origin.rpartition(":")
        place = f"{quote(PurePath(name).name)}:{line}" if name else "?"
        likeness = "" if self.likeness is None else f"; likeness={self.likeness:.2f}"
        return f"{place}; match={self.how}{likeness}"


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An entry near to a question, and why it is not, or might be, its answer."""

    entry: FaqEntry
    question: str
    compared: Compared
    is_valid: bool


@dataclass(frozen=True, slots=True)
class Faq:
    """Curated answers by question; a look-up costs the same however many there are."""

    _entries: tuple[FaqEntry, ...] = ()
    _exact: Mapping[str, tuple[FaqEntry, ...]] = field(default_factory=dict, repr=False)
    _unmarked: Mapping[str, tuple[tuple[str, FaqEntry], ...]] = field(default_factory=dict, repr=False)
    _paraphrases: tuple[Paraphrases, ...] = ()  # one a language

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[FaqEntry]:
        return iter(self._entries)

    @classmethod
    def from_entries(cls, entries: Iterable[FaqEntry], *, paraphrases: bool = False) -> Faq:
        """Raises `FaqError` where a question has two different answers on the same day.

        `paraphrases`: answer questions in other words too, of the entries that do not forbid it.
        """
        kept = tuple(entries)
        exact: dict[str, tuple[FaqEntry, ...]] = {}
        for entry in kept:
            for question in entry.questions:
                form = fold(question, entry.language)
                before = exact.get(form, ())
                _refuse_contradiction(question, entry, before)
                if entry not in before:
                    exact[form] = (*before, entry)
        unmarked: dict[str, tuple[tuple[str, FaqEntry], ...]] = {}
        for form, found in exact.items():
            key = without_marks(form)
            unmarked[key] = (*unmarked.get(key, ()), *((form, entry) for entry in found))
        return cls(kept, exact, unmarked, _indexed(kept) if paraphrases else ())

    def find(self, question: str, today: date) -> Found | None:
        """What answers `question` today: word for word, or in other words of which only one answer can be meant."""
        if (entry := self.match(question, today)) is not None:
            return Found(entry)
        if not self._paraphrases or len(question) > QUESTION_LETTERS_MAX or self._was_asked_for(question):
            return None
        hits = [each for each in self._near(question, today) if _answers(each)]
        if len({each.entry.answer for each in hits}) != 1:
            return None
        return Found(hits[0].entry, hits[0].question, hits[0].compared.likeness)

    def neighbours(self, question: str, today: date, most: int = 5) -> list[Neighbour]:
        """The entries nearest to `question`, those that might answer first: why it hits, or does not."""
        near = self._near(question, today, is_whole=True)
        once = {id(each.entry): each for each in reversed(near)}
        return [each for each in near if once[id(each.entry)] is each and each.compared.likeness >= _NEAR][:most]

    def _near(self, question: str, today: date, *, is_whole: bool = False) -> list[Neighbour]:
        found = [
            Neighbour(entry, near.question, near.compared, entry.is_valid(today))
            for each in self._paraphrases
            for near in each.near(question, lambda number: is_whole or self._entries[number].is_valid(today))
            for entry in (self._entries[near.entry],)
        ]
        return sorted(found, key=lambda each: (bool(each.compared.objections), -each.compared.likeness))

    def _was_asked_for(self, question: str) -> bool:
        """Whether some entry has this very question, although it does not answer it today: then no other one does."""
        return any(without_marks(fold(question, each)) in self._unmarked for each in LANGUAGES)

    def match(self, question: str, today: date) -> FaqEntry | None:
        """The entry with this very question, or None where there is none or more than one answer is possible."""
        if len(question) > QUESTION_LETTERS_MAX:
            return None
        # A plain I without an İ beside it may be either language's: letters then do not tell which word it is.
        is_ambiguous = "I" in question and "İ" not in question
        form = fold(question, "en" if is_ambiguous else "tr")
        found = () if is_ambiguous else self._exact.get(form, ())
        if not found:
            unmarked = self._unmarked.get(without_marks(form), ())
            found = tuple(entry for meant, entry in unmarked if leaves_marks_off(form, meant))
        valid = [entry for entry in found if entry.is_valid(today)]
        return valid[0] if len({entry.answer for entry in valid}) == 1 else None


def _indexed(entries: Sequence[FaqEntry]) -> tuple[Paraphrases, ...]:
    made = []
    for language in LANGUAGES:
        open_to = [
            (number, each) for number, each in enumerate(entries) if each.language == language and each.paraphrases
        ]
        made.append(Paraphrases.of(((number, text) for number, each in open_to for text in each.questions), language))
    return tuple(made)


def _answers(near: Neighbour) -> bool:
    return not near.compared.objections and near.compared.likeness >= LIKENESS_MIN


def question_of(turns: Iterable[Turn], body: Mapping[str, Any] = MappingProxyType({})) -> str | None:
    """The one question that a curated answer may serve, or None.

    That is a user's only turn, with nothing around it: after an earlier turn the same words may ask something else,
    and a system prompt may want another language, form or role than the answer was written in. `body`: the call's, so
    that one which asks for tools, a format or anything unknown is not served a fixed text.
    """
    question = ""
    for turn in turns:
        text = turn.text.strip()
        if turn.role == "system" and not text and not turn.has_images:
            continue
        if question or not text or turn.role != "user" or turn.has_images:
            return None
        question = text
    if not question or _asks_more(body, _PLAIN_FIELDS):
        return None
    messages = body.get("messages") or body.get("input")
    if isinstance(messages, list) and not all(map(_says_only_text, messages)):
        return None
    return question


def _asks_more(given: Mapping[str, Any], known: frozenset[str]) -> bool:
    """Whether there is a field beside those that are known. What is off or empty asks for nothing."""
    return not known.issuperset(given) and any(given[name] for name in given.keys() - known)


def _says_only_text(message: object) -> bool:
    """Whether a message has nothing besides its words: calls of tools, thoughts, sound or a document may ask more."""
    if message is None or isinstance(message, str):
        return True
    if not isinstance(message, dict) or _asks_more(message, _OF_MESSAGES):
        return False
    content = message.get("content")
    return not isinstance(content, list) or all(
        isinstance(part, dict) and not _asks_more(part, _OF_PARTS) for part in content
    )


def fold(question: str, language: str) -> str:
    """The form under which a question is found: small letters, single blanks, no closing punctuation.

    What is lost: case ("us" and "US"), and blanks. Kept: every letter and mark, all punctuation inside, and an
    exclamation mark after a digit, where it is a factorial.
    """
    plain = _APOSTROPHES.sub("'", _UNSEEN.sub("", compose(question)))
    words = " ".join(lower(plain, is_turkish=language == "tr").split())
    return _without_closing(words)


def _without_closing(text: str) -> str:
    while text:
        shorter = text.rstrip(_CLOSING)
        if shorter.endswith("!") and not shorter[-2:-1].isdigit():
            shorter = shorter[:-1]
        if shorter == text:
            break
        text = shorter
    return text


def _refuse_contradiction(question: str, entry: FaqEntry, others: Iterable[FaqEntry]) -> None:
    for other in others:
        if other.answer != entry.answer and other.overlaps(entry):
            raise FaqError(
                f"{entry.origin}, questions: {question!r} has another answer in {other.origin}; "
                "give it one, or times (valid_from, valid_until) that do not overlap"
            )
