"""How hard a question is, from 1 to 10, judged by features that cost microseconds; no model is asked.

Knows what each kind of work weighs, and when the trained weights (`difficulty_model`) are to be believed. The words it
looks for are `difficulty_cues`', what a level leads to is `routing`'s.

Three parts. The kind of work has round weights set by hand. The form (`difficulty_form`) has trained ones, and counts
for every question: it carries over from one kind to another. The topic (`difficulty_topic`) does not, so it counts only
for questions like those it was trained on: answers to choose from, and amounts to reckon with. Where there are answers
to choose from, they tell something, too (`difficulty_choices`). Where nothing tells, the question counts as hard: a
large model answers an easy question well, a small one spoils a hard one.

Of a long text only the first and the last `WINDOW` letters are read; its length counts whole.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.core.dialects.parse import Turn
from orchestrator.core.difficulty_answer import ANSWER, answer_of
from orchestrator.core.difficulty_choices import CHOICES, choices_of
from orchestrator.core.difficulty_cues import Cue, count_cues
from orchestrator.core.difficulty_form import COUNTING, FORM, form_of
from orchestrator.core.difficulty_kind import TEXT_WORK, Work, language_of, work_of
from orchestrator.core.difficulty_model import SIGNS, Model, shipped
from orchestrator.core.difficulty_topic import places
from orchestrator.core.letters import lower, without_marks

CHAT: Final = "CHAT"
TASK: Final = "TASK"
WINDOW: Final = 2048

_BASE = 2.0
_FOLLOW_UP = 60  # letters up to which a last turn may lean on the one before
_LOOKUP_WORDS = 9  # a fact is asked for in few words; more of them ask for something else as well
_LONG_CONVERSATION = 6  # turns
_COUNTED_AS_WORK = frozenset({"reasons", "amounts"})  # of form: the kind of work has told them already
_MOST_FORM = 4.0  # points that form adds at most: a long text is not a proof
_MATERIAL = 0.25  # of its form counts for a text to be worked on: it may be long without being hard
_RECKONING = 4  # numbers and words of amount together: fewer are a fact ("how many days has a year")

_WORD = re.compile(r"[^\W_]+")
_NUMBER = re.compile(r"\d+")
_MATHS_SIGN = re.compile(r"[∫∑∏√∂∇∀∃∈≤≥≠≈∞π]")
_MATHS_TERM = re.compile(r"\\(?:frac|int|sum|sqrt)|\^\d|[a-z0-9)] ?= ?[-a-z0-9(]")
_CHOICES = re.compile(r"^A[.)] .*\n+B[.)] ", re.MULTILINE)
_CODE_SIGNS = ("```", "();", "){", ") {", "</", "=>", "!= ", "== ", "#include", "SELECT ")


EXAM: Final = "exam"
SUMS: Final = "sums"


@dataclass(frozen=True, slots=True)
class Difficulty:
    """A level from 1 to 10, CHAT or TASK, and what added to it. `points` is the level before it was rounded up.

    `work` is what is asked for, `language` `tr`, `en` or nothing where it is neither. `guessed`: of `points`, those
    added because nothing in the question was known.
    """

    level: int
    kind: str
    reasons: tuple[str, ...]
    points: float = 0.0
    work: str = Work.QUESTION.value
    language: str = ""
    guessed: float = 0.0


@dataclass(frozen=True, slots=True)
class Doubt:
    """How little an answer is to be trusted, and what added to it. Higher is worse; only the order has a meaning."""

    points: float
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Part:
    """One feature found: a sentence, its points, and whether it makes the question a task."""

    why: str
    points: float
    is_task: bool = False
    is_guess: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """What of a text the features look at."""

    text: str
    length: int
    words: list[str]
    cues: Counter[Cue]


def score(turns: Sequence[Turn], *, has_tools: bool = False, has_schema: bool = False) -> Difficulty:
    """The difficulty of a conversation's last question.

    A short last turn ("and why?") is as hard as what it follows on. `has_tools`, `has_schema`: the call offers tools
    or wants its answer in a given form.
    """
    asked = [turn for turn in turns if turn.role == "user"]
    seen = look(asked[-1].text if asked else "")
    parts, about = _of_question(seen, shipped()), seen
    if len(asked) > 1 and seen.length <= _FOLLOW_UP and not _is_small_talk(seen):
        parts, about = _harder(parts, seen, look(asked[-2].text))
    parts += _of_call(turns, has_tools=has_tools, has_schema=has_schema)
    points = sum(part.points for part in parts)
    return Difficulty(
        level=level_of(points),
        kind=TASK if any(part.is_task for part in parts) else CHAT,
        reasons=_told(parts),
        points=points,
        work=_work_of(about).value,
        language=language_of(seen.text, seen.words) or language_of(about.text, about.words),
        guessed=sum(part.points for part in parts if part.is_guess),
    )


def level_of(points: float) -> int:
    """The level, 1 to 10, that so many points are."""
    return min(10, max(1, math.ceil(points - 1e-9)))


def points_of(seen: Seen, model: Model) -> float:
    """A question's points by other weights than those that ship: for training, which has to judge as `score` does."""
    return sum(part.points for part in _of_question(seen, model))


def doubt_of(question: str, answer: str) -> Doubt:
    """How little `answer`, a small model's, is to be trusted: for deciding after it whether a larger one is asked."""
    model = shipped()
    added = model.doubt_parts((*answer_of(question, answer), *features_of(look(question))))
    named = [_Part(SIGNS[name], value) for name, value in zip(SIGNS, added, strict=True)]
    told = sorted((each for each in named if each.why in ANSWER.values()), key=lambda each: -abs(each.points))
    return Doubt(model.answer_base + sum(added), _told(told))


def _told(parts: Sequence[_Part]) -> tuple[str, ...]:
    return tuple(f"{part.why} ({part.points:+.2g})" for part in parts if round(part.points, 3))


def look(text: str) -> Seen:
    """What of `text` is looked at: of a long one both ends."""
    window = text if len(text) <= 2 * WINDOW else f"{text[:WINDOW]}\n{text[-WINDOW:]}"
    words = _WORD.findall(without_marks(lower(window, is_turkish=False)))
    return Seen(window, len(text), words, count_cues(words))


def _harder(own: list[_Part], seen: Seen, before: Seen) -> tuple[list[_Part], Seen]:
    earlier = _of_question(before, shipped())
    harder = sum(part.points for part in earlier) - sum(part.points for part in own)
    # Of two that are as hard the one that is known tells more: "now make it generic" is as much code as what it is of.
    if harder < 0 or (not harder and not any(part.is_guess for part in own)):
        return own, seen
    return [_Part(f"follows on: {part.why}", part.points, part.is_task) for part in earlier], before


def _of_question(seen: Seen, model: Model) -> list[_Part]:
    if familiar := _familiar(seen):
        return [*_of_familiar(seen, familiar, model)]
    return [_Part("every question", _BASE), *_of_unfamiliar(seen, model)]


def _familiar(seen: Seen) -> str:
    """The kind of question trained on that this one is, or nothing."""
    if _CHOICES.search(seen.text):
        return EXAM
    return SUMS if _has_sums(seen) and not _asks_for_more_than_sums(seen) else ""


def _of_familiar(seen: Seen, familiar: str, model: Model) -> Iterator[_Part]:
    """Form and topic, weighed as they were trained for such questions."""
    mix = model.mixes[familiar]
    why = "gives answers to choose from" if familiar == EXAM else "several amounts to reckon with"
    yield _Part(why, mix.base + mix.offset, is_task=True)
    for name, points in zip(FORM, model.form_parts(features_of(seen)), strict=True):
        if points:
            yield _Part(FORM[name], mix.form * points)
    if familiar == EXAM:
        for name, points in zip(CHOICES, model.choices_parts(choices_of(seen.text)), strict=True):
            yield _Part(CHOICES[name], points)
    yield _Part("what it is about", mix.topic * model.topic_of(places(seen.words)))


def _of_unfamiliar(seen: Seen, model: Model) -> list[_Part]:
    if _is_small_talk(seen):
        return [_Part("small talk", -1.0)]
    work = [*_of_cues(seen)]
    if _has_sums(seen):
        work.append(_Part("several amounts to reckon with", 2.0, is_task=True))
    size = list(_of_form(seen, model, is_material=_is_text_work(seen) and not seen.cues[Cue.PROOF]))
    if not work and not seen.cues:
        work = [_Part("nothing in it that is known, so it goes up", 3.0, is_task=True, is_guess=True)]
    elif not work and seen.cues[Cue.LOOKUP] and len(seen.words) <= _LOOKUP_WORDS:
        work = [_Part(f"asks for {Cue.LOOKUP}", -1.0)]
    return [*work, *size]


def _is_small_talk(seen: Seen) -> bool:
    return seen.cues[Cue.SMALL_TALK] > 0 and len(seen.words) <= 5 and seen.cues.keys() <= {Cue.SMALL_TALK, Cue.ASKS}


def _is_text_work(seen: Seen) -> bool:
    return any(seen.cues[cue] for cue in TEXT_WORK)


def _has_code(seen: Seen) -> bool:
    return any(sign in seen.text for sign in _CODE_SIGNS)


def _has_sums(seen: Seen) -> bool:
    amounts = seen.cues[Cue.AMOUNTS]
    if not amounts:
        return False
    counted = amounts + len(_NUMBER.findall(seen.text)) + sum(word in COUNTING for word in seen.words)
    return counted >= _RECKONING


def _asks_for_more_than_sums(seen: Seen) -> bool:
    return bool(seen.cues[Cue.CODE] or seen.cues[Cue.PROOF] or _is_text_work(seen) or _has_code(seen))


def _work_of(seen: Seen) -> Work:
    is_maths = _shows_maths(seen.text) or _has_sums(seen)
    return work_of(seen.cues, is_small_talk=_is_small_talk(seen), is_maths=is_maths, has_code=_has_code(seen))


def _of_cues(seen: Seen) -> Iterator[_Part]:
    """What kind of work is asked for; the dearest kind is met first."""
    cues = seen.cues
    if _has_code(seen) or cues[Cue.CODE]:
        yield _Part(f"asks for {Cue.CODE}", 3.0, is_task=True)
    if cues[Cue.PROOF]:
        yield _Part(f"asks for {Cue.PROOF}", 3.0, is_task=True)
    if cues[Cue.MATHS] or _shows_maths(seen.text):
        yield _Part(f"asks for {Cue.MATHS}", 2.0, is_task=True)
    if cues[Cue.REASONS]:
        yield _Part(f"asks for {Cue.REASONS}", 2.0)
    if _is_text_work(seen):
        asked = next(cue for cue in TEXT_WORK if cues[cue])
        yield _Part(f"asks for {asked}", 1.0, is_task=True)
    if cues[Cue.CREATIVE]:
        yield _Part(f"asks for {Cue.CREATIVE}", 1.0)
    if cues[Cue.STRUCTURED]:
        yield _Part(f"asks for {Cue.STRUCTURED}", 1.0, is_task=True)


def _shows_maths(text: str) -> bool:
    may_hold_a_term = "=" in text or "^" in text or "\\" in text
    return bool(_MATHS_SIGN.search(text) or (may_hold_a_term and _MATHS_TERM.search(text)))


def features_of(seen: Seen) -> tuple[float, ...]:
    """The counts of `FORM`."""
    return form_of(seen.text, seen.length, seen.words, seen.cues)


def _of_form(seen: Seen, model: Model, *, is_material: bool) -> Iterator[_Part]:
    """Length, conditions, clauses. Material to be worked on may have much of them without being hard."""
    found = zip(FORM, model.form_parts(features_of(seen)), strict=True)
    added = {name: points for name, points in found if points and name not in _COUNTED_AS_WORK}
    total = sum(added.values())
    share = (_MATERIAL if is_material else 1.0) * min(1.0, _MOST_FORM / total) if total else 0.0
    for name, points in added.items():
        yield _Part(FORM[name], points * share)


def _of_call(turns: Sequence[Turn], *, has_tools: bool, has_schema: bool) -> Iterator[_Part]:
    """What the call says beside its last question."""
    if has_tools:
        yield _Part("offers tools", 2.0, is_task=True)
    if has_schema:
        yield _Part(f"wants {Cue.STRUCTURED}", 1.0, is_task=True)
    if any(turn.has_images for turn in turns):
        yield _Part("shows pictures", 2.0, is_task=True)
    if len(turns) > _LONG_CONVERSATION:
        yield _Part("a long conversation", 0.5)
    system = next((turn.text for turn in turns if turn.role in ("system", "developer")), "")
    if system and look(system).cues.keys() & {*TEXT_WORK, Cue.STRUCTURED, Cue.CODE}:
        yield _Part("the system prompt sets a task", 0.5, is_task=True)
