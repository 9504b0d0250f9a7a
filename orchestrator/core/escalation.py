"""When a smaller tier's answer is not good enough: the conditions of a route, and what is known of an answer.

An answer is judged twice: by its beginning, while nothing of it was shown, and whole. Pure; what is held back, for how
long, and who answers instead are the gateway's.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

from orchestrator.core.answer_form import has_form
from orchestrator.core.confidence import Calibration, shipped
from orchestrator.core.model import Finish
from orchestrator.core.refusal import refuses

# Held back of a stream, unless a route says otherwise: where an answer begins to go wrong shows by then
# (benchmarks/escalation), and a reader has waited for a second or two.
HOLD_TOKENS: Final = 24
HOLD_S: Final = 3.0


class Reason(StrEnum):
    """What an answer is doubted for, in the words of the settings."""

    CONFIDENCE = "confidence_below"
    SCHEMA = "schema_invalid"
    TOOLS = "tools_needed"
    REFUSAL = "refusal"
    LENGTH = "length_cut"
    TIMEOUT = "timeout"


_COMPARISONS: Final[Mapping[str, Callable[[int, int], bool]]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "=": operator.eq,
    "!=": operator.ne,
}
_THRESHOLD: Final = re.compile(r"\s*(>=|<=|==|!=|>|<|=)?\s*(\d{1,4})\s*")


@dataclass(frozen=True, slots=True)
class Threshold:
    """A number compared with: `> 1`."""

    comparison: str
    number: int

    def __str__(self) -> str:
        return f"{self.comparison} {self.number}"

    def holds(self, count: int) -> bool:
        return _COMPARISONS[self.comparison](count, self.number)


def threshold_from(text: str) -> Threshold:
    """`> 1`, `>= 2`, `3` (that is `== 3`). Raises ValueError."""
    found = _THRESHOLD.fullmatch(text)
    if found is None:
        raise ValueError(f'a comparison such as "> 1" is wanted, not {text!r}')
    return Threshold(found[1] or "==", int(found[2]))


@dataclass(frozen=True, slots=True)
class Conditions:
    """Any of them is enough. None or False: not looked at."""

    confidence_below: float | None = None
    schema_invalid: bool = False
    tools_needed: Threshold | None = None
    refusal: bool = False
    length_cut: bool = False
    timeout_s: float | None = None  # until the first token

    @property
    def judges_answers(self) -> bool:
        """Whether an answer is looked at at all."""
        others = (self.schema_invalid, self.tools_needed is not None, self.refusal, self.length_cut)
        return self.confidence_below is not None or any(others)


@dataclass(frozen=True, slots=True)
class Watch:
    """What a call's answer is watched for. `is_buffered`: nothing of it is shown before all of it was judged."""

    route: str
    conditions: Conditions
    hold_tokens: int = HOLD_TOKENS
    hold_s: float = HOLD_S
    is_buffered: bool = False
    calibration: Calibration = field(default_factory=shipped)


class Said(NamedTuple):
    """What is known of an answer. `finish`: the engine's word for its end; None: more comes."""

    text: str
    logprobs: Sequence[float] = ()
    tool_calls: int = 0
    finish: str | None = None


class Doubt(NamedTuple):
    """Why an answer is not good enough. `confidence`: where it is known, whatever the reason."""

    reason: Reason
    why: str
    confidence: float | None = None


class Verdict(NamedTuple):
    """What came of judging an answer. `confidence` None: it was not asked for, or nothing is known of its tokens."""

    doubt: Doubt | None
    confidence: float | None = None


def judge_beginning(watch: Watch, said: Said) -> Verdict:
    """An answer's first tokens: what is wrong by then stays wrong."""
    conditions = watch.conditions
    confidence = watch.calibration.early_confidence(said.logprobs[: watch.hold_tokens]) if _asks(conditions) else None
    return Verdict(_refusal(conditions, said) or _unsure(conditions, confidence), confidence)


def judge_whole(watch: Watch, said: Said, form: Any) -> Verdict:
    """A whole answer; `form` is what the call wants (`answer_form.wanted_form`)."""
    conditions = watch.conditions
    confidence = watch.calibration.confidence(said.logprobs) if _asks(conditions) else None
    doubt = (
        _refusal(conditions, said)
        or _cut(conditions, said)
        or _too_many_tools(conditions, said)
        or _formless(conditions, said, form)
        or _unsure(conditions, confidence)
    )
    return Verdict(None if doubt is None else doubt._replace(confidence=confidence), confidence)


def too_late(seconds: float) -> Doubt:
    """No token came in time."""
    return Doubt(Reason.TIMEOUT, f"no token within {seconds:g} s")


def _asks(conditions: Conditions) -> bool:
    return conditions.confidence_below is not None


def _unsure(conditions: Conditions, confidence: float | None) -> Doubt | None:
    below = conditions.confidence_below
    if below is None or confidence is None or confidence >= below:
        return None
    return Doubt(Reason.CONFIDENCE, f"confidence {confidence:.2f}, below {below:g}", confidence)


def _refusal(conditions: Conditions, said: Said) -> Doubt | None:
    if not conditions.refusal or not refuses(said.text):
        return None
    return Doubt(Reason.REFUSAL, "it refuses, or says that it does not know")


def _cut(conditions: Conditions, said: Said) -> Doubt | None:
    if not conditions.length_cut or said.finish != Finish.LENGTH:
        return None
    return Doubt(Reason.LENGTH, "it was cut at its length")


def _too_many_tools(conditions: Conditions, said: Said) -> Doubt | None:
    threshold = conditions.tools_needed
    if threshold is None or not threshold.holds(said.tool_calls):
        return None
    return Doubt(Reason.TOOLS, f"{said.tool_calls} tools called, {threshold}")


def _formless(conditions: Conditions, said: Said, form: Any) -> Doubt | None:
    """Where tools are called, what was asked for as JSON is still to come."""
    if not conditions.schema_invalid or form is None or said.tool_calls or has_form(said.text, form):
        return None
    return Doubt(Reason.SCHEMA, "it is not in the form that was asked for")
