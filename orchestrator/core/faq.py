"""Curated answers: written by people, found by their questions word for word, given before anything is computed.

A question is found whatever its case, blanks and closing punctuation, and also with Turkish marks left off, as long as
only one answer can be meant. Nothing is guessed from likeness: one word more or less is another question.
Files are read by the caller; this module is handed their text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from types import MappingProxyType
from typing import Any, Final

import yaml

from orchestrator.core.dialects.parse import Turn
from orchestrator.core.letters import compose, leaves_marks_off, lower, without_marks

LANGUAGES: Final = ("tr", "en")
_FIELDS: Final = ("questions", "answer", "language", "source", "tags", "valid_from", "valid_until")
_QUESTION_LETTERS_MAX: Final = 500  # a longer text is no question that somebody wrote down beforehand

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


class FaqError(ValueError):
    """A FAQ file is not as it should be; the text names file, entry and field, and says what to do."""


@dataclass(frozen=True, slots=True)
class FaqEntry:
    """One answer and the ways to ask for it. Days are included in its time; `origin` is its place, for people."""

    questions: tuple[str, ...]
    answer: str
    language: str
    source: str = ""
    tags: tuple[str, ...] = ()
    valid_from: date | None = None
    valid_until: date | None = None
    origin: str = ""

    def is_valid(self, today: date) -> bool:
        return (self.valid_from is None or self.valid_from <= today) and (
            self.valid_until is None or today <= self.valid_until
        )

    def overlaps(self, other: FaqEntry) -> bool:
        """Whether there is a day on which both are valid."""
        begin = max(self.valid_from or date.min, other.valid_from or date.min)
        return begin <= min(self.valid_until or date.max, other.valid_until or date.max)


@dataclass(frozen=True, slots=True)
class Faq:
    """Curated answers by question; a look-up costs the same however many there are."""

    _entries: tuple[FaqEntry, ...] = ()
    _exact: Mapping[str, tuple[FaqEntry, ...]] = field(default_factory=dict, repr=False)
    _unmarked: Mapping[str, tuple[tuple[str, FaqEntry], ...]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[FaqEntry]:
        return iter(self._entries)

    @classmethod
    def from_entries(cls, entries: Iterable[FaqEntry]) -> Faq:
        """Raises `FaqError` where a question has two different answers on the same day."""
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
        return cls(kept, exact, unmarked)

    def match(self, question: str, today: date) -> FaqEntry | None:
        """The entry that answers `question` today, or None where there is none or more than one answer is possible."""
        if len(question) > _QUESTION_LETTERS_MAX:
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


def load_faq(text: str, name: str) -> Faq:
    """The entries of a YAML file called `name`. Raises `FaqError`: not YAML, not a list, or a wrong entry."""
    try:
        given = yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader, in C where PyYAML has it
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # the last two: no such day, too deep
        raise FaqError(f"{name}: cannot be read as YAML: {error}") from error
    if not isinstance(given, list):
        raise FaqError(f"{name}: a list of entries is expected, each beginning with `- questions:`")
    return Faq.from_entries(_entry(each, f"{name}, entry {number}") for number, each in enumerate(given, start=1))


def question_of(turns: Sequence[Turn], body: Mapping[str, Any] = MappingProxyType({})) -> str | None:
    """The one question that a curated answer may serve, or None.

    That is a user's only turn, with nothing around it: after an earlier turn the same words may ask something else,
    and a system prompt may want another language, form or role than the answer was written in. `body`: the call's, so
    that one which asks for tools, a format or anything unknown is not served a fixed text.
    """
    said = [turn for turn in turns if turn.text.strip() or turn.has_images or turn.role != "system"]
    if len(said) != 1 or said[0].role != "user" or said[0].has_images:
        return None
    # What is off or empty asks for nothing.
    if any(value and name not in _PLAIN_FIELDS for name, value in body.items()):
        return None
    return said[0].text.strip() or None


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


# --- one entry of a file, checked ----------------------------------------------------------------------------------


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Refuses a field given twice in one entry, of which YAML readers silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        made: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        if len(made) != len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a field is given twice", node.start_mark)
        return made


def _entry(given: object, origin: str) -> FaqEntry:
    if not isinstance(given, dict):
        raise FaqError(f"{origin}: fields are expected: {', '.join(_FIELDS)}")
    unknown = [str(name) for name in given if name not in _FIELDS]
    if unknown:
        raise FaqError(f"{origin}, {unknown[0]}: no such field; there are {', '.join(_FIELDS)}")
    language = _text(given, "language", origin)
    if language not in LANGUAGES:
        raise FaqError(f"{origin}, language: {language!r} is not one of {', '.join(LANGUAGES)}")
    entry = FaqEntry(
        questions=_questions(given, language, origin),
        answer=_text(given, "answer", origin),
        language=language,
        source=_text(given, "source", origin) if "source" in given else "",
        tags=_texts(given, "tags", origin) if "tags" in given else (),
        valid_from=_day(given, "valid_from", origin),
        valid_until=_day(given, "valid_until", origin),
        origin=origin,
    )
    if entry.valid_from and entry.valid_until and entry.valid_until < entry.valid_from:
        raise FaqError(f"{origin}, valid_until: before valid_from, so the entry would never answer")
    return entry


def _questions(given: Mapping[str, object], language: str, origin: str) -> tuple[str, ...]:
    questions = _texts(given, "questions", origin)
    if not questions:
        raise FaqError(f"{origin}, questions: at least one is needed")
    for each in questions:
        if len(each) > _QUESTION_LETTERS_MAX:
            raise FaqError(f"{origin}, questions: longer than {_QUESTION_LETTERS_MAX} letters: {each[:40]!r}…")
        if not fold(each, language):
            raise FaqError(f"{origin}, questions: {each!r} has no word in it")
    return questions


def _texts(given: Mapping[str, object], name: str, origin: str) -> tuple[str, ...]:
    values = given.get(name)
    if not isinstance(values, list):
        raise FaqError(f"{origin}, {name}: a list of texts is expected")
    return tuple(_as_text(each, name, origin) for each in values)


def _text(given: Mapping[str, object], name: str, origin: str) -> str:
    if name not in given:
        raise FaqError(f"{origin}, {name}: missing")
    return _as_text(given[name], name, origin)


def _as_text(value: object, name: str, origin: str) -> str:
    if not isinstance(value, str):
        raise FaqError(f"{origin}, {name}: {value!r} is not a text to YAML; put it in quotes")
    if not value.strip():
        raise FaqError(f"{origin}, {name}: empty")
    return value.strip()


def _day(given: Mapping[str, object], name: str, origin: str) -> date | None:
    value = given.get(name)
    if value is None:
        return None
    if not isinstance(value, date) or isinstance(value, datetime):
        raise FaqError(f"{origin}, {name}: a day is expected, like 2026-01-31")
    return value
