"""How hard a question is, from 1 to 10, judged by features that cost microseconds; no model is asked.

Knows what each feature weighs. The words it looks for are `difficulty_cues`', what a level leads to is `routing`'s.
Weights are round and few on purpose: rules trained on one kind of question do not carry over to another, while length,
conditions and the kind of work do. Where nothing tells, the question counts as hard: a large model answers an easy
question well, a small one spoils a hard one.

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
from orchestrator.core.difficulty_cues import Cue, count_cues
from orchestrator.core.letters import lower, without_marks

CHAT: Final = "CHAT"
TASK: Final = "TASK"
WINDOW: Final = 2048

_BASE = 2.0
_SHORT = 64  # letters of a plain question; each doubling beyond adds half a point
_FOLLOW_UP = 60  # letters up to which a last turn may lean on the one before
_LOOKUP_WORDS = 9  # a fact is asked for in few words; more of them ask for something else as well
_LONG_CONVERSATION = 6  # turns
_RECKONING = 4  # numbers and words of amount together: fewer are a fact ("how many days has a year")

_WORD = re.compile(r"[^\W_]+")
_NUMBER = re.compile(r"\d+")
_MATHS_SIGN = re.compile(r"[∫∑∏√∂∇∀∃∈≤≥≠≈∞π]")
_MATHS_TERM = re.compile(r"\\(?:frac|int|sum|sqrt)|\^\d|[a-z0-9)] ?= ?[-a-z0-9(]")
_CHOICES = re.compile(r"^[A-E][.)] ", re.MULTILINE)
_ITEM = re.compile(r"^ ?(?:[-*•]|\d{1,2}[.)]) ", re.MULTILINE)
_CODE_SIGNS = ("```", "();", "){", ") {", "</", "=>", "!= ", "== ", "#include", "SELECT ")


@dataclass(frozen=True, slots=True)
class Difficulty:
    """A level from 1 to 10, CHAT or TASK, and what added to it. `points` is the level before it was rounded up."""

    level: int
    kind: str
    reasons: tuple[str, ...]
    points: float = 0.0


@dataclass(frozen=True, slots=True)
class _Part:
    """One feature found: a sentence, its points, and whether it makes the question a task."""

    why: str
    points: float
    is_task: bool = False


@dataclass(frozen=True, slots=True)
class _Seen:
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
    seen = _look(asked[-1].text if asked else "")
    parts = [_Part("every question", _BASE), *_of_question(seen)]
    if len(asked) > 1 and seen.length <= _FOLLOW_UP and not _is_small_talk(seen):
        parts = _harder(parts, _of_question(_look(asked[-2].text)))
    parts += _of_call(turns, has_tools=has_tools, has_schema=has_schema)
    points = sum(part.points for part in parts)
    kind = TASK if any(part.is_task for part in parts) else CHAT
    reasons = tuple(f"{part.why} ({part.points:+.2g})" for part in parts if part.points)
    return Difficulty(min(10, max(1, math.ceil(points - 1e-9))), kind, reasons, points)


def _look(text: str) -> _Seen:
    window = text if len(text) <= 2 * WINDOW else f"{text[:WINDOW]}\n{text[-WINDOW:]}"
    words = _WORD.findall(without_marks(lower(window, is_turkish=False)))
    return _Seen(window, len(text), words, count_cues(words))


def _harder(own: list[_Part], earlier: Sequence[_Part]) -> list[_Part]:
    if sum(part.points for part in earlier) <= sum(part.points for part in own[1:]):
        return own
    return [own[0], *(_Part(f"follows on: {part.why}", part.points, part.is_task) for part in earlier)]


def _of_question(seen: _Seen) -> list[_Part]:
    if _is_small_talk(seen):
        return [_Part("small talk", -1.0)]
    work = [*_of_cues(seen), *_of_arithmetic(seen)]
    size = list(_of_size(seen, is_material=seen.cues[Cue.TEXT_WORK] > 0 and not seen.cues[Cue.PROOF]))
    if not work and not seen.cues:
        work = [_Part("nothing in it that is known, so it goes up", 3.0, is_task=True)]
    elif not work and seen.cues[Cue.LOOKUP] and len(seen.words) <= _LOOKUP_WORDS:
        work = [_Part(f"asks for {Cue.LOOKUP}", -1.0)]
    return [*work, *size]


def _is_small_talk(seen: _Seen) -> bool:
    return seen.cues[Cue.SMALL_TALK] > 0 and len(seen.words) <= 5 and seen.cues.keys() <= {Cue.SMALL_TALK, Cue.ASKS}


def _of_cues(seen: _Seen) -> Iterator[_Part]:
    """What kind of work is asked for; the dearest kind is met first."""
    cues = seen.cues
    if any(sign in seen.text for sign in _CODE_SIGNS) or cues[Cue.CODE]:
        yield _Part(f"asks for {Cue.CODE}", 3.0, is_task=True)
    if cues[Cue.PROOF]:
        yield _Part(f"asks for {Cue.PROOF}", 3.0, is_task=True)
    if cues[Cue.MATHS] or _shows_maths(seen.text):
        yield _Part(f"asks for {Cue.MATHS}", 2.0, is_task=True)
    if cues[Cue.REASONS]:
        yield _Part(f"asks for {Cue.REASONS}", 2.0)
    if cues[Cue.TEXT_WORK]:
        yield _Part(f"asks for {Cue.TEXT_WORK}", 1.0, is_task=True)
    if cues[Cue.CREATIVE]:
        yield _Part(f"asks for {Cue.CREATIVE}", 1.0)
    if cues[Cue.STRUCTURED]:
        yield _Part(f"asks for {Cue.STRUCTURED}", 1.0, is_task=True)
    if _CHOICES.search(seen.text):
        yield _Part("gives answers to choose from", 1.0, is_task=True)


def _shows_maths(text: str) -> bool:
    may_hold_a_term = "=" in text or "^" in text or "\\" in text
    return bool(_MATHS_SIGN.search(text) or (may_hold_a_term and _MATHS_TERM.search(text)))


def _of_arithmetic(seen: _Seen) -> Iterator[_Part]:
    amounts = seen.cues[Cue.AMOUNTS]
    if not amounts or _CHOICES.search(seen.text):
        return
    if amounts >= _RECKONING or amounts + len(_NUMBER.findall(seen.text)) >= _RECKONING:
        yield _Part("several amounts to reckon with", 2.0, is_task=True)


def _of_size(seen: _Seen, *, is_material: bool) -> Iterator[_Part]:
    """Length, conditions and questions. Material to be worked on may be long without being hard."""
    doublings = math.log2(max(seen.length, _SHORT) / _SHORT)
    points = min(3.0, 0.5 * doublings) * (0.5 if is_material else 1.0)
    if points:
        yield _Part(f"{seen.length} letters long", points)
    conditions = seen.cues[Cue.CONDITION] + len(_ITEM.findall(seen.text))
    if conditions:
        yield _Part(Cue.CONDITION.value, min(3.0, 0.5 * conditions))
    questions = seen.text.count("?") - 1
    if questions > 0:
        yield _Part("more than one question", min(1.0, 0.5 * questions))


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
    if system and _look(system).cues.keys() & {Cue.TEXT_WORK, Cue.STRUCTURED, Cue.CODE}:
        yield _Part("the system prompt sets a task", 0.5, is_task=True)
